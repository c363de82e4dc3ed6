"""Training with experts that belong to languages: the loss, the masked first steps, resuming."""

import dataclasses

import pytest
import torch

from polycycle.allocation import assign_experts
from polycycle.data import collate
from polycycle.errors import TrainingError
from polycycle.experts import reachable_experts
from polycycle.modeling import record_routing
from polycycle.routing import Router
from polycycle.surgery import freeze_for
from polycycle.training import TrainSettings, train_stage
from polycycle.training.checkpoints import latest_checkpoint
from polycycle.training.objective import Objective, compute_losses, count_step
from tests.training.tiny_run import GROUPS, Sequences, tiny_moe

# Layer 1 has too few experts to give Greek and Turkish one each: it stays open to all.
COUNTS = (4, 2, 4)
ASSIGNMENT = assign_experts({("el",): 2, ("tr",): 1}, [3, 1, 3], is_exact=False)
SETTINGS = TrainSettings(
    batch_size=4,
    micro_batch_size=2,
    learning_rate=1e-2,
    precision="float32",
    balance_coef=0.01,
    log_every_steps=1,
    save_every_steps=2,
)


def assigned_moe(folder):
    return tiny_moe(folder, num_experts=COUNTS, assignment=ASSIGNMENT)


def train(folder, output, dataset=None, model=None, validate=None, **settings):
    return train_stage(
        model or assigned_moe(folder),
        dataset or Sequences(),
        stage="post_pretrain",
        groups=GROUPS,
        output_dir=output,
        settings=dataclasses.replace(SETTINGS, **settings),
        validate=validate,
        tell=lambda message: None,
    )


def bits(trained):
    return {name: tensor.numpy().tobytes() for name, tensor in trained.items()}


def lines(done):
    return [line for line in done.metrics if line["kind"] == "train"]


def objective(model, **settings):
    languages = model.config.expert_languages
    return Objective(
        group_ids=(0, 0, 1, 1),
        balance_coef=0.0,
        balance_scope="global",
        prior_coef=0.0,
        prior_form="paper",
        router_z_coef=0.0,
        reachable={
            layer: reachable_experts(experts, GROUPS.all)
            for layer, experts in enumerate(languages)
            if any(experts)
        },
        **settings,
    )


def gradients(model, batches, of):
    model.zero_grad()
    counts = count_step(batches, of, torch.device("cpu"))
    total = 0.0
    for batch in batches:
        loss = compute_losses(model, batch, of, counts).total
        loss.backward()
        total += loss.item()
    return total, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_the_total_loss_moves_with_the_coefficient_and_not_with_how_a_step_is_cut(tmp_path):
    model = assigned_moe(tmp_path)
    freeze_for(model, "post_pretrain")
    items = [Sequences()[i] for i in range(7)]
    without, _ = gradients(model, [collate(items)], objective(model))
    weighted = objective(model, assignment_coef=0.5)
    whole, expected = gradients(model, [collate(items)], weighted)
    assert whole > without + 0.01
    cut, got = gradients(model, [collate(items[:1]), collate(items[1:])], weighted)
    assert cut == pytest.approx(whole, rel=1e-6)
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-4, atol=1e-7)


def test_only_tokens_of_languages_with_experts_of_their_own_are_counted(tmp_path):
    model = assigned_moe(tmp_path)
    batch = collate([Sequences()[i] for i in range(6)])
    counts = count_step([batch], objective(model), torch.device("cpu"))
    ids = batch["language_ids"]
    assert counts.assigned == int(((ids == 2) | (ids == 3)).sum())


def test_the_loss_moves_probability_off_the_experts_of_others(tmp_path):
    """To expert 0 as well as to a language's own: text of noise, as here, gains by neither."""
    held, free = (
        train(tmp_path, tmp_path / f"run-{coef}", Sequences(80), assignment_coef=coef)
        for coef in (1.0, 0.0)
    )
    first, last = lines(held)[0], lines(held)[-1]
    assert last["assignment_loss"] < 0.7 * first["assignment_loss"]
    assert last["assignment_loss"] < 0.8 * lines(free)[-1]["assignment_loss"]
    assert set(last["own_experts_share"]) == {"el", "tr"}


def watch(model):
    """(language ids reached, whether gradients flow) of each router call in layers 0 and 2."""
    seen = []
    for module in model.modules():
        if isinstance(module, Router) and module.layer_index != 1:
            module.register_forward_hook(
                lambda router, args, out: seen.append(
                    (torch.is_grad_enabled(), router.reachable_NE is not None)
                )
            )
    return seen


def test_first_steps_are_routed_by_label_and_validation_never_is(tmp_path):
    model = assigned_moe(tmp_path)
    seen, measured = watch(model), []

    @torch.no_grad()
    def validate(model):
        before = len(seen)
        model(input_ids=torch.arange(8)[None])
        measured.extend(seen[before:])
        return {"en": 1.0, "el": 1.0}

    done = train(
        tmp_path, tmp_path / "run", model=model, validate=validate, assignment_hard_steps=2
    )
    trained = [masked for has_gradient, masked in seen if has_gradient]
    # Six steps of two micro-batches and two layers; the first two steps are masked.
    assert trained == [True] * 8 + [False] * 16
    assert measured
    assert not any(masked for _, masked in measured)
    shares = [line["own_experts_share"] for line in lines(done)]
    assert len(shares) == 6
    # Top-2 of three or two within reach: every masked token takes one of its own.
    assert [set(share.values()) == {1.0} for share in shares[:2]] == [True, True]
    assert all(set(share.values()) != {1.0} for share in shares[2:])


def test_labels_count_token_by_token_within_a_packed_row(tmp_path):
    model, routed = assigned_moe(tmp_path), []

    data = Sequences(4, languages=(2, 3))
    for module in model.modules():
        if isinstance(module, Router) and module.layer_index == 0:
            module.register_forward_hook(lambda r, a, out: routed.append(out.expert_ids))
    train(tmp_path, tmp_path / "run", data, model=model, assignment_hard_steps=9, batch_size=2)
    languages = torch.cat([data[i]["language_ids"] for i in range(4)])
    ids = torch.cat(routed)
    assert {int(tag) for tag in data[0]["language_ids"]} == {2, 3, -1}
    assert set(ids[languages == 2].flatten().tolist()) <= {0, 1, 2}
    assert set(ids[languages == 3].flatten().tolist()) == {0, 3}


@pytest.mark.parametrize("stop_at", [2, 4])
def test_resuming_within_and_after_the_masked_steps_ends_with_the_same_bits(tmp_path, stop_at):
    class Breaking(Sequences):
        def __getitem__(self, index):
            if index >= 4 * stop_at + 3:
                raise TrainingError("pulled the plug")
            return super().__getitem__(index)

    how = {"assignment_hard_steps": 3, "assignment_coef": 0.3}
    with pytest.raises(TrainingError, match="plug"):
        train(tmp_path, tmp_path / "run", Breaking(), **how)
    assert latest_checkpoint(tmp_path / "run").name == f"checkpoint-{stop_at}"
    resumed = train(tmp_path, tmp_path / "run", **how)
    unbroken = train(tmp_path, tmp_path / "unbroken", **how)
    assert resumed.was_resumed
    assert bits(resumed.trained) == bits(unbroken.trained)
    timeless = [
        [{k: v for k, v in line.items() if k != "seconds"} for line in done.metrics]
        for done in (resumed, unbroken)
    ]
    assert timeless[0] == timeless[1]


def test_gradient_checkpointing_trains_the_same_under_the_mask(tmp_path):
    plain, again = (
        train(
            tmp_path,
            tmp_path / str(recompute),
            assignment_hard_steps=9,
            gradient_checkpointing=recompute,
        )
        for recompute in (False, True)
    )
    for name, tensor in plain.trained.items():
        torch.testing.assert_close(again.trained[name], tensor, rtol=1e-4, atol=1e-6)


def test_where_experts_are_shared_the_settings_change_no_bit_and_log_nothing(tmp_path):
    done = [
        train(tmp_path, tmp_path / name, model=tiny_moe(tmp_path, num_experts=COUNTS), **how)
        for name, how in (
            ("without", {}),
            ("with", {"assignment_coef": 1.0, "assignment_hard_steps": 3}),
        )
    ]
    assert bits(done[0].trained) == bits(done[1].trained)
    assert not {"assignment_loss", "own_experts_share"} & set(lines(done[1])[0])


def test_a_trained_model_routes_the_same_however_it_was_masked_in_training(tmp_path):
    model = assigned_moe(tmp_path)
    train(tmp_path, tmp_path / "run", model=model, assignment_hard_steps=99)
    with torch.no_grad(), record_routing(model) as routing:
        model(input_ids=torch.arange(60, 90)[None], use_cache=False)  # Greek tokens
    assert any((layer.expert_ids == 3).any() for layer in routing.layers)  # of Turkish, too
