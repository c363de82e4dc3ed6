"""Which experts a token goes to, and running them."""

from polycycle.routing.classifier import ClassifierForm, LanguageClassifier
from polycycle.routing.dispatch import moe_forward
from polycycle.routing.gate import GatedCall, RetentionGate
from polycycle.routing.router import Router, RouterOutput, RoutingWeightsDtype, router_init

__all__ = [
    "ClassifierForm",
    "GatedCall",
    "LanguageClassifier",
    "RetentionGate",
    "Router",
    "RouterOutput",
    "RoutingWeightsDtype",
    "moe_forward",
    "router_init",
]
