"""What a person sees while a stage trains."""

import sys
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from transformers import PrinterCallback, TrainerCallback
from transformers.trainer_callback import ProgressCallback

_QUIET_LINES = 10


def show_progress(trainer: Any, stage: str) -> None:
    """Let a Trainer show our bar, and nothing of its own."""
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(ProgressBar(stage))


class ProgressBar(TrainerCallback):
    """A bar on a terminal; elsewhere about ten lines in all.

    Args:
        stage: what to call it.
    """

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.console = Console(file=sys.stderr)
        self._bar: Progress | None = None
        self._said = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Show the bar."""
        if not state.is_world_process_zero or not self.console.is_terminal:
            return
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[losses]}"),
            console=self.console,
        )
        self._bar.start()
        self._task = self._bar.add_task(
            self.stage, total=state.max_steps, completed=state.global_step, losses=""
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(self._task, completed=state.global_step)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Show losses, or say a line where there is no terminal."""
        logs = logs or {}
        by_language = [f"{k[8:]} {v:.2f}" for k, v in logs.items() if k.startswith("lm_loss/")]
        losses = " ".join(by_language) or (f"{logs['loss']:.2f}" if "loss" in logs else "")
        if self._bar is not None:
            self._bar.update(self._task, losses=losses)
        elif state.is_world_process_zero:
            part = state.global_step * _QUIET_LINES // max(state.max_steps, 1)
            if part > self._said:
                self._said = part
                line = f"{self.stage}: step {state.global_step}/{state.max_steps}, loss {losses}"
                self.console.print(line, soft_wrap=True, highlight=False)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave the finished bar standing."""
        if self._bar is not None:
            self._bar.stop()
