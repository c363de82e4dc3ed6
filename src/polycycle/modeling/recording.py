"""Watching the routing from outside: the layers know nothing of losses, monitors or reports.

Hooks are installed once, at construction, because hooks added after compilation are never called;
a context variable decides whether they keep anything.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from polycycle.routing import RetentionGate, Router, RouterOutput


@dataclass(frozen=True, slots=True)
class LayerRouting:
    """What one layer's router decided for the T tokens seen while recording, in batch-major order.

    Attributes:
        layer_index: position of the decoder layer in the model.
        router_logits: [T, E], with gradient where the forward had one.
        expert_ids: [T, K] int64; −1 where a token has no further expert.
        expert_weights: [T, K].
        classifier_scores: [T], with gradient; None where the layer has no language classifier.
        judged_original: [T] bool, the tokens that it or the retention gate sent to expert 0 alone;
            None without either.
    """

    layer_index: int
    router_logits: Tensor
    expert_ids: Tensor
    expert_weights: Tensor
    classifier_scores: Tensor | None = None
    judged_original: Tensor | None = None


@dataclass(slots=True)
class RoutingRecord:
    """The routing of one or more forward passes of one model."""

    _outputs: dict[int, list[RouterOutput]] = field(default_factory=dict)
    _gate_scores: list[Tensor] = field(default_factory=list)

    @property
    def gate_scores(self) -> Tensor | None:
        """[B, S] of the retention gate, rows of several calls joined; None without one."""
        return torch.cat(self._gate_scores) if self._gate_scores else None

    @property
    def layers(self) -> list[LayerRouting]:
        """Every MoE layer in order; several calls (decoding steps) are joined along the tokens."""
        return [
            LayerRouting(
                index,
                torch.cat([output.logits for output in outputs]),
                torch.cat([output.expert_ids for output in outputs]),
                torch.cat([output.expert_weights for output in outputs]),
                _joined([output.classifier_scores for output in outputs]),
                _joined([output.judged_original for output in outputs]),
            )
            for index, outputs in sorted(self._outputs.items())
        ]

    @property
    def router_logits(self) -> list[Tensor]:
        """Per MoE layer [T, E]."""
        return [layer.router_logits for layer in self.layers]

    @property
    def expert_ids(self) -> list[Tensor]:
        """Per MoE layer [T, K]."""
        return [layer.expert_ids for layer in self.layers]


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    found = [part for part in parts if part is not None]
    return torch.cat(found) if found else None


_record: ContextVar[tuple[RoutingRecord, frozenset[int]] | None] = ContextVar(
    "routing_record", default=None
)


def is_recording() -> bool:
    """Whether routing is recorded at the moment."""
    return _record.get() is not None


@contextmanager
def record_routing(model: nn.Module) -> Iterator[RoutingRecord]:
    """Collect what the model's routers decide in the forward passes of this block.

    Run the backward pass outside the block: gradient checkpointing runs layers again in it, and
    what happens outside is not recorded.

    Args:
        model: an upcycled model, or anything that holds one (DDP, FSDP2, a compiled module).

    Raises:
        RuntimeError: the model has no MoE layer, or some MoE layer recorded less than the others
            (the forward did not reach it), which would silently change every mean over layers.
    """
    routers = [m for m in model.modules() if isinstance(m, Router) and m.active_groups]
    if not routers:
        raise RuntimeError(
            f"{type(model).__name__} has no mixture-of-experts layer whose routing could be "
            "recorded; make one with `polycycle upcycle`"
        )
    record = RoutingRecord()
    watched = [m for m in model.modules() if isinstance(m, Router | RetentionGate)]
    token = _record.set((record, frozenset(map(id, watched))))
    try:
        yield record
    finally:
        _record.reset(token)
    calls = {
        router.layer_index: len(record._outputs.get(router.layer_index, ())) for router in routers
    }
    if len(set(calls.values())) > 1:
        raise RuntimeError(
            "routing was recorded unevenly (layer: calls): "
            + ", ".join(f"{layer}: {count}" for layer, count in sorted(calls.items()))
            + ". Every MoE layer must run equally often inside record_routing; was the backward "
            "pass of a checkpointed model inside the block?"
        )


def watch_routers(model: nn.Module) -> None:
    """Install the recording hooks on the routers and the gate of a freshly built model."""
    for module in model.modules():
        if isinstance(module, Router):
            module.register_forward_hook(_keep)
        elif isinstance(module, RetentionGate):
            module.register_forward_hook(_keep_scores)


def _keep_scores(gate: RetentionGate, args: Any, scores: Tensor) -> None:
    recording = _record.get()
    if recording is not None and id(gate) in recording[1]:
        recording[0]._gate_scores.append(scores)


def _keep(router: Router, args: Any, output: RouterOutput) -> None:
    recording = _record.get()
    if recording is not None and id(router) in recording[1]:
        recording[0]._outputs.setdefault(router.layer_index, []).append(output)
