"""How evenly a layer's experts are used, and how differently two kinds of text use them.

Letters: E experts of a layer.
"""

import math

import torch
from torch import Tensor


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
