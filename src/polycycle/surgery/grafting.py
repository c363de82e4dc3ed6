"""Post-training grafted into an upcycled model: deltas expanded to all experts and added.

Letters: E new experts of a layer, D hidden size, F intermediate size.
"""

import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from polycycle.checkpoint import (
    DTYPES,
    Checkpoint,
    TensorInfo,
    TensorJob,
    combine_hashes,
    copy_job,
    open_checkpoint,
    write_tensors,
)
from polycycle.errors import GraftError
from polycycle.families import family_of_upcycled
from polycycle.files import folder_when_whole, write_json
from polycycle.modeling import UpcycledConfigMixin
from polycycle.surgery.deltas import EMBEDDING, VOCABULARY, Delta, row_blocks, wider

if TYPE_CHECKING:
    from polycycle.families.family import Family

GraftTarget = Literal["all", "shared", "experts", "frozen-expert"]
KEPT = "ungrafted"
"""Folder inside a grafted model that holds its new experts as they were."""
_FEED_FORWARD = re.compile(r"^model\.layers\.\d+\.mlp\.")
_BASE_KEYS = ("base_model", "base_revision", "base_hash")
_NEW_EXPERTS = re.compile(r"^(model\.layers\.\d+\.mlp\.)experts\.g\d+\.(gate_up_proj|down_proj)$")
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_OURS = {one.name for one in fields(UpcycledConfigMixin)} | {
    "architectures",
    "dtype",
    "model_type",
    "torch_dtype",
    "transformers_version",
}
_NOT_OF_THE_FUNCTION = {*_TOKEN_IDS, "auto_map", "vocab_size", "_name_or_path", "use_cache"}


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


@dataclass(frozen=True, kw_only=True, slots=True)
class GraftPlan:
    """What grafting will write.

    Attributes:
        model: the upcycled model.
        deltas: what is added.
        config: the new config.json, whose last graft is completed when all is written.
        jobs: every tensor of the result.
        kept: names of the tensors that go into the folder `ungrafted` as they were.
        no_reference: why the result has no dense model as its base; None if POST is to be it.
        deviation: filled in while the jobs are carried out.
    """

    model: Checkpoint
    deltas: tuple[Delta, ...]
    config: dict[str, Any]
    jobs: tuple[TensorJob, ...]
    kept: tuple[str, ...]
    no_reference: str | None
    deviation: Deviation = field(default_factory=Deviation)

    @property
    def num_bytes(self) -> int:
        """Size of the weights on disk."""
        return sum(job.num_bytes for job in self.jobs)

    @property
    def warnings(self) -> list[str]:
        """What a person should know; also in the record."""
        return list(self.config["grafts"][-1]["warnings"])


def plan_graft(
    model: Checkpoint,
    deltas: Sequence[Delta],
    *,
    on: GraftTarget = "all",
    keep_ungrafted: bool = False,
    force: bool = False,
) -> GraftPlan:
    """The tensors and the config of the grafted model; nothing is read but headers.

    Shared tensors get Δ, every expert of a layer gets the layer's Δ of the feed-forward block,
    routers, classifiers and the retention gate nothing. Sums are computed one precision wider than
    the weights and rounded once.

    Args:
        model: an upcycled model.
        deltas: what to add, each with its own scale. Tokenizer, chat template, end-of-text and the
            number of token rows come from the first.
        on: `all`; `shared` (embeddings, attention, norms, head); `experts` (expert 0, the blocks of
            dense layers, and the new ones); `frozen-expert` (the same without the new ones).
        keep_ungrafted: keep the new experts as they were in the folder `ungrafted` of the result.
        force: go on with a base that is not the model's; the record says so.

    Raises:
        GraftError: the deltas do not fit the model.
        UpcycleError: the model is not upcycled.

    Source: DeltaMoE, arXiv:2605.18083; Δ of weights: PARAMΔ, arXiv:2504.21023.
    """
    family = family_of_upcycled(model.config, where=model.name)
    if on not in get_args(GraftTarget):
        raise GraftError(f"on={on!r}: choose one of {', '.join(get_args(GraftTarget))}")
    if not deltas:
        raise GraftError("nothing to graft; name a post-trained model: --post POST")
    _check_names(model, deltas)
    warnings = [*_check_base(model, deltas, force=force), *(n for d in deltas for n in d.notes)]
    no_reference = _why_no_reference(model, deltas, on)
    is_whole = no_reference is None
    config, differing = grafted_config(model, deltas[0], on=on, is_whole=is_whole)
    deviation = Deviation()
    dense = set(deltas[0].shapes)
    takes_post = is_whole and deltas[0].base is not None
    jobs = []
    for name in sorted(model.tensors):
        if name in dense:
            if not _is_target(name, on):
                jobs.append(copy_job(model, name))
            elif takes_post and _has_same_dtype(model, deltas[0].source, name):
                jobs.append(_post_job(model, deltas[0], name))
            else:
                jobs.append(_dense_job(model, deltas, name))
        elif _NEW_EXPERTS.match(name) and on in ("all", "experts"):
            jobs.append(_experts_job(model, family, deltas, name, deviation))
        else:
            jobs.append(copy_job(model, name))
    added = [name for name in model.tensors if _NEW_EXPERTS.match(name)]
    record = {
        "base": deltas[0].base_name,
        "base_hash": deltas[0].base_hash,
        "is_forced": any(delta.base_hash not in _known_bases(model) for delta in deltas),
        "before": {key: model.config.get(key) for key in _BASE_KEYS},
        "deltas": [
            {
                "post": delta.name,
                "post_hash": delta.post_hash,
                "scale": delta.scale,
                "stored_as": delta.stored_as,
            }
            for delta in deltas
        ],
        "on": on,
        "computed_in": sorted({_dtype_name(wide_of(model, deltas, name)) for name in dense}),
        "warnings": [*dict.fromkeys(warnings), *differing],
    }
    config["grafts"] = [*(model.config.get("grafts") or ()), record]
    if keep_ungrafted and on not in ("all", "experts"):
        raise GraftError(f"on={on} grafts no new experts, so there is nothing to keep ungrafted")
    kept = tuple(sorted(added)) if keep_ungrafted else ()
    if kept and model.config.get("grafts"):
        raise GraftError(
            f"{model.name} is grafted already, so its experts are not the ungrafted ones; graft "
            "all deltas at once (several --post) to keep them, or leave --keep-ungrafted out"
        )
    return GraftPlan(
        model=model,
        deltas=tuple(deltas),
        config=config,
        jobs=tuple(jobs),
        kept=kept,
        no_reference=no_reference,
        deviation=deviation,
    )


def graft(
    model: str | Path,
    deltas: Sequence[Delta],
    out: Path,
    *,
    progress: Callable[[TensorJob], None] | None = None,
    **settings: Any,
) -> GraftPlan:
    """Write the grafted model to the folder `out`, which appears when it is complete.

    Args:
        model: an upcycled model: folder or hub id.
        deltas: as `open_delta` gives them.
        out: replaced if it exists.
        progress: called after each tensor.
        settings: as `plan_graft` takes them.
    """
    plan = plan_graft(open_checkpoint(model), deltas, **settings)
    execute_graft(plan, out, progress=progress)
    return plan


def execute_graft(
    plan: GraftPlan, out: Path, *, progress: Callable[[TensorJob], None] | None = None
) -> None:
    """Carry out a plan: weights, config and side files appear together in `out`."""
    refuse_own_folder(out, plan.model, *(delta.source for delta in plan.deltas))
    with folder_when_whole(out) as folder:
        fill_grafted(plan, folder, progress=progress)


def fill_grafted(
    plan: GraftPlan, folder: Path, *, progress: Callable[[TensorJob], None] | None = None
) -> None:
    """Carry out a plan in a folder that is already there."""
    hashes = write_tensors(folder, plan.jobs, progress=progress)
    config, record = dict(plan.config), dict(plan.config["grafts"][-1])
    no_reference = plan.no_reference
    if no_reference is None:
        # Whatever was computed or copied: the dense tensors are POST's when their bytes are.
        infos = _infos(plan.jobs)
        dense = {name: hashes[name] for name in plan.deltas[0].shapes}
        if combine_hashes(dense, infos) != plan.deltas[0].post_hash:
            no_reference = (
                "its dense tensors are not POST's bit for bit (another dtype, a delta stored in "
                "fewer bits, or a tied head that one side stores)"
            )
    if no_reference is None:
        config["base_model"] = plan.deltas[0].name
        config["base_revision"] = plan.deltas[0].source.revision
        config["base_hash"] = plan.deltas[0].post_hash
    else:
        config["base_hash"] = None
    deviation = plan.deviation
    record["no_reference"] = no_reference
    record["ungrafting_deviates"] = {
        "largest": deviation.largest,
        "share_of_elements": deviation.changed / max(1, deviation.elements),
    }
    experts = {name: hashes[name] for name in plan.model.tensors if _NEW_EXPERTS.match(name)}
    record["experts_hash"] = combine_hashes(experts, plan.model.tensors)
    config["grafts"] = [*plan.config["grafts"][:-1], record]
    write_json(folder / "config.json", config)
    if plan.kept:
        (folder / KEPT).mkdir()
        write_tensors(folder / KEPT, [copy_job(plan.model, name) for name in plan.kept])
        write_json(folder / KEPT / "config.json", {"model_type": "polycycle_ungrafted"})
    copy_side_files(plan.model, plan.deltas[0].source, folder)


def refuse_own_folder(out: Path, *inputs: Checkpoint) -> None:
    """Refuse to write over what is being read.

    Raises:
        GraftError: naming the folder.
    """
    if any(one.folder.resolve() == out.resolve() for one in inputs):
        raise GraftError(f"{out} is one of the models read; write to another folder")


def new_experts(model: Checkpoint) -> list[str]:
    """Names of the packed tensors that hold new experts."""
    return sorted(name for name in model.tensors if _NEW_EXPERTS.match(name))


def with_dense_settings(moe: Mapping[str, Any], dense: Mapping[str, Any]) -> dict[str, Any]:
    """The config of an upcycled model with everything that a dense model's config says."""
    inherited = {key: value for key, value in dense.items() if key not in {*_OURS, "auto_map"}}
    return {**inherited, **{key: value for key, value in moe.items() if key in _OURS}}


def wide_of(model: Checkpoint, deltas: Sequence[Delta], name: str) -> torch.dtype:
    """What the sums of one dense tensor are computed in."""
    return wider(
        model.info(name).dtype, *(one for delta in deltas for one in delta.weight_dtypes(name))
    )


def _check_names(model: Checkpoint, deltas: Sequence[Delta]) -> None:
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
        extra = [
            name
            for name in model.tensors
            if name not in delta.shapes
            and not re.search(r"\.mlp\.(experts|router|retention)", name)
        ]
        if extra:
            raise GraftError(
                f"{delta.name} has no delta for {extra[0]!r} of {model.name}; is it the model's "
                "own base that the delta was taken from?"
            )


def _check_base(model: Checkpoint, deltas: Sequence[Delta], *, force: bool) -> Iterator[str]:
    """Every delta must start from the dense model that this one was made from."""
    known = _known_bases(model)
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


def _known_bases(model: Checkpoint) -> set[str]:
    """Content hashes of the dense models that a delta may start from."""
    grafts = model.config.get("grafts") or ()
    known = {record["base_hash"] for record in grafts if not record["is_forced"]}
    return {*known, model.config.get("base_hash")} - {None}


def _why_no_reference(model: Checkpoint, deltas: Sequence[Delta], on: GraftTarget) -> str | None:
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


def grafted_config(
    model: Checkpoint, delta: Delta, *, on: GraftTarget, is_whole: bool
) -> tuple[dict[str, Any], list[str]]:
    """The config.json, and a warning for every setting in which POST differs but is not followed.

    A whole graft computes what POST computes, so it has all of POST's settings (its rotary base,
    its window); a partial one keeps the base's, and takes POST's special tokens.
    """
    post = delta.post_config
    if is_whole:
        return with_dense_settings(model.config, post), []
    config = dict(model.config)
    config |= {key: post[key] for key in _TOKEN_IDS if key in post}
    if on in ("all", "shared"):
        config["vocab_size"] = delta.shapes[EMBEDDING][0]
    elif delta.shapes[EMBEDDING][0] > model.info(EMBEDDING).shape[0]:
        raise GraftError(
            f"on={on}: {delta.name} has {delta.shapes[EMBEDDING][0]} token rows and {model.name} "
            f"has {model.info(EMBEDDING).shape[0]}; without the embeddings its tokenizer would "
            "name rows that are not there. Graft on all or shared"
        )
    skipped = _OURS | _NOT_OF_THE_FUNCTION
    return config, [
        f"{key} is {config[key]} in the base and {post[key]} in {delta.name}; the base's is kept"
        for key in sorted(set(config) & set(post) - skipped)
        if config[key] != post[key]
    ]


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
        for start, stop in row_blocks(shape, rows=common):
            out[start:stop] = model.read_rows(name, start, stop)
            add_delta(out[start:stop], sum_deltas(scaled, name, start, stop, dtype), where=name)
        for start, stop in row_blocks(shape):
            if stop > common:
                begin = max(start, common)
                out[begin:stop] = deltas[0].read_new_rows(name, begin, stop, dtype).to(out.dtype)
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
            f"{where}: the sum is not finite in {_dtype_name(rows.dtype)}; use a smaller scale, or "
            "a model in bfloat16 or float32"
        )


def _watch(before: Tensor, after: Tensor, delta: Tensor, seen: Deviation) -> None:
    """Count what taking the delta away again would not give back."""
    back = after.to(delta.dtype).sub_(delta).to(before.dtype)
    difference = back.to(delta.dtype).sub_(before).abs_()
    seen.largest = max(seen.largest, difference.max().item())
    seen.changed += int((difference > 0).sum())
    seen.elements += difference.numel()


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _infos(jobs: Sequence[TensorJob]) -> dict[str, TensorInfo]:
    return {job.name: TensorInfo(Path(), job.dtype, job.shape, job.num_bytes) for job in jobs}


def copy_side_files(model: Checkpoint, post: Checkpoint, folder: Path) -> None:
    """Tokenizer, chat template and generation config of the sibling; licences of both."""
    for file in model.side_files():
        is_license = file.name.startswith(("LICENSE", "NOTICE"))
        if is_license or (not post.has_tokenizer and file.name != "generation_config.json"):
            shutil.copyfile(file, folder / file.name)
    for file in post.side_files():
        shutil.copyfile(file, folder / file.name)
