"""Taking grafted deltas away again: frozen tensors from the base, new experts by subtraction."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from polycycle.checkpoint import (
    Checkpoint,
    TensorJob,
    content_hash,
    copy_job,
    open_checkpoint,
    refuse_own_folder,
    write_tensors,
)
from polycycle.errors import GraftError
from polycycle.families import family_of_upcycled
from polycycle.files import folder_when_whole, write_json
from polycycle.surgery.delta_sums import (
    add_delta,
    dense_names,
    new_experts,
    packed_deltas,
    wide_of,
)
from polycycle.surgery.deltas import Delta
from polycycle.surgery.graft_config import with_dense_settings
from polycycle.surgery.grafting import KEPT


def ungraft(
    model: str | Path,
    base: Checkpoint,
    deltas: Sequence[Delta],
    out: Path,
    *,
    kept: Path | None = None,
    progress: Callable[[TensorJob], None] | None = None,
) -> dict[str, Any]:
    """Write the model as it was before all of its grafts to the folder `out`.

    Everything that came from the base is the base's again, bit for bit. New experts come from the
    folder that `keep_ungrafted` left, or by subtraction, which is within one rounding for each
    graft. What was trained after the graft is not undone.

    Args:
        model: a grafted model: folder or hub id.
        base: the dense model that it was made from.
        deltas: every delta that was grafted; their scales are taken from the record.
        out: appears when it is complete; replaced if it exists.
        kept: a folder `ungrafted`, by default the one inside `model`.
        progress: called after each tensor.

    Returns:
        What goes into the config as `ungrafted`: whether experts are exact, and the largest
        deviation that was measured when they were grafted.

    Raises:
        GraftError: the model was not grafted, the base is another one, or a delta is missing.
    """
    source = open_checkpoint(model)
    family = family_of_upcycled(source.config, where=source.name)
    records: list[dict[str, Any]] = source.config.get("grafts") or []
    if not records:
        raise GraftError(f"{source.name} has not been grafted, so there is nothing to take away")
    _check_base(source, base, records)
    refuse_own_folder(out, source, base, *(delta.source for delta in deltas))
    scaled = _scaled(source, records, deltas)
    exact = _kept_experts(source, kept, records)
    added = set(new_experts(source))
    jobs = []
    for name in sorted(source.tensors):
        if name in base.tensors:
            jobs.append(copy_job(base, name))
        elif name in added and exact is not None:
            jobs.append(copy_job(exact, name))
        elif name in added and scaled:
            jobs.append(_subtract_job(source, scaled, name, dense_names(family, name)))
        else:
            jobs.append(copy_job(source, name))
    summary = {
        "from": source.name,
        "is_exact": exact is not None or not scaled,
        "largest_deviation": 0.0
        if exact is not None
        else sum(record["ungrafting_deviates"]["largest"] for record in records),
    }
    config = with_dense_settings(source.config, base.config)
    config |= records[0]["before"]
    config |= {"grafts": None, "ungrafted": summary}
    with folder_when_whole(out) as folder:
        write_tensors(folder, jobs, progress=progress)
        write_json(folder / "config.json", config)
        base.copy_side_files(folder)
    return summary


def _check_base(source: Checkpoint, base: Checkpoint, records: list[dict[str, Any]]) -> None:
    if any(record["is_forced"] for record in records):
        raise GraftError(
            f"{source.name} was grafted by --force with a delta from another base, so its own base "
            "is not in the delta; go back to the model before that graft"
        )
    bases = {record["base_hash"]: record["base"] for record in records}
    if len(bases) > 1:
        raise GraftError(
            f"{source.name} was grafted with deltas of several bases ({', '.join(bases.values())}),"
            " which cannot be undone together; go back to the model before the first graft"
        )
    found, wanted = content_hash(base), records[0]["base_hash"]
    if found != wanted:
        raise GraftError(
            f"{base.name} (content hash {found[:12]}…) is not the base that {source.name} was "
            f"grafted from, {records[0]['base']} ({wanted[:12]}…); give that one"
        )


def _scaled(
    source: Checkpoint, records: list[dict[str, Any]], deltas: Sequence[Delta]
) -> list[tuple[float, Delta]]:
    """What was added to the new experts in all, and checks that every delta is here."""
    given = {(delta.post_hash, delta.stored_as): delta for delta in deltas}
    scales: dict[tuple[str, str], float] = {}
    for record in records:
        for added in record["deltas"]:
            key = (added["post_hash"], added["stored_as"])
            if key not in given:
                how = "" if added["stored_as"] == "exact" else f" stored as {added['stored_as']}"
                raise GraftError(
                    f"{source.name} was grafted with {added['post']}{how} "
                    f"({added['post_hash'][:12]}…), which is not among --post; give that one too"
                )
            if record["on"] in ("all", "experts"):
                scales[key] = scales.get(key, 0.0) + added["scale"]
    return [(scale, given[key]) for key, scale in scales.items()]


def _kept_experts(
    source: Checkpoint, kept: Path | None, records: list[dict[str, Any]]
) -> Checkpoint | None:
    """The experts as they were; None where nobody kept them."""
    folder = kept or source.folder / KEPT
    if not folder.exists():
        if kept is not None:
            raise GraftError(f"{kept}: no such folder; graft with --keep-ungrafted to have one")
        return None
    names = new_experts(source)
    if content_hash(source, names) != records[-1]["experts_hash"]:
        raise GraftError(
            f"the experts of {source.name} were trained after the graft, so those in {folder} are "
            "older than them; move that folder away to subtract the delta instead"
        )
    found = open_checkpoint(folder)
    for name in names:
        if found.info(name).shape != source.info(name).shape:
            raise GraftError(f"{folder}: {name} has another shape than in {source.name}")
    return found


def _subtract_job(
    source: Checkpoint, scaled: list[tuple[float, Delta]], name: str, dense: list[str]
) -> TensorJob:
    info = source.info(name)
    dtype = wide_of(source, [delta for _, delta in scaled], dense[0])

    def make() -> Tensor:
        packed = source.read(name)
        for offset, start, stop, delta in packed_deltas(scaled, dense, dtype):
            for expert in packed:
                add_delta(expert[offset + start : offset + stop], -delta, where=name)
        return packed

    return TensorJob(name=name, dtype=info.dtype, shape=info.shape, make=make)
