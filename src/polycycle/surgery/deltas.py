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
from polycycle.errors import CheckpointError, GraftError
from polycycle.families import family_of_dense

DELTA_TYPE = "polycycle_delta"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
VOCABULARY = (EMBEDDING, HEAD)
"""Tensors with one row per token, whose number may differ between siblings."""
EXACT = "exact"
"""A delta at full width, as against one stored in fewer bits."""
_FLOATS = ("F64", "F32", "F16", "BF16")
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


def check_siblings(base: Checkpoint, post: Checkpoint) -> list[str]:
    """Refuse two models that a delta cannot be taken of; gives notes on what is unusual.

    Raises:
        GraftError: naming the tensor, the setting or the tokens in which they differ.
    """
    for model in (base, post):
        family_of_dense(model.config, where=model.name)
    kinds = [str(model.config.get("model_type")) for model in (base, post)]
    if kinds[0] != kinds[1]:
        raise GraftError(
            f"{base.name} is a {kinds[0]} model and {post.name} a {kinds[1]} model; give a base "
            "and the model that was post-trained from it"
        )
    if _is_tied(base) != _is_tied(post):
        tied, untied = (base, post) if _is_tied(base) else (post, base)
        raise GraftError(
            f"{tied.name} ties its head to the embeddings and {untied.name} does not "
            "(tie_word_embeddings in config.json), so the head has no delta; use siblings that "
            f"agree, or write the tied one out with its head: AutoModelForCausalLM.from_pretrained("
            f"{str(tied.folder)!r}, tie_word_embeddings=False).save_pretrained(NEW)"
        )
    optional = {HEAD} if _is_tied(base) else set()
    for one, other in ((base, post), (post, base)):
        missing = sorted(set(one.tensors) - set(other.tensors) - optional)
        if missing:
            raise GraftError(
                f"{other.name} has no tensor {missing[0]!r}, which {one.name} has "
                f"({len(missing)} such); are these a base and the model post-trained from it?"
            )
    for name in base.tensors:
        _check_tensor(base, post, name)
    return [*_vocabulary_notes(base, post), *check_tokenizers(base, post)]


def _check_tensor(base: Checkpoint, post: Checkpoint, name: str) -> None:
    one, other = base.info(name), post.info(name if name in post.tensors else EMBEDDING)
    for model, info in ((base, one), (post, other)):
        if info.dtype not in _FLOATS:
            raise GraftError(
                f"{model.name}: {name} is {info.dtype}; deltas are taken of {', '.join(_FLOATS)}. "
                "Give the unquantised model"
            )
    skipped = 1 if name in VOCABULARY else 0
    if one.shape[skipped:] != other.shape[skipped:]:
        raise GraftError(
            f"{name} is {list(one.shape)} in {base.name} and {list(other.shape)} in {post.name}; "
            "only the number of token rows may differ. Give siblings of one size"
        )


def _is_tied(model: Checkpoint) -> bool:
    return bool(model.config.get("tie_word_embeddings", HEAD not in model.tensors))


def _common_rows(base: Checkpoint, post: Checkpoint) -> dict[str, int]:
    return {
        name: min(base.info(name).shape[0], post.info(stored).shape[0])
        for name in VOCABULARY
        if name in base.tensors
        for stored in [name if name in post.tensors else EMBEDDING]
    }


def _vocabulary_notes(base: Checkpoint, post: Checkpoint) -> Iterator[str]:
    before, after = base.info(EMBEDDING).shape[0], post.info(EMBEDDING).shape[0]
    if before != after:
        what = "dropped" if after < before else "taken from it as they are, whatever the scale"
        yield (
            f"{post.name} has {after} token rows, {base.name} has {before}: the "
            f"{abs(after - before)} rows that only one of them has are {what}"
        )


def check_tokenizers(base: Checkpoint, post: Checkpoint) -> Iterator[str]:
    """Refuse tokenizers that give one id to different tokens; a note if one is not there.

    Raises:
        GraftError: naming the first ids that differ, or a token without an embedding row.
    """
    without = [model.name for model in (base, post) if not model.has_tokenizer]
    if without:
        yield f"tokenizers were not compared: none beside {' and '.join(without)}"
        return
    one, other = (_tokens_by_id(model) for model in (base, post))
    differing = sorted(i for i in one.keys() & other.keys() if one[i] != other[i])
    if differing:
        shown = "; ".join(f"{i}: {one[i]!r} and {other[i]!r}" for i in differing[:3])
        raise GraftError(
            f"the tokenizers of {base.name} and {post.name} disagree on {len(differing)} ids "
            f"({shown}), so their rows mean different tokens and have no delta. Take a sibling "
            "with the base's tokenizer"
        )
    rows = post.info(EMBEDDING).shape[0]
    if max(other) >= rows:
        raise GraftError(
            f"{post.name}: token {other[max(other)]!r} has id {max(other)}, but there are {rows} "
            "rows of embeddings; is the tokenizer the one that belongs to these weights?"
        )


def _tokens_by_id(model: Checkpoint) -> dict[int, str]:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model.folder)
    except Exception as error:  # the tokenizers library raises nothing more special
        raise CheckpointError(
            f"{model.name}: its tokenizer cannot be read ({error}); fetch the model again"
        ) from error
    return {index: token for token, index in tokenizer.get_vocab().items()}


def wider(*dtypes: str) -> torch.dtype:
    """One precision wider than the widest: float32 for half precisions, else float64."""
    is_half = all(DTYPES[dtype].itemsize <= 2 for dtype in dtypes)
    return torch.float32 if is_half else torch.float64


def row_blocks(shape: tuple[int, ...], *, rows: int | None = None) -> Iterator[tuple[int, int]]:
    """First and past-last row of blocks that are small in any precision.

    Args:
        shape: of the tensor.
        rows: only the first so many.
    """
    last = shape[0] if rows is None else rows
    step = max(1, _BLOCK_ELEMENTS // max(1, prod(shape[1:])))
    for start in range(0, last, step):
        yield start, min(start + step, last)
