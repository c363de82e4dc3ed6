"""What post-training changed: a sibling's weights less the base's, read block by block.

A delta is read from the two checkpoints as it is needed, or from a folder that holds it already.
All arithmetic is one precision wider than the weights: in float32, base + (post − base) differs
from post in about a third of the elements.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polycycle.checkpoint import DTYPES, Checkpoint, content_hash, open_checkpoint
from polycycle.errors import GraftError
from polycycle.surgery.siblings import EMBEDDING, VOCABULARY, check_siblings

DELTA_TYPE = "polycycle_delta"
EXACT = "exact"
"""A delta at full width, as against one stored in fewer bits."""
# 2²⁴ elements are 128 MiB in float64: what a tensor costs beside itself.
_BLOCK_ELEMENTS = 2**24


@dataclass(frozen=True, kw_only=True, slots=True)
class Delta:
    """Post-trained less base, for every tensor of the base.

    Attributes:
        name: the post-trained model, as it was given.
        scale: λ, what it is multiplied by when it is added.
        source: the post-trained model, or the saved delta.
        base: the dense model; None for a saved delta.
        base_name: what the base is called.
        base_hash: content hash of the base.
        post_hash: content hash of the post-trained model.
        post_config: its config.json.
        shapes: of the post-trained model's tensors, under the base's names.
        common_rows: rows of the vocabulary tensors that both models have.
        stored_as: `exact`, or the dtype that a saved delta was rounded to.
        notes: what a person should know: vocabulary rows, tokenizers that were not compared.
    """

    name: str
    scale: float
    source: Checkpoint
    base: Checkpoint | None
    base_name: str
    base_hash: str
    post_hash: str
    post_config: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    common_rows: Mapping[str, int]
    stored_as: str = EXACT
    notes: tuple[str, ...] = ()

    def read(self, name: str, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """Rows of one tensor's unscaled delta, [stop − start, …].

        Args:
            name: of the base's tensor.
            start: first row.
            stop: one past the last; at most `common_rows` of a vocabulary tensor.
            dtype: to compute in and to return.

        Raises:
            GraftError: a value is not finite.
        """
        post = self._read(self.source, name, start, stop).to(dtype)
        if self.base is None:
            return post
        return post - self._read(self.base, name, start, stop).to(dtype)

    def read_new_rows(self, name: str, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """Rows of a vocabulary tensor that the base has not, as the post-trained model has them."""
        return self._read(self.source, name, start, stop).to(dtype)

    def _read(self, checkpoint: Checkpoint, name: str, start: int, stop: int) -> Tensor:
        # A tied head may be stored or not; it is the embedding in both cases.
        stored = name if name in checkpoint.tensors else EMBEDDING
        rows = checkpoint.read_rows(stored, start, stop)
        if not rows.isfinite().all():
            raise GraftError(
                f"{checkpoint.name}: {stored} holds values that are not finite; fetch the model "
                "again, or take another one"
            )
        return rows

    def weight_dtypes(self, name: str) -> list[str]:
        """Dtypes of the weights that a tensor's delta is computed from; none for a saved delta."""
        if self.base is None:
            return []
        stored = name if name in self.source.tensors else EMBEDDING
        return [self.base.info(name).dtype, self.source.info(stored).dtype]


def open_delta(
    post: str | Path | Checkpoint,
    *,
    base: Checkpoint | None = None,
    scale: float = 1.0,
    revision: str | None = None,
) -> Delta:
    """The delta of a post-trained model and its base, or one saved by `polycycle delta`.

    Both models are read once for their content hashes.

    Args:
        post: the post-trained sibling or a saved delta: opened, a folder, or a hub id.
        base: the dense model; may be left out for a saved delta.
        scale: λ.
        revision: of a hub id.

    Raises:
        GraftError: the two are not siblings: other tensors, shapes, heads or tokens.
    """
    source = post if isinstance(post, Checkpoint) else open_checkpoint(post, revision=revision)
    if source.config.get("model_type") == DELTA_TYPE:
        return _saved(source, base, scale)
    if base is None:
        raise GraftError(
            f"{source.name} is a model, not a saved delta, so its base is needed too: --base BASE"
        )
    notes = check_siblings(base, source)
    return Delta(
        name=source.name,
        scale=scale,
        source=source,
        base=base,
        base_name=base.name,
        base_hash=_hash_of(base),
        post_hash=_hash_of(source),
        post_config=source.config,
        shapes={
            name: source.info(name if name in source.tensors else EMBEDDING).shape
            for name in base.tensors
        },
        common_rows=_common_rows(base, source),
        notes=tuple(notes),
    )


def _saved(source: Checkpoint, base: Checkpoint | None, scale: float) -> Delta:
    record: dict[str, Any] = source.config["delta"]
    if base is not None and _hash_of(base) != record["base_hash"]:
        raise GraftError(
            f"{source.name} is a delta from {record['base']} ({record['base_hash'][:12]}…), not "
            f"from {base.name} ({_hash_of(base)[:12]}…); give that base, or make the delta anew: "
            f"polycycle delta {base.name} {record['post']} --out DELTA"
        )
    return Delta(
        name=record["post"],
        scale=scale,
        source=source,
        base=None,
        base_name=record["base"],
        base_hash=record["base_hash"],
        post_hash=record["post_hash"],
        post_config=record["post_config"],
        shapes={name: info.shape for name, info in source.tensors.items()},
        common_rows=record["common_rows"],
        stored_as=record["stored_as"],
        notes=tuple(record["notes"]),
    )


@cache
def _hash_at(folder: Path, stamp: tuple[tuple[str, int, int], ...], name: str) -> str:
    return content_hash(open_checkpoint(folder))


def _hash_of(checkpoint: Checkpoint) -> str:
    """Content hash; a base that several deltas share is read once."""
    files = sorted({info.file for info in checkpoint.tensors.values()})
    stats = [(file.name, file.stat()) for file in files]
    stamp = tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
    return _hash_at(checkpoint.folder, stamp, checkpoint.name)


def _common_rows(base: Checkpoint, post: Checkpoint) -> dict[str, int]:
    return {
        name: min(base.info(name).shape[0], post.info(stored).shape[0])
        for name in VOCABULARY
        if name in base.tensors
        for stored in [name if name in post.tensors else EMBEDDING]
    }


def wider(*dtypes: str) -> torch.dtype:
    """One precision wider than the widest: float32 for half precisions, else float64."""
    is_half = all(DTYPES[dtype].itemsize <= 2 for dtype in dtypes)
    return torch.float32 if is_half else torch.float64


def row_blocks(
    shape: tuple[int, ...], *, first: int = 0, last: int | None = None
) -> Iterator[tuple[int, int]]:
    """First and past-last row of blocks that are small in any precision.

    Args:
        shape: of the tensor.
        first: row to begin with.
        last: one past the last row; by default the tensor's end.
    """
    end = shape[0] if last is None else last
    step = max(1, _BLOCK_ELEMENTS // max(1, prod(shape[1:])))
    for start in range(first, end, step):
        yield start, min(start + step, end)


def dtype_name(dtype: torch.dtype) -> str:
    """`bfloat16`, as records and messages write it."""
    return str(dtype).removeprefix("torch.")
