"""The total loss: what moves it, and what must not."""

import dataclasses

import pytest
import torch

from polycycle.data import collate
from polycycle.errors import TrainingError
from polycycle.surgery import freeze_for
from polycycle.training.objective import Objective, compute_losses, count_step
from tests.training.tiny_run import GROUPS, Sequences, tiny_moe

OBJECTIVE = Objective(
    group_ids=(0, 0, 1, 1),
    balance_coef=0.0,
    balance_scope="global",
    prior_coef=0.0,
    prior_form="paper",
    router_z_coef=0.0,
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    model = tiny_moe(tmp_path_factory.mktemp("objective"))
    freeze_for(model, "post_pretrain")
    return model


def gradients(model, parts, objective):
    """Total loss and gradients of one optimizer step, given as micro-batches."""
    model.zero_grad()
    counts = count_step(parts, objective, CPU)
    total = 0.0
    for part in parts:
        loss = compute_losses(model, part, objective, counts).total
        loss.backward()
        total += loss.item()
    return total, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("coefficient", ["balance_coef", "prior_coef", "router_z_coef"])
def test_total_loss_and_router_gradients_move_with_each_coefficient(model, coefficient):
    batch = [collate([Sequences()[i] for i in range(6)])]
    without, plain = gradients(model, batch, OBJECTIVE)
    with_it, moved = gradients(model, batch, dataclasses.replace(OBJECTIVE, **{coefficient: 0.5}))
    assert abs(with_it - without) > 1e-3
    routers = [name for name in plain if ".router." in name]
    assert len(routers) == 3
    assert all(not torch.equal(plain[name], moved[name]) for name in routers)


def test_accumulation_changes_neither_language_modelling_nor_prior_loss(model):
    objective = dataclasses.replace(OBJECTIVE, prior_coef=0.7)
    items = [Sequences()[i] for i in range(7)]
    whole, expected = gradients(model, [collate(items)], objective)
    parts, got = gradients(
        model, [collate(items[:1]), collate(items[1:3]), collate(items[3:])], objective
    )
    assert parts == pytest.approx(whole, rel=1e-6)
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("scope", ["global", "micro_batch"])
def test_global_balance_counts_the_choices_of_earlier_micro_batches(model, scope):
    objective = dataclasses.replace(OBJECTIVE, balance_coef=1.0, balance_scope=scope)
    items = [Sequences()[i] for i in range(6)]
    parts = [collate(items[:2]), collate(items[2:])]
    counts = count_step(parts, objective, CPU)
    first, second = (compute_losses(model, part, objective, counts) for part in parts)
    counted = (first, second) if scope == "global" else (second,)
    expected = []
    for index, layer in enumerate(second.routing):
        is_real = second.language_ids >= 0
        probs = layer.router_logits.double().softmax(-1)[is_real].mean(0)
        chosen = sum(
            torch.bincount(
                of.routing[index].expert_ids[of.language_ids >= 0].flatten(), minlength=len(probs)
            )
            for of in counted
        )
        expected.append((len(probs) * chosen / chosen.sum() * probs).sum().item())
    assert second.balance.item() == pytest.approx(sum(expected) / len(expected), rel=1e-5)


def test_losses_are_summed_by_the_language_of_the_target(model):
    batch = collate([Sequences()[i] for i in range(6)])
    counts = count_step([batch], OBJECTIVE, CPU)
    losses = compute_losses(model, batch, OBJECTIVE, counts)
    scored = batch["labels"][:, 1:] != -100
    expected = torch.bincount(batch["language_ids"][:, 1:][scored], minlength=4)
    assert torch.equal(losses.labels, expected)
    assert losses.nats.sum().item() / counts.labels == pytest.approx(losses.total.item(), rel=1e-5)


def test_original_tokens_are_counted_by_the_input_token(model):
    batch = collate([Sequences()[i] for i in range(6)])
    counts = count_step([batch], OBJECTIVE, CPU)
    assert counts.held == int((batch["language_ids"] == GROUPS.id_of("en")).sum())


def test_a_step_without_original_tokens_has_no_prior_loss_and_no_nan(model):
    objective = dataclasses.replace(OBJECTIVE, prior_coef=1.0)
    batch = collate([Sequences(languages=(2, 3))[i] for i in range(4)])
    losses = compute_losses(model, batch, objective, count_step([batch], objective, CPU))
    assert losses.prior.item() == 0.0
    assert torch.isfinite(losses.total)


def recompute(model, *settings):
    """Turn gradient checkpointing on; transformers 5.23 renamed the method."""
    new_name = hasattr(model, "activation_checkpointing_enable")
    name = "activation_checkpointing_enable" if new_name else "gradient_checkpointing_enable"
    getattr(model, name)(*settings)


def test_gradient_checkpointing_gives_the_same_gradients(model):
    objective = dataclasses.replace(OBJECTIVE, balance_coef=0.1, prior_coef=0.1)
    batch = [collate([Sequences()[i] for i in range(4)])]
    model.train()
    loss, expected = gradients(model, batch, objective)
    recompute(model)
    again, got = gradients(model, batch, objective)
    assert again == pytest.approx(loss, rel=1e-6)
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-5, atol=1e-7)


def test_reentrant_checkpointing_is_refused(model):
    with pytest.raises(TrainingError, match="use_reentrant"):
        recompute(model, {"use_reentrant": True})


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's own look at them
def test_a_compiled_model_gives_the_same_loss_and_gradients(model):
    objective = dataclasses.replace(OBJECTIVE, balance_coef=0.1, prior_coef=0.1)
    batch = [collate([Sequences()[i] for i in range(4)])]
    loss, expected = gradients(model, batch, objective)
    model.zero_grad()
    counts = count_step(batch, objective, CPU)
    # aot_eager traces and splits the graph as inductor does, without a C++ compiler.
    compiled = compute_losses(torch.compile(model, backend="aot_eager"), *batch, objective, counts)
    compiled.total.backward()
    assert compiled.total.item() == pytest.approx(loss, rel=1e-6)
    assert len(compiled.routing) == 3
    for name, gradient in expected.items():
        got = model.get_parameter(name).grad
        torch.testing.assert_close(got, gradient, rtol=1e-5, atol=1e-7)
