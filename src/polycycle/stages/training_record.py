"""What a training stage leaves beside its model: curves, alarms and costs."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from polycycle.checkpoint import open_checkpoint
from polycycle.results import (
    Alarm,
    CurvePoint,
    RoutingPoint,
    StageCost,
    StageCurves,
    Unmasking,
    ValidationPoint,
)
from polycycle.surgery import inspect_checkpoint
from polycycle.training import TrainedStage

_RECORD = "training.json"


def write_record(
    name: str,
    done: TrainedStage,
    folder: Path,
    work: Path,
    *,
    active: int,
    updated: int,
    unmasking: Unmasking | None = None,
) -> dict[str, Any]:
    """Write curves, alarms and costs beside the trained model.

    Args:
        name: of the stage.
        done: what training came to.
        folder: of the trained model.
        work: where training logged.
        active: parameters that a token passes through.
        updated: those of them that were trained.
        unmasking: what changed when a grown group began to take part.

    Returns:
        What it cost, for the manifest.
    """
    curves, alarms = _history(name, done, unmasking)
    cost = _cost(name, done, active, updated)
    record = {
        "curves": curves.model_dump(mode="json"),
        "alarms": [alarm.model_dump(mode="json") for alarm in alarms],
        "cost": cost.model_dump(mode="json"),
    }
    (folder / _RECORD).write_text(json.dumps(record), encoding="utf-8")
    shutil.copyfile(work / "metrics.jsonl", folder / "metrics.jsonl")
    return {"seconds": done.seconds, "steps": done.steps, "tokens": done.tokens}


def read_record(folder: Path) -> tuple[StageCurves, list[Alarm], StageCost]:
    """What `write_record` wrote into a stage's folder."""
    record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    return (
        StageCurves.model_validate(record["curves"]),
        [Alarm(**alarm) for alarm in record["alarms"]],
        StageCost(**record["cost"]),
    )


def active_parameters(source: Path) -> int:
    """Parameters that one token of a model in a folder passes through."""
    return inspect_checkpoint(open_checkpoint(source)).parameters_active


def _history(
    name: str, done: TrainedStage, unmasking: Unmasking | None
) -> tuple[StageCurves, list[Alarm]]:
    lines = {
        kind: [m for m in done.metrics if m["kind"] == kind] for kind in ("train", "validation")
    }
    curves = StageCurves(
        stage=name,
        training=tuple(
            CurvePoint(**{key: line[key] for key in CurvePoint.model_fields if key in line})
            for line in lines["train"]
        ),
        validations=tuple(
            ValidationPoint(step=line["step"], bits_per_byte=line["bits_per_byte"])
            for line in lines["validation"]
        ),
        routing=tuple(
            RoutingPoint(**{key: line[key] for key in RoutingPoint.model_fields if key in line})
            for line in lines["train"]
            if "expert0_share" in line  # no such thing in a dense model
        ),
        unmasking=unmasking,
    )
    alarms = [
        Alarm(stage=name, kind=alarm.kind, step=alarm.step, message=alarm.message)
        for alarm in done.alarms
    ]
    return curves, alarms


def _cost(name: str, done: TrainedStage, active: int, updated: int) -> StageCost:
    # Forward 2 FLOPs per active parameter and token; backward the same for the inputs' gradients,
    # and once more for the trained parameters that a token passes through. Attention is left out.
    flops = done.tokens * (4.0 * active + 2.0 * updated)
    return StageCost(
        stage=name,
        seconds=done.seconds,
        tokens=done.tokens,
        steps=done.steps,
        tokens_per_second=done.tokens / max(done.seconds, 1e-9),
        peak_memory_bytes=peak_memory_bytes(),
        parameters_trainable=done.parameters_trainable,
        was_resumed=done.was_resumed,
        training_flops=flops,
    )


def peak_memory_bytes() -> int:
    """Highest memory so far: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
