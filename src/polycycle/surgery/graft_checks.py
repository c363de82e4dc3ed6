"""Whether deltas fit an upcycled model, and whether a dense model is inside it afterwards."""

from collections.abc import Iterator, Sequence
from typing import Literal

from polycycle.checkpoint import Checkpoint
from polycycle.errors import GraftError
from polycycle.surgery.deltas import Delta
from polycycle.surgery.new_tensors import is_added
from polycycle.surgery.siblings import VOCABULARY

GraftTarget = Literal["all", "shared", "experts", "frozen-expert"]


def check_names(model: Checkpoint, deltas: Sequence[Delta]) -> None:
    """Refuse deltas whose tensors are not those of the dense model inside.

    Raises:
        GraftError: naming the tensor.
    """
    for delta in deltas:
        for name, shape in delta.shapes.items():
            if name not in model.tensors:
                raise GraftError(
                    f"{model.name} has no tensor {name!r}, which {delta.base_name} has; is that "
                    "the model it was made from?"
                )
            skipped = 1 if name in VOCABULARY else 0
            found = model.info(name).shape
            if found[skipped:] != tuple(shape)[skipped:]:
                raise GraftError(
                    f"{name} is {list(found)} in {model.name} and {list(shape)} in {delta.name}; "
                    "give the model's own base and its sibling"
                )
        extra = [name for name in model.tensors if name not in delta.shapes and not is_added(name)]
        if extra:
            raise GraftError(
                f"{delta.name} has no delta for {extra[0]!r} of {model.name}; is it the model's "
                "own base that the delta was taken from?"
            )


def check_base(model: Checkpoint, deltas: Sequence[Delta], *, force: bool) -> Iterator[str]:
    """Refuse deltas of another base than the model's own; gives notes on what was let through.

    Raises:
        GraftError: naming both bases, unless `force`.
    """
    known = known_bases(model)
    for delta in deltas:
        if delta.base_hash in known:
            continue
        if model.config.get("base_trained"):
            yield (
                f"all of {model.name} was trained, so that {delta.base_name} is its base cannot be "
                "checked, and is taken for granted"
            )
            continue
        wanted = " or ".join(sorted(f"{one[:12]}…" for one in known)) or "not recorded"
        problem = (
            f"{delta.base_name} (content hash {delta.base_hash[:12]}…) is not the base of "
            f"{model.name}, which is {model.config.get('base_model')} ({wanted})"
        )
        if not force:
            raise GraftError(
                f"{problem}. Give that base and its sibling, or say --force to add the delta all "
                "the same"
            )
        yield f"forced: {problem}"


def known_bases(model: Checkpoint) -> set[str]:
    """Content hashes of the dense models that a delta may start from."""
    grafts = model.config.get("grafts") or ()
    known = {record["base_hash"] for record in grafts if not record["is_forced"]}
    return {*known, model.config.get("base_hash")} - {None}


def why_no_reference(model: Checkpoint, deltas: Sequence[Delta], on: GraftTarget) -> str | None:
    """Why the grafted model's expert 0 is no dense model that exists; None if it is POST."""
    if on != "all":
        return f"only part of the tensors was grafted (on: {on})"
    if len(deltas) > 1:
        return "several deltas were added up"
    if deltas[0].scale != 1:
        return f"the delta was added at scale {deltas[0].scale:g}"
    if deltas[0].base_hash != model.config.get("base_hash"):
        return "the delta does not start from the dense model that it was added to"
    return None
