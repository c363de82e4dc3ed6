"""What the rest of the house has to know about a dense family."""

from dataclasses import dataclass
from typing import Any

from polycycle.routing import RoutingWeightsDtype


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """One dense architecture and its upcycled one.

    Attributes:
        dense_model_type: `model_type` in the dense model's config.json.
        config_class: the upcycled config; its `model_type` is `polycycle_` + the dense one.
        model_class: the upcycled causal language model.
        routing_weights_dtype: dtype of the expert weights in the stock MoE the family exports to
            (`float32` in Mixtral, `hidden` in the Qwen and OLMo MoEs).
        export_targets: stock architectures that can compute the same function, best first.
        gate_up_names: the tensors that hold gate and up rows, in order; one when they are fused.
        down_name: the tensor of the down projection.
    """

    dense_model_type: str
    config_class: type[Any]
    model_class: type[Any]
    routing_weights_dtype: RoutingWeightsDtype
    export_targets: tuple[str, ...]
    gate_up_names: tuple[str, ...] = ("gate_proj", "up_proj")
    down_name: str = "down_proj"

    @property
    def moe_model_type(self) -> str:
        """`model_type` in an upcycled model's config.json."""
        return str(self.config_class.model_type)
