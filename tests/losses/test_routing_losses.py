"""Each loss against a slow float64 reading of its formula, and at its known extremes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polycycle.losses import (
    BalanceStatistics,
    assignment_loss,
    balance_statistics,
    group_prior_loss,
    language_classifier_loss,
    language_prior_loss,
    load_balancing_loss,
    localized_balancing_loss,
    router_z_loss,
)


def random_layers(seed, num_experts=(6, 3), num_tokens=17, top_k=2):
    rng = np.random.default_rng(seed)
    logits = [3 * rng.standard_normal((num_tokens, e)) for e in num_experts]
    ids = [np.argsort(-layer, axis=1)[:, :top_k].copy() for layer in logits]
    return logits, ids, rng.random(num_tokens) < 0.6


def tensors(arrays):
    return [torch.from_numpy(array) for array in arrays]


def softmax(row):
    powers = [math.exp(value - max(row)) for value in row]
    return [power / sum(powers) for power in powers]


def slow_balance(logits, ids, mask):
    layers = []
    for layer_logits, layer_ids in zip(logits, ids, strict=True):
        num_experts, top_k = layer_logits.shape[1], layer_ids.shape[1]
        tokens = [t for t in range(len(layer_logits)) if mask[t]]
        total = 0.0
        for expert in range(num_experts):
            chosen = sum(expert in layer_ids[t] for t in tokens)
            f = num_experts / (top_k * len(tokens)) * chosen
            p = sum(softmax(layer_logits[t])[expert] for t in tokens) / len(tokens)
            total += f * p
        layers.append(total)
    return sum(layers) / len(layers)


def slow_prior(logits, mask, released):
    layers = []
    for layer in logits:
        values = []
        for t in range(len(layer)):
            if mask[t]:
                probs = softmax(layer[t])
                values.append(-math.log(softmax(probs)[0] if released else probs[0]))
        layers.append(sum(values) / len(values))
    return sum(layers) / len(layers)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_losses_equal_a_slow_reading_of_the_formulas(seed):
    logits, ids, mask = random_layers(seed)
    mask[0] = True
    layers, tokens = tensors(logits), torch.from_numpy(mask)
    balance = load_balancing_loss(balance_statistics(layers, tensors(ids), tokens))
    assert balance.item() == pytest.approx(slow_balance(logits, ids, mask), rel=1e-12)
    for form in ("paper", "released"):
        prior = language_prior_loss(layers, tokens, form=form)
        assert prior.item() == pytest.approx(
            slow_prior(logits, mask, form == "released"), rel=1e-12
        )
    z = [np.mean([math.log(sum(np.exp(row))) ** 2 for row in layer[mask]]) for layer in logits]
    assert router_z_loss(layers, tokens).item() == pytest.approx(np.mean(z), rel=1e-12)


def test_balance_is_one_when_balanced_and_e_when_one_expert_takes_all():
    ids = torch.arange(12).reshape(6, 2) % 6
    balanced = balance_statistics([torch.zeros(6, 6)], [ids])
    assert load_balancing_loss(balanced).item() == pytest.approx(1.0)
    collapsed = torch.full((5, 6), -40.0)
    collapsed[:, 3] = 40.0
    everything = balance_statistics([collapsed], [torch.full((5, 1), 3)])
    assert load_balancing_loss(everything).item() == pytest.approx(6.0)


def test_balance_over_two_ranks_is_the_balance_of_their_summed_statistics():
    logits, ids, _ = random_layers(3, num_experts=(4,), num_tokens=10)
    whole = load_balancing_loss(balance_statistics(tensors(logits), tensors(ids)))
    halves = [
        balance_statistics([torch.from_numpy(logits[0][s])], [torch.from_numpy(ids[0][s])])[0]
        for s in (slice(0, 3), slice(3, 10))
    ]
    summed = BalanceStatistics(
        assignments=halves[0].assignments + halves[1].assignments,
        prob_sums=halves[0].prob_sums + halves[1].prob_sums,
        num_tokens=halves[0].num_tokens + halves[1].num_tokens,
    )
    assert load_balancing_loss([summed]).item() == pytest.approx(whole.item(), rel=1e-12)


def test_prior_loss_is_zero_with_zero_gradient_when_no_token_is_original():
    logits = torch.randn(5, 6, requires_grad=True)
    loss = language_prior_loss([logits], torch.zeros(5, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(logits.grad, torch.zeros(5, 6))


def test_released_prior_is_bounded_and_its_gradient_vanishes_where_the_paper_form_pulls():
    logits = torch.tensor([[-5.0, 5.0, 0, 0, 0, 0]], dtype=torch.float64, requires_grad=True)
    original = torch.ones(1, dtype=torch.bool)
    gradients = {}
    for form in ("paper", "released"):
        (gradients[form],) = torch.autograd.grad(
            language_prior_loss([logits], original, form=form), logits
        )
    assert gradients["paper"][0, 0] < -0.999
    assert abs(gradients["released"][0, 0]) < 1e-4
    right, wrong = torch.full((1, 6), -60.0), torch.full((1, 6), -60.0)
    right[0, 0] = wrong[0, 1] = 60.0
    assert language_prior_loss([right], original, form="released").item() == pytest.approx(
        1.0436, abs=1e-3
    )
    assert language_prior_loss([wrong], original, form="released").item() == pytest.approx(
        2.0436, abs=1e-3
    )


def test_prior_over_micro_batches_adds_up_to_the_whole_step():
    logits, _, mask = random_layers(5)
    whole = language_prior_loss(tensors(logits), torch.from_numpy(mask))
    parts = sum(
        language_prior_loss(
            [torch.from_numpy(layer[s]) for layer in logits],
            torch.from_numpy(mask[s]),
            num_original_tokens=int(mask.sum()),
        )
        for s in (slice(0, 4), slice(4, 17))
    )
    assert parts.item() == pytest.approx(whole.item(), rel=1e-12)


def test_padding_changes_no_loss():
    logits, ids, mask = random_layers(8)
    mask[:] = True
    padded = [np.concatenate([layer, np.full((4, layer.shape[1]), 1e4)]) for layer in logits]
    padded_ids = [np.concatenate([layer, np.zeros((4, 2), int)]) for layer in ids]
    counted = torch.arange(21) < 17
    assert load_balancing_loss(
        balance_statistics(tensors(padded), tensors(padded_ids), counted)
    ).item() == pytest.approx(
        load_balancing_loss(balance_statistics(tensors(logits), tensors(ids))).item(), rel=1e-12
    )
    assert torch.equal(
        language_prior_loss(tensors(padded), counted),
        language_prior_loss(tensors(logits), torch.from_numpy(mask)),
    )
    assert torch.equal(router_z_loss(tensors(padded), counted), router_z_loss(tensors(logits)))


def test_losses_of_no_layers_are_refused():
    for call in (
        lambda: load_balancing_loss([]),
        lambda: router_z_loss([]),
        lambda: language_prior_loss([], torch.ones(3, dtype=torch.bool)),
    ):
        with pytest.raises(ValueError, match="record_routing"):
            call()


def test_classifier_loss_equals_its_formula_and_adds_up_over_micro_batches():
    rng = np.random.default_rng(0)
    scores = [3 * rng.standard_normal(12) for _ in range(2)]
    is_original, mask = rng.random(12) < 0.5, rng.random(12) < 0.8
    layers = []
    for layer in scores:
        nats = [
            math.log(1 + math.exp(-score if original else score))
            for score, original, real in zip(layer, is_original, mask, strict=True)
            if real
        ]
        layers.append(sum(nats) / len(nats))
    masks = torch.from_numpy(is_original), torch.from_numpy(mask)
    whole = language_classifier_loss(tensors(scores), *masks)
    assert whole.item() == pytest.approx(sum(layers) / len(layers), rel=1e-12)
    parts = [
        language_classifier_loss(
            [torch.from_numpy(layer[rows]) for layer in scores],
            *(each[rows] for each in masks),
            num_tokens=int(mask.sum()),
        )
        for rows in (slice(0, 5), slice(5, 12))
    ]
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-12)


def test_balance_leaves_empty_choices_out():
    logits, ids, _ = random_layers(3, num_experts=(4,))
    with_empty = ids[0].copy()
    with_empty[5:9, 1] = -1
    (statistics,) = balance_statistics(tensors(logits), tensors([with_empty]))
    expected = np.bincount(with_empty[with_empty >= 0], minlength=4)
    assert statistics.assignments.tolist() == expected.tolist()


def test_group_prior_is_the_papers_prior_for_one_group():
    logits, _, mask = random_layers(1)
    group_ids = torch.from_numpy(np.where(mask, 0, 1))
    got = group_prior_loss(tensors(logits), group_ids, [[1, 6], [1, 3]])
    assert got.item() == pytest.approx(slow_prior(logits, mask, released=False), rel=1e-12)


def test_group_prior_holds_each_earlier_group_to_the_experts_it_had():
    logits, _, _ = random_layers(2, num_experts=(6, 4))
    group_ids = torch.arange(17) % 4 - 1  # padding, G0, G1, G2
    owned = [[1, 4, 6], [1, 1, 4]]
    layers = []
    for layer, sizes in zip(logits, owned, strict=True):
        nats = [
            -math.log(sum(softmax(layer[t])[: sizes[g]]))
            for t, g in enumerate(group_ids.tolist())
            if g in (0, 1)
        ]
        layers.append(sum(nats) / len(nats))
    got = group_prior_loss(tensors(logits), group_ids, owned)
    assert got.item() == pytest.approx(sum(layers) / 2, rel=1e-12)


def test_group_prior_has_a_finite_gradient_where_no_token_is_held():
    logits = [torch.randn(5, 4, requires_grad=True)]
    group_prior_loss(logits, torch.tensor([1, 1, -1, -1, 1]), [[1, 4]]).backward()
    assert torch.equal(logits[0].grad, torch.zeros(5, 4))


def slow_assignment(logits, reachable):
    """The mean over layers of Σ −log(mass that stays) over the tokens held in any layer."""
    tokens = range(len(logits[0]))
    held = [t for t in tokens if any(not all(layer[t]) for layer in reachable)]
    layers = []
    for layer, reach in zip(logits, reachable, strict=True):
        nats = [
            -math.log(sum(p for p, ok in zip(softmax(layer[t]), reach[t], strict=True) if ok))
            for t in held
            if not all(reach[t])
        ]
        layers.append(sum(nats) / len(held))
    return sum(layers) / len(layers)


@given(st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_assignment_loss_equals_a_slow_reading_of_its_formula(seed):
    logits, _, mask = random_layers(seed)
    rng = np.random.default_rng(seed + 1)
    reachable = []
    for layer in logits:
        reach = rng.random(layer.shape) < 0.5
        reach[:, 0] = True
        reach[~mask] = True  # not held in any layer
        reach[3] = True
        reachable.append(reach)
    reachable[1][5] = True  # held in one layer alone
    reachable[0][5] = [True, False, False, True, False, False]
    got = assignment_loss(tensors(logits), tensors(reachable))
    assert got.item() == pytest.approx(slow_assignment(logits, reachable), rel=1e-12)


def test_assignment_loss_is_zero_when_all_mass_stays_and_log_e_when_spread():
    reach = torch.tensor([[True, True, False, False]])
    inside = [torch.tensor([[0.0, 3.0, -60.0, -60.0]])]
    assert assignment_loss(inside, [reach]).item() == pytest.approx(0.0, abs=1e-7)
    assert assignment_loss([torch.zeros(1, 4)], [reach]).item() == pytest.approx(math.log(2))


def test_assignment_loss_over_micro_batches_adds_up_to_the_whole_step():
    logits, _, mask = random_layers(4)
    reachable = [torch.ones(17, width, dtype=torch.bool) for width in (6, 3)]
    for reach in reachable:
        reach[torch.from_numpy(mask), 2:] = False
    whole = assignment_loss(tensors(logits), reachable)
    parts = [
        assignment_loss(
            [layer[rows] for layer in tensors(logits)],
            [reach[rows] for reach in reachable],
            num_tokens=int(mask.sum()),
        )
        for rows in (slice(0, 5), slice(5, 17))
    ]
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-12)


def test_assignment_loss_has_a_zero_gradient_where_no_token_is_held():
    logits = [torch.randn(5, 4, requires_grad=True)]
    assignment_loss(logits, [torch.ones(5, 4, dtype=torch.bool)]).backward()
    assert torch.equal(logits[0].grad, torch.zeros(5, 4))


@pytest.mark.parametrize("num_experts", [4, 5])
def test_the_localized_constraint_equals_a_slow_reading(num_experts):
    rng = np.random.default_rng(num_experts)
    layers = [rng.dirichlet(np.ones(num_experts), size=(3, 7)) for _ in range(2)]
    kind = rng.integers(-1, 2, size=(3, 7))  # -1 padding, 0 original, 1 expanded
    kind[2] = 1
    delta, wanted = 0.3, 0.0
    for layer in layers:
        values = []
        for row in range(3):
            for which in (0, 1):
                tokens = [layer[row, t] for t in range(7) if kind[row, t] == which]
                for expert in range(num_experts) if tokens else ():
                    leans_to = 1 if expert < num_experts // 2 else 0
                    factor = 1 + delta if leans_to == which else 1 - delta
                    values.append(factor * sum(t[expert] for t in tokens) / len(tokens))
        mean = sum(values) / len(values)
        variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
        wanted += variance / mean**2
    marks = torch.from_numpy(kind)
    found = localized_balancing_loss(tensors(layers), marks == 0, marks >= 0, delta=delta)
    assert found.item() == pytest.approx(wanted, rel=1e-9)


def test_the_localized_constraint_is_least_when_kinds_share_their_text_as_it_leans():
    # Where w · I is the same everywhere: own experts 1 ÷ (1 + δ), others 1 ÷ (1 − δ).
    delta = 0.2
    own, other = 1 / (1 + delta), 1 / (1 - delta)
    expanded, original = (
        torch.tensor([own, own, other, other]),
        torch.tensor([other, other, own, own]),
    )
    weights = torch.stack([expanded, original])[:, None, :].double()
    kinds = torch.tensor([[False], [True]])
    real = torch.ones(2, 1, dtype=torch.bool)
    assert localized_balancing_loss([weights], kinds, real, delta=delta).item() < 1e-12
    assert localized_balancing_loss([weights], ~kinds, real, delta=delta).item() > 0.1
    nothing = torch.zeros(2, 1, dtype=torch.bool)
    assert localized_balancing_loss([weights], kinds, nothing, delta=delta).item() == 0.0
    with pytest.raises(ValueError, match="record_mixing"):
        localized_balancing_loss([], kinds, real, delta=delta)
