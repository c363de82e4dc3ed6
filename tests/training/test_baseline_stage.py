"""The trainer on dense models: what moves, what is logged, and resuming with the same bits."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from polycycle.baselines import (
    add_adapters,
    column_scores,
    expand_blocks,
    highest_columns,
    shield_columns,
    train_everything,
    train_new_blocks,
)
from polycycle.checkpoint import open_checkpoint
from polycycle.data import collate
from polycycle.training import TrainSettings, train_stage
from tests.tiny import load, save_dense
from tests.training.tiny_run import GROUPS, Sequences

SETTINGS = TrainSettings(
    batch_size=4,
    micro_batch_size=2,
    learning_rate=1e-2,
    precision="float32",
    log_every_steps=2,
    save_every_steps=2,
)
METHODS = ("full", "lora", "llama_pro", "shielded")


def prepared(folder, method):
    """A tiny dense model, frozen as the method wants it."""
    base = save_dense(folder / "dense", initializer_range=0.1)
    if method == "llama_pro":
        (folder / "deep").mkdir(exist_ok=True)
        places = expand_blocks(open_checkpoint(base), folder / "deep", every=2)
        model = load(folder / "deep")
        train_new_blocks(model, places)
        return model
    model = load(base)
    if method == "lora":
        add_adapters(model, rank=4, alpha=8.0, dropout=0.1)
    elif method == "shielded":
        text = [item["input_ids"].to(torch.int32).numpy() for item in Sequences(4)]
        shield_columns(model, highest_columns(column_scores(model, text), 0.5))
    else:
        train_everything(model)
    return model


def run(folder, output, method, settings=SETTINGS, dataset=None, **kwargs):
    model = prepared(folder, method)
    done = train_stage(
        model,
        dataset or Sequences(),
        stage="baseline",
        groups=GROUPS,
        output_dir=output,
        settings=settings,
        tell=lambda message: None,
        **kwargs,
    )
    return model, done


def bits(trained):
    return {name: tensor.numpy().tobytes() for name, tensor in trained.items()}


@pytest.mark.parametrize("method", METHODS)
def test_a_baseline_moves_what_its_method_trains_and_logs_losses_by_language(tmp_path, method):
    before = {n: p.detach().clone() for n, p in prepared(tmp_path, method).named_parameters()}
    model, done = run(tmp_path, tmp_path / "run", method)
    assert done.steps == 6
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == (name not in done.trained), name
    trained = sum(tensor.numel() for tensor in done.trained.values())
    assert done.parameters_trainable == trained
    # What shielding freezes is no parameter at all.
    assert (method in ("full", "shielded")) == (
        trained == sum(p.numel() for p in model.parameters())
    )
    lines = [line for line in done.metrics if line["kind"] == "train"]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert set(lines[-1]["lm_loss"]) == {"en", "el", "tr"}
    assert not {"balance_loss", "expert0_share", "usage_entropy_min"} & set(lines[-1])


def test_the_loss_is_the_mean_over_all_targets_and_nothing_else(tmp_path):
    settings = dataclasses.replace(
        SETTINGS, learning_rate=1e-12, balance_coef=1.0, prior_coef=1.0, log_every_steps=1
    )
    model, done = run(tmp_path, tmp_path / "run", "full", settings, Sequences(4))
    batch = collate(list(Sequences(4)))
    with torch.no_grad():
        logits = model(batch["input_ids"], position_ids=batch["position_ids"], use_cache=False)
    wanted = torch.nn.functional.cross_entropy(
        logits.logits[:, :-1].flatten(0, 1).double(), batch["labels"][:, 1:].flatten()
    )
    assert done.metrics[0]["loss"] == pytest.approx(wanted.item(), rel=1e-5)


def test_a_baseline_is_held_to_what_its_base_had(tmp_path):
    measured = []

    def validate(model):
        measured.append(1)
        return {"en": 1.0 + 0.1 * len(measured), "el": 2.0}

    _, done = run(tmp_path, tmp_path / "run", "lora", validate=validate)
    alarms = [alarm for alarm in done.alarms if alarm.kind == "forgetting"]
    assert len(alarms) == 1


CHILD = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
import torch
torch.set_num_threads(1)
from tests.training.test_baseline_stage import run
from polycycle.training.trainer import RoutedTrainer

original = RoutedTrainer.compute_loss
def die(self, *args, **kwargs):
    if self.state.global_step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, *args, **kwargs)
RoutedTrainer.compute_loss = die
folder = Path({folder!r})
run(folder, folder / "killed", {method!r})
"""


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_baseline_ends_with_the_bits_of_an_unbroken_one(tmp_path, method):
    (tmp_path / "other").mkdir()
    root = str(Path(__file__).parents[2])
    code = CHILD.format(root=root, folder=str(tmp_path / "other"), method=method)
    child = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=False,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    _, resumed = run(tmp_path / "other", tmp_path / "other" / "killed", method)
    _, unbroken = run(tmp_path, tmp_path / "unbroken", method)
    assert resumed.was_resumed
    assert bits(resumed.trained) == bits(unbroken.trained)
