"""Upcycling works on checkpoints: what is written, from what, and what is refused."""

import json
import shutil
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from polycycle.checkpoint import content_hash, open_checkpoint
from polycycle.errors import CheckpointError, ConfigError, UpcycleError
from polycycle.languages import LanguageGroups
from polycycle.surgery import inspect_checkpoint, plan_upcycle, upcycle
from tests.tiny import edit_config, load, save_dense, token_ids


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return save_dense(tmp_path_factory.mktemp("dense") / "model")


def test_every_dense_tensor_is_kept_under_its_name_bit_for_bit(dense, tmp_path):
    upcycle(dense, tmp_path / "moe", num_experts=4)
    before, after = (load_file(f / "model.safetensors") for f in (dense, tmp_path / "moe"))
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    added = {name for name in after if name not in before}
    assert {name.split(".mlp.")[1] for name in added} == {
        "experts.g1.gate_up_proj",
        "experts.g1.down_proj",
        "router.rows.g1",
    }


def test_new_experts_are_exact_copies_and_routers_are_xavier(dense, tmp_path):
    upcycle(dense, tmp_path / "moe", num_experts=4)
    tensors = load_file(tmp_path / "moe" / "model.safetensors")
    mlp = "model.layers.1.mlp"
    gate, up = (tensors[f"{mlp}.{name}_proj.weight"] for name in ("gate", "up"))
    packed = tensors[f"{mlp}.experts.g1.gate_up_proj"]
    assert packed.shape == (3, 96, 32)
    assert all(torch.equal(expert, torch.cat([gate, up])) for expert in packed)
    down = tensors[f"{mlp}.experts.g1.down_proj"]
    assert all(torch.equal(expert, tensors[f"{mlp}.down_proj.weight"]) for expert in down)
    rows = tensors[f"{mlp}.router.rows.g1"]
    assert rows.shape == (4, 32)
    assert rows.std().item() == pytest.approx((2 / (4 + 32)) ** 0.5, rel=0.25)
    assert not torch.equal(rows, tensors["model.layers.0.mlp.router.rows.g1"])


def test_random_experts_follow_the_seed_and_differ_from_the_original(dense, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        upcycle(dense, tmp_path / name, num_experts=3, init="random", seed=seed)
    a, b, c = (load_file(tmp_path / n / "model.safetensors") for n in "abc")
    key = "model.layers.0.mlp.experts.g1.down_proj"
    assert torch.equal(a[key], b[key])
    assert not torch.equal(a[key], c[key])
    assert not torch.equal(a[key][0], a["model.layers.0.mlp.down_proj.weight"])


def test_the_base_hash_does_not_depend_on_sharding(dense, tmp_path):
    AutoModelForCausalLM.from_pretrained(dense).save_pretrained(
        tmp_path / "sharded", max_shard_size="20KB"
    )
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    upcycle(dense, tmp_path / "one", num_experts=2)
    upcycle(tmp_path / "sharded", tmp_path / "two", num_experts=2)
    hashes = {
        json.loads((tmp_path / n / "config.json").read_text())["base_hash"] for n in ("one", "two")
    }
    assert hashes == {content_hash(open_checkpoint(dense))}


def test_a_sharded_result_loads_and_computes_the_same(dense, tmp_path, monkeypatch):
    import polycycle.surgery.upcycling as room

    upcycle(dense, tmp_path / "single", num_experts=3)
    small_shards = partial(room.write_tensors, max_shard_bytes=30_000)
    monkeypatch.setattr(room, "write_tensors", small_shards)
    upcycle(dense, tmp_path / "sharded", num_experts=3)
    assert (tmp_path / "sharded" / "model.safetensors.index.json").exists()
    single, sharded = load(tmp_path / "single"), load(tmp_path / "sharded")
    for (name, one), other in zip(single.named_parameters(), sharded.parameters(), strict=True):
        assert torch.equal(one, other), name
    assert sharded(token_ids(1, 5)).logits.shape == (1, 5, 128)


def test_side_files_travel_and_pickles_do_not(dense, tmp_path):
    source = shutil.copytree(dense, tmp_path / "source")
    for name in ("tokenizer.json", "chat_template.jinja", "LICENSE", "training_args.bin", "run.py"):
        (source / name).write_text("x")
    upcycle(source, tmp_path / "moe", num_experts=2)
    names = {file.name for file in (tmp_path / "moe").iterdir()}
    assert {"tokenizer.json", "chat_template.jinja", "LICENSE"} <= names
    assert not names & {"training_args.bin", "run.py"}


def test_language_groups_stand_in_the_config(dense, tmp_path):
    groups = LanguageGroups(original=("en",), unseen_original=("fr",), expanded=(("el", "hu"),))
    upcycle(dense, tmp_path / "moe", num_experts=2, languages=groups)
    assert load(tmp_path / "moe").config.language_groups == {
        "original": ["en"],
        "unseen_original": ["fr"],
        "expanded": [["el", "hu"]],
    }


def test_a_failed_upcycle_leaves_nothing_behind(dense, tmp_path, monkeypatch):
    import polycycle.surgery.upcycling as room

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(room, "write_json", fail)
    with pytest.raises(OSError, match="disk full"):
        upcycle(dense, tmp_path / "out" / "moe", num_experts=2)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "mixtral", "num_local_experts": 8}, "already a mixture of experts"),
        ({"model_type": "polycycle_llama", "base_model": "org/llama"}, "org/llama"),
        ({"model_type": "gpt2"}, "gated"),
        ({"model_type": "gemma3"}, "gemma3_text"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"quantization_config": {"bits": 4}}, "unquantised"),
    ],
)
def test_what_cannot_be_upcycled_is_refused_with_the_reason(dense, tmp_path, settings, message):
    source = shutil.copytree(dense, tmp_path / "source")
    edit_config(source, **settings)
    with pytest.raises(UpcycleError, match=message):
        upcycle(source, tmp_path / "moe")
    assert not (tmp_path / "moe").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_experts": (4, 4)}, "has 2 entries, but the model has 3 layers"),
        ({"num_experts": (4, 0, 4)}, "layer 1: 0 experts"),
        ({"num_experts": 1, "top_k": 1}, "dense model itself"),
        ({"num_experts": 2, "top_k": 3}, "num_experts_per_tok=3"),
    ],
)
def test_impossible_counts_are_refused(dense, arguments, message):
    with pytest.raises(UpcycleError, match=message):
        plan_upcycle(open_checkpoint(dense), **arguments)


def test_writing_over_the_dense_model_is_refused(dense):
    with pytest.raises(ConfigError, match="one of the models read"):
        upcycle(dense, dense)


def test_weights_that_do_not_belong_to_the_config_are_named(dense, tmp_path):
    source = shutil.copytree(dense, tmp_path / "source")
    edit_config(source, num_hidden_layers=4)
    with pytest.raises(CheckpointError, match=r"model\.layers\.3\.mlp\.down_proj"):
        upcycle(source, tmp_path / "moe")


def test_inspect_counts_what_the_model_has(dense, tmp_path):
    upcycle(dense, tmp_path / "moe", num_experts=(2, 1, 5), top_k=2)
    seen = inspect_checkpoint(open_checkpoint(tmp_path / "moe"))
    model = load(tmp_path / "moe")
    expert, dense_total = 3 * 32 * 48, sum(p.numel() for p in load(dense).parameters())
    assert seen.parameters_total == sum(p.numel() for p in model.parameters())
    assert seen.parameters_total == dense_total + (1 + 4) * expert + (2 + 5) * 32
    assert seen.parameters_active == dense_total + (1 + 1) * expert + (2 + 5) * 32
    assert seen.parameters_trainable == {"post_pretrain": 5 * expert + 7 * 32, "review": 7 * 32}
    assert seen.num_experts_per_layer == [2, 1, 5]
    assert seen.is_upcycled
    assert not seen.has_tokenizer
