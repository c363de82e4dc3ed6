"""A delta saved once: its tensors, how large each is, and what it needs of its sibling."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polycycle.checkpoint import (
    DTYPES,
    Checkpoint,
    TensorJob,
    refuse_own_folder,
    write_tensors,
)
from polycycle.errors import GraftError
from polycycle.files import folder_when_whole, write_json
from polycycle.surgery.deltas import (
    DELTA_TYPE,
    EXACT,
    Delta,
    dtype_name,
    open_delta,
    row_blocks,
    wider,
)

NORMS = "norms.json"
_SHORT = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


@dataclass(slots=True)
class TensorNorms:
    """How far post-training moved one tensor.

    Attributes:
        name: of the tensor.
        shape: of the sibling's tensor.
        norm: Frobenius norm of Δ, over the rows that both have.
        base_norm: of the base's tensor.
        relative: norm ÷ base_norm; None where the base is all zeros.
        largest: largest absolute element of Δ.
        rounding_error: norm of what storing changed, relative to Δ's; 0 for an exact delta.
        inexact: elements for which base + Δ, rounded to the weights' dtype, is not post's.
    """

    name: str
    shape: tuple[int, ...]
    norm: float = 0.0
    base_norm: float = 0.0
    relative: float | None = None
    largest: float = 0.0
    rounding_error: float = 0.0
    inexact: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class DeltaNorms:
    """The table that goes with a saved delta.

    Attributes:
        base: name of the base.
        post: name of the post-trained sibling.
        stored_as: `exact`, or the dtype that was asked for.
        relative: norm of the whole delta ÷ norm of the whole base.
        rounding_error: norm of what storing changed ÷ norm of the whole delta.
        inexact_share: elements for which base + Δ is not post's, of all.
        tensors: one per tensor.
    """

    base: str
    post: str
    stored_as: str
    relative: float
    rounding_error: float
    inexact_share: float
    tensors: tuple[TensorNorms, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for norms.json."""
        return asdict(self)


def save_delta(
    base: Checkpoint,
    post: Checkpoint,
    out: Path,
    *,
    dtype: torch.dtype | None = None,
    progress: Callable[[TensorJob], None] | None = None,
) -> DeltaNorms:
    """Write post − base to the folder `out`, for `open_delta` to read.

    Tensors are stored one precision wider than the weights (twice post's size), or rounded to
    `dtype`. Tokenizer, chat template and configs of the sibling lie beside them, and norms.json.

    Args:
        base: the dense model.
        post: the model post-trained from it.
        out: appears when it is complete; replaced if it exists.
        dtype: a narrower one to store in; the error it makes is in the norms.
        progress: called after each tensor.

    Raises:
        GraftError: the two are not siblings, or Δ does not fit into `dtype`.
    """
    delta = open_delta(post, base=base)
    refuse_own_folder(out, base, post)
    norms = {name: TensorNorms(name, tuple(delta.shapes[name])) for name in sorted(base.tensors)}
    squares: dict[str, float] = dict.fromkeys(norms, 0.0)
    jobs = [_job(delta, base, norm, squares, dtype) for norm in norms.values()]
    is_exact = all(DTYPES[job.dtype] == wider(*delta.weight_dtypes(job.name)) for job in jobs)
    stored_as = EXACT if dtype is None or is_exact else dtype_name(dtype)
    with folder_when_whole(out) as folder:
        write_tensors(folder, jobs, progress=progress)
        elements = sum(job.num_bytes // DTYPES[job.dtype].itemsize for job in jobs)
        table = _table(base.name, post.name, stored_as, list(norms.values()), squares, elements)
        write_json(folder / NORMS, table.to_json())
        record = {
            "base": base.name,
            "base_hash": delta.base_hash,
            "post": post.name,
            "post_hash": delta.post_hash,
            "post_config": dict(post.config),
            "common_rows": dict(delta.common_rows),
            "stored_as": stored_as,
            "notes": list(delta.notes),
        }
        write_json(folder / "config.json", {"model_type": DELTA_TYPE, "delta": record})
        post.copy_side_files(folder)
    return table


def _table(
    base: str,
    post: str,
    stored_as: str,
    norms: list[TensorNorms],
    squares: dict[str, float],
    elements: int,
) -> DeltaNorms:
    """Sums of squares into norms, of each tensor and of all."""
    delta, whole, error = (
        sum(values)
        for values in (
            [one.norm for one in norms],
            [one.base_norm for one in norms],
            squares.values(),
        )
    )
    for one in norms:
        square, of_base = one.norm, one.base_norm
        one.norm, one.base_norm = square**0.5, of_base**0.5
        one.relative = (square / of_base) ** 0.5 if of_base else None
        one.rounding_error = (squares[one.name] / square) ** 0.5 if square else 0.0
    return DeltaNorms(
        base=base,
        post=post,
        stored_as=stored_as,
        relative=(delta / whole) ** 0.5 if whole else 0.0,
        rounding_error=(error / delta) ** 0.5 if delta else 0.0,
        inexact_share=sum(one.inexact for one in norms) / max(1, elements),
        tensors=tuple(norms),
    )


def _job(
    delta: Delta,
    base: Checkpoint,
    norm: TensorNorms,
    squares: dict[str, float],
    dtype: torch.dtype | None,
) -> TensorJob:
    """Stores one tensor and, on the way, adds up sums of squares in `norm` and `squares`."""
    name, shape = norm.name, norm.shape
    wide = wider(*delta.weight_dtypes(name))
    weights = DTYPES[max(delta.weight_dtypes(name), key=lambda one: DTYPES[one].itemsize)]
    stored = wide if dtype is None else dtype
    common = delta.common_rows.get(name, shape[0])

    def make() -> Tensor:
        out = torch.empty(shape, dtype=stored)
        for start, stop in row_blocks(shape, last=common):
            rows = delta.read(name, start, stop, wide)
            before = base.read_rows(name, start, stop)
            after = delta.read_new_rows(name, start, stop, wide)
            kept = rows.to(stored)
            _refuse_overflow(kept, name)
            out[start:stop] = kept
            again = (before.to(wide) + kept.to(wide)).to(weights)
            norm.norm += rows.double().square().sum().item()
            norm.base_norm += before.double().square().sum().item()
            norm.largest = max(norm.largest, rows.abs().max().item())
            norm.inexact += int((again.to(wide) != after).sum())
            squares[name] += (kept.double() - rows.double()).square().sum().item()
        for start, stop in row_blocks(shape, first=common):
            out[start:stop] = delta.read_new_rows(name, start, stop, wide).to(stored)
            _refuse_overflow(out[start:stop], name)
        return out

    return TensorJob(name=name, dtype=_SHORT[stored], shape=shape, make=make)


def _refuse_overflow(rows: Tensor, name: str) -> None:
    if not rows.isfinite().all():
        raise GraftError(
            f"{name}: the delta does not fit into {dtype_name(rows.dtype)}; store it as bfloat16, "
            "or leave --dtype out to store it exactly"
        )
