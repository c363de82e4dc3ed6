"""One tensor of a grafted model: copied, taken from the post-trained sibling, or the sum."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from polycycle.checkpoint import DTYPES, Checkpoint, TensorJob, copy_job
from polycycle.errors import GraftError
from polycycle.surgery.delta_sums import (
    add_delta,
    dense_names,
    is_new_expert,
    packed_deltas,
    sum_deltas,
    wide_of,
)
from polycycle.surgery.deltas import Delta, row_blocks, wider
from polycycle.surgery.graft_checks import GraftTarget
from polycycle.surgery.siblings import VOCABULARY

if TYPE_CHECKING:
    from polycycle.families.family import Family

_FEED_FORWARD = re.compile(r"^model\.layers\.\d+\.mlp\.")


@dataclass(slots=True)
class Deviation:
    """What ungrafting would not give back of the new experts, added up while grafting.

    Attributes:
        largest: absolute difference.
        changed: elements that come back different.
        elements: all of them.
    """

    largest: float = 0.0
    changed: int = 0
    elements: int = 0


def graft_job(
    model: Checkpoint,
    family: "Family",
    deltas: Sequence[Delta],
    name: str,
    *,
    on: GraftTarget,
    takes_post: bool,
    seen: Deviation,
) -> TensorJob:
    """One tensor of the grafted model: copied, taken from POST, or the sum.

    Args:
        model: the upcycled model.
        family: of it.
        deltas: what is added.
        name: of the tensor.
        on: which tensors are grafted.
        takes_post: whether dense tensors are POST's where it has them in the same dtype.
        seen: what ungrafting new experts would not give back is added up here.
    """
    if name in deltas[0].shapes and _is_target(name, on):
        if takes_post and _has_same_dtype(model, deltas[0].source, name):
            return _post_job(model, deltas[0], name)
        return _dense_job(model, deltas, name)
    if is_new_expert(name) and on in ("all", "experts"):
        return _experts_job(model, family, deltas, name, seen)
    return copy_job(model, name)


def _is_target(name: str, on: GraftTarget) -> bool:
    """Whether a dense tensor is grafted."""
    return on == "all" or (on == "shared") != bool(_FEED_FORWARD.match(name))


def _has_same_dtype(model: Checkpoint, post: Checkpoint, name: str) -> bool:
    return name in post.tensors and model.info(name).dtype == post.info(name).dtype


def _post_job(model: Checkpoint, delta: Delta, name: str) -> TensorJob:
    """POST's own bits: the same as base + (post − base), without its rounding."""

    def make() -> Tensor:
        dtype = wider(model.info(name).dtype)
        assert delta.base is not None
        for start, stop in row_blocks(model.info(name).shape):
            theirs = delta.base.read_rows(name, start, stop)
            if not torch.equal(model.read_rows(name, start, stop), theirs):
                raise GraftError(
                    f"{name} of {model.name} is not what {delta.base_name} has, though the model "
                    "says that it was made from it; was it trained by other means? Upcycle anew, "
                    "or take the model as polycycle wrote it"
                )
        for start, stop in row_blocks(delta.shapes[name]):
            delta.read_new_rows(name, start, stop, dtype)  # refuses what is not finite
        return delta.source.read(name)

    info = delta.source.info(name)
    return TensorJob(name=name, dtype=info.dtype, shape=info.shape, make=make)


def _dense_job(model: Checkpoint, deltas: Sequence[Delta], name: str) -> TensorJob:
    info = model.info(name)
    if name in VOCABULARY:
        # The tokenizer is the first sibling's, and so is the number of rows.
        shape = (deltas[0].shapes[name][0], *info.shape[1:])
    else:
        shape = info.shape
    dtype = wide_of(model, deltas, name)
    scaled = [(delta.scale, delta) for delta in deltas]

    def make() -> Tensor:
        out = torch.empty(shape, dtype=DTYPES[info.dtype])
        common = min(shape[0], info.shape[0])
        for start, stop in row_blocks(shape, last=common):
            out[start:stop] = model.read_rows(name, start, stop)
            add_delta(out[start:stop], sum_deltas(scaled, name, start, stop, dtype), where=name)
        for start, stop in row_blocks(shape, first=common):
            out[start:stop] = deltas[0].read_new_rows(name, start, stop, dtype).to(out.dtype)
        return out

    return TensorJob(name=name, dtype=info.dtype, shape=shape, make=make)


def _experts_job(
    model: Checkpoint, family: "Family", deltas: Sequence[Delta], name: str, seen: Deviation
) -> TensorJob:
    info = model.info(name)
    sources = dense_names(family, name)
    dtype = wide_of(model, deltas, sources[0])
    scaled = [(delta.scale, delta) for delta in deltas]

    def make() -> Tensor:
        packed = model.read(name)
        if not all(expert.isfinite().all() for expert in packed):
            raise GraftError(f"{model.name}: {name} holds values that are not finite")
        for offset, start, stop, delta in packed_deltas(scaled, sources, dtype):
            for expert in packed:
                rows = expert[offset + start : offset + stop]
                before = rows.clone()
                add_delta(rows, delta, where=name)
                _watch(before, rows, delta, seen)
        return packed

    return TensorJob(name=name, dtype=info.dtype, shape=info.shape, make=make)


def _watch(before: Tensor, after: Tensor, delta: Tensor, seen: Deviation) -> None:
    """Count what taking the delta away again would not give back."""
    back = after.to(delta.dtype).sub_(delta).to(before.dtype)
    difference = back.to(delta.dtype).sub_(before).abs_()
    seen.largest = max(seen.largest, difference.max().item())
    seen.changed += int((difference > 0).sum())
    seen.elements += difference.numel()
