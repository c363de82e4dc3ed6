"""Laws of the dense baselines, on every family."""

import pytest
import torch

from polycycle.baselines import (
    add_adapters,
    add_lora_experts,
    expand_blocks,
    merged_tensors,
    new_block_places,
    train_everything,
    train_half,
    train_lora_experts,
    train_new_blocks,
)
from polycycle.checkpoint import open_checkpoint
from polycycle.errors import UpcycleError
from polycycle.modeling import LoraExperts, record_mixing
from polycycle.surgery import inspect_checkpoint, write_trained
from tests.tiny import FAMILIES, load, save_dense, token_ids


def trained_names(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def one_step(model, learning_rate=0.01):
    """Move everything that trains, as one optimizer step would."""
    ids = token_ids(2, 12, seed=3)
    model(input_ids=ids, labels=ids).loss.backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    torch.optim.AdamW(trained, lr=learning_rate).step()


def logits(model):
    with torch.no_grad():
        return model(token_ids(2, 20)).logits


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_with_new_blocks_computes_what_the_base_computed_bit_for_bit(
    tmp_path, family, dtype
):
    base = open_checkpoint(save_dense(tmp_path / "base", family, dtype=dtype, num_hidden_layers=4))
    (tmp_path / "deep").mkdir()
    places = expand_blocks(base, tmp_path / "deep", every=2)
    assert places == (2, 5)
    deep = load(tmp_path / "deep")
    assert len(deep.model.layers) == 6
    assert torch.equal(logits(deep), logits(load(tmp_path / "base")))


@pytest.mark.parametrize("family", FAMILIES)
def test_new_blocks_train_whole_and_nothing_else_moves(tmp_path, family):
    base = open_checkpoint(save_dense(tmp_path / "base", family, initializer_range=0.1))
    (tmp_path / "deep").mkdir()
    places = expand_blocks(base, tmp_path / "deep", every=2)
    model = load(tmp_path / "deep")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train_new_blocks(model, places)
    for _ in range(2):  # behind outputs of zero, the rest gets its first gradient in the second
        one_step(model)
        model.zero_grad()
    for name, parameter in model.named_parameters():
        is_new = name.startswith("model.layers.2.")
        assert torch.equal(parameter, before[name]) != is_new, name


def test_blocks_are_added_as_published():
    # MoE-LPR: 12 to Qwen1.5-1.8B's 24; LLaMA-Pro: 8 to Llama-2-7B's 32.
    assert len(new_block_places(24, 2)) == 12
    assert new_block_places(32, 4) == (4, 9, 14, 19, 24, 29, 34, 39)
    assert new_block_places(5, 2) == (2, 5)
    with pytest.raises(UpcycleError, match="set it to 3 or less"):
        new_block_places(3, 4)


@pytest.mark.parametrize("family", FAMILIES)
def test_fresh_adapters_change_nothing_bit_for_bit_and_alone_train(tmp_path, family):
    model = load(save_dense(tmp_path, family))
    before = logits(model)
    add_adapters(model, rank=4, alpha=8.0)
    assert torch.equal(logits(model), before)
    trained = trained_names(model)
    assert trained
    assert all(".lora_A." in name or ".lora_B." in name for name in trained)
    assert not any("lm_head" in name or "embed" in name for name in trained)
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if n not in trained}
    one_step(model)
    assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if n in frozen)
    assert not torch.equal(logits(model), before)


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_adapters_are_a_dense_model_that_computes_the_same(tmp_path, family):
    base = open_checkpoint(save_dense(tmp_path / "base", family, initializer_range=0.1))
    model = load(tmp_path / "base")
    add_adapters(model, rank=4, alpha=8.0)
    one_step(model, learning_rate=0.05)
    wanted = logits(model)
    merged = merged_tensors(model)
    (tmp_path / "merged").mkdir()
    write_trained(base, merged, tmp_path / "merged")
    found = load(tmp_path / "merged")
    assert type(found) is type(load(tmp_path / "base"))
    torch.testing.assert_close(logits(found), wanted, rtol=1e-4, atol=1e-5)
    assert not torch.equal(wanted, logits(load(tmp_path / "base")))
    whole = open_checkpoint(tmp_path / "merged")
    for name in base.tensors:
        assert torch.equal(whole.read(name), base.read(name)) == (name not in merged), name


def test_merging_is_the_formula(tmp_path):
    model = load(save_dense(tmp_path, "llama"))
    weight = model.model.layers[1].self_attn.q_proj.weight.detach().double()
    add_adapters(model, rank=2, alpha=6.0, targets=("q_proj",))
    assert len(trained_names(model)) == 2 * 3
    layer = model.model.layers[1].self_attn.q_proj
    torch.nn.init.normal_(layer.lora_B["default"].weight)
    a, b = (
        getattr(layer, part)["default"].weight.detach().double() for part in ("lora_A", "lora_B")
    )
    merged = merged_tensors(model)["model.layers.1.self_attn.q_proj.weight"]
    torch.testing.assert_close(merged.double(), weight + 3.0 * b @ a, rtol=1e-6, atol=1e-6)


def test_adapters_are_drawn_from_their_own_seed(tmp_path):
    save_dense(tmp_path, "llama")
    drawn = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        model = load(tmp_path)
        torch.manual_seed(noise)
        add_adapters(model, rank=2, alpha=4.0, seed=seed)
        drawn.append(model.model.layers[0].mlp.up_proj.lora_A["default"].weight.detach())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("family", ["llama", "qwen2"])  # qwen2: tied head
def test_full_fine_tuning_trains_every_parameter_and_changes_nothing_before_the_first_step(
    tmp_path, family
):
    model = load(save_dense(tmp_path, family))
    before = logits(model)
    was = {name: p.detach().clone() for name, p in model.named_parameters()}
    train_everything(model)
    assert torch.equal(logits(model), before)
    assert trained_names(model) == set(was)
    one_step(model)
    assert not any(torch.equal(p, was[name]) for name, p in model.named_parameters())


def with_lora_experts(folder, family, **settings):
    base = open_checkpoint(save_dense(folder / "base", family, **settings))
    (folder / "lora-experts").mkdir()
    add_lora_experts(base, folder / "lora-experts", num_experts=4, rank=3, alpha=6.0)
    return base


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fresh_lora_experts_change_nothing_bit_for_bit(tmp_path, family, dtype):
    base = with_lora_experts(tmp_path, family, dtype=dtype)
    model = load(tmp_path / "lora-experts")
    assert torch.equal(logits(model), logits(load(tmp_path / "base")))
    found = open_checkpoint(tmp_path / "lora-experts")
    assert all(torch.equal(found.read(name), base.read(name)) for name in base.tensors)
    seen = inspect_checkpoint(found)
    assert (seen.lora_experts, seen.is_upcycled, seen.export_targets) == (4, False, ())
    assert seen.base_hash == inspect_checkpoint(base, with_hash=True).base_hash
    assert seen.parameters_active == seen.parameters_total


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_experts_and_their_routers_train_and_nothing_else(tmp_path, family):
    base = with_lora_experts(tmp_path, family, initializer_range=0.1)
    model = load(tmp_path / "lora-experts")
    train_lora_experts(model)
    names = trained_names(model)
    maps = 2 if family == "phi3" else 3
    assert len(names) == 3 * 3 * maps
    assert all(".mlp." in name and ".lora." in name for name in names)
    for _ in range(2):  # behind outputs of zero, the rest gets its first gradient in the second
        one_step(model)
        model.zero_grad()
    start = open_checkpoint(tmp_path / "lora-experts")
    trained = {name: model.get_parameter(name).detach() for name in names}
    (tmp_path / "trained").mkdir()
    write_trained(start, trained, tmp_path / "trained")
    found = open_checkpoint(tmp_path / "trained")
    for name in start.tensors:
        assert torch.equal(found.read(name), start.read(name)) == (name in base.tensors), name
    again = load(tmp_path / "trained")
    assert torch.equal(logits(again), logits(model))
    assert not torch.equal(logits(again), logits(load(tmp_path / "base")))


def test_lora_experts_are_the_formula(tmp_path):
    with_lora_experts(tmp_path, "llama")
    linear = load(tmp_path / "lora-experts").model.layers[1].mlp.up_proj.double()
    torch.nn.init.normal_(linear.lora.b)
    x = torch.randn(2, 5, 32, dtype=torch.float64)
    with torch.no_grad(), record_mixing() as mixing:
        found = linear(x)
    router, a, b = linear.lora.router, linear.lora.a, linear.lora.b
    wanted = x @ linear.weight.T
    weights = (x @ router.T).softmax(-1)
    for e in range(4):
        wanted = wanted + 2.0 * weights[..., e : e + 1] * (x @ a[e].T @ b[e])
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mixing[0], weights, rtol=1e-12, atol=1e-12)


def test_lora_experts_decode_with_a_cache_as_without(tmp_path):
    with_lora_experts(tmp_path, "llama")
    model = load(tmp_path / "lora-experts")
    for module in model.modules():
        if isinstance(module, LoraExperts):
            torch.nn.init.normal_(module.b, std=0.1)
    how = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    with_cache = model.generate(token_ids(2, 6), **how)
    assert torch.equal(with_cache, model.generate(token_ids(2, 6), use_cache=False, **how))


def test_a_model_with_lora_experts_is_no_base(tmp_path):
    with_lora_experts(tmp_path, "llama")
    (tmp_path / "again").mkdir()
    with pytest.raises(UpcycleError, match="already expanded by LoRA experts"):
        add_lora_experts(
            open_checkpoint(tmp_path / "lora-experts"),
            tmp_path / "again",
            num_experts=2,
            rank=2,
            alpha=1.0,
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_half_fine_tuning_freezes_half_of_each_kind_in_every_block(tmp_path, family):
    model = load(save_dense(tmp_path, family, initializer_range=0.1, num_hidden_layers=4))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train_half(model, seed=0)
    trained = trained_names(model)
    counts = {"self_attn": [0, 0], "mlp": [0, 0], "": [0, 0]}
    for name in before:
        if not name.startswith("model.layers."):
            assert name in trained
            continue
        part = name.split(".")[3]
        kind = part if part in counts else ""
        counts[kind][name in trained] += 1
    for frozen, free in counts.values():
        assert abs(frozen - free) <= 1 or frozen == free, counts
    one_step(model)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) != (name in trained), name
    train_half(model, seed=1)
    assert trained_names(model) != trained
    train_half(model, seed=0)
    assert trained_names(model) == trained
