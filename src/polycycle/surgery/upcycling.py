"""Dense checkpoint in, mixture-of-experts checkpoint out, one tensor at a time.

Letters: E new experts of a layer, D hidden size, F intermediate size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polycycle.allocation import Assignment
from polycycle.checkpoint import (
    Checkpoint,
    TensorJob,
    combine_hashes,
    copy_job,
    open_checkpoint,
    refuse_own_folder,
    write_tensors,
)
from polycycle.errors import UpcycleError
from polycycle.families import family_of_dense
from polycycle.files import folder_when_whole, write_json
from polycycle.languages import LanguageGroups
from polycycle.modeling import check_experts
from polycycle.routing import ClassifierForm
from polycycle.surgery.new_tensors import ExpertInit, layer_jobs, zeros_job

if TYPE_CHECKING:
    from polycycle.families.family import Family


@dataclass(frozen=True, kw_only=True, slots=True)
class UpcyclePlan:
    """What upcycling will write.

    Attributes:
        dense: the model it starts from.
        config: the new config.json; `base_hash` is filled in when the tensors have been read.
        jobs: every tensor of the result, in the order it is written.
    """

    dense: Checkpoint
    config: dict[str, Any]
    jobs: tuple[TensorJob, ...]

    @property
    def num_bytes(self) -> int:
        """Size of the weights on disk."""
        return sum(job.num_bytes for job in self.jobs)

    @property
    def largest_tensor_bytes(self) -> int:
        """Size of the largest tensor: what has to fit into memory."""
        return max(job.num_bytes for job in self.jobs)


def plan_upcycle(
    dense: Checkpoint,
    *,
    num_experts: int | Sequence[int] = 6,
    top_k: int = 2,
    renormalize: bool = True,
    init: ExpertInit = "copy",
    seed: int = 0,
    classifier_layers: Sequence[int] = (),
    classifier_form: ClassifierForm = "token",
    classifier_threshold: float = 0.0,
    exact_retention: bool = False,
    retention_threshold: float = 0.0,
    retention_patience: int = 8,
    languages: LanguageGroups | None = None,
    assignment: Assignment | None = None,
) -> UpcyclePlan:
    """The tensors and the config of the upcycled model; nothing is read but headers.

    Args:
        dense: the model to expand.
        num_experts: experts per layer with the frozen original, one number or one per layer; 1
            leaves a layer dense.
        top_k: experts per token.
        renormalize: scale the chosen experts' weights to sum to one. Without it a fresh upcycle
            does not compute the dense model.
        init: new experts are exact copies of the original, or random (the paper's ablation).
        seed: of the routers (and of random experts).
        classifier_layers: layers that get a language classifier in front of the router.
        classifier_form: see `routing.LanguageClassifier`.
        classifier_threshold: see there, too.
        exact_retention: put a `routing.RetentionGate` before the first mixture layer.
        retention_threshold: of that gate.
        retention_patience: of that gate.
        languages: written into the config, for readers, reports and packs.
        assignment: languages of each new expert, as `allocation.assign_experts` gives them; written
            into the config, where training reads them. None leaves all experts open to all.

    Raises:
        UpcycleError: the family or the counts are not possible.
        CheckpointError: a tensor is missing or has an unexpected shape or dtype.

    Source: MoE-LPR, arXiv:2408.11396, §3.1.
    """
    family = family_of_dense(dense.config, where=dense.name)
    _refuse_quantized(dense)
    num_layers = int(dense.config["num_hidden_layers"])
    counts = [num_experts] * num_layers if isinstance(num_experts, int) else list(num_experts)
    check_experts(
        counts,
        [[count - 1 for count in counts]],
        num_layers=num_layers,
        top_k=top_k,
        classifier_layers=classifier_layers,
    )
    if max(counts) == 1:
        raise UpcycleError("num_experts=1 everywhere is the dense model itself; ask for at least 2")
    jobs = [copy_job(dense, name) for name in sorted(dense.tensors)]
    for layer, count in enumerate(counts):
        if count > 1:
            jobs += layer_jobs(dense, family, layer, count - 1, group="g1", init=init, seed=seed)
        if layer in classifier_layers:
            jobs.append(zeros_job(dense, family, layer, "router.classifier.weight"))
    config = _moe_config(dense, family, counts, top_k, renormalize, languages)
    if assignment is not None:
        config["expert_languages"] = with_assignment([[[]] for _ in counts], assignment)
    if classifier_layers:
        config["classifier_layers"] = sorted(classifier_layers)
        config["classifier_form"] = classifier_form
        config["classifier_threshold"] = classifier_threshold
    if exact_retention:
        first = next(layer for layer, count in enumerate(counts) if count > 1)
        jobs.append(zeros_job(dense, family, first, "retention_gate.weight"))
        config["exact_retention"] = True
        config["retention_threshold"] = retention_threshold
        config["retention_patience"] = retention_patience
    return UpcyclePlan(dense=dense, config=config, jobs=tuple(jobs))


def upcycle(
    dense: str | Path,
    out: Path,
    *,
    revision: str | None = None,
    progress: Callable[[TensorJob], None] | None = None,
    **settings: Any,
) -> UpcyclePlan:
    """Write the upcycled model of `dense` to the folder `out`.

    The result computes what the dense model computes, to within rounding, whatever its routers
    say. Every tensor of the dense model is in it, under the same name, bit for bit.

    Args:
        dense: a folder or a hub id.
        out: appears only when it is complete; replaced if it exists.
        revision: of a hub id.
        progress: called after each tensor.
        settings: as `plan_upcycle` takes them.

    Returns:
        The plan that was carried out.
    """
    plan = plan_upcycle(open_checkpoint(dense, revision=revision), **settings)
    execute_upcycle(plan, out, progress=progress)
    return plan


def execute_upcycle(
    plan: UpcyclePlan, out: Path, *, progress: Callable[[TensorJob], None] | None = None
) -> None:
    """Carry out a plan: weights, config and side files appear together in `out`."""
    refuse_own_folder(out, plan.dense)
    with folder_when_whole(out) as folder:
        fill_upcycled(plan, folder, progress=progress)


def fill_upcycled(
    plan: UpcyclePlan, folder: Path, *, progress: Callable[[TensorJob], None] | None = None
) -> None:
    """Carry out a plan in a folder that is already there."""
    hashes = write_tensors(folder, plan.jobs, progress=progress)
    of_dense = {name: hashes[name] for name in plan.dense.tensors}
    base_hash = combine_hashes(of_dense, plan.dense.tensors)
    write_json(folder / "config.json", {**plan.config, "base_hash": base_hash})
    plan.dense.copy_side_files(folder)


def _moe_config(
    dense: Checkpoint,
    family: "Family",
    counts: list[int],
    top_k: int,
    renormalize: bool,
    languages: LanguageGroups | None,
) -> dict[str, Any]:
    # auto_map would make transformers look for the dense model's remote code.
    inherited = {key: value for key, value in dense.config.items() if key != "auto_map"}
    return {
        **inherited,
        "architectures": [family.model_class.__name__],
        "model_type": family.moe_model_type,
        "num_experts_per_layer": counts,
        "new_experts_by_group": [[count - 1 for count in counts]],
        "num_experts_per_tok": top_k,
        "renormalize": renormalize,
        "routing_weights_dtype": family.routing_weights_dtype,
        "language_groups": None if languages is None else languages.record(),
        "base_model": dense.name,
        "base_revision": dense.revision,
    }


def with_assignment(
    expert_languages: Sequence[Sequence[Sequence[str]]], assignment: Assignment
) -> list[list[list[str]]]:
    """The languages of every expert of each layer, those of a group's new experts appended."""
    return [
        [*map(list, known), *map(list, added)]
        for known, added in zip(expert_languages, assignment, strict=True)
    ]


def _refuse_quantized(dense: Checkpoint) -> None:
    if dense.config.get("quantization_config"):
        raise UpcycleError(
            f"{dense.name} is quantised (quantization_config in config.json); experts cannot be "
            "trained from it. Give the unquantised model"
        )
