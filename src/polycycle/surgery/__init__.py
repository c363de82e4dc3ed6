"""Dense → MoE, what training may move, and writing what was trained."""

from polycycle.surgery.freezing import TrainingStage, freeze_for
from polycycle.surgery.inspecting import (
    Inspection,
    count_active,
    count_trainable,
    inspect_checkpoint,
)
from polycycle.surgery.saving import write_trained
from polycycle.surgery.upcycling import (
    ExpertInit,
    UpcyclePlan,
    execute_upcycle,
    fill_upcycled,
    plan_upcycle,
    upcycle,
)

__all__ = [
    "ExpertInit",
    "Inspection",
    "TrainingStage",
    "UpcyclePlan",
    "count_active",
    "count_trainable",
    "execute_upcycle",
    "fill_upcycled",
    "freeze_for",
    "inspect_checkpoint",
    "plan_upcycle",
    "upcycle",
    "write_trained",
]
