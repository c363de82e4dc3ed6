"""Which experts of a layer are used, how evenly, and how differently two kinds of text use them.

Letters: N tokens, K experts per token, E experts of a layer.
"""

import math

import torch
from torch import Tensor

from polycycle.experts import FROZEN_EXPERT, NO_EXPERT


def frozen_shares(expert_ids: Tensor, expert_weights: Tensor) -> Tensor:
    """Share of each token's weight that is on expert 0, float64 [N]; ids and weights [N, K]."""
    weights = expert_weights.float()
    on_frozen = torch.where(expert_ids == FROZEN_EXPERT, weights, torch.zeros_like(weights))
    return (on_frozen.sum(-1) / weights.sum(-1)).double()


def count_assignments(expert_ids: Tensor, num_experts: int) -> Tensor:
    """How often each expert was chosen, int64 [E], from ids [N, K]; empty choices count nowhere."""
    return torch.bincount(expert_ids[expert_ids != NO_EXPERT], minlength=num_experts)


def usage_entropy(usage: Tensor) -> float:
    """Entropy of expert shares [E] divided by ln E: 1 is perfectly even, 0 is one expert."""
    return _entropy(usage.double()) / math.log(len(usage))


def jensen_shannon(usage: Tensor, other: Tensor) -> float:
    """Jensen–Shannon divergence of two usages [E], in bits: 0 alike, 1 without a common expert.

    JS(p, q) = H((p + q) / 2) − (H(p) + H(q)) / 2 with H in base 2. Its square root is a distance;
    this is not that.

    Args:
        usage: p, shares that sum to one.
        other: q, over the same experts.

    Source: J. Lin, Divergence measures based on the Shannon entropy, IEEE Transactions on
        Information Theory 37(1), 1991, eq. 4.1 with both weights one half.
    """
    p, q = usage.double(), other.double()
    nats = _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2
    return min(max(nats / math.log(2), 0.0), 1.0)  # rounding may leave it a hair outside


def _entropy(shares: Tensor) -> float:
    """In nats; 0 · log 0 is 0."""
    return float(torch.special.entr(shares).sum())
