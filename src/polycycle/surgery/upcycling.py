"""Dense checkpoint in, mixture-of-experts checkpoint out, one tensor at a time.

Letters: E new experts of a layer, D hidden size, F intermediate size.
"""

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from polycycle.checkpoint import (
    DTYPES,
    Checkpoint,
    TensorJob,
    combine_hashes,
    copy_job,
    open_checkpoint,
    write_tensors,
)
from polycycle.errors import CheckpointError, UpcycleError
from polycycle.families import family_of_dense
from polycycle.files import folder_when_whole, write_json
from polycycle.languages import LanguageGroups
from polycycle.modeling import check_experts
from polycycle.routing import ClassifierForm, router_init

if TYPE_CHECKING:
    from polycycle.families.family import Family

ExpertInit = Literal["copy", "random"]
_FIRST_GROUP = "g1"
_FLOATS = ("F32", "BF16", "F16", "F64")


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
    exact_retention: bool = False,
    retention_threshold: float = 0.0,
    retention_patience: int = 8,
    languages: LanguageGroups | None = None,
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
        exact_retention: put a `routing.RetentionGate` before the first mixture layer.
        retention_threshold: of that gate.
        retention_patience: of that gate.
        languages: written into the config, for readers, reports and packs.

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
            jobs += _layer_jobs(dense, family, layer, count - 1, init=init, seed=seed)
        if layer in classifier_layers:
            jobs.append(_zeros_job(dense, family, layer, "router.classifier.weight"))
    config = _moe_config(dense, family, counts, top_k, renormalize, languages)
    if classifier_layers:
        config["classifier_layers"] = sorted(classifier_layers)
        config["classifier_form"] = classifier_form
    if exact_retention:
        first = next(layer for layer, count in enumerate(counts) if count > 1)
        jobs.append(_zeros_job(dense, family, first, "retention_gate.weight"))
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
    if plan.dense.folder.resolve() == out.resolve():
        raise UpcycleError(f"{out} is the dense model itself; write to another folder")
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
    for file in plan.dense.side_files():
        shutil.copyfile(file, folder / file.name)


def _layer_jobs(
    dense: Checkpoint, family: "Family", layer: int, count: int, *, init: ExpertInit, seed: int
) -> list[TensorJob]:
    """The new tensors of one layer: packed experts and router rows."""
    mlp = f"model.layers.{layer}.mlp"
    gate_up = [f"{mlp}.{name}.weight" for name in family.gate_up_names]
    down = f"{mlp}.{family.down_name}.weight"
    dtype = dense.info(down).dtype
    if dtype not in _FLOATS:
        raise CheckpointError(
            f"{dense.name}: {down} is {dtype}; experts are made from {', '.join(_FLOATS)}. "
            "Give the unquantised model"
        )
    hidden_size, intermediate_size = dense.info(down).shape
    std = float(dense.config.get("initializer_range") or 0.02)

    def experts(part: str, sources: list[str], shape: tuple[int, ...]) -> TensorJob:
        if init == "copy":
            make = partial(_copies, dense, sources, (count, *shape))
        else:
            make = partial(_random, (count, *shape), dtype, std, f"{seed}/{mlp}/{part}")
        name = f"{mlp}.experts.{_FIRST_GROUP}.{part}"
        return TensorJob(name=name, dtype=dtype, shape=(count, *shape), make=make)

    def rows() -> Tensor:
        drawn = router_init(count + 1, hidden_size, _generator(f"{seed}/{mlp}/router"))
        return drawn.to(DTYPES[dtype])

    return [
        experts("gate_up_proj", gate_up, (2 * intermediate_size, hidden_size)),
        experts("down_proj", [down], (hidden_size, intermediate_size)),
        TensorJob(
            name=f"{mlp}.router.rows.{_FIRST_GROUP}",
            dtype=dtype,
            shape=(count + 1, hidden_size),
            make=rows,
        ),
    ]


def _zeros_job(dense: Checkpoint, family: "Family", layer: int, name: str) -> TensorJob:
    """A vector of the hidden size: a classifier or a gate that judges nothing yet."""
    mlp = f"model.layers.{layer}.mlp"
    down = dense.info(f"{mlp}.{family.down_name}.weight")
    shape = (down.shape[0],)
    return TensorJob(
        name=f"{mlp}.{name}",
        dtype=down.dtype,
        shape=shape,
        make=partial(torch.zeros, shape, dtype=DTYPES[down.dtype]),
    )


def _copies(dense: Checkpoint, sources: list[str], shape: tuple[int, ...]) -> Tensor:
    """The source tensors' rows stacked, once per new expert."""
    packed = torch.empty(shape, dtype=DTYPES[dense.info(sources[0]).dtype])
    start = 0
    for name in sources:
        rows = dense.read(name)
        packed[:, start : start + len(rows)] = rows
        start += len(rows)
    return packed


def _random(shape: tuple[int, ...], dtype: str, std: float, seed: str) -> Tensor:
    """Normal random weights, drawn expert by expert so that only one is ever in float32."""
    generator = _generator(seed)
    packed = torch.empty(shape, dtype=DTYPES[dtype])
    for expert in packed:
        expert.copy_(torch.randn(shape[1:], generator=generator) * std)
    return packed


def _generator(seed: str) -> torch.Generator:
    """A generator of its own for each tensor: the result does not depend on their order."""
    number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "little") >> 1
    return torch.Generator().manual_seed(number)


def _moe_config(
    dense: Checkpoint,
    family: "Family",
    counts: list[int],
    top_k: int,
    renormalize: bool,
    languages: LanguageGroups | None,
) -> dict[str, Any]:
    groups = None
    if languages is not None:
        groups = {
            "original": list(languages.original),
            "unseen_original": list(languages.unseen_original),
            "expanded": [list(group) for group in languages.expanded],
        }
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
        "language_groups": groups,
        "base_model": dense.name,
    }


def _refuse_quantized(dense: Checkpoint) -> None:
    if dense.config.get("quantization_config"):
        raise UpcycleError(
            f"{dense.name} is quantised (quantization_config in config.json); experts cannot be "
            "trained from it. Give the unquantised model"
        )
