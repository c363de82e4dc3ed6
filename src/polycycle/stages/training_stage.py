"""What stages that train have in common: their inputs, and the folder of their checkpoints."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from polycycle.config import TrainConfig
from polycycle.ranks import is_first_rank
from polycycle.stages.run import Run
from polycycle.stages.stage import Stage, read_manifest
from polycycle.training import uses_bfloat16


def training_inputs(run: Run, config: TrainConfig, group: int | None = None) -> dict[str, Any]:
    """What shapes any training beside the model that it starts from.

    Args:
        run: of which it is a stage.
        config: its section of the recipe.
        group: the language group that is being added, 1 for G1; None for a stage that sees all.
    """
    return {
        "data": run.data_inputs(group),
        "languages": run.language_inputs(group),
        "settings": config.model_dump(mode="json", exclude={"report_to"}),
        "seed": run.recipe.seed,
        "context_length": run.recipe.evaluation.context_length,  # of validation, and of its alarms
        "bfloat16": uses_bfloat16(config.precision),
    }


def do_training(
    run: Run, name: str, inputs: dict[str, Any], make: Callable[[Path, Path], dict[str, Any]]
) -> Path:
    """The folder of a training stage; `make` gets where checkpoints live, and the folder."""
    doing = Stage(name=name, result_version=2, inputs=inputs, make=lambda folder: {})
    work = run.output / ".work" / f"{name}-{doing.key[:16]}"
    _tell_of_other_work(run, name, work, doing.key)
    path = run.do(replace(doing, make=partial(make, work), on_every_rank=True))
    if is_first_rank():
        shutil.rmtree(work, ignore_errors=True)
    return path


def _tell_of_other_work(run: Run, name: str, work: Path, key: str) -> None:
    """A training begun with other inputs is not gone on with; that must not go unnoticed."""
    manifest = read_manifest(run.output / name)
    is_done = manifest is not None and manifest["key"] == key
    if not is_first_rank() or is_done or work.exists() or not work.parent.is_dir():
        return
    for other in work.parent.iterdir():
        is_same_stage = re.fullmatch(rf"{name}-[0-9a-f]{{16}}", other.name)
        if is_same_stage and any(other.glob("checkpoint-*")):
            run.tell(
                f"{name}: settings or text are not those of the training begun in {other}, so "
                "it begins anew; go back to them to go on there, or delete that folder"
            )
