"""A second group of languages on top of the first: experts appended, nothing else touched."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from polycycle.allocation import Assignment
from polycycle.checkpoint import (
    Checkpoint,
    TensorJob,
    copy_job,
    open_checkpoint,
    refuse_own_folder,
    write_tensors,
)
from polycycle.errors import UpcycleError
from polycycle.families import family_of_upcycled
from polycycle.files import folder_when_whole, write_json
from polycycle.languages import LanguageGroups, check_tag
from polycycle.modeling import check_experts
from polycycle.surgery.new_tensors import ExpertInit, layer_jobs, redrawn_job
from polycycle.surgery.upcycling import with_assignment


@dataclass(frozen=True, kw_only=True, slots=True)
class GrowthPlan:
    """What growing will write.

    Attributes:
        source: the upcycled model it starts from.
        group: name of the new group, `g2` for the second.
        config: the new config.json.
        jobs: every tensor of the result.
    """

    source: Checkpoint
    group: str
    config: dict[str, Any]
    jobs: tuple[TensorJob, ...]

    @property
    def num_bytes(self) -> int:
        """Size of the weights on disk."""
        return sum(job.num_bytes for job in self.jobs)


def plan_growth(
    source: Checkpoint,
    *,
    new_experts: int | Sequence[int],
    languages: Sequence[str] = (),
    init: ExpertInit = "copy",
    copy_from: int | Sequence[int] = 0,
    redraw_routers: bool = False,
    seed: int = 0,
    assignment: Assignment | None = None,
) -> GrowthPlan:
    """The tensors and the config of the grown model; nothing is read but headers.

    The new group is masked: it takes part in no routing, and the grown model computes bit for bit
    what `source` computes, until the group's training lifts the mask. (Not so with
    `redraw_routers`, which forgets how to route at once.)

    Args:
        source: an upcycled model, usually a finished one.
        new_experts: experts that the new group brings to each layer, one number or one per layer;
            0 leaves a layer as it is.
        languages: tags of the new group, written into the config.
        init: new experts as exact copies, or random.
        copy_from: the expert that is copied, one number or one per layer: 0 for the original, as
            published, or one that an earlier group trained.
        redraw_routers: draw the rows of earlier groups anew, too, and set language classifiers back
            to judging nothing; all rows are then trained with the new group.
        seed: of the new router rows (and random experts).
        assignment: languages of each new expert, as `allocation.assign_experts` gives them; None
            leaves the group's experts open to all.

    Raises:
        UpcycleError: the model is not upcycled, still holds a masked group, or the counts, the
            experts to copy or the languages do not fit.

    Source: LayerMoE, arXiv:2505.22582, lifelong expansion; the released code redraws routers.
    Differs: by default old rows stay as they are, and the new group has rows of its own.
    """
    family = family_of_upcycled(source.config, where=source.name)
    config = source.config
    num_layers = int(config["num_hidden_layers"])
    before: list[list[int]] = config["new_experts_by_group"]
    added = [new_experts] * num_layers if isinstance(new_experts, int) else list(new_experts)
    if config.get("masked_groups"):
        raise UpcycleError(
            f"{source.name} has grown by {config['masked_groups'][0]} already, which was never "
            "trained; train it first, or grow the model it came from"
        )
    if not any(count > 0 for count in added):
        raise UpcycleError("new_experts: at least one layer must get an expert")
    if len(added) != num_layers:
        raise UpcycleError(
            f"new_experts has {len(added)} entries, but the model has {num_layers} layers; "
            "give one number for all layers, or one per layer"
        )
    by_group = [*before, added]
    counts = [1 + sum(group[layer] for group in by_group) for layer in range(num_layers)]
    check_experts(
        counts,
        by_group,
        num_layers=num_layers,
        top_k=int(config["num_experts_per_tok"]),
    )
    if config.get("exact_retention"):
        _keep_the_gate_first(config["num_experts_per_layer"], counts)
    copied = [copy_from] * num_layers if isinstance(copy_from, int) else list(copy_from)
    _check_copied(copied, config["num_experts_per_layer"])
    group = f"g{len(by_group)}"
    redraw = partial(redrawn_job, seed=f"{seed}/{group}")
    keep_or_redraw = redraw if redraw_routers else copy_job
    jobs = [keep_or_redraw(source, name) for name in sorted(source.tensors)]
    for layer, count in enumerate(added):
        if count:
            jobs += layer_jobs(
                source,
                family,
                layer,
                count,
                group=group,
                init=init,
                copy_from=_place(copied[layer], [earlier[layer] for earlier in before]),
                seed=seed,
                is_first=not any(earlier[layer] for earlier in before),
            )
    grown = {
        **config,
        "num_experts_per_layer": counts,
        "new_experts_by_group": by_group,
        "masked_groups": [group],
        "routers_redrawn_for": group if redraw_routers else None,
        "language_groups": _with_group(config.get("language_groups"), languages),
    }
    known: list[list[list[str]]] | None = config.get("expert_languages")
    if assignment is not None or known is not None:
        known = known or [[[]] * count for count in config["num_experts_per_layer"]]
        added_to_all: Assignment = tuple(((),) * count for count in added)
        grown["expert_languages"] = with_assignment(known, assignment or added_to_all)
    return GrowthPlan(source=source, group=group, config=grown, jobs=tuple(jobs))


def grow(
    source: str | Path,
    out: Path,
    *,
    progress: Callable[[TensorJob], None] | None = None,
    **settings: Any,
) -> GrowthPlan:
    """Write the grown model of `source` to the folder `out`, which appears when it is complete.

    Args:
        source: an upcycled model: folder or hub id.
        out: replaced if it exists.
        progress: called after each tensor.
        settings: as `plan_growth` takes them.
    """
    plan = plan_growth(open_checkpoint(source), **settings)
    execute_growth(plan, out, progress=progress)
    return plan


def execute_growth(
    plan: GrowthPlan, out: Path, *, progress: Callable[[TensorJob], None] | None = None
) -> None:
    """Carry out a plan: weights, config and side files appear together in `out`."""
    refuse_own_folder(out, plan.source)
    with folder_when_whole(out) as folder:
        fill_grown(plan, folder, progress=progress)


def fill_grown(
    plan: GrowthPlan, folder: Path, *, progress: Callable[[TensorJob], None] | None = None
) -> None:
    """Carry out a plan in a folder that is already there."""
    write_tensors(folder, plan.jobs, progress=progress)
    write_json(folder / "config.json", plan.config)
    plan.source.copy_side_files(folder)


def _check_copied(copied: list[int], counts: list[int]) -> None:
    if len(copied) != len(counts):
        raise UpcycleError(
            f"copy_from has {len(copied)} entries, but the model has {len(counts)} layers; "
            "give one number for all layers, or one per layer"
        )
    for layer, (expert, count) in enumerate(zip(copied, counts, strict=True)):
        if not 0 <= expert < count:
            raise UpcycleError(
                f"copy_from: layer {layer} has no expert {expert} to copy; choose 0 (the "
                f"original) to {count - 1}"
            )


def _place(expert: int, brought: Sequence[int]) -> tuple[str, int] | None:
    """The group that an expert belongs to and its place there; None for the original."""
    place = expert - 1
    for number, count in enumerate(brought, start=1):
        if 0 <= place < count:
            return f"g{number}", place
        place -= count
    return None


def _keep_the_gate_first(before: list[int], after: list[int]) -> None:
    gate, first = (next(i for i, n in enumerate(counts) if n > 1) for counts in (before, after))
    if first < gate:
        raise UpcycleError(
            f"layer {first}: a new mixture layer before the retention gate of layer {gate} would "
            f"not follow its decision; give layers 0 to {gate - 1} no new experts"
        )


def _with_group(record: dict[str, Any] | None, languages: Sequence[str]) -> dict[str, Any] | None:
    """The recorded language groups and the new one; None where nothing was ever recorded."""
    if record is None and not languages:
        return None
    groups = LanguageGroups.recorded(record)
    for tag in languages:
        if check_tag(tag) in groups.all:
            raise UpcycleError(f"languages: the model knows {tag} already; name only new ones")
    return replace(groups, expanded=(*groups.expanded, tuple(languages))).record()
