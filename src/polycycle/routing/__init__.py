"""Which experts a token goes to, and running them."""

from polycycle.routing.dispatch import moe_forward
from polycycle.routing.router import Router, RouterOutput, RoutingWeightsDtype, router_init

__all__ = ["Router", "RouterOutput", "RoutingWeightsDtype", "moe_forward", "router_init"]
