"""Everything that a run found, as one result."""

from collections.abc import Sequence
from pathlib import Path

from polycycle.config import BASELINES, MERGES, Recipe
from polycycle.results import ExportResult, ModelScores, RunResult
from polycycle.stages.corpora import describe_corpora
from polycycle.stages.environment import describe_environment
from polycycle.stages.run import Run
from polycycle.stages.training_record import read_record


def gather_result(
    run: Run,
    models: Sequence[ModelScores],
    trained: Sequence[Path],
    export: ExportResult | None = None,
) -> RunResult:
    """Everything that the run found.

    Args:
        run: the run, similarities noted.
        models: scores of its models, in order.
        trained: folders of its training stages, in order.
        export: the exported model, where there is one.
    """
    recipe = run.recipe
    records = [read_record(folder) for folder in trained]
    return RunResult(
        name=recipe.name,
        method=_method_of(recipe),
        recipe=recipe.model_dump(mode="json"),
        languages=recipe.languages.groups(),
        seed=recipe.seed,
        base=recipe.base,
        models=tuple(models),
        similarities=tuple(run.similarities),
        curves=tuple(curves for curves, _, _ in records),
        alarms=tuple(alarm for _, alarms, _ in records for alarm in alarms),
        data=tuple(describe_corpora(run.corpora, recipe)),
        costs=tuple(cost for _, _, cost in records),
        export=export,
        environment=describe_environment(recipe.post_pretrain.precision),
    )


def _method_of(recipe: Recipe) -> str:
    if recipe.baseline is not None:
        method = BASELINES[recipe.baseline.method][1]
        if recipe.graft is not None:
            method += f", {MERGES[recipe.graft.merge]}"
    elif recipe.post_pretrain.trains == "everything":
        method = "MoE, everything trained"
        if recipe.graft is not None:
            method += ", grafted"
    elif recipe.graft is not None:
        method = "DeltaMoE"
    else:
        experts = recipe.experts
        is_layerwise = experts.allocation is not None or experts.classifier is not None
        method = "LayerMoE" if is_layerwise else "MoE-LPR"
    return method if recipe.post_train is None else f"{method}, post-trained"
