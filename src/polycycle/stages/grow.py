"""Growing: the finished model of the groups so far gets the experts of one more."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from polycycle.allocation import SimilarityTable
from polycycle.checkpoint import open_checkpoint
from polycycle.results import ModelScores, RoutingTable
from polycycle.stages.run import Run
from polycycle.stages.similarity import note_similarity, similarity, similarity_name
from polycycle.stages.stage import Stage
from polycycle.stages.upcycle import assignment_inputs, plan_group
from polycycle.surgery import fill_grown


def grow(run: Run, group: int, source: Path, scores: ModelScores) -> Path:
    """The finished model `source` with the experts of one more group, still masked.

    `scores` are the finished model's: by its routing, experts may be copied.
    """
    recipe = run.recipe
    table = similarity(run, group, source)
    most_used = None
    if recipe.experts.growth.copy_from == "most_used":
        assert scores.routing is not None  # it is a mixture
        num_layers = int(run.base.config["num_hidden_layers"])
        languages = recipe.languages.expanded[group - 1]
        most_used = most_used_experts(scores.routing, languages, num_layers)
    stage = Stage(
        name=f"grow-g{group}",
        result_version=1,
        inputs={
            "source": run.keys[source.name],
            "similarity": run.keys.get(similarity_name(group)),
            "most_used": most_used,
            "experts": recipe.experts.model_dump(mode="json", exclude={"assignment"}),
            **assignment_inputs(recipe, group),
            "languages": run.language_inputs(group),
            "seed": recipe.seed,
        },
        make=partial(_grow, run, group, source, table, most_used),
    )
    folder = run.do(stage)
    note_similarity(run, table, group=group, model=source.name, folder=folder)
    return folder


def _grow(
    run: Run,
    group: int,
    source: Path,
    table: SimilarityTable | None,
    most_used: tuple[int, ...] | None,
    folder: Path,
) -> dict[str, Any]:
    plan = plan_group(run.recipe, open_checkpoint(source), group, table, most_used)
    fill_grown(plan, folder)
    return {"bytes": plan.num_bytes}


def most_used_experts(
    routing: RoutingTable, languages: Sequence[str], num_layers: int
) -> tuple[int, ...]:
    """Of each layer, the expert that takes most assignments of these languages; 0 if it is dense.

    Args:
        routing: where the model's tokens went.
        languages: which ones to look at, each counting alike.
        num_layers: of the model, dense ones included.
    """
    found = [0] * num_layers
    for position, layer in enumerate(routing.moe_layers):
        usage = [routing.usage[language][position] for language in languages]
        totals = [sum(shares) for shares in zip(*usage, strict=True)]
        found[layer] = totals.index(max(totals))
    return tuple(found)
