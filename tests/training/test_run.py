"""Training a stage: what moves, what is logged, and resuming with the same bits."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from polycycle.data import collate
from polycycle.errors import TrainingError, TrainingInterrupted
from polycycle.modeling import record_routing
from polycycle.training import (
    AlarmSettings,
    TrainSettings,
    read_metrics,
    train_stage,
)
from polycycle.training.checkpoints import latest_checkpoint
from polycycle.training.run import _tenth
from tests.training.tiny_run import GROUPS, Sequences, tiny_moe

SETTINGS = TrainSettings(
    batch_size=4,
    micro_batch_size=2,
    learning_rate=1e-2,
    precision="float32",
    balance_coef=0.01,
    log_every_steps=2,
    save_every_steps=2,
)


def run(folder, output, settings=SETTINGS, *, stage="post_pretrain", dataset=None, **kwargs):
    model = tiny_moe(folder)
    done = train_stage(
        model,
        dataset or Sequences(),
        stage=stage,
        groups=GROUPS,
        output_dir=output,
        settings=settings,
        tell=lambda message: None,
        **kwargs,
    )
    return model, done


def bits(trained):
    return {name: tensor.numpy().tobytes() for name, tensor in trained.items()}


def test_a_stage_trains_and_logs_losses_by_language(tmp_path):
    before = {n: p.detach().clone() for n, p in tiny_moe(tmp_path).named_parameters()}
    model, done = run(tmp_path, tmp_path / "run")
    assert done.steps == 6
    assert done.tokens == 24 * 18
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == (name not in done.trained), name
    lines = [line for line in done.metrics if line["kind"] == "train"]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert set(lines[-1]["lm_loss"]) == {"en", "el", "tr"}
    assert all(line["loss"] > 0 for line in lines)
    assert set(lines[0]["expert0_share"]) == {"original", "G1"}
    assert 0 < lines[0]["usage_entropy_min"] <= 1


def test_post_pretraining_learns_the_expanded_languages(tmp_path):
    settings = dataclasses.replace(SETTINGS, learning_rate=0.03)
    _, done = run(tmp_path, tmp_path / "run", settings, dataset=Sequences(160))
    losses = [line["lm_loss"] for line in done.metrics if line["kind"] == "train"]
    assert losses[-1]["el"] < losses[0]["el"] - 0.1


def test_review_moves_routers_only_and_sends_original_tokens_to_expert_0(tmp_path):
    settings = dataclasses.replace(SETTINGS, prior_coef=1.0, learning_rate=0.1)
    _, done = run(tmp_path, tmp_path / "run", settings, stage="review", dataset=Sequences(200))
    assert all(".router." in name for name in done.trained)
    lines = [line for line in done.metrics if line["kind"] == "train"]
    first, last = lines[0]["expert0_share"], lines[-1]["expert0_share"]
    assert last["original"] > first["original"] + 0.2
    assert last["original"] > last["G1"] + 0.2
    assert lines[-1]["prior_loss"] < lines[0]["prior_loss"] / 2


def test_micro_batches_do_not_change_the_result_without_a_balance_loss(tmp_path):
    settings = dataclasses.replace(SETTINGS, balance_coef=0.0, prior_coef=0.1)
    results = [
        run(tmp_path, tmp_path / str(micro), dataclasses.replace(settings, micro_batch_size=micro))[
            1
        ]
        for micro in (1, 4)
    ]
    for name, tensor in results[0].trained.items():
        torch.testing.assert_close(tensor, results[1].trained[name], rtol=1e-3, atol=2e-4)


CHILD = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
import torch
torch.set_num_threads(1)
import polycycle.training.trainer as trainer_module
import polycycle.training.checkpoints as checkpoints
from tests.training.test_run import run
from polycycle.training.trainer import RoutedTrainer

when, step = {when!r}, {step}
if when == "step":
    original = RoutedTrainer.compute_loss
    def die(self, *args, **kwargs):
        if self.state.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *args, **kwargs)
    RoutedTrainer.compute_loss = die
elif when == "save":
    original = RoutedTrainer._save_rng_state
    def die(self, *args, **kwargs):
        if self.state.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *args, **kwargs)
    RoutedTrainer._save_rng_state = die
elif when == "publish":
    def die(path):
        os.kill(os.getpid(), signal.SIGKILL)
    checkpoints.sync_folder = die
folder = Path({folder!r})
run(folder, folder / "killed")
"""


@pytest.mark.parametrize(("when", "step"), [("step", 1), ("step", 5), ("save", 4), ("publish", 2)])
def test_a_killed_run_ends_with_the_bits_of_an_unbroken_one(tmp_path, when, step):
    root = str(Path(__file__).parents[2])
    (tmp_path / "other").mkdir()
    tiny_moe(tmp_path / "other")
    code = CHILD.format(root=root, when=when, step=step, folder=str(tmp_path / "other"))
    child = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=False,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    _, resumed = run(tmp_path / "other", tmp_path / "other" / "killed")
    _, unbroken = run(tmp_path, tmp_path / "unbroken")
    assert bits(resumed.trained) == bits(unbroken.trained)
    assert resumed.was_resumed == (when == "save" or step == 5)
    without_time = [
        [{k: v for k, v in line.items() if k != "seconds"} for line in done.metrics]
        for done in (resumed, unbroken)
    ]
    assert without_time[0] == without_time[1]


def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path):
    class Interrupting(Sequences):
        def __getitem__(self, index):
            if index == 9 and not (tmp_path / "asked").exists():
                (tmp_path / "asked").touch()
                os.kill(os.getpid(), signal.SIGINT)
            return super().__getitem__(index)

    with pytest.raises(TrainingInterrupted, match="step 2 of 6"):
        run(tmp_path, tmp_path / "run", dataset=Interrupting())
    assert latest_checkpoint(tmp_path / "run").name == "checkpoint-2"
    _, resumed = run(tmp_path, tmp_path / "run")
    _, unbroken = run(tmp_path, tmp_path / "unbroken")
    assert bits(resumed.trained) == bits(unbroken.trained)


def test_ctrl_c_in_the_last_step_stops_the_run_too(tmp_path):
    told = []

    class Interrupting(Sequences):
        def __getitem__(self, index):
            if index == 23 and not told:
                os.kill(os.getpid(), signal.SIGINT)
            return super().__getitem__(index)

    model = tiny_moe(tmp_path)
    settings = {"stage": "post_pretrain", "groups": GROUPS, "output_dir": tmp_path / "run"}
    with pytest.raises(TrainingInterrupted, match="step 6 of 6"):
        train_stage(model, Interrupting(), settings=SETTINGS, tell=told.append, **settings)
    assert "stopping after this step" in told[0]
    _, resumed = run(tmp_path, tmp_path / "run")
    _, unbroken = run(tmp_path, tmp_path / "unbroken")
    assert bits(resumed.trained) == bits(unbroken.trained)
    assert resumed.tokens == unbroken.tokens


def test_checkpoints_come_at_the_end_of_log_lines():
    assert [_tenth(steps, 10) for steps in (1, 9, 99, 100, 488, 1000)] == [1, 1, 9, 10, 50, 100]


def test_every_line_of_metrics_is_json_that_anyone_reads(tmp_path):
    settings = dataclasses.replace(SETTINGS, max_grad_norm=0.0)
    run(tmp_path, tmp_path / "run", settings)
    text = (tmp_path / "run" / "metrics.jsonl").read_text("utf-8")
    assert text.count('"kind": "train"') == 3
    assert "NaN" not in text


def test_checkpoints_hold_trained_tensors_only_and_are_at_most_two(tmp_path):
    _, done = run(tmp_path, tmp_path / "run")
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert names == ["checkpoint-4", "checkpoint-6", "metrics.jsonl"]
    from safetensors.torch import load_file

    saved = load_file(tmp_path / "run" / "checkpoint-6" / "model.safetensors")
    assert saved.keys() == done.trained.keys()
    state = torch.load(tmp_path / "run" / "checkpoint-6" / "optimizer.pt", weights_only=True)
    assert len(state["state"]) == len(done.trained)


def test_alarms_reach_the_metrics_file_and_can_stop_the_run(tmp_path):
    def worse_and_worse(model, calls=[]):  # noqa: B006
        calls.append(1)
        return {"en": 1.0 + 0.1 * (len(calls) - 1), "el": 2.0}

    settings = dataclasses.replace(
        SETTINGS, validate_every_steps=1, alarms=AlarmSettings(stop=True, plateau_ratio=None)
    )
    _, done = run(tmp_path, tmp_path / "run", settings, validate=worse_and_worse)
    assert [(alarm.kind, alarm.step) for alarm in done.alarms] == [("forgetting", 2)]
    assert done.steps == 2
    kinds = [line["kind"] for line in read_metrics(tmp_path / "run")]
    assert kinds.count("alarm") == 1
    assert kinds.count("validation") == 2


def test_a_loss_that_is_not_finite_stops_with_advice(tmp_path):
    model = tiny_moe(tmp_path)
    model.lm_head.weight.data[5] = float("inf")
    with pytest.raises(TrainingError, match="Lower learning_rate"):
        train_stage(
            model,
            Sequences(),
            stage="post_pretrain",
            groups=GROUPS,
            output_dir=tmp_path / "run",
            settings=SETTINGS,
        )


def test_a_batch_that_cannot_be_split_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="not a multiple"):
        run(tmp_path, tmp_path / "run", dataclasses.replace(SETTINGS, micro_batch_size=3))


@pytest.mark.parametrize(("ranks", "instead"), [(3, 3), (8, 8)])
def test_a_batch_that_the_processes_cannot_share_is_refused(tmp_path, monkeypatch, ranks, instead):
    monkeypatch.setattr("polycycle.training.run.num_ranks", lambda: ranks)
    with pytest.raises(TrainingError, match=f"batch_size=4 .* such as {instead}"):
        run(tmp_path, tmp_path / "run", dataclasses.replace(SETTINGS, micro_batch_size=None))


def test_metrics_cut_off_by_a_kill_are_read_up_to_the_cut(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"kind": "train", "step": 1}) + '\n{"ki')
    assert read_metrics(tmp_path) == [{"kind": "train", "step": 1}]


def test_bfloat16_autocast_trains_float32_weights_to_within_two_percent_of_float32(tmp_path):
    _, exact = run(tmp_path, tmp_path / "float32", dataset=Sequences(80))
    half = dataclasses.replace(SETTINGS, precision="bfloat16")
    _, rounded = run(tmp_path, tmp_path / "bfloat16", half, dataset=Sequences(80))
    assert {tensor.dtype for tensor in rounded.trained.values()} == {torch.float32}
    lines = [[m for m in done.metrics if m["kind"] == "train"] for done in (exact, rounded)]
    for one, other in zip(*lines, strict=True):
        assert other["loss"] != one["loss"]
        assert other["loss"] == pytest.approx(one["loss"], rel=0.02)
        for language, nats in one["lm_loss"].items():
            assert other["lm_loss"][language] == pytest.approx(nats, rel=0.02)


def test_review_teaches_the_classifiers_to_tell_original_text(tmp_path):
    settings = dataclasses.replace(
        SETTINGS, prior_coef=0.1, classifier_coef=1.0, learning_rate=0.05, save_every_steps=None
    )
    model = tiny_moe(tmp_path, classifier_layers=[1])
    done = train_stage(
        model,
        Sequences(200),
        stage="review",
        groups=GROUPS,
        output_dir=tmp_path / "run",
        settings=settings,
        tell=lambda message: None,
    )
    losses = [line["classifier_loss"] for line in done.metrics if line["kind"] == "train"]
    assert losses[0] > 0.4
    assert losses[-1] < 0.4
    assert "model.layers.1.mlp.router.classifier.weight" in done.trained
    with torch.no_grad(), record_routing(model) as routing:
        batch = collate([Sequences(8, seed=9)[i] for i in range(8)])
        model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False)
    judged = routing.layers[1].classifier_scores > 0
    languages = batch["language_ids"].flatten()
    assert judged[languages == 0].float().mean() > 0.5
    assert judged[languages > 1].float().mean() < 0.2


def test_review_teaches_the_retention_gate_to_tell_original_text(tmp_path):
    settings = dataclasses.replace(
        SETTINGS, prior_coef=0.1, classifier_coef=1.0, learning_rate=0.05, save_every_steps=None
    )
    model = tiny_moe(tmp_path, exact_retention=True)
    train_stage(
        model,
        Sequences(200),
        stage="review",
        groups=GROUPS,
        output_dir=tmp_path / "run",
        settings=settings,
        tell=lambda message: None,
    )
    words = torch.arange(2, 32)  # the English ones; Greek begins sixty tokens later
    torch.manual_seed(0)
    prompts = torch.stack([words[torch.randperm(30)[:20]] + shift for shift in (0, 60) * 20])
    judged = model.eval().judge_original(prompts)
    assert judged[::2].float().mean() > 0.8
    assert judged[1::2].float().mean() < 0.2
