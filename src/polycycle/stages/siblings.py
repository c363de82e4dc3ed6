"""The post-trained models that a recipe grafts, checked to be siblings of its base."""

from polycycle.checkpoint import Checkpoint, open_checkpoint
from polycycle.config import GraftConfig
from polycycle.errors import GraftError
from polycycle.surgery import DELTA_TYPE, check_siblings


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


def sibling_name(number: int) -> str:
    """What a sibling is called in the run: `post`, then `post-2`, …; counted from 1."""
    return "post" if number == 1 else f"post-{number}"
