"""A run as stages: each reads folders and writes one folder."""

from polycycle.stages.pipeline import Run, load_tokenizer, run_recipe, stage_folders
from polycycle.stages.plan import RunPlan, StagePlan, plan_run, probe_tokens_per_second
from polycycle.stages.stage import Stage, is_done, read_manifest, run_stage

__all__ = [
    "Run",
    "RunPlan",
    "Stage",
    "StagePlan",
    "is_done",
    "load_tokenizer",
    "plan_run",
    "probe_tokens_per_second",
    "read_manifest",
    "run_recipe",
    "run_stage",
    "stage_folders",
]
