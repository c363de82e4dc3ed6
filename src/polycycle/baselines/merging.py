"""Post-training merged into a dense model that learned languages, tensor by tensor."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from polycycle.baselines.merge_rules import Dropout, summed, ties, trim_threshold
from polycycle.checkpoint import DTYPES, Checkpoint, TensorJob, copy_job, write_tensors
from polycycle.errors import GraftError
from polycycle.files import write_json
from polycycle.surgery import (
    VOCABULARY,
    Delta,
    add_delta,
    copy_side_files,
    grafted_config,
    open_delta,
    row_blocks,
    sum_deltas,
    wider,
)

MergeRule = Literal["add", "task_arithmetic", "ties", "dare"]
RECORD = "merge.json"
"""File beside the weights that says what was merged."""
Combine = Callable[[Sequence[Tensor]], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class MergePlan:
    """What merging will write.

    Attributes:
        trained: the dense model that learned languages.
        vectors: what is combined, each with its scale.
        sibling: the first post-trained model's delta.
        config: the new config.json.
        jobs: every tensor of the result.
        record: what was merged, and how.
    """

    trained: Checkpoint
    vectors: tuple[Delta, ...]
    sibling: Delta
    config: dict[str, Any]
    jobs: tuple[TensorJob, ...]
    record: dict[str, Any]

    @property
    def num_bytes(self) -> int:
        """Size of the weights on disk."""
        return sum(job.num_bytes for job in self.jobs)

    @property
    def warnings(self) -> list[str]:
        """What a person should know; also in the record."""
        return list(self.record["warnings"])


def plan_merge(
    trained: Checkpoint,
    base: Checkpoint,
    deltas: Sequence[Delta],
    *,
    rule: MergeRule = "add",
    language_scale: float = 1.0,
    density: float = 1.0,
    seed: int = 0,
    base_names: Mapping[str, str] | None = None,
) -> MergePlan:
    """The tensors and the config of the merged model; nothing is read but headers and hashes.

    `add` is trained + Σ λ Δ, the chat vector. The others start from the base, and combine what
    training changed (trained − base, times `language_scale`) with all λ Δ. Sums are computed one
    precision wider than the weights and rounded once. Vocabulary rows that only the first sibling
    has are taken from it as they are.

    Args:
        trained: a dense model that was trained from the base.
        base: of it and of the siblings.
        deltas: of post-trained siblings, each with its own scale. Tokenizer, chat template and
            end-of-text come from the first.
        rule: how to combine.
        language_scale: λ of what training changed; `add` takes it as it is.
        density: share of each tensor's elements that `ties` and `dare` keep.
        seed: of what `dare` drops.
        base_names: of each trained tensor that gets a delta, the base's tensor that it comes from,
            where they are not called alike (`llama_pro_names`); for `add` alone.

    Raises:
        GraftError: the models do not fit each other, or a density is out of range.

    Source: chat vector, arXiv:2310.04799, §3; task arithmetic, arXiv:2212.04089; TIES,
    arXiv:2306.01708; DARE, arXiv:2311.03099. TIES' one λ is all scales alike.
    """
    if rule not in get_args(MergeRule):
        raise GraftError(f"rule={rule!r}: choose one of {', '.join(get_args(MergeRule))}")
    if not 0 < density <= 1:
        raise GraftError(f"density={density}: the share that is kept is above 0 and at most 1")
    if not deltas:
        raise GraftError("nothing to merge; name a post-trained model")
    names = {name: name for name in base.tensors} if base_names is None else base_names
    _check_names(trained, base, deltas, names)
    vectors = tuple(deltas)
    if rule != "add":
        vectors = (open_delta(trained, base=base, scale=language_scale), *vectors)
    start = trained if rule == "add" else base
    combiner = partial(_combiner, rule, density=density, seed=seed)
    jobs = [
        _job(start, vectors, name, names[name], combiner, sibling=deltas[0])
        if name in names
        else copy_job(trained, name)
        for name in sorted(trained.tensors)
    ]
    merged, differing = grafted_config(base, deltas[0], on="all", is_whole=False)
    changed = {key: value for key, value in merged.items() if base.config.get(key) != value}
    record: dict[str, Any] = {
        "rule": rule,
        "base": base.name,
        "vectors": [{"model": one.name, "scale": one.scale} for one in vectors],
        "warnings": [*dict.fromkeys(note for one in vectors for note in one.notes), *differing],
    }
    if rule in ("ties", "dare"):
        record["density"] = density
    if rule == "dare":
        record["seed"] = seed
    return MergePlan(
        trained=trained,
        vectors=vectors,
        sibling=deltas[0],
        config={**trained.config, **changed},
        jobs=tuple(jobs),
        record=record,
    )


def fill_merged(
    plan: MergePlan, folder: Path, *, progress: Callable[[TensorJob], None] | None = None
) -> None:
    """Carry out a plan in a folder that is already there."""
    write_tensors(folder, plan.jobs, progress=progress)
    write_json(folder / "config.json", plan.config)
    write_json(folder / RECORD, plan.record)
    copy_side_files(plan.trained, plan.sibling.source, folder)


def _check_names(
    trained: Checkpoint, base: Checkpoint, deltas: Sequence[Delta], names: Mapping[str, str]
) -> None:
    for name, origin in names.items():
        if trained.info(name).shape != base.info(origin).shape:
            raise GraftError(
                f"{name} is {list(trained.info(name).shape)} in {trained.name} and "
                f"{list(base.info(origin).shape)} in {base.name}; was it trained from that base?"
            )
    for delta in deltas:
        missing = sorted(set(names.values()) - set(delta.shapes))
        if missing:
            raise GraftError(f"{delta.name} has no delta for {missing[0]!r} of {base.name}")


def _job(
    start: Checkpoint,
    vectors: Sequence[Delta],
    name: str,
    origin: str,
    combiner: Callable[..., Combine],
    *,
    sibling: Delta,
) -> TensorJob:
    info = start.info(name)
    shape = info.shape
    if origin in VOCABULARY:
        # The tokenizer is the first sibling's, and so is the number of rows.
        shape = (sibling.shapes[origin][0], *info.shape[1:])
    dtype = wider(info.dtype, *(one for each in vectors for one in each.weight_dtypes(origin)))

    def make() -> Tensor:
        out = torch.empty(shape, dtype=DTYPES[info.dtype])
        common = min(shape[0], info.shape[0])
        combine = combiner(vectors, origin, (common, *shape[1:]), dtype)
        for begin, end in row_blocks(shape, last=common):
            blocks = [_scaled(each, origin, begin, end, dtype) for each in vectors]
            out[begin:end] = start.read_rows(name, begin, end)
            add_delta(out[begin:end], combine(blocks), where=name)
        for begin, end in row_blocks(shape, first=common):
            out[begin:end] = sibling.read_new_rows(origin, begin, end, dtype).to(out.dtype)
        return out

    return TensorJob(name=name, dtype=info.dtype, shape=shape, make=make)


def _scaled(vector: Delta, name: str, begin: int, end: int, dtype: torch.dtype) -> Tensor:
    return sum_deltas([(vector.scale, vector)], name, begin, end, dtype)


def _combiner(
    rule: MergeRule,
    vectors: Sequence[Delta],
    name: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    *,
    density: float,
    seed: int,
) -> Combine:
    """What makes one block of rows of M, asked for the rows of one tensor in their order."""
    if rule == "ties":
        limits = [_threshold(each, name, shape, dtype, density) for each in vectors]
        return partial(ties, thresholds=limits)
    if rule == "dare":
        drops = [
            Dropout(density, seed=seed, name=name, number=number) for number in range(len(vectors))
        ]
        return lambda blocks: summed(
            [drop(block) for drop, block in zip(drops, blocks, strict=True)]
        )
    return summed


def _threshold(
    vector: Delta, name: str, shape: tuple[int, ...], dtype: torch.dtype, density: float
) -> float:
    """Where a vector is trimmed; holds one tensor of magnitudes."""
    magnitudes = torch.empty(prod(shape), dtype=dtype).numpy()
    width = prod(shape[1:])
    for begin, end in row_blocks(shape):
        rows = _scaled(vector, name, begin, end, dtype).abs_()
        magnitudes[begin * width : end * width] = rows.flatten().numpy()
    return trim_threshold(magnitudes, density)
