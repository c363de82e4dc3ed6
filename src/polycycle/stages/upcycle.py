"""The upcycling that a recipe asks for: experts of each layer, classifiers, tensors."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from polycycle.allocation import (
    AllocationPlan,
    Assignment,
    SimilarityTable,
    allocate_experts,
    allocate_export_friendly,
    assign_experts,
    share_of_uniform,
    with_dense_layers,
)
from polycycle.checkpoint import Checkpoint
from polycycle.config import AllocationConfig, ClassifierConfig, Recipe, RetentionConfig
from polycycle.errors import UpcycleError
from polycycle.stages.run import Run
from polycycle.stages.similarity import note_similarity, similarity, similarity_name
from polycycle.stages.stage import Stage
from polycycle.surgery import (
    GrowthPlan,
    UpcyclePlan,
    fill_upcycled,
    plan_growth,
    plan_upcycle,
)


def upcycle(run: Run) -> Path:
    """The freshly upcycled model."""
    recipe = run.recipe
    table = similarity(run, 1, recipe.base)
    stage = Stage(
        name="upcycle",
        result_version=1,
        inputs={
            "base": run.base_key,
            "similarity": run.keys.get(similarity_name(1)),
            "experts": recipe.experts.model_dump(mode="json", exclude={"growth", "assignment"}),
            **assignment_inputs(recipe, 1),
            "languages": run.language_inputs(1),
            "seed": recipe.seed,
        },
        make=partial(_upcycle, run, table),
    )
    folder = run.do(stage)
    note_similarity(run, table, group=1, model="base", folder=folder)
    return folder


def _upcycle(run: Run, table: SimilarityTable | None, folder: Path) -> dict[str, Any]:
    plan = plan_recipe(run.recipe, run.base, table)
    fill_upcycled(plan, folder)
    return {"bytes": plan.num_bytes}


def assignment_inputs(recipe: Recipe, group: int) -> dict[str, Any]:
    """What identifies whose a group's experts are: in order, which decides. Empty if shared."""
    shares = recipe.experts.shares_of(recipe.languages.expanded[group - 1])
    return {"assignment": [[*pair] for pair in shares.items()]} if shares else {}


def plan_recipe(
    recipe: Recipe, base: Checkpoint, similarity: SimilarityTable | None = None
) -> UpcyclePlan:
    """Tensors and config of the recipe's upcycled model; nothing is read but headers.

    Args:
        recipe: what to make.
        base: the dense model.
        similarity: how alike it finds the languages. Without it, layers count as equally alike,
            which is good enough to forecast sizes.

    Raises:
        UpcycleError: the family, the counts or the layers are not possible.
        ConfigError: the budget of experts is not possible.
    """
    experts = recipe.experts
    num_layers = int(base.config["num_hidden_layers"])
    if similarity is not None and len(similarity.values) != num_layers:
        raise UpcycleError(
            f"similarity is of {len(similarity.values)} layers, but {base.name} has {num_layers}; "
            "measure it on this model"
        )
    num_experts = _num_experts(recipe, num_layers, similarity)
    added = _added(num_experts, num_layers)
    if experts.allocation is None:  # then later groups bring the same: what cannot be is said now
        for later in range(2, len(recipe.languages.expanded) + 1):
            _assignment(recipe, later, added)
    return plan_upcycle(
        base,
        num_experts=num_experts,
        top_k=experts.top_k,
        renormalize=experts.renormalize,
        init=experts.init,
        seed=recipe.seed,
        **_classifier(recipe, num_experts, num_layers, similarity),
        **_retention(experts.exact_retention),
        languages=recipe.languages.groups().first(1),
        assignment=_assignment(recipe, 1, added),
    )


def plan_group(
    recipe: Recipe,
    model: Checkpoint,
    group: int,
    similarity: SimilarityTable | None = None,
    most_used: Sequence[int] | None = None,
) -> GrowthPlan:
    """Tensors and config of the model grown by one more language group.

    The group brings to each layer what the first group would: `experts.num_experts` less one, or a
    fresh allocation by the similarity that the finished model shows.

    Args:
        recipe: what to make.
        model: the finished model of the groups so far.
        group: the group to come, 2 for G2.
        similarity: as `model` finds the languages, the new group's among them.
        most_used: of each layer, the expert that `model` uses most for the new languages; what is
            copied where the recipe says `growth.copy_from: most_used`.
    """
    num_layers = int(model.config["num_hidden_layers"])
    added = _added(_num_experts(recipe, num_layers, similarity), num_layers)
    return plan_growth(
        model,
        new_experts=added,
        languages=recipe.languages.expanded[group - 1],
        init=recipe.experts.init,
        copy_from=0 if most_used is None else most_used,
        redraw_routers=recipe.experts.growth.routers == "redraw",
        seed=recipe.seed,
        assignment=_assignment(recipe, group, added),
    )


def _num_experts(
    recipe: Recipe, num_layers: int, similarity: SimilarityTable | None
) -> int | tuple[int, ...]:
    """Experts of each layer with the frozen one, as if the group were the first."""
    experts = recipe.experts
    if experts.allocation is None:
        return experts.num_experts
    assert isinstance(experts.num_experts, int)  # the recipe was checked
    per_layer = (1.0,) * num_layers if similarity is None else similarity.per_layer
    return allocate(experts.allocation, per_layer, experts.num_experts).num_experts_per_layer


def _added(num_experts: int | Sequence[int], num_layers: int) -> list[int]:
    """New experts of each layer."""
    if isinstance(num_experts, int):
        return [num_experts - 1] * num_layers
    return [count - 1 for count in num_experts]


def _assignment(recipe: Recipe, group: int, added: Sequence[int]) -> Assignment | None:
    """The languages of a group's new experts; None where it shares them.

    The recipe's counts are meant as they stand where all layers that get new experts get the same
    number by the recipe's own word; else they are shares.
    """
    shares = recipe.experts.shares_of(recipe.languages.expanded[group - 1])
    if not shares:
        return None
    is_exact = recipe.experts.allocation is None and len({n for n in added if n}) == 1
    return assign_experts(shares, added, is_exact=is_exact)


def _classifier(
    recipe: Recipe,
    num_experts: int | tuple[int, ...],
    num_layers: int,
    similarity: SimilarityTable | None,
) -> dict[str, Any]:
    config = recipe.experts.classifier
    if config is None:
        return {}
    return {
        "classifier_layers": _classifier_layers(config, num_experts, num_layers, similarity),
        "classifier_form": config.form,
        "classifier_threshold": config.threshold,
    }


def _retention(config: RetentionConfig | None) -> dict[str, Any]:
    if config is None:
        return {}
    return {
        "exact_retention": True,
        "retention_threshold": config.threshold,
        "retention_patience": config.patience,
    }


def allocate(
    config: AllocationConfig, similarity: list[float] | tuple[float, ...], num_experts: int
) -> AllocationPlan:
    """Experts per layer as a recipe's `allocation` asks.

    Args:
        config: budget and limits.
        similarity: S_i of each layer.
        num_experts: per layer, what `share_of_uniform` is a share of.
    """
    num_layers = len(similarity)
    if config.share_of_uniform is not None:
        total = share_of_uniform(
            config.share_of_uniform, num_layers=num_layers, num_experts=num_experts
        )
    else:
        total = config.total_experts or num_layers + (config.new_experts or 0)
    rule: Callable[[Sequence[float], int], AllocationPlan]
    if config.export_friendly:
        rule = partial(allocate_export_friendly, max_experts=config.max_experts)
    else:
        rule = partial(
            allocate_experts, min_experts=config.min_experts, max_experts=config.max_experts
        )
    return with_dense_layers(config.dense_layers, similarity, total, rule)


def _classifier_layers(
    classifier: ClassifierConfig,
    num_experts: int | tuple[int, ...],
    num_layers: int,
    similarity: SimilarityTable | None,
) -> tuple[int, ...]:
    """The layers named, or the K mixture layers where expanded and original are most alike."""
    if not isinstance(classifier.layers, int):
        return classifier.layers
    counts = (num_experts,) * num_layers if isinstance(num_experts, int) else num_experts
    alike = [1.0] * num_layers if similarity is None else similarity.expanded_original
    mixtures = [layer for layer in range(num_layers) if counts[layer] > 1]
    if classifier.layers > len(mixtures):
        raise UpcycleError(
            f"experts.classifier.layers: {classifier.layers} classifiers, but only "
            f"{len(mixtures)} layers are mixtures of experts; ask for fewer"
        )
    ranked = sorted(mixtures, key=lambda layer: -alike[layer])
    return tuple(sorted(ranked[: classifier.layers]))
