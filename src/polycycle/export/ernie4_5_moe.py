"""Ernie 4.5 MoE: the stock softmax router with a selection bias, for layers of unequal size."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from polycycle.checkpoint import TensorJob
from polycycle.errors import ExportError
from polycycle.export.qwen2_moe import zeros
from polycycle.export.slots import Slot, SlotPlan
from polycycle.export.source import Source
from polycycle.export.target import Target, copied, interleaved

# Added to a probability in [0, 1], so anything below −1 would do.
_NEVER = -1e4


def check(source: Source) -> None:
    """Its attention sees everything."""
    if source.sliding_window:
        raise ExportError(f"it has no sliding window; the model's is {source.sliding_window}")


def settings(source: Source, slots: SlotPlan) -> dict[str, Any]:
    """Its own config fields."""
    return {
        "intermediate_size": source.config.intermediate_size,
        "moe_intermediate_size": source.config.intermediate_size,
        "moe_num_experts": slots.num_slots,
        "moe_k": source.top_k,
        "moe_num_shared_experts": 0,
        "moe_layer_start_index": 0,
        "moe_layer_end_index": len(slots.layers) - 1,
        "moe_layer_interval": 1,
        "moe_norm_min": 1e-12,
        "use_bias": _has_biases(source),
    }


def shared_job(source: Source, name: str) -> TensorJob:
    """Its rotary embedding turns neighbours; ours turns halves, so q and k change places."""
    job = copied(source, name)
    for part, heads in (
        (".q_proj.", source.config.num_attention_heads),
        (".k_proj.", source.config.num_key_value_heads),
    ):
        if part in name:
            make = partial(_interleaved, job.make, heads)
            return TensorJob(name=name, dtype=job.dtype, shape=job.shape, make=make)
    return job


def other_jobs(source: Source, slots: SlotPlan) -> list[TensorJob]:
    """The selection bias of every layer, and zero biases where the family has none."""
    jobs = []
    for layer, filled in enumerate(slots.layers):
        make = partial(_selection_bias, filled)
        name = f"model.layers.{layer}.mlp.moe_statics.e_score_correction_bias"
        jobs.append(TensorJob(name=name, dtype="F32", shape=(1, len(filled)), make=make))
    if _has_biases(source):
        jobs += _zero_biases(source)
    return jobs


def _has_biases(source: Source) -> bool:
    return any(name.endswith(".self_attn.q_proj.bias") for name in source.checkpoint.tensors)


def _zero_biases(source: Source) -> list[TensorJob]:
    """Of o_proj and the head, which have one as soon as q, k and v have."""
    names = [name for name in source.checkpoint.tensors if name.endswith(".o_proj.weight")]
    jobs = []
    for name in sorted(names):
        bias, info = name.removesuffix("weight") + "bias", source.checkpoint.info(name)
        if bias not in source.checkpoint.tensors:
            jobs.append(zeros(bias, info.shape[:1], info.dtype))
    embeddings = source.checkpoint.info("model.embed_tokens.weight")
    return [*jobs, zeros("lm_head.bias", embeddings.shape[:1], embeddings.dtype)]


def _selection_bias(slots: tuple[Slot, ...]) -> Tensor:
    return torch.tensor([[_NEVER if slot.is_padding else 0.0 for slot in slots]])


def _interleaved(make: Callable[[], Tensor], heads: int) -> Tensor:
    return interleaved(make(), heads)


TARGET = Target(
    model_type="ernie4_5_moe",
    always_renormalizes=True,
    has_selection_bias=True,
    router_dtype="F32",
    check=check,
    settings=settings,
    other_jobs=other_jobs,
    shared_job=shared_job,
)
