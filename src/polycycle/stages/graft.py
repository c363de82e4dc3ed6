"""The graft that a recipe asks for: its siblings, and what is added to the finished model."""

from collections.abc import Sequence

from polycycle.checkpoint import Checkpoint, open_checkpoint
from polycycle.config import GraftConfig
from polycycle.errors import GraftError
from polycycle.files import hash_file, hash_json
from polycycle.surgery import DELTA_TYPE, GraftPlan, check_siblings, open_delta, plan_graft


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
    deltas = [
        open_delta(post, base=base, scale=one.scale)
        for one, post in zip(config.post, siblings, strict=True)
    ]
    return plan_graft(model, deltas, on=config.target, keep_ungrafted=config.keep_ungrafted)
