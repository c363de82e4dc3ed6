"""The Hugging Face Trainer, told about routing losses, languages and whole checkpoints."""

import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import Sampler, SequentialSampler
from transformers import Trainer, TrainingArguments

from polycycle.data import collate
from polycycle.errors import TrainingError
from polycycle.modeling import route_by_language
from polycycle.training.alarms import Alarms, RaisedAlarm
from polycycle.training.checkpoints import append_metrics, partial_folder, publish
from polycycle.training.monitor import Monitor
from polycycle.training.objective import Objective, StepCounts, compute_losses, count_step
from polycycle.training.sharding import is_sharded, load_shard, save_shard, whole

Validate = Callable[[Any], Mapping[str, float]]
_STATE = "polycycle.json"
_SCHEDULER = "scheduler.json"


class RoutedTrainer(Trainer):
    """Trains what is not frozen; the data's order is the dataset's own.

    Args:
        model: an upcycled model, or a dense one, frozen as its stage wants it.
        args: the Trainer's own settings.
        train_dataset: map-style, already shuffled.
        objective: which losses.
        monitor: collects what happens.
        alarms: watches it.
        validate: bits per byte by language, of the model as it is.
        validate_every: steps between validations; also at the last step.
        tell: called with each alarm.
        hard_steps: in so many first steps tokens reach only expert 0 and their language's experts.
    """

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        train_dataset: Any,
        *,
        objective: Objective,
        monitor: Monitor,
        alarms: Alarms,
        validate: Validate | None,
        validate_every: int,
        tell: Callable[[RaisedAlarm], None],
        hard_steps: int = 0,
    ) -> None:
        super().__init__(model=model, args=args, train_dataset=train_dataset, data_collator=collate)
        self.is_sharded = is_sharded(model)
        # compute_loss divides by counts of the whole step; the Trainer must not divide again.
        self.loss_is_scaled_for_ga = True
        self.objective = objective
        self.monitor = monitor
        self.alarms = alarms
        self.validate = validate
        self.validate_every = validate_every
        self.tell = tell
        self.hard_steps = hard_steps
        self.seconds_before = 0.0
        self._started = monotonic()
        self._validated_at = -1
        self._step_counts: StepCounts | None = None

    # --- data and losses -------------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> int:
        self._step_counts = count_step(batch_samples, self.objective, device)
        return self._step_counts.labels

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Forward and backward pass of one micro-batch, in the first steps routed by label."""
        reach: dict[int, Tensor] = {}
        if self.state.global_step < self.hard_steps:
            language_ids = inputs["language_ids"].flatten().to(self.args.device)
            reach = self.objective.reach_of(language_ids)
        with route_by_language(model, reach) if reach else nullcontext():
            return super().training_step(model, inputs, *args, **kwargs)  # type: ignore[no-any-return]

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Tensor:
        """The weighted sum of all losses of one micro-batch."""
        assert self._step_counts is not None
        assert not return_outputs
        losses = compute_losses(model, inputs, self.objective, self._step_counts)
        if not torch.isfinite(losses.total):
            raise TrainingError(
                f"step {self.state.global_step + 1}: the loss is {losses.total.item()}. Lower "
                "learning_rate, or set precision: float32; the last checkpoint is untouched"
            )
        self.monitor.add(losses)
        return losses.total

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted here: the Trainer's estimate knows nothing of experts."""
        return 0

    # --- after each step -------------------------------------------------------------------------

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        step = self.state.global_step
        if self.monitor.steps < step:
            self._raise_alarms(self.alarms.after_step(step, self.monitor.end_step()))
        if step == self.state.max_steps:
            self.control.should_log = True
            self.control.should_save = True
        if self.control.should_save:
            # A log line empties all sums, so a checkpoint need not hold them.
            self.control.should_log = True
        is_due = step % self.validate_every == 0 or step == self.state.max_steps
        if self.validate is not None and is_due and self._validated_at != step:
            self._validate(step)
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def _validate(self, step: int) -> None:
        assert self.validate is not None
        bits_per_byte = dict(self.validate(self.model))
        self._validated_at = step
        self._write({"kind": "validation", "step": step, "bits_per_byte": bits_per_byte})
        self._raise_alarms(self.alarms.after_validation(step, bits_per_byte))

    def _raise_alarms(self, alarms: list[RaisedAlarm]) -> None:
        for alarm in alarms:
            self._write(
                {
                    "kind": "alarm",
                    "step": alarm.step,
                    "alarm": alarm.kind,
                    "message": alarm.message,
                }
            )
            self.tell(alarm)
            if self.alarms.settings.stop:
                self.control.should_training_stop = True
                self.control.should_save = True

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what the monitor saw, write a line of metrics.jsonl, and tell the trackers."""
        if "loss" not in logs:  # the Trainer's closing summary
            return
        seen = self.monitor.read()
        line = {
            "kind": "train",
            "step": self.state.global_step,
            "tokens": self.monitor.tokens * self.args.world_size,
            "seconds": self.seconds_so_far(),
            "learning_rate": logs["learning_rate"],
            "loss": logs["loss"],
            **({"grad_norm": float(logs["grad_norm"])} if "grad_norm" in logs else {}),
            **seen,
        }
        self._write(line)
        flat = {f"lm_loss/{tag}": value for tag, value in seen["lm_loss"].items()}
        flat |= {f"expert0_share/{g}": value for g, value in seen.get("expert0_share", {}).items()}
        own = seen.get("own_experts_share", {})
        flat |= {f"own_experts_share/{tag}": value for tag, value in own.items()}
        flat |= {key: value for key, value in seen.items() if isinstance(value, float)}
        super().log({**logs, **flat}, start_time)

    def seconds_so_far(self) -> float:
        """Time spent training, earlier sessions of a resumed run included."""
        return self.seconds_before + monotonic() - self._started

    def _write(self, line: dict[str, Any]) -> None:
        if self.is_world_process_zero():
            append_metrics(Path(str(self.args.output_dir)), line)

    # --- checkpoints -----------------------------------------------------------------------------

    def _get_output_dir(self, trial: Any) -> str:
        return str(partial_folder(Path(str(self.args.output_dir))))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        step = self.state.global_step
        output_dir = Path(str(self.args.output_dir))
        folder = partial_folder(output_dir) / f"checkpoint-{step}"
        if self.is_sharded:  # the Trainer saved neither of these
            self._save_rng_state(str(folder))
            if self.is_world_process_zero():
                (folder / _SCHEDULER).write_text(json.dumps(self.lr_scheduler.state_dict()))
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            state = {
                "monitor": self.monitor.state(),
                "alarms": self.alarms.state(),
                "seconds": self.seconds_so_far(),
                "validated_at": self._validated_at,
            }
            (folder / _STATE).write_text(json.dumps(state))
            publish(output_dir, step)
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Only what is trained: the rest is in the folder that the stage started from."""
        assert output_dir is not None
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        if self.is_sharded:
            save_shard(self.model, self._torch_optimizer, folder)
        elif self.is_world_process_zero():
            save_file(self.trained_tensors(), folder / "model.safetensors")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not self.is_sharded:  # else with the optimizer, which does not exist yet
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self.is_sharded:
            super()._load_optimizer_and_scheduler(checkpoint)
        elif checkpoint is not None:
            load_shard(self.model, self._torch_optimizer, Path(checkpoint))
            state = json.loads((Path(checkpoint) / _SCHEDULER).read_text(encoding="utf-8"))
            self.lr_scheduler.load_state_dict(state)
            rates = zip(self.optimizer.param_groups, state["_last_lr"], strict=True)
            for group, learning_rate in rates:
                group["lr"] = learning_rate

    @property
    def _torch_optimizer(self) -> Optimizer:
        wrapped: Any = self.optimizer  # by accelerate
        return wrapped.optimizer  # type: ignore[no-any-return]

    def trained_tensors(self) -> dict[str, Tensor]:
        """The trained parameters, whole, on the CPU; empty on all ranks but the first."""
        trained = {}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                tensor = whole(parameter.detach())
                if self.is_world_process_zero():
                    trained[name] = tensor.cpu().contiguous()
        return trained

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Frozen parameters are missing from checkpoints on purpose; anything else is not."""
        missing = [n for n, p in self.model.named_parameters() if p.requires_grad]
        lost = set(load_result.missing_keys) & set(missing)
        if lost or load_result.unexpected_keys:
            raise TrainingError(
                f"the checkpoint does not fit the model ({sorted(lost)[:1]} missing, "
                f"{load_result.unexpected_keys[:1]} unexpected); was the recipe changed? Delete "
                f"{self.args.output_dir} to start the stage anew"
            )

    def load_own_state(self, checkpoint: Path) -> None:
        """Monitor, alarms and clock as they were at the checkpoint."""
        state = json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
        self.monitor.load_state(state["monitor"])
        self.alarms.load_state(state["alarms"])
        self.seconds_before = state["seconds"]
        self._validated_at = state["validated_at"]
