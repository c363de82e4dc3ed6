"""The mixins of the upcycled model classes, and watching them from outside."""

from polycycle.modeling.assignment import route_by_language
from polycycle.modeling.block import MoeBlockMixin, NewExperts, frozen_expert_only
from polycycle.modeling.config import (
    UpcycledConfigMixin,
    check_experts,
    why_no_dense_reference,
)
from polycycle.modeling.lora_experts import (
    LoraExperts,
    LoraExpertsConfigMixin,
    LoraExpertsModelMixin,
    record_mixing,
)
from polycycle.modeling.mode import evaluation_mode
from polycycle.modeling.model import UpcycledModelMixin
from polycycle.modeling.recording import LayerRouting, RoutingRecord, record_routing
from polycycle.modeling.retention import without_retention_gate

__all__ = [
    "LayerRouting",
    "LoraExperts",
    "LoraExpertsConfigMixin",
    "LoraExpertsModelMixin",
    "MoeBlockMixin",
    "NewExperts",
    "RoutingRecord",
    "UpcycledConfigMixin",
    "UpcycledModelMixin",
    "check_experts",
    "evaluation_mode",
    "frozen_expert_only",
    "record_mixing",
    "record_routing",
    "route_by_language",
    "why_no_dense_reference",
    "without_retention_gate",
]
