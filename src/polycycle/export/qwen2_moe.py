"""Qwen2-MoE with a shared expert of zeros: Qwen2, and Llama with biases of zero."""

from functools import partial
from typing import Any

import torch

from polycycle.checkpoint import DTYPES, TensorJob
from polycycle.errors import ExportError
from polycycle.export.slots import SlotPlan
from polycycle.export.source import Source
from polycycle.export.target import Target

# Engines split it over GPUs; 256 divides by all usual numbers of them.
_SHARED_SIZE = 256


def check(source: Source) -> None:
    """Its engines take heads of the usual size, and its o_proj has no bias."""
    if source.has_attention_bias:
        raise ExportError("its o_proj has no bias, the model's has (attention_bias)")
    if source.has_odd_heads:
        raise ExportError(
            f"it assumes heads of hidden size / heads; the model's have size {source.head_dim}"
        )
    if source.sliding_window and not hasattr(source.config, "layer_types"):
        raise ExportError("its sliding windows are not those of this family (sliding_window)")


def settings(source: Source, slots: SlotPlan) -> dict[str, Any]:
    """Its own config fields."""
    kinds = getattr(source.config, "layer_types", None)
    windows = {
        "use_sliding_window": source.sliding_window is not None,
        "sliding_window": source.sliding_window or 0,
        "layer_types": list(kinds or ["full_attention"] * len(slots.layers)),
    }
    return {
        "intermediate_size": source.config.intermediate_size,
        "moe_intermediate_size": source.config.intermediate_size,
        "num_experts": slots.num_slots,
        "num_experts_per_tok": source.top_k,
        "norm_topk_prob": bool(source.config.renormalize),
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "qkv_bias": True,
        "shared_expert_intermediate_size": _SHARED_SIZE,
        **windows,
    }


def other_jobs(source: Source, slots: SlotPlan) -> list[TensorJob]:
    """The shared expert and its gate, all zero, and q, k, v biases where the family has none."""
    hidden_size = source.config.hidden_size
    shapes = {
        "shared_expert.gate_proj": (_SHARED_SIZE, hidden_size),
        "shared_expert.up_proj": (_SHARED_SIZE, hidden_size),
        "shared_expert.down_proj": (hidden_size, _SHARED_SIZE),
        "shared_expert_gate": (1, hidden_size),
    }
    jobs = []
    for layer in range(len(slots.layers)):
        prefix = f"model.layers.{layer}"
        dtype = source.checkpoint.info(f"{prefix}.mlp.down_proj.weight").dtype
        jobs += [zeros(f"{prefix}.mlp.{n}.weight", shape, dtype) for n, shape in shapes.items()]
        for part in "qkv":
            name = f"{prefix}.self_attn.{part}_proj"
            weight = source.checkpoint.info(f"{name}.weight")
            if f"{name}.bias" not in source.checkpoint.tensors:
                jobs.append(zeros(f"{name}.bias", weight.shape[:1], weight.dtype))
    return jobs


def zeros(name: str, shape: tuple[int, ...], dtype: str) -> TensorJob:
    """The job of a tensor of zeros."""
    make = partial(torch.zeros, shape, dtype=DTYPES[dtype])
    return TensorJob(name=name, dtype=dtype, shape=shape, make=make)


TARGET = Target(
    model_type="qwen2_moe",
    check=check,
    settings=settings,
    other_jobs=other_jobs,
)
