"""Qwen3-MoE: Qwen3 with experts; the only stock target that keeps dense layers dense."""

from typing import Any

from polycycle.errors import ExportError
from polycycle.export.slots import SlotPlan
from polycycle.export.source import Source
from polycycle.export.target import Target


def check(source: Source) -> None:
    """Its layers all have the same window, or none."""
    kinds = set(source.config.layer_types)
    if len(kinds) > 1:
        raise ExportError(
            "all its layers have the same sliding window or none; the model's differ (layer_types)"
        )


def settings(source: Source, slots: SlotPlan) -> dict[str, Any]:
    """Its own config fields."""
    return {
        "intermediate_size": source.config.intermediate_size,
        "moe_intermediate_size": source.config.intermediate_size,
        "num_experts": slots.num_slots,
        "num_experts_per_tok": source.top_k,
        "norm_topk_prob": bool(source.config.renormalize),
        "decoder_sparse_step": 1,
        "mlp_only_layers": slots.dense_layers,
        "attention_bias": source.has_attention_bias,
        "use_sliding_window": source.sliding_window is not None,
        "sliding_window": source.sliding_window,
    }


TARGET = Target(
    model_type="qwen3_moe",
    keeps_dense_layers=True,
    check=check,
    settings=settings,
)
