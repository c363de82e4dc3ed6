"""LoRA experts beside the frozen linear maps of feed-forward blocks, mixed by a router of each map.

Letters: B sequences, T tokens of each, E LoRA experts, R rank, D_in, D_out features of a map.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

_record: ContextVar[list[Tensor] | None] = ContextVar("mixing_record", default=None)


@contextmanager
def record_mixing() -> Iterator[list[Tensor]]:
    """Collect the weights [B, T, E] of every adapted map that runs in this block, in order.

    Run the backward pass outside: gradient checkpointing runs layers again in it.
    """
    record: list[Tensor] = []
    token = _record.set(record)
    try:
        yield record
    finally:
        _record.reset(token)


@dataclass(kw_only=True)
class LoraExpertsConfigMixin:
    """Mixed into a dense config.

    Attributes:
        num_lora_experts: E.
        lora_rank: R.
        lora_alpha: an expert's update is multiplied by this ÷ R.
        lora_dropout: of what goes into the experts, in training.
        base_model: name or folder of the dense model.
        base_hash: content hash of the dense model's tensors.
    """

    num_lora_experts: int = 8
    lora_rank: int = 180
    lora_alpha: float = 360.0
    lora_dropout: float = 0.0
    base_model: str | None = None
    base_hash: str | None = None


class LoraExpertsModelMixin:
    """Mixed into a dense class; the maps of its feed-forward blocks get LoRA experts."""

    def post_init(self) -> None:
        """Put experts beside the maps, then let transformers initialise and tie as usual."""
        config: Any = self.config  # type: ignore[attr-defined]
        for layer in self.model.layers:  # type: ignore[attr-defined]
            for name, child in list(layer.mlp.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(layer.mlp, name, LoraExpertsLinear(child, config))
        super().post_init()  # type: ignore[misc]

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, LoraExperts):
            for part in (module.a, module.router):
                bound = 1 / math.sqrt(part.shape[-1])  # Kaiming-uniform with a = √5
                init.uniform_(part, -bound, bound)
            init.zeros_(module.b)
        else:
            super()._init_weights(module)  # type: ignore[misc]


class LoraExperts(nn.Module):
    """α ÷ R · Σ_e ω_e B_e A_e x, with ω the softmax of a linear map of x.

    Attributes:
        a: [E, R, D_in].
        b: [E, R, D_out], zero at first.
        router: [E, D_in].
    """

    def __init__(self, in_features: int, out_features: int, config: Any) -> None:
        super().__init__()
        count, rank = config.num_lora_experts, config.lora_rank
        self.a = nn.Parameter(torch.empty(count, rank, in_features))
        self.b = nn.Parameter(torch.empty(count, rank, out_features))
        self.router = nn.Parameter(torch.empty(count, in_features))
        self.scale = config.lora_alpha / rank
        self.dropout = config.lora_dropout

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # the record is data
    def forward(self, inputs: Tensor) -> Tensor:
        """What is added to the frozen map's output; [..., D_in] → [..., D_out]."""
        logits = F.linear(inputs, self.router)
        wide = logits if logits.dtype == torch.float64 else logits.float()
        weights = F.softmax(wide, dim=-1)
        record = _record.get()
        if record is not None:
            record.append(weights)
        dropped = F.dropout(inputs, self.dropout, self.training)
        low = F.linear(dropped, self.a.flatten(0, 1)).unflatten(-1, self.a.shape[:2])
        mixed = low * (self.scale * weights).to(low.dtype).unsqueeze(-1)
        return F.linear(mixed.flatten(-2), self.b.flatten(0, 1).t())

    def extra_repr(self) -> str:
        return f"{self.a.shape[0]} experts of rank {self.a.shape[1]}"


class LoraExpertsLinear(nn.Linear):
    """A dense map under its own name, and LoRA experts beside it.

    Source: LoRAMoE, arXiv:2312.09979, §3.2; every map of the block has experts and a router of its
        own, as in the released code.
    """

    def __init__(self, dense: nn.Linear, config: Any) -> None:
        super().__init__(dense.in_features, dense.out_features, bias=dense.bias is not None)
        self.lora = LoraExperts(dense.in_features, dense.out_features, config)

    def forward(self, inputs: Tensor) -> Tensor:
        """The frozen map plus its experts."""
        added: Tensor = self.lora(inputs)
        return super().forward(inputs) + added
