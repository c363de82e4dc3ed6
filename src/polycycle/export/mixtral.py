"""Mixtral: Llama and Mistral with experts."""

from typing import Any

from polycycle.errors import ExportError
from polycycle.export.slots import SlotPlan
from polycycle.export.source import Source
from polycycle.export.target import Target


def check(source: Source) -> None:
    """Its attention has no biases."""
    if source.has_attention_bias:
        raise ExportError("its attention has no biases, the model's has (attention_bias)")


def settings(source: Source, slots: SlotPlan) -> dict[str, Any]:
    """Its own config fields."""
    return {
        "intermediate_size": source.config.intermediate_size,
        "num_local_experts": slots.num_slots,
        "num_experts_per_tok": source.top_k,
        "router_jitter_noise": 0.0,
        "sliding_window": source.sliding_window,
    }


TARGET = Target(
    model_type="mixtral",
    block="block_sparse_moe",
    gate_up_down=("w1", "w3", "w2"),
    always_renormalizes=True,
    check=check,
    settings=settings,
)
