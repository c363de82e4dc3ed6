"""Routing by label: who reaches what inside the block, and that nothing is left of it outside."""

import pytest
import torch

from polycycle.allocation import assign_experts
from polycycle.errors import UpcycleError
from polycycle.modeling import record_routing, route_by_language
from polycycle.routing import Router
from polycycle.surgery import upcycle
from tests.tiny import load, save_dense

IDS = torch.arange(24).view(2, 12)
LAYERS = (4, 1, 5)


@pytest.fixture
def model(tmp_path):
    assignment = assign_experts({("el",): 2, ("tr",): 1}, [3, 0, 4], is_exact=False)
    save_dense(tmp_path / "dense", initializer_range=0.1)
    upcycle(
        tmp_path / "dense", tmp_path / "moe", num_experts=LAYERS, top_k=3, assignment=assignment
    )
    model = load(tmp_path / "moe", dtype=torch.float32)
    with torch.no_grad():  # so that it matters which expert is taken
        for name, parameter in model.named_parameters():
            if ".experts." in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def reach(tags, model):
    """By layer, the reach of tokens of these languages; of None, of everything."""
    found = {}
    for layer in (0, 2):
        experts = model.config.expert_languages[layer]
        rows = [[t is None or i == 0 or t in e for i, e in enumerate(experts)] for t in tags]
        found[layer] = torch.tensor(rows)
    return found


def test_tokens_reach_expert_0_and_their_own_alone_and_padding_all(model):
    tags = (["el"] * 9 + ["tr"] * 9 + [None] * 6)[:24]
    allowed = reach(tags, model)
    with record_routing(model) as free:
        model(IDS)
    with route_by_language(model, allowed), record_routing(model) as routing:
        model(IDS)
    for layer, before in zip(routing.layers, free.layers, strict=True):
        ids, mask = layer.expert_ids, allowed[layer.layer_index]
        chosen = ids >= 0
        assert mask.gather(1, ids.clamp(min=0))[chosen].all()
        # Two experts are within reach of Turkish, of three choices one stays empty, at no weight.
        num_reachable = mask.sum(1)
        assert torch.equal(chosen.sum(1), num_reachable.clamp(max=3))
        assert (layer.expert_weights[~chosen] == 0).all()
        torch.testing.assert_close(layer.expert_weights.sum(1), torch.ones(24))
        if layer.layer_index == 0:  # the same inputs: nothing is masked in what losses see
            assert torch.equal(layer.router_logits, before.router_logits)


def test_the_mask_leaves_nothing_behind_even_after_an_error(model):
    before, names = model(IDS).logits, set(model.state_dict())
    with route_by_language(model, reach(["el"] * 24, model)):
        assert set(model.state_dict()) == names
        assert not torch.equal(model(IDS).logits, before)
    assert torch.equal(model(IDS).logits, before)
    mask = route_by_language(model, reach(["el"] * 24, model))
    with pytest.raises(RuntimeError), mask:  # a mask of 24 tokens for 12
        model(IDS[:1])
    assert torch.equal(model(IDS).logits, before)
    routers = [module for module in model.modules() if isinstance(module, Router)]
    assert all(router.reachable_NE is None for router in routers)


def test_a_fresh_assigned_upcycle_computes_the_dense_model_masked_or_not(tmp_path):
    assignment = assign_experts({("el",): 2, ("tr",): 1}, [3, 0, 4], is_exact=False)
    save_dense(tmp_path / "dense")
    upcycle(tmp_path / "dense", tmp_path / "moe", num_experts=LAYERS, assignment=assignment)
    dense, moe = (load(tmp_path / name, dtype=torch.float64) for name in ("dense", "moe"))
    expected = dense(IDS).logits
    torch.testing.assert_close(moe(IDS).logits, expected, rtol=1e-5, atol=1e-5)
    with route_by_language(moe, reach(["tr"] * 24, moe)):
        torch.testing.assert_close(moe(IDS).logits, expected, rtol=1e-5, atol=1e-5)


def test_recomputed_layers_are_masked_as_they_were(model):
    """Only the second pass of a checkpointed layer would see a mask that was lifted too early."""

    def gradients():
        model.zero_grad()
        with route_by_language(model, reach(["el", "tr"] * 12, model)):
            model(IDS, labels=IDS, use_cache=False).loss.backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    model.train()
    expected = gradients()
    new_name = hasattr(model, "activation_checkpointing_enable")
    name = "activation_checkpointing_enable" if new_name else "gradient_checkpointing_enable"
    getattr(model, name)()
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("languages", "message"),
    [
        ([[[], ["el"]], [[]], [[]] * 5], r"describes \[2, 1, 5\] experts per layer"),
        ([[["el"], [], [], []], [[]], [[]] * 5], "layer 0 dedicates expert 0 to el"),
    ],
)
def test_an_assignment_that_does_not_describe_the_model_is_refused(model, languages, message):
    settings = model.config.to_dict() | {"expert_languages": languages}
    with pytest.raises(UpcycleError, match=message):
        type(model.config).from_dict(settings)
