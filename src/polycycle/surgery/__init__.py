"""Dense → MoE, what training may move, and writing what was trained."""

from polycycle.surgery.freezing import TrainingStage, freeze_for
from polycycle.surgery.growing import GrowthPlan, execute_growth, fill_grown, grow, plan_growth
from polycycle.surgery.inspecting import (
    Inspection,
    count_active,
    count_trainable,
    inspect_checkpoint,
)
from polycycle.surgery.new_tensors import ExpertInit
from polycycle.surgery.packs import pack, unpack
from polycycle.surgery.saving import write_trained
from polycycle.surgery.upcycling import (
    UpcyclePlan,
    execute_upcycle,
    fill_upcycled,
    plan_upcycle,
    upcycle,
)

__all__ = [
    "ExpertInit",
    "GrowthPlan",
    "Inspection",
    "TrainingStage",
    "UpcyclePlan",
    "count_active",
    "count_trainable",
    "execute_growth",
    "execute_upcycle",
    "fill_grown",
    "fill_upcycled",
    "freeze_for",
    "grow",
    "inspect_checkpoint",
    "pack",
    "plan_growth",
    "plan_upcycle",
    "unpack",
    "upcycle",
    "write_trained",
]
