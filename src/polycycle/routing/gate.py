"""Exact retention: one decision for a whole text, before the first mixture layer, honoured by all.

A decision per token would not do: at 99 % a token, a prompt of 100 tokens survives with probability
0.37, and one token that goes elsewhere changes every later key and value. So a text is judged by
the mean score of its tokens so far. A prompt is judged at its end and all its tokens follow; what
is generated keeps the prompt's decision until `patience` tokens in a row speak against it.

Letters: B rows, S tokens of each in this call, D hidden size.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polycycle.errors import ConfigError
from polycycle.routing.classifier import wide_product


class RetentionGate(nn.Module):
    """One vector; a text is original where the mean of w·x over its tokens is above the threshold.

    It starts at zero, and zero is not above zero: until it is trained nothing is judged original.

    Args:
        hidden_size: D.
        threshold: τ. A higher one keeps fewer texts exactly, and gives fewer expanded texts away.
        patience: tokens in a row that must speak against a decision before it changes.
    """

    def __init__(self, hidden_size: int, *, threshold: float, patience: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(hidden_size))
        self.threshold = threshold
        self.patience = patience

    def forward(self, hidden_BSD: Tensor) -> Tensor:
        """Scores [B, S], float32 (float64 stays): the higher, the more original."""
        return wide_product(hidden_BSD, self.weight)

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}, patience={self.patience}"


@dataclass(slots=True)
class GateState:
    """What is kept beside a key-value cache, per row.

    Attributes:
        sums: [B] of the scores so far.
        counts: [B] tokens so far, padding not counted.
        original: [B] bool, the decision.
        against: [B] tokens in a row that speak against it.
    """

    sums: Tensor
    counts: Tensor
    original: Tensor
    against: Tensor

    def widened(self, rows: int) -> "GateState":
        """For a cache whose rows were each repeated."""
        times = rows // len(self.sums)
        if times == 1:
            return self
        values = (self.sums, self.counts, self.original, self.against)
        return GateState(*(value.repeat_interleave(times, 0) for value in values))


@dataclass(slots=True)
class GatedCall:
    """One forward pass of a gated model: what the gate has to know, and what it decided.

    Attributes:
        position_ids: as the model was given them; a step back begins a new document in a row.
        attention_mask: as the model was given it: [B, past + S], 0 for padding; the masks that
            `generate` makes for caches of a fixed size (see `_own_places`); None without padding.
        cache: the key-value cache that the call goes on from; its state is kept on it.
        past: tokens that the cache held before this call.
        original_BS: the decision for every token; None before the gate has run.
        is_all_original: whether that holds for all rows, so that the dense model will do.
        state: of the rows after this call.
    """

    position_ids: Tensor | None
    attention_mask: Any
    cache: Any
    past: int = 0
    original_BS: Tensor | None = None
    is_all_original: bool = False
    state: GateState | None = None

    def keep_on(self, cache: Any) -> None:
        """Leave the state where the next call will find it: on the cache that this one filled."""
        if cache is not None and self.state is not None:
            setattr(cache, _STATE, self.state)

    def settle(self, scores_BS: Tensor, gate: RetentionGate) -> None:
        """Decide, from the gate's scores of this call's tokens."""
        real_BS = self._real(scores_BS)
        before: GateState | None = getattr(self.cache, _STATE, None)
        if before is None:
            original_BS, self.state = self._judge(scores_BS, real_BS, gate)
        else:
            self.state = _follow(before.widened(len(scores_BS)), scores_BS, real_BS, gate)
            original_BS = self.state.original[:, None].expand_as(real_BS)
        self.original_BS = original_BS
        self.is_all_original = bool((original_BS | ~real_BS).all())

    def _real(self, scores_BS: Tensor) -> Tensor:
        mask: Any = self.attention_mask
        if isinstance(mask, dict):  # by kind of attention; a sliding window may have lost places
            masks = [one for one in mask.values() if one is not None]
            mask = max(masks, key=lambda one: one.shape[-1], default=None)
        if mask is None:
            return torch.ones_like(scores_BS, dtype=torch.bool)
        if isinstance(mask, Tensor) and mask.dim() == 2:
            return mask[:, -scores_BS.shape[1] :].bool()
        if isinstance(mask, Tensor) and mask.dim() == 4:
            return _own_places(mask, self.past, scores_BS.shape[1]).expand_as(scores_BS)
        raise ConfigError(
            f"the retention gate cannot tell padding from a mask of type {type(mask).__name__}; "
            "give a mask [batch, tokens] with 0 for padding"
        )

    def _judge(
        self, scores_BS: Tensor, real_BS: Tensor, gate: RetentionGate
    ) -> tuple[Tensor, GateState]:
        """Every document of the call by the mean over all its tokens."""
        document_BS = torch.zeros_like(real_BS, dtype=torch.long)
        if self.position_ids is not None:
            steps_back = self.position_ids.diff(dim=-1) < 0
            document_BS[:, 1:] = steps_back.expand(len(scores_BS), -1).cumsum(-1)
        sums = scores_BS.new_zeros(len(scores_BS), int(document_BS.max()) + 1)
        counts = torch.zeros_like(sums)
        sums.scatter_add_(1, document_BS, scores_BS * real_BS)
        counts.scatter_add_(1, document_BS, real_BS.to(sums.dtype))
        original = sums > gate.threshold * counts
        last = (document_BS * real_BS).amax(1, keepdim=True)
        state = GateState(
            sums=sums.gather(1, last)[:, 0],
            counts=counts.gather(1, last)[:, 0],
            original=original.gather(1, last)[:, 0],
            against=torch.zeros_like(sums[:, 0]),
        )
        return original.gather(1, document_BS), state


_STATE = "polycycle_gate"


def _own_places(mask_B1SK: Tensor, past: int, length: int) -> Tensor:
    """Whether each token of a call may attend to itself, [B, S]: all but padding may."""
    if mask_B1SK.shape[-1] < past + length:  # a sliding window went on; only prompts are padded
        return mask_B1SK.new_ones(1, length, dtype=torch.bool)
    own = mask_B1SK[:, 0].diagonal(past, dim1=1, dim2=2)[:, :length]
    return own if own.dtype == torch.bool else own == 0


def _follow(state: GateState, scores_BS: Tensor, real_BS: Tensor, gate: RetentionGate) -> GateState:
    """The decision after more tokens of the same rows."""
    new = real_BS.sum(1).to(state.counts.dtype)
    sums, counts = state.sums + (scores_BS * real_BS).sum(1), state.counts + new
    now = sums > gate.threshold * counts
    differs = now != state.original
    against = torch.where(differs, state.against + new, 0.0)
    turns = against >= gate.patience
    return GateState(
        sums=sums,
        counts=counts,
        original=torch.where(turns, now, state.original),
        against=torch.where(turns, 0.0, against),
    )
