"""Laws of the dense baselines, on every family."""

import pytest
import torch

from polycycle.baselines import (
    add_adapters,
    expand_blocks,
    merged_tensors,
    new_block_places,
    train_everything,
    train_new_blocks,
)
from polycycle.checkpoint import open_checkpoint
from polycycle.errors import UpcycleError
from polycycle.surgery import write_trained
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
    write_trained(base, merged, tmp_path / "merged", merged)
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
