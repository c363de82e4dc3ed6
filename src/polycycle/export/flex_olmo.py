"""FlexOlmo: OLMo 2 with experts."""

from typing import Any

from polycycle.errors import ExportError
from polycycle.export.slots import SlotPlan
from polycycle.export.source import Source
from polycycle.export.target import Target


def check(source: Source) -> None:
    """Its attention and norms are OLMo 2's; heads have the usual size."""
    if source.has_odd_heads:
        raise ExportError(
            f"it assumes heads of hidden size / heads; the model's have size {source.head_dim}"
        )


def settings(source: Source, slots: SlotPlan) -> dict[str, Any]:
    """Its own config fields."""
    return {
        "intermediate_size": source.config.intermediate_size,
        "num_experts": slots.num_slots,
        "num_experts_per_tok": source.top_k,
        "norm_topk_prob": bool(source.config.renormalize),
        "attention_bias": source.has_attention_bias,
    }


TARGET = Target(model_type="flex_olmo", check=check, settings=settings)
