"""What a stock architecture is, and the plan that turns an upcycled model into it.

Letters: S slots of a stock layer, D hidden size, F intermediate size, H heads, hd size of one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from polycycle.checkpoint import DTYPES, TensorJob, copy_job
from polycycle.errors import ExportError
from polycycle.export.slots import Slot, SlotPlan, plan_slots
from polycycle.export.source import Expert, Source

GGUF = "gguf"
"""What the user calls the target that is no stock architecture, but llama.cpp's file."""
# A power of two scales exactly in every dtype. From 1e4 on, no token of 20,000 was off by more
# than 1e-5 (tiny random models).
CLASSIFIER_SCALE = 2.0**17

# What a stock config takes from ours under the same name.
_KEPT = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "use_cache",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "attention_dropout",
    "rope_parameters",
    "dtype",
)


def copied(source: Source, name: str) -> TensorJob:
    """A tensor outside the feed-forward blocks, handed on as it is."""
    return copy_job(source.checkpoint, name)


def no_more_jobs(source: Source, plan: SlotPlan) -> list[TensorJob]:
    """Nothing beside router and experts."""
    return []


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """One stock mixture-of-experts architecture.

    Attributes:
        model_type: transformers' name of it.
        block: the feed-forward block's name in its checkpoints.
        gate_up_down: the names of an expert's three projections there.
        always_renormalizes: whether its router scales chosen weights to sum to one without asking.
        has_selection_bias: whether its router can be kept from a slot.
        keeps_dense_layers: whether it can have layers without experts.
        router_dtype: the router's dtype in checkpoints; None is the model's.
        check: raises ExportError where attention, norms or positions would differ.
        settings: its own config fields, given the slots.
        other_jobs: tensors that it has beside router and experts.
        shared_job: how a tensor outside the feed-forward blocks is handed on.
    """

    model_type: str
    block: str = "mlp"
    gate_up_down: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")
    always_renormalizes: bool = False
    has_selection_bias: bool = False
    keeps_dense_layers: bool = False
    router_dtype: str | None = None
    check: Callable[[Source], None]
    settings: Callable[[Source, SlotPlan], dict[str, Any]]
    other_jobs: Callable[[Source, SlotPlan], list[TensorJob]] = no_more_jobs
    shared_job: Callable[[Source, str], TensorJob] = copied


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetPlan:
    """What an export will write.

    Attributes:
        target: the architecture.
        source: the model.
        slots: which expert goes where.
        config: the new config.json.
        jobs: every tensor, in the order it is written.
    """

    target: Target
    source: Source
    slots: SlotPlan
    config: dict[str, Any]
    jobs: tuple[TensorJob, ...]

    @property
    def target_name(self) -> str:
        """What the user calls the target."""
        return self.target.model_type

    @property
    def num_bytes(self) -> int:
        """Size of the weights on disk."""
        return sum(job.num_bytes for job in self.jobs)


def plan_target(target: Target, source: Source, *, fill_dense: bool = False) -> TargetPlan:
    """The tensors and config of `source` in the architecture `target`; only headers are read.

    Args:
        target: the architecture.
        source: the model.
        fill_dense: fill dense layers with copies even where the target could keep them dense.

    Raises:
        ExportError: it would not compute the same function, and why.
    """
    if target.model_type not in source.family.export_targets:
        raise ExportError(
            f"{source.family.dense_model_type} has other attention, norms or positions"
        )
    target.check(source)
    keep_dense = target.keeps_dense_layers and not fill_dense
    slots = plan_slots(source, selection_bias=target.has_selection_bias, keep_dense=keep_dense)
    _check_weights_sum(target, source, slots)
    return TargetPlan(
        target=target,
        source=source,
        slots=slots,
        config=_config(target, source, slots),
        jobs=tuple(_jobs(target, source, slots)),
    )


def _check_weights_sum(target: Target, source: Source, slots: SlotPlan) -> None:
    if source.config.renormalize:
        return
    if target.always_renormalizes:
        raise ExportError(
            "its router always scales chosen weights to sum to one; the model has "
            "`renormalize: false`"
        )
    filled = any(len(layer.experts) == 1 for layer in source.layers) and not slots.dense_layers
    if filled and source.top_k < slots.num_slots:
        raise ExportError(
            "the model has `renormalize: false`, so copies in the slots of a dense layer would not "
            "sum to it"
        )


def _config(target: Target, source: Source, slots: SlotPlan) -> dict[str, Any]:
    kept = {name: getattr(source.config, name) for name in _KEPT}
    settings = target.settings(source, slots)
    fields = {
        **kept,
        "head_dim": source.head_dim,
        "tie_word_embeddings": False,  # some engines have no code for tied heads
        "output_router_logits": False,
        **settings,
    }
    config: dict[str, Any] = AutoConfig.for_model(target.model_type, **fields).to_dict()
    config.pop("_name_or_path", None)
    config["architectures"] = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[target.model_type]]
    # transformers 5 writes some fields under a new name only (Qwen3-MoE's num_experts becomes
    # num_local_experts); readers of the old name would take their default, 128 experts, for it.
    config = fields | config
    # Engines older than transformers 5 look for rotary scaling under its old names, and a lost
    # scaling is silent.
    rope = dict(config["rope_parameters"])
    config["rope_theta"] = rope.get("rope_theta")
    config["rope_scaling"] = None if source.rope_type == "default" else rope
    return config


def _jobs(target: Target, source: Source, slots: SlotPlan) -> list[TensorJob]:
    """Embeddings, then layer by layer, then norm and head."""
    shared = sorted(n for n in source.checkpoint.tensors if ".mlp." not in n and n != _HEAD)
    jobs = [target.shared_job(source, name) for name in shared if ".layers." not in name]
    for index, filled in enumerate(slots.layers):
        prefix = f"model.layers.{index}."
        jobs += [target.shared_job(source, name) for name in shared if name.startswith(prefix)]
        jobs += (
            _dense_jobs(source, index) if not filled else _moe_jobs(target, source, index, filled)
        )
    return [*jobs, head_job(source), *target.other_jobs(source, slots)]


_HEAD = "lm_head.weight"


def head_job(source: Source) -> TensorJob:
    """The head, written out even where it is tied to the embeddings."""
    tied = bool(source.config.tie_word_embeddings)
    job = copy_job(source.checkpoint, "model.embed_tokens.weight" if tied else _HEAD)
    return TensorJob(name=_HEAD, dtype=job.dtype, shape=job.shape, make=job.make)


def _dense_jobs(source: Source, layer: int) -> list[TensorJob]:
    mlp = f"model.layers.{layer}.mlp"
    return [copy_job(source.checkpoint, f"{mlp}.{n}.weight") for n in PROJECTIONS]


PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


def _moe_jobs(
    target: Target, source: Source, layer: int, slots: tuple[Slot, ...]
) -> list[TensorJob]:
    block = f"model.layers.{layer}.{target.block}"
    down = source.checkpoint.info(f"model.layers.{layer}.mlp.down_proj.weight")
    hidden_size = down.shape[0]
    dtype = target.router_dtype or down.dtype
    shape = (len(slots), hidden_size)
    make = partial(router_rows, source, layer, slots, shape, dtype)
    jobs = [TensorJob(name=f"{block}.gate.weight", dtype=dtype, shape=shape, make=make)]
    for number, slot in enumerate(slots):
        for ours, theirs in zip(PROJECTIONS, target.gate_up_down, strict=True):
            name = f"{block}.experts.{number}.{theirs}.weight"
            jobs.append(expert_job(source, layer, slot.expert, ours, name))
    return jobs


def expert_job(source: Source, layer: int, expert: Expert, part: str, name: str) -> TensorJob:
    """One of `PROJECTIONS` of an expert, [F, D] or [D, F], under a new name."""
    mlp = f"model.layers.{layer}.mlp"
    original = source.checkpoint.info(f"{mlp}.{part}.weight")
    if expert.group is None:
        job = copy_job(source.checkpoint, f"{mlp}.{part}.weight")
        return TensorJob(name=name, dtype=job.dtype, shape=job.shape, make=job.make)
    packed = f"{mlp}.experts.{expert.group}." + (
        "down_proj" if part == "down_proj" else "gate_up_proj"
    )
    make = partial(_unpacked, source, packed, expert.place, part)
    dtype = source.checkpoint.info(packed).dtype
    return TensorJob(name=name, dtype=dtype, shape=original.shape, make=make)


def interleaved(rows: Tensor, heads: int) -> Tensor:
    """Query or key rows for rotary pairs side by side, where ours are half a head apart.

    Row i of a head and row i + hd/2 become neighbours.

    Args:
        rows: weight [H·hd, D] or bias [H·hd].
        heads: H.
    """
    halves = rows.reshape(heads, 2, -1, *rows.shape[1:])
    return halves.transpose(1, 2).reshape(rows.shape).contiguous()


def _unpacked(source: Source, packed: str, place: int, part: str) -> Tensor:
    """[F, D] (gate, up) or [D, F] (down) of one expert of a pack; gate rows come first."""
    rows = source.checkpoint.read_rows(packed, place, place + 1)[0]
    if part == "down_proj":
        return rows
    half = len(rows) // 2
    return rows[:half].contiguous() if part == "gate_proj" else rows[half:].contiguous()


def router_rows(
    source: Source, layer: int, slots: tuple[Slot, ...], shape: tuple[int, int], dtype: str
) -> Tensor:
    """[S, D], one row per slot."""
    rows = torch.zeros(shape, dtype=DTYPES[dtype])
    for number, slot in enumerate(slots):
        if slot.row == "classifier":
            name = f"model.layers.{layer}.mlp.router.classifier.weight"
            rows[number] = source.checkpoint.read(name) * CLASSIFIER_SCALE
        elif slot.row == "own" and slot.expert.row_name is not None:
            at = slot.expert.row
            rows[number] = source.checkpoint.read_rows(slot.expert.row_name, at, at + 1)[0]
    return rows
