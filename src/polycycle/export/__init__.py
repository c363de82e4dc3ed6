"""Leaving our format: stock architectures that compute exactly the same, and the proof."""

from polycycle.export.choosing import AUTO, TARGETS, choose_target
from polycycle.export.engines import READ_FROM, right_engines, why_wrong_on
from polycycle.export.exporting import (
    Exported,
    ExportPlan,
    execute_export,
    export,
    fill_export,
    plan_export,
)
from polycycle.export.pushing import PushPlan, plan_push, upload
from polycycle.export.records import EXPORT_FILE, VERIFICATION_FILE, read_proof, read_record
from polycycle.export.source import Source, open_source
from polycycle.export.target import CLASSIFIER_SCALE, Target, TargetPlan, plan_target
from polycycle.export.verifying import (
    RANDOM_IDS,
    THRESHOLDS,
    Pair,
    Threshold,
    verify,
    verify_all,
)

__all__ = [
    "AUTO",
    "CLASSIFIER_SCALE",
    "EXPORT_FILE",
    "RANDOM_IDS",
    "READ_FROM",
    "TARGETS",
    "THRESHOLDS",
    "VERIFICATION_FILE",
    "ExportPlan",
    "Exported",
    "Pair",
    "PushPlan",
    "Source",
    "Target",
    "TargetPlan",
    "Threshold",
    "choose_target",
    "execute_export",
    "export",
    "fill_export",
    "open_source",
    "plan_export",
    "plan_push",
    "plan_target",
    "read_proof",
    "read_record",
    "right_engines",
    "upload",
    "verify",
    "verify_all",
    "why_wrong_on",
]
