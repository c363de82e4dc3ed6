"""Routing by label: for a while in training, a token reaches only its language's experts.

Letters: N tokens of the call, E experts of one layer.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from polycycle.routing import Router


@contextmanager
def route_by_language(model: nn.Module, reachable: Mapping[int, Tensor]) -> Iterator[None]:
    """Within the block, tokens reach only the experts given, whatever the routers say.

    Both passes of a training step belong inside: gradient checkpointing runs layers again in the
    backward pass. Router logits are recorded unmasked, so losses on them go on teaching routers
    where tokens belong. Nothing of it is left on the model afterwards.

    Args:
        model: an upcycled model, or anything that holds one.
        reachable: per layer index, [N, E] bool; layers that are not named route freely.
    """
    routers = [module for module in model.modules() if isinstance(module, Router)]
    try:
        for router in routers:
            router.reachable_NE = reachable.get(router.layer_index)
        yield
    finally:
        for router in routers:
            router.reachable_NE = None
