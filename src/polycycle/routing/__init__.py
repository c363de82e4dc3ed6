"""Which experts a token goes to, and running them."""

from polycycle.routing.classifier import ClassifierForm, LanguageClassifier
from polycycle.routing.dispatch import moe_forward
from polycycle.routing.router import Router, RouterOutput, RoutingWeightsDtype, router_init

__all__ = [
    "ClassifierForm",
    "LanguageClassifier",
    "Router",
    "RouterOutput",
    "RoutingWeightsDtype",
    "moe_forward",
    "router_init",
]
