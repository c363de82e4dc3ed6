"""A run as stages: each reads folders and writes one folder."""

from polycycle.stages.base import (
    HIDDEN_SIZE,
    SIBLING_RATE,
    SIBLING_TOKENS,
    build_base,
    build_sibling,
    copy_base,
    shipped_base,
)
from polycycle.stages.benchmarks import HowToMeasure, benchmark_model, benchmark_run
from polycycle.stages.demo import SIBLING, write_base, write_demo, write_siblings
from polycycle.stages.environment import RUNS_AT_ONCE, num_processors
from polycycle.stages.evaluate_alone import evaluate_by_recipe, evaluate_on_text
from polycycle.stages.export import (
    export_result,
    first_texts,
    held_out_texts,
)
from polycycle.stages.pipeline import run_recipe
from polycycle.stages.plan import (
    RunPlan,
    StagePlan,
    measured_models,
    plan_run,
    probe_tokens_per_second,
)
from polycycle.stages.run import Run
from polycycle.stages.similarity import (
    MeasuredSimilarity,
    measure_similarity,
    training_sources,
)
from polycycle.stages.speed import measure_speed
from polycycle.stages.stage import Stage, is_done, read_manifest, run_stage, stage_folders

__all__ = [
    "HIDDEN_SIZE",
    "RUNS_AT_ONCE",
    "SIBLING",
    "SIBLING_RATE",
    "SIBLING_TOKENS",
    "HowToMeasure",
    "MeasuredSimilarity",
    "Run",
    "RunPlan",
    "Stage",
    "StagePlan",
    "benchmark_model",
    "benchmark_run",
    "build_base",
    "build_sibling",
    "copy_base",
    "evaluate_by_recipe",
    "evaluate_on_text",
    "export_result",
    "first_texts",
    "held_out_texts",
    "is_done",
    "measure_similarity",
    "measure_speed",
    "measured_models",
    "num_processors",
    "plan_run",
    "probe_tokens_per_second",
    "read_manifest",
    "run_recipe",
    "run_stage",
    "shipped_base",
    "stage_folders",
    "training_sources",
    "write_base",
    "write_demo",
    "write_siblings",
]
