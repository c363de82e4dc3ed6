"""The graft that a recipe asks for: its siblings, and what is added to the finished model."""

from collections.abc import Sequence
from typing import Any

from polycycle.baselines import MergePlan, llama_pro_names, plan_merge
from polycycle.checkpoint import Checkpoint, open_checkpoint
from polycycle.config import AnyBaseline, GraftConfig, LlamaProConfig
from polycycle.errors import GraftError
from polycycle.files import hash_file, hash_json
from polycycle.surgery import (
    DELTA_TYPE,
    Delta,
    GraftPlan,
    check_siblings,
    open_delta,
    plan_graft,
)


def open_siblings(config: GraftConfig, base: Checkpoint) -> list[Checkpoint]:
    """The post-trained models of a recipe; only headers and tokenizers are read.

    Raises:
        GraftError: one is no sibling of the base, or a saved delta.
        CheckpointError: one is not there.
    """
    found = []
    for one in config.post:
        post = open_checkpoint(one.model, revision=one.revision)
        if post.config.get("model_type") == DELTA_TYPE:
            raise GraftError(
                f"graft.post: {one.model} is a saved delta, but a run also measures the sibling; "
                f"name the model itself, {post.config['delta']['post']}"
            )
        check_siblings(base, post)
        found.append(post)
    return found


def sibling_key(post: Checkpoint) -> str:
    """Changes when anything does that a graft takes from the sibling."""
    files = {*(info.file for info in post.tensors.values()), *post.side_files()}
    return hash_json([dict(post.config), {file.name: hash_file(file) for file in sorted(files)}])


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
