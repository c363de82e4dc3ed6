"""Dense → MoE, grafting, what training may move, and writing what was trained."""

from polycycle.surgery.delta_folders import NORMS, DeltaNorms, TensorNorms, save_delta
from polycycle.surgery.delta_sums import add_delta, sum_deltas
from polycycle.surgery.deltas import (
    DELTA_TYPE,
    Delta,
    open_delta,
    row_blocks,
    wider,
)
from polycycle.surgery.freezing import TrainingStage, Trains, freeze_for
from polycycle.surgery.graft_checks import GraftTarget
from polycycle.surgery.graft_config import copy_side_files, grafted_config
from polycycle.surgery.grafting import GraftPlan, execute_graft, fill_grafted, graft, plan_graft
from polycycle.surgery.growing import GrowthPlan, execute_growth, fill_grown, grow, plan_growth
from polycycle.surgery.inspecting import (
    Inspection,
    count_active,
    count_trainable,
    inspect_checkpoint,
)
from polycycle.surgery.new_tensors import ExpertInit, seeded_generator
from polycycle.surgery.packs import pack, tensor_bytes, unpack
from polycycle.surgery.saving import write_trained
from polycycle.surgery.siblings import VOCABULARY, check_siblings
from polycycle.surgery.ungrafting import ungraft
from polycycle.surgery.upcycling import (
    UpcyclePlan,
    execute_upcycle,
    fill_upcycled,
    plan_upcycle,
    upcycle,
)

__all__ = [
    "DELTA_TYPE",
    "NORMS",
    "VOCABULARY",
    "Delta",
    "DeltaNorms",
    "ExpertInit",
    "GraftPlan",
    "GraftTarget",
    "GrowthPlan",
    "Inspection",
    "TensorNorms",
    "TrainingStage",
    "Trains",
    "UpcyclePlan",
    "add_delta",
    "check_siblings",
    "copy_side_files",
    "count_active",
    "count_trainable",
    "execute_graft",
    "execute_growth",
    "execute_upcycle",
    "fill_grafted",
    "fill_grown",
    "fill_upcycled",
    "freeze_for",
    "graft",
    "grafted_config",
    "grow",
    "inspect_checkpoint",
    "open_delta",
    "pack",
    "plan_graft",
    "plan_growth",
    "plan_upcycle",
    "row_blocks",
    "save_delta",
    "seeded_generator",
    "sum_deltas",
    "tensor_bytes",
    "ungraft",
    "unpack",
    "upcycle",
    "wider",
    "write_trained",
]
