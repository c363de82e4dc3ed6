"""Adding deltas up and onto weights, block by block, for dense tensors and packed experts."""

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from polycycle.checkpoint import Checkpoint
from polycycle.errors import GraftError
from polycycle.surgery.deltas import Delta, dtype_name, row_blocks, wider

if TYPE_CHECKING:
    from polycycle.families.family import Family

_NEW_EXPERTS = re.compile(r"^(model\.layers\.\d+\.mlp\.)experts\.g\d+\.(gate_up_proj|down_proj)$")


def wide_of(model: Checkpoint, deltas: Sequence[Delta], name: str) -> torch.dtype:
    """What the sums of one dense tensor are computed in."""
    return wider(
        model.info(name).dtype, *(one for delta in deltas for one in delta.weight_dtypes(name))
    )


def sum_deltas(
    scaled: Sequence[tuple[float, Delta]], name: str, start: int, stop: int, dtype: torch.dtype
) -> Tensor:
    """Σ λ Δ over rows of one tensor; a vocabulary row that some sibling lacks has no Δ there."""
    total: Tensor | None = None
    for scale, delta in scaled:
        shape = delta.shapes[name]
        last = min(stop, delta.common_rows.get(name, shape[0]))
        rows = torch.zeros((stop - start, *shape[1:]), dtype=dtype)
        if last > start:
            rows[: last - start] = scale * delta.read(name, start, last, dtype)
        total = rows if total is None else total.add_(rows)
    assert total is not None
    return total


def add_delta(rows: Tensor, delta: Tensor, *, where: str) -> None:
    """Add to `rows` in place, computed in the dtype of `delta` and rounded once.

    Raises:
        GraftError: the sum is not finite in the dtype of `rows`.
    """
    rows.copy_(rows.to(delta.dtype).add_(delta))
    if not rows.isfinite().all():
        raise GraftError(
            f"{where}: the sum is not finite in {dtype_name(rows.dtype)}; use a smaller scale, or "
            "a model in bfloat16 or float32"
        )


def is_new_expert(name: str) -> bool:
    """Whether a packed tensor of that name holds new experts."""
    return _NEW_EXPERTS.match(name) is not None


def new_experts(model: Checkpoint) -> list[str]:
    """Names of the packed tensors that hold new experts."""
    return sorted(name for name in model.tensors if is_new_expert(name))


def dense_names(family: "Family", packed: str) -> list[str]:
    """The dense tensors whose rows, one after the other, each expert of a packed tensor has."""
    match = _NEW_EXPERTS.match(packed)
    assert match is not None
    parts = family.gate_up_names if match[2] == "gate_up_proj" else (family.down_name,)
    return [f"{match[1]}{part}.weight" for part in parts]


def packed_deltas(
    scaled: Sequence[tuple[float, Delta]], sources: Sequence[str], dtype: torch.dtype
) -> Iterator[tuple[int, int, int, Tensor]]:
    """Blocks of an expert's delta: rows before the source, first row, past-last row, Σ λ Δ.

    Args:
        scaled: λ and delta.
        sources: as `dense_names` gives them.
        dtype: to compute in.
    """
    offset = 0
    for source in sources:
        shape = scaled[0][1].shapes[source]
        for start, stop in row_blocks(shape):
            yield offset, start, stop, sum_deltas(scaled, source, start, stop, dtype)
        offset += shape[0]
