"""Post-training grafted into an upcycled model: deltas expanded to all experts and added."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from polycycle.checkpoint import (
    Checkpoint,
    TensorInfo,
    TensorJob,
    combine_hashes,
    copy_job,
    open_checkpoint,
    refuse_own_folder,
    write_tensors,
)
from polycycle.errors import GraftError
from polycycle.families import family_of_upcycled
from polycycle.files import folder_when_whole, write_json
from polycycle.surgery.delta_sums import new_experts, wide_of
from polycycle.surgery.deltas import Delta, dtype_name
from polycycle.surgery.graft_checks import (
    GraftTarget,
    check_base,
    check_names,
    known_bases,
    why_no_reference,
)
from polycycle.surgery.graft_config import copy_side_files, grafted_config
from polycycle.surgery.graft_jobs import Deviation, graft_job

KEPT = "ungrafted"
"""Folder inside a grafted model that holds its new experts as they were."""
_BASE_KEYS = ("base_model", "base_revision", "base_hash")


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
    check_names(model, deltas)
    notes = [*check_base(model, deltas, force=force), *(n for d in deltas for n in d.notes)]
    no_reference = why_no_reference(model, deltas, on)
    config, differing = grafted_config(model, deltas[0], on=on, is_whole=no_reference is None)
    record = _record(model, deltas, on, warnings=[*dict.fromkeys(notes), *differing])
    config["grafts"] = [*(model.config.get("grafts") or ()), record]
    deviation = Deviation()
    takes_post = no_reference is None and deltas[0].base is not None
    jobs = [
        graft_job(model, family, deltas, name, on=on, takes_post=takes_post, seen=deviation)
        for name in sorted(model.tensors)
    ]
    return GraftPlan(
        model=model,
        deltas=tuple(deltas),
        config=config,
        jobs=tuple(jobs),
        kept=_kept(model, on) if keep_ungrafted else (),
        no_reference=no_reference,
        deviation=deviation,
    )


def _record(
    model: Checkpoint, deltas: Sequence[Delta], on: GraftTarget, *, warnings: list[str]
) -> dict[str, Any]:
    """What was added to what, as far as it is known before anything is added."""
    known = known_bases(model)
    return {
        "base": deltas[0].base_name,
        "base_hash": deltas[0].base_hash,
        "is_forced": any(delta.base_hash not in known for delta in deltas),
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
        "computed_in": sorted({dtype_name(wide_of(model, deltas, n)) for n in deltas[0].shapes}),
        "warnings": warnings,
    }


def _kept(model: Checkpoint, on: GraftTarget) -> tuple[str, ...]:
    """Names of the new experts to keep as they were."""
    if on not in ("all", "experts"):
        raise GraftError(f"on={on} grafts no new experts, so there is nothing to keep ungrafted")
    kept = tuple(new_experts(model))
    if kept and model.config.get("grafts"):
        raise GraftError(
            f"{model.name} is grafted already, so its experts are not the ungrafted ones; graft "
            "all deltas at once (several --post) to keep them, or leave --keep-ungrafted out"
        )
    return kept


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
    write_json(folder / "config.json", _completed_config(plan, hashes))
    if plan.kept:
        (folder / KEPT).mkdir()
        write_tensors(folder / KEPT, [copy_job(plan.model, name) for name in plan.kept])
        write_json(folder / KEPT / "config.json", {"model_type": "polycycle_ungrafted"})
    copy_side_files(plan.model, plan.deltas[0].source, folder)


def _completed_config(plan: GraftPlan, hashes: Mapping[str, str]) -> dict[str, Any]:
    """The plan's config with what only writing shows: the base's hash, what deviates."""
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
    experts = {name: hashes[name] for name in new_experts(plan.model)}
    record["experts_hash"] = combine_hashes(experts, plan.model.tensors)
    config["grafts"] = [*plan.config["grafts"][:-1], record]
    return config


def _infos(jobs: Sequence[TensorJob]) -> dict[str, TensorInfo]:
    return {job.name: TensorInfo(Path(), job.dtype, job.shape, job.num_bytes) for job in jobs}
