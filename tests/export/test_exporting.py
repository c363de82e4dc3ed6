"""What an export takes, leaves and carries along, beside the weights."""

import json

import pytest
import torch
from safetensors import safe_open
from transformers import AutoTokenizer, GenerationConfig

from polycycle.errors import ExportError
from polycycle.export import EXPORT_FILE, execute_export, plan_export
from polycycle.export.target import CLASSIFIER_SCALE
from tests.export.upcycled import save_upcycled
from tests.text import VOCAB_SIZE, make_tokenizer
from tests.tiny import edit_config

TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


def export(model, out, **settings):
    return execute_export(plan_export(model, **settings), out, with_verification=False)


def tensor(out, name):
    with safe_open(out / "model.safetensors", framework="pt") as file:
        return file.get_tensor(name)


def test_what_travels_with_the_weights_travels_and_unknown_files_do_not(tmp_path):
    model = save_upcycled(tmp_path, "llama", config={"vocab_size": VOCAB_SIZE})
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(model)
    GenerationConfig(eos_token_id=[0, 3], temperature=0.5, do_sample=True).save_pretrained(model)
    (model / "LICENSE").write_text("free")
    for name in ("training_args.bin", "optimizer.pt", "notes.txt", "README.md", "trainer.json"):
        (model / name).write_bytes(b"\x80 nothing that anybody should read")
    (model / "global_step7").mkdir()
    export(model, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"generation_config.json", "tokenizer.json", "chat_template.jinja", "LICENSE"} <= names
    assert not names & {"training_args.bin", "optimizer.pt", "notes.txt", "global_step7"}
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == TEMPLATE
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == [0, 3]


def test_the_bases_hash_comes_from_the_config_of_a_folder_of_plain_save_pretrained(tmp_path):
    model = save_upcycled(tmp_path, "qwen3")
    base_hash = json.loads((model / "config.json").read_text())["base_hash"]
    export(model, tmp_path / "out")
    record = json.loads((tmp_path / "out" / EXPORT_FILE).read_text())
    assert record["base_hash"] == base_hash
    assert len(base_hash) == 64
    assert not {path.name for path in model.iterdir()} & {EXPORT_FILE, "manifest.json"}


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "olmo2"])
def test_the_head_is_written_out_and_no_config_field_is_lost(tmp_path, family):
    tied = family in ("qwen2", "qwen3")
    model = save_upcycled(tmp_path, family, config={"tie_word_embeddings": tied})
    plan = export(model, tmp_path / "out").plan
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    ours = json.loads((model / "config.json").read_text())
    assert config["tie_word_embeddings"] is False
    assert ours["tie_word_embeddings"] is tied
    if tied:
        embeddings = tensor(tmp_path / "out", "model.embed_tokens.weight")
        assert torch.equal(tensor(tmp_path / "out", "lm_head.weight"), embeddings)
    assert config["head_dim"] == plan.source.head_dim
    assert config["rope_parameters"] == ours["rope_parameters"]
    asked = plan.target.settings(plan.source, plan.slots)
    assert {name: config[name] for name in asked} == asked


def test_the_classifier_is_one_more_slot_with_a_row_scaled_by_two_to_the_seventeen(tmp_path):
    model = save_upcycled(tmp_path, "qwen3", classifier_layers=(0, 1, 2), dtype=torch.bfloat16)
    export(model, tmp_path / "out")
    rows = tensor(tmp_path / "out", "model.layers.1.mlp.gate.weight")
    vector = tensor(model, "model.layers.1.mlp.router.classifier.weight")
    assert rows.shape[0] == 5
    assert CLASSIFIER_SCALE == 2**17
    assert torch.equal(rows[4], vector.flatten() * 2**17)
    experts = "model.layers.1.mlp.experts"
    for part in ("gate_proj", "up_proj", "down_proj"):
        copy = tensor(tmp_path / "out", f"{experts}.4.{part}.weight")
        assert torch.equal(copy, tensor(model, f"model.layers.1.mlp.{part}.weight"))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"classifier_threshold": 0.5}, r"classifier_threshold=0\.5"),
        ({"classifier_form": "sequence"}, "decides once per sequence"),
        ({"quantization_config": {"bits": 4}}, "is quantised"),
    ],
)
def test_settings_without_counterpart_are_refused(tmp_path, settings, reason):
    model = save_upcycled(tmp_path, "llama", classifier_layers=(0, 1, 2))
    edit_config(model, **settings)
    with pytest.raises(ExportError, match=reason):
        plan_export(model)


def test_a_classifier_in_float16_would_overflow_and_is_refused(tmp_path):
    model = save_upcycled(tmp_path, "llama", classifier_layers=(0,), dtype=torch.float16)
    with pytest.raises(ExportError, match="overflows float16"):
        plan_export(model)


def test_padded_slots_copy_a_real_row_and_the_router_is_kept_from_them(tmp_path):
    model = save_upcycled(tmp_path, "llama", num_experts=[4, 2, 1], dtype=torch.bfloat16)
    out = tmp_path / "out"
    export(model, out, target="ernie4_5_moe")
    rows = tensor(out, "model.layers.1.mlp.gate.weight")
    bias = tensor(out, "model.layers.1.mlp.moe_statics.e_score_correction_bias")
    assert (rows.dtype, bias.dtype) == (torch.float32, torch.float32)
    assert torch.equal(rows[2], rows[0])
    assert torch.equal(rows[3], rows[0])
    assert bias.tolist() == [[0, 0, -1e4, -1e4]]
    assert not tensor(out, "model.layers.2.mlp.moe_statics.e_score_correction_bias").any()
    first, last = (
        tensor(out, f"model.layers.2.mlp.experts.{slot}.up_proj.weight") for slot in (0, 3)
    )
    assert torch.equal(first, last)  # a dense layer fills every slot
