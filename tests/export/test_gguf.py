"""GGUF: what stands in the file, what is refused, and what llama.cpp makes of it where it is."""

import json
from importlib.util import find_spec

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from polycycle.errors import ExportError
from polycycle.export import execute_export, exporting, plan_export, verify
from tests.export.upcycled import save_upcycled
from tests.text import VOCAB_SIZE, WORDS, make_tokenizer, sentences

gguf = pytest.importorskip("gguf")
from polycycle.export.gguf_tokenizer import read_tokenizer  # noqa: E402
from polycycle.export.llama_cpp import llama3_factors  # noqa: E402

needs_llama_cpp = pytest.mark.skipif(
    find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed"
)
TEXTS = {
    "en": ["the river runs down to the old town, 1234 people sell bread and fish!  It's so."],
    "el": ["το ποτάμι τρέχει προς την παλιά πόλη όπου ο κόσμος πουλά ψωμί"],
    "zh": ["河流经过老城，人们在那里卖面包。"],
}
DEFAULT_ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
LINEAR = {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}}
YARN = {
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 64,
    }
}
EXACT = {
    "llama": ("llama", 4, {}),
    "llama-dense-layer": ("llama", [4, 1, 4], {"config": DEFAULT_ROPE}),
    "llama-tied": ("llama", 4, {"config": {"tie_word_embeddings": True}}),
    "llama-odd-heads": ("llama", 4, {"config": {"head_dim": 12, **DEFAULT_ROPE}}),
    "llama-linear": ("llama", 4, {"config": LINEAR}),
    "llama-yarn": ("llama", 4, {"config": YARN}),
    "llama-top-1": ("llama", 4, {"top_k": 1}),
    "llama-biases": ("llama", 4, {"config": {"attention_bias": True}}),
    "mistral": ("mistral", 4, {"config": {"sliding_window": None}}),
    "qwen2": ("qwen2", 4, {}),
    "qwen3": ("qwen3", [4, 1, 4], {}),
    "qwen3-classifier": ("qwen3", 4, {"classifier_layers": (0, 1, 2)}),
}


def model_of(folder, family, experts, settings, dtype=torch.float32):
    config = {"vocab_size": VOCAB_SIZE, **settings.get("config", {})}
    settings = {**settings, "config": config}
    model = save_upcycled(folder, family, num_experts=experts, dtype=dtype, **settings)
    make_tokenizer().save_pretrained(model)
    return model


def export_of(model, out):
    return execute_export(plan_export(model, target="gguf"), out, with_verification=False)


@needs_llama_cpp
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", EXACT)
def test_llama_cpp_computes_the_same(tmp_path, name, dtype):
    model = model_of(tmp_path, *EXACT[name], dtype)
    export_of(model, tmp_path / "out")
    result = verify(tmp_path / "out", model, texts=TEXTS)
    assert result["failures"] == []
    assert result["passed"]
    assert result["dtype"] == str(dtype).removeprefix("torch.")
    assert "llama-cpp-python" in result["versions"]


@needs_llama_cpp
def test_llama_cpp_finds_a_changed_file(tmp_path, monkeypatch):
    from polycycle.export import llama_cpp

    model = model_of(tmp_path, "llama", 4, {}, torch.bfloat16)
    monkeypatch.setattr(llama_cpp, "interleaved", lambda tensor, heads: tensor)
    export_of(model, tmp_path / "out")
    assert not verify(tmp_path / "out", model, texts=TEXTS)["passed"]


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_the_file_holds_every_slot_and_the_tokenizer(tmp_path, family):
    model = model_of(tmp_path, family, [4, 1, 4], {})
    export_of(model, tmp_path / "out")
    reader = gguf.GGUFReader(tmp_path / "out" / "model.gguf")
    shapes = {tensor.name: tensor.shape.tolist() for tensor in reader.tensors}
    for layer in range(3):  # the dense one is filled with copies
        assert shapes[f"blk.{layer}.ffn_gate_inp.weight"] == [32, 4]
        assert shapes[f"blk.{layer}.ffn_gate_exps.weight"] == [32, 48, 4]
        assert shapes[f"blk.{layer}.ffn_down_exps.weight"] == [48, 32, 4]
    assert shapes["output.weight"] == [32, VOCAB_SIZE]
    assert ("blk.0.attn_q.bias" in shapes) == (family == "qwen2")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    architecture = fields["general.architecture"]
    assert architecture == {"qwen2": "llama", "qwen3": "qwen3moe"}[family]
    assert fields[f"{architecture}.expert_count"] == 4
    assert fields[f"{architecture}.expert_used_count"] == 2
    assert fields["tokenizer.ggml.pre"] == "gpt-2"
    assert len(fields["tokenizer.ggml.tokens"]) == VOCAB_SIZE
    assert fields["tokenizer.ggml.eos_token_id"] == 0
    record = json.loads((tmp_path / "out" / "polycycle_export.json").read_text())
    assert (record["target"], record["right_for"]) == ("gguf", {"llama.cpp": "run by verify"})


def test_llama_3s_factors_are_those_of_transformers():
    config = plan_config()
    plain = 1 / 10000.0 ** (torch.arange(0, 32, 2) / 32)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    factors = llama3_factors(config.rope_parameters, 32)
    assert torch.allclose(plain / factors, scaled, rtol=1e-6)
    assert factors[0] == 1
    assert factors[-1] == 8


def plan_config():
    from transformers import LlamaConfig

    rope = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 2048,
    }
    return LlamaConfig(hidden_size=128, num_attention_heads=4, rope_parameters=rope)


def sentencepiece_like():
    """Byte-pair merges with byte fallback and `▁`, as Llama 2 and Mistral have."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    lines = [text for language in WORDS for text in sentences(language, 50)]
    tokenizer.train_from_iterator(lines, trainer)
    read = json.loads(tokenizer.to_str())
    read["added_tokens"] = read["added_tokens"][:3]  # bytes are no special tokens
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(read)),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )


@needs_llama_cpp
def test_a_sentencepiece_tokenizer_gives_the_same_ids(tmp_path):
    tokenizer = sentencepiece_like()
    config = {"vocab_size": len(tokenizer), **DEFAULT_ROPE}
    model = save_upcycled(tmp_path, "llama", config=config)
    tokenizer.save_pretrained(model)
    export_of(model, tmp_path / "out")
    result = verify(tmp_path / "out", model, texts=TEXTS)
    assert result["failures"] == []


def changed_tokenizer(tmp_path, change):
    make_tokenizer().save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    read = json.loads(path.read_text())
    change(read)
    path.write_text(json.dumps(read))
    return tmp_path


def test_known_splits_have_llama_cpps_name(tmp_path):
    def of(pre_tokenizer):
        def change(read):
            read["pre_tokenizer"] = json.loads(pre_tokenizer.__getstate__())

        return read_tokenizer(changed_tokenizer(tmp_path, change), VOCAB_SIZE).pre

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert of(byte_level) == "gpt-2"
    digits = pre_tokenizers.Digits(individual_digits=True)
    assert of(pre_tokenizers.Sequence([digits, byte_level])) == "starcoder"
    with pytest.raises(ExportError, match="no converter to GGUF for a tokenizer that splits"):
        of(pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), byte_level]))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda read: read["model"].update(type="Unigram"), "type Unigram, only BPE"),
        (lambda read: read["pre_tokenizer"].update(add_prefix_space=True), "add_prefix_space"),
        (lambda read: read.update(pre_tokenizer={"type": "Whitespace"}), "only byte-level"),
    ],
)
def test_a_tokenizer_without_converter_is_named(tmp_path, change, reason):
    with pytest.raises(ExportError, match=reason):
        read_tokenizer(changed_tokenizer(tmp_path, change), VOCAB_SIZE)


@pytest.mark.parametrize(
    ("family", "experts", "settings", "reason"),
    [
        ("olmo2", 4, {}, "no GGUF of an upcycled olmo2"),
        ("llama", [4, 3, 2], {}, "needs 3 slots"),
        ("mistral", 4, {}, "no sliding window here"),
        ("qwen2", 4, {"renormalize": False}, "the model has `renormalize: false`"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(
    tmp_path, family, experts, settings, reason
):
    model = model_of(tmp_path, family, experts, settings)
    with pytest.raises(ExportError, match=reason):
        plan_export(model, target="gguf")


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    model = model_of(tmp_path, "qwen3", 4, {})

    def missing():
        raise ExportError("--target gguf needs gguf: pip install 'polycycle[gguf]'")

    monkeypatch.setattr(exporting, "_gguf_module", missing)
    with pytest.raises(ExportError, match=r"polycycle\[gguf\]"):
        plan_export(model, target="gguf")
