"""How the `model_type` of our own models is told from a dense model's."""

from collections.abc import Mapping
from typing import Any

UPCYCLED_PREFIX = "polycycle_"
LORA_EXPERTS_PREFIX = "loramoe_"


def is_upcycled(config: Mapping[str, Any]) -> bool:
    """Whether a config.json describes one of our models."""
    return str(config.get("model_type", "")).startswith(UPCYCLED_PREFIX)


def has_lora_experts(config: Mapping[str, Any]) -> bool:
    """Whether a config.json describes a dense model with LoRA experts (LoRAMoE)."""
    return str(config.get("model_type", "")).startswith(LORA_EXPERTS_PREFIX)
