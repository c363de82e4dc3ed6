"""The identities of DeltaMoE, for every family, in float32 and bfloat16."""

import pytest
import torch

from polycycle.checkpoint import content_hash, open_checkpoint
from polycycle.modeling import frozen_expert_only
from polycycle.surgery import graft, inspect_checkpoint, pack, ungraft, upcycle
from tests.surgery.siblings import config_of, delta_of, post_trained, siblings, tensors
from tests.surgery.test_growing import CASES
from tests.tiny import FAMILIES, load, save_dense, token_ids

BITS = {torch.float32: 24, torch.bfloat16: 8}
each_family = pytest.mark.parametrize(("family", "dtype"), CASES, ids=lambda value: str(value))


def spacing(tensor):
    """Distance to the next number of the dtype, for each element."""
    exponents = torch.frexp(tensor.double()).exponent
    return torch.ldexp(torch.ones_like(tensor, dtype=torch.float64), exponents - BITS[tensor.dtype])


@torch.no_grad()
@each_family
def test_a_grafted_upcycle_is_the_upcycled_sibling(tmp_path, family, dtype):
    base = save_dense(tmp_path / "dense", family, dtype=dtype)
    post = post_trained(base, tmp_path / "post")
    upcycle(base, tmp_path / "moe", num_experts=(3, 1, 4))
    upcycle(post, tmp_path / "expected", num_experts=(3, 1, 4))
    graft(tmp_path / "moe", [delta_of(post, base)], tmp_path / "grafted")
    got, expected = tensors(tmp_path / "grafted"), tensors(tmp_path / "expected")
    assert got.keys() == expected.keys()
    dense = tensors(post)
    for name, tensor in expected.items():
        if name in dense:
            assert torch.equal(got[name], tensor), name
        else:
            # Twice as many bits and more: only a number far smaller than what it was made from
            # (2⁻²⁹ of it in float64, 2⁻¹⁶ in float32) can come out different.
            close = (got[name].double() - tensor.double()).abs() <= spacing(tensor)
            assert close.all(), name
            assert (got[name] != tensor).double().mean() <= 1e-3, name
    ids = token_ids(2, 20)
    one, other = load(tmp_path / "grafted")(ids).logits, load(tmp_path / "expected")(ids).logits
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    assert (one - other).abs().max() <= tolerance * other.abs().max()


@torch.no_grad()
@each_family
def test_where_all_tokens_take_expert_0_a_grafted_model_computes_the_sibling(
    tmp_path, family, dtype
):
    moe, base, post = siblings(
        tmp_path, family, dtype, exact_retention=True, retention_threshold=-1.0
    )
    graft(moe, [delta_of(post, base)], tmp_path / "out")
    ids, model = token_ids(2, 20), load(tmp_path / "out")
    expected = load(post)(ids).logits
    with frozen_expert_only():
        assert torch.equal(model(ids).logits, expected)
    # The untrained gate scores 0 and its threshold is −1: it judges every text original.
    assert torch.equal(model(ids).logits, expected)
    seen = inspect_checkpoint(open_checkpoint(tmp_path / "out"))
    assert seen.base_hash == content_hash(open_checkpoint(post))
    assert (seen.base_model, seen.no_reference) == (str(post), None)


@pytest.mark.parametrize("dtype", BITS, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_two_grafts_are_one_graft_with_their_scales_added(tmp_path, family, dtype):
    moe, base, post = siblings(tmp_path, family, dtype)
    graft(moe, [delta_of(post, base, 0.5)], tmp_path / "half")
    graft(tmp_path / "half", [delta_of(post, base, 0.25)], tmp_path / "twice")
    graft(moe, [delta_of(post, base, 0.75)], tmp_path / "once")
    twice, once, half = (tensors(tmp_path / name) for name in ("twice", "once", "half"))
    for name, tensor in once.items():
        # Three roundings, each by half a spacing: after 0.5, after 0.25, and in the single graft.
        bound = (spacing(half[name]) + spacing(twice[name]) + spacing(tensor)) / 2
        assert ((twice[name].double() - tensor.double()).abs() <= bound).all(), name
        assert torch.equal(tensors(moe)[name], tensor) == (".router." in name), name
    assert [len(config_of(tmp_path / name)["grafts"]) for name in ("twice", "once")] == [2, 1]


@pytest.mark.parametrize("dtype", BITS, ids=str)
def test_several_deltas_are_summed_before_they_are_rounded(tmp_path, dtype):
    moe, base, post = siblings(tmp_path, "qwen2", dtype)
    other = post_trained(base, tmp_path / "other", seed=2)
    graft(moe, [delta_of(post, base), delta_of(other, base, -0.5)], tmp_path / "out")
    wide = torch.float32 if dtype == torch.bfloat16 else torch.float64
    got, before = tensors(tmp_path / "out"), tensors(moe)
    b, p, o = (tensors(folder) for folder in (base, post, other))

    def sums(x, name):
        delta = (p[name].to(wide) - b[name].to(wide)) - 0.5 * (o[name].to(wide) - b[name].to(wide))
        return (x.to(wide) + delta).to(dtype)

    for name in b:
        assert torch.equal(got[name], sums(before[name], name)), name
    experts = "model.layers.0.mlp.experts.g1"
    up = before[f"{experts}.gate_up_proj"][1, 48:]
    expected = sums(up, "model.layers.0.mlp.up_proj.weight")
    assert torch.equal(got[f"{experts}.gate_up_proj"][1, 48:], expected)
    down = sums(before[f"{experts}.down_proj"][0], "model.layers.0.mlp.down_proj.weight")
    assert torch.equal(got[f"{experts}.down_proj"][0], down)
    assert "lm_head.weight" not in got  # tied: the embedding got Δ, once


@each_family
def test_ungrafting_gives_the_model_back_within_one_rounding(tmp_path, family, dtype):
    moe, base, post = siblings(tmp_path, family, dtype)
    delta = delta_of(post, base)
    graft(moe, [delta], tmp_path / "grafted", keep_ungrafted=True)
    told = config_of(tmp_path / "grafted")["grafts"][0]["ungrafting_deviates"]
    ungraft(tmp_path / "grafted", open_checkpoint(base), [delta], tmp_path / "exact")
    assert content_hash(open_checkpoint(tmp_path / "exact")) == content_hash(open_checkpoint(moe))
    graft(moe, [delta], tmp_path / "plain")
    done = ungraft(tmp_path / "plain", open_checkpoint(base), [delta], tmp_path / "back")
    before, grafted, back = (tensors(f) for f in (moe, tmp_path / "plain", tmp_path / "back"))
    largest, changed, elements = 0.0, 0, 0
    for name, tensor in before.items():
        difference = (back[name].double() - tensor.double()).abs()
        if ".experts." not in name:
            assert not difference.any(), name
            continue
        assert (difference <= (spacing(grafted[name]) + spacing(back[name])) / 2).all(), name
        largest = max(largest, difference.max().item())
        changed += int((difference > 0).sum())
        elements += tensor.numel()
    assert told == {"largest": largest, "share_of_elements": changed / elements}
    assert done["largest_deviation"] == largest > 0
    assert not done["is_exact"]
    config = config_of(tmp_path / "back")
    assert config["base_hash"] == config_of(moe)["base_hash"]
    assert (config["eos_token_id"], config["grafts"]) == (0, None)
    pack(tmp_path / "back", tmp_path / "pack")
