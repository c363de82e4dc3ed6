"""Grafting post-training into the finished model, or merging it into a dense baseline."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from polycycle.baselines import MergePlan, fill_merged, llama_pro_names, plan_merge
from polycycle.checkpoint import Checkpoint, folder_hash, open_checkpoint
from polycycle.config import AnyBaseline, GraftConfig, LlamaProConfig
from polycycle.modeling import why_no_dense_reference
from polycycle.stages.run import Run
from polycycle.stages.stage import Stage
from polycycle.surgery import Delta, GraftPlan, fill_grafted, open_delta, plan_graft


def graft(run: Run, source: Path) -> Path:
    """The finished model `source` with the siblings' post-training in every expert.

    A dense baseline has it merged into its weights.
    """
    config = run.recipe.graft
    assert config is not None
    is_dense = run.recipe.baseline is not None
    merge = {"merge": merge_settings(config, run.recipe.seed)} if is_dense else {}
    stage = Stage(
        name="graft",
        result_version=1,
        inputs={
            "source": run.keys[source.name],
            "base": run.base_key,
            "post": [
                [folder_hash(post), one.scale]
                for one, post in zip(config.post, run.siblings, strict=True)
            ],
            "settings": config.model_dump(mode="json", include={"target", "keep_ungrafted"}),
            **merge,
        },
        make=partial(_merge if is_dense else _graft, run, config, source),
    )
    folder = run.do(stage)
    reason = why_no_dense_reference(open_checkpoint(folder).config)
    if reason is not None:
        run.tell(
            f"graft: {reason}, so no dense model is the base any more: retention is shown "
            "against the base that was, nothing is kept exactly, and there is no pack"
        )
    return folder


def _graft(run: Run, config: GraftConfig, source: Path, folder: Path) -> dict[str, Any]:
    plan = plan_recipe_graft(config, open_checkpoint(source), run.base, run.siblings)
    for warning in plan.warnings:
        run.tell(f"graft: {warning}")
    fill_grafted(plan, folder)
    return {"bytes": plan.num_bytes}


def _merge(run: Run, config: GraftConfig, source: Path, folder: Path) -> dict[str, Any]:
    baseline, seed = run.recipe.baseline, run.recipe.seed
    assert baseline is not None
    model = open_checkpoint(source)
    plan = plan_recipe_merge(config, baseline, model, run.base, run.siblings, seed=seed)
    for warning in plan.warnings:
        run.tell(f"graft: {warning}")
    fill_merged(plan, folder)
    return {"bytes": plan.num_bytes}


def plan_recipe_graft(
    config: GraftConfig, model: Checkpoint, base: Checkpoint, siblings: Sequence[Checkpoint]
) -> GraftPlan:
    """What grafting the siblings into a finished model will write.

    Raises:
        GraftError: the deltas do not fit the model.
    """
    deltas = _deltas(config, base, siblings)
    return plan_graft(model, deltas, on=config.target, keep_ungrafted=config.keep_ungrafted)


def plan_recipe_merge(
    config: GraftConfig,
    baseline: AnyBaseline,
    model: Checkpoint,
    base: Checkpoint,
    siblings: Sequence[Checkpoint],
    *,
    seed: int,
) -> MergePlan:
    """What merging the siblings into a trained dense baseline will write.

    Raises:
        GraftError: the models do not fit each other.
    """
    names = None
    if isinstance(baseline, LlamaProConfig):
        names = llama_pro_names(base, every=baseline.every)
    return plan_merge(
        model,
        base,
        _deltas(config, base, siblings),
        **merge_settings(config, seed),
        base_names=names,
    )


def merge_settings(config: GraftConfig, seed: int) -> dict[str, Any]:
    """What `plan_merge` is told beside the models; the seed only where something is drawn."""
    return {
        "rule": config.merge,
        "language_scale": 1.0 if config.language_scale is None else config.language_scale,
        "density": config.kept_share,
        **({"seed": seed} if config.merge == "dare" else {}),
    }


def _deltas(config: GraftConfig, base: Checkpoint, siblings: Sequence[Checkpoint]) -> list[Delta]:
    return [
        open_delta(post, base=base, scale=one.scale)
        for one, post in zip(config.post, siblings, strict=True)
    ]
