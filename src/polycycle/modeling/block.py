"""A mixture-of-experts feed-forward block that *is* the dense block, plus new experts.

Letters: B batch, S sequence, N = B·S tokens, E experts, D hidden size, F intermediate size.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from polycycle.modeling.recording import is_recording
from polycycle.modeling.retention import end_if_only_judging, gated_call
from polycycle.routing import LanguageClassifier, RetentionGate, Router, moe_forward

_frozen_expert_only: ContextVar[bool] = ContextVar("frozen_expert_only", default=False)


@contextmanager
def frozen_expert_only() -> Iterator[None]:
    """Within the block, upcycled models compute their dense base, bit for bit.

    Every MoE layer runs its original `mlp` and nothing else, on the same rows as the dense model
    would. One model in memory then serves as both sides of a comparison.
    """
    token = _frozen_expert_only.set(True)
    try:
        yield
    finally:
        _frozen_expert_only.reset(token)


class NewExperts(nn.Module):
    """The experts that one language group brought to one layer, packed.

    Attributes:
        gate_up_proj: [E, 2F, D], gate rows first.
        down_proj: [E, D, F].
    """

    def __init__(self, num_experts: int, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(
            torch.empty(num_experts, 2 * intermediate_size, hidden_size)
        )
        self.down_proj = nn.Parameter(torch.empty(num_experts, hidden_size, intermediate_size))

    def forward(self) -> tuple[Tensor, Tensor]:
        """The two packs. A call and not two attributes, because accelerate brings weights that lie
        on another device or on disk when their module is called; read without, they are empty."""
        return self.gate_up_proj, self.down_proj

    def extra_repr(self) -> str:
        num_experts, hidden_size, intermediate_size = self.down_proj.shape
        return f"{num_experts} × ({hidden_size} → {intermediate_size} → {hidden_size})"


class MoeBlockMixin(nn.Module):
    """Mixed into a dense feed-forward class: `class LlamaMoeBlock(MoeBlockMixin, LlamaMLP)`.

    The dense class's own parameters, under their own names, are expert 0, and its own `forward`
    runs it: whatever wraps those linears (adapters, quantisation) goes on working. `experts` and
    `router` come beside them.
    """

    def __init__(self, config: Any, layer_index: int) -> None:
        super().__init__(config)
        new_experts: Mapping[str, int] = config.groups_of_layer(layer_index)
        self.experts = nn.ModuleDict(
            {
                group: NewExperts(count, config.hidden_size, config.intermediate_size)
                for group, count in new_experts.items()
            }
        )
        first_group = next(iter(new_experts))
        self.router = Router(
            config.hidden_size,
            {g: n + 1 if g == first_group else n for g, n in new_experts.items()},
            top_k=config.num_experts_per_tok,
            renormalize=config.renormalize,
            weights_dtype=config.routing_weights_dtype,
            layer_index=layer_index,
            classifier=_classifier_of(config, layer_index),
            masked_groups=config.masked_groups or (),
        )
        self.retention_gate: RetentionGate | None = None
        first_layer = next(i for i, n in enumerate(config.num_experts_per_layer) if n > 1)
        if config.exact_retention and layer_index == first_layer:
            self.retention_gate = RetentionGate(
                config.hidden_size,
                threshold=config.retention_threshold,
                patience=config.retention_patience,
            )

    # How many rows an expert gets is data; torch.compile would break the graph many times in here.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, hidden_states: Tensor) -> Tensor:
        """Mixture of the chosen experts for each token; [B, S, D] in and out."""
        if _frozen_expert_only.get() or not self.router.active_groups:
            return super().forward(hidden_states)  # type: ignore[no-any-return]
        call = gated_call()
        if self.retention_gate is not None:
            scores_BS = self.retention_gate(hidden_states)
            if call is not None:
                call.settle(scores_BS, self.retention_gate)
                end_if_only_judging(call)
        if call is not None and call.is_all_original and not is_recording():
            return super().forward(hidden_states)  # type: ignore[no-any-return]
        routed = self.router(hidden_states, None if call is None else call.original_BS)
        # Phi-3 names it differently; every dense block of transformers has one of the two.
        act_fn: Any = self.act_fn if hasattr(self, "act_fn") else self.activation_fn
        packs = [self.experts[name]() for name in self.router.active_groups]
        mixed = moe_forward(
            hidden_states.reshape(-1, hidden_states.shape[-1]),
            super().forward,
            packs,
            act_fn,
            routed.expert_ids,
            routed.expert_weights,
        )
        return mixed.reshape(hidden_states.shape)


def _classifier_of(config: Any, layer_index: int) -> LanguageClassifier | None:
    if layer_index not in (config.classifier_layers or ()):
        return None
    return LanguageClassifier(
        config.hidden_size, threshold=config.classifier_threshold, form=config.classifier_form
    )
