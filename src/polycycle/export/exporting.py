"""Upcycled model in, stock checkpoint out, one tensor at a time, and proved."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from polycycle.checkpoint import TensorJob, open_checkpoint, refuse_own_folder, write_tensors
from polycycle.engines import GGUF_FILE
from polycycle.errors import ExportError
from polycycle.export.choosing import AUTO, choose_target
from polycycle.export.engines import right_engines
from polycycle.export.records import EXPORT_FILE
from polycycle.export.source import Source, open_source
from polycycle.export.target import GGUF, TargetPlan
from polycycle.export.verifying import verify
from polycycle.files import folder_when_whole, replace_folder, write_json

if TYPE_CHECKING:
    from polycycle.export.llama_cpp import GgufPlan

ExportPlan = Union[TargetPlan, "GgufPlan"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What came out of an export.

    Attributes:
        plan: what was written.
        verification: as `verify` returns it; None where it was not asked for.
    """

    plan: ExportPlan
    verification: dict[str, Any] | None


def plan_export(
    model: str | Path,
    *,
    target: str = AUTO,
    engine: str = "transformers",
    without_exact_retention: bool = False,
    revision: str | None = None,
) -> ExportPlan:
    """The tensors and the config of an export; of the weights only classifiers are read.

    Args:
        model: an upcycled model, any folder that loads, or a hub id.
        target: a stock architecture, `auto`, or `gguf`, the file of llama.cpp, which `auto` takes
            for that engine where there is one.
        engine: what will serve the result.
        without_exact_retention: leave a retention gate out.
        revision: of a hub id.

    Raises:
        ExportError: no target is exact; says why, and what would be.
    """
    checkpoint = open_checkpoint(model, revision=revision)
    source = open_source(checkpoint, without_exact_retention=without_exact_retention)
    if target == GGUF:
        plan: GgufPlan = _gguf_module().plan_gguf(source)
        return plan
    if target == AUTO and engine == "llama.cpp":
        return _plan_for_llama_cpp(source)
    return choose_target(source, target=target, engine=engine)


def _plan_for_llama_cpp(source: Source) -> ExportPlan:
    """Its own file; where there can be none, a checkpoint that its converter script reads."""
    gguf = _gguf_module()
    try:
        plan: GgufPlan = gguf.plan_gguf(source)
        return plan
    except ExportError as error:
        reason = error
    try:
        return choose_target(source, engine="llama.cpp")
    except ExportError as error:
        raise ExportError(f"{error}\n  {GGUF}: {reason}") from reason


def _gguf_module() -> Any:
    try:
        from polycycle.export import llama_cpp
    except ModuleNotFoundError as error:
        raise ExportError(
            f"--target gguf needs {error.name}: pip install 'polycycle[gguf]'"
        ) from error
    return llama_cpp


def fill_export(
    plan: ExportPlan,
    folder: Path,
    *,
    engine: str = "transformers",
    progress: Callable[[TensorJob], None] | None = None,
) -> None:
    """Write an export into a folder that is there and empty; it is not proved yet.

    Args:
        plan: from `plan_export`.
        folder: where to.
        engine: what was asked for, for the record.
        progress: called after each tensor.
    """
    write_json(folder / EXPORT_FILE, _record(plan, engine))
    if not isinstance(plan, TargetPlan):
        _gguf_module().write_gguf(plan, folder / GGUF_FILE, progress=progress)
        return
    write_tensors(folder, plan.jobs, progress=progress)
    write_json(folder / "config.json", plan.config)
    plan.source.checkpoint.copy_side_files(folder)


def execute_export(
    plan: ExportPlan,
    out: Path,
    *,
    engine: str = "transformers",
    texts: Mapping[str, Sequence[str]] | None = None,
    with_verification: bool = True,
    progress: Callable[[TensorJob], None] | None = None,
) -> Exported:
    """Write an export, prove it, and only then give it its name.

    Args:
        plan: from `plan_export`.
        out: the folder; appears when it is complete and proved, and is replaced then if it exists.
            Before, the export is `OUT.unverified`; one that fails is kept as `OUT.failed`.
        engine: what was asked for, for the record.
        texts: real text by language, for the proof; see `verify`.
        with_verification: prove it.
        progress: called after each tensor.

    Raises:
        ExportError: it does not compute what the model computes.
    """
    refuse_own_folder(out, plan.source.checkpoint)
    unverified = out.parent / f"{out.name}.unverified"
    with folder_when_whole(unverified) as folder:
        fill_export(plan, folder, engine=engine, progress=progress)
    if not with_verification:
        replace_folder(unverified, out)
        return Exported(plan=plan, verification=None)
    result = verify(unverified, plan.source.checkpoint.folder, texts=texts)
    if not result["passed"]:
        failed = out.parent / f"{out.name}.failed"
        replace_folder(unverified, failed)
        raise ExportError(
            f"the export to {plan.target_name} does not compute what {plan.source.name} "
            f"computes:\n  " + "\n  ".join(result["failures"]) + f"\nIt is kept in {failed} to "
            f"look at; {out} was not touched. Please report this: it should have been refused"
        )
    replace_folder(unverified, out)
    return Exported(plan=plan, verification=result)


def export(model: str | Path, out: Path, **settings: Any) -> Exported:
    """Write `model` as a stock checkpoint to the folder `out`, and prove it.

    Args:
        model: an upcycled model: folder or hub id.
        out: the folder to write.
        settings: as `plan_export` and `execute_export` take them.
    """
    choice = ("target", "engine", "without_exact_retention", "revision")
    plan = plan_export(model, **{k: v for k, v in settings.items() if k in choice})
    return execute_export(
        plan, out, **{k: v for k, v in settings.items() if k not in choice or k == "engine"}
    )


def _record(plan: ExportPlan, engine: str) -> dict[str, Any]:
    """Where the export comes from and what it is right for."""
    source = plan.source
    return {
        "exported_from": source.name,
        "base_model": source.config.base_model,
        "base_hash": source.config.base_hash,
        "language_groups": source.config.language_groups,
        "target": plan.target_name,
        "asked_for_engine": engine if isinstance(plan, TargetPlan) else "llama.cpp",
        "right_for": right_engines(plan)
        if isinstance(plan, TargetPlan)
        else {"llama.cpp": "run by verify"},
        "num_experts_per_layer": source.counts,
        "num_slots": plan.slots.num_slots,
        # Per layer and slot, whose expert stands there: [group or null, place in it].
        "slots": [
            [[slot.expert.group, slot.expert.place] for slot in layer]
            for layer in plan.slots.layers
        ],
        "layers_with_classifier": [layer.index for layer in source.layers if layer.has_classifier],
        "without_exact_retention": source.without_exact_retention,
    }
