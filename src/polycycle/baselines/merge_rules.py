"""How task vectors become one: tensor arithmetic alone, without files.

A task vector is what training changed: a model's weights less its base's, times a scale. Letters: M
vectors of one tensor (or of some of its rows), all of one shape.
"""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def summed(vectors: Sequence[Tensor]) -> Tensor:
    """Σ of M vectors: task arithmetic.

    Source: Task arithmetic, arXiv:2212.04089, §2.
    """
    return torch.stack(list(vectors)).sum(0)


def trim_threshold(magnitudes: NDArray[np.floating], density: float) -> float:
    """The magnitude that a share `density` of the elements, at least one, reaches.

    Args:
        magnitudes: of all elements of one tensor, one-dimensional; left in another order.
        density: above 0, at most 1.

    Source: TIES, arXiv:2306.01708, §4 (trim).
    Differs: the share is taken of each tensor, as other streaming merges do, the released code
    takes it of all tensors together; so no tensor is trimmed away whole.
    """
    kept = max(1, round(density * magnitudes.size))
    place = magnitudes.size - kept
    magnitudes.partition(place)
    return float(magnitudes[place])


def ties(vectors: Sequence[Tensor], thresholds: Sequence[float]) -> Tensor:
    """One vector of M: trimmed, then the mean of what has the sign with more weight.

    Args:
        vectors: scaled.
        thresholds: of each, as `trim_threshold` gives them; what is smaller counts as zero.

    Source: TIES, arXiv:2306.01708, §4 (trim, elect, disjoint merge).
    Differs: where trimmed values cancel to exactly zero nothing is changed; the released code takes
    the sign that most elements of the whole model have.
    """
    stacked = torch.stack(list(vectors))
    limits = torch.tensor(thresholds, dtype=stacked.dtype).view(-1, *[1] * (stacked.dim() - 1))
    trimmed = stacked.where(stacked.abs() >= limits, 0.0)
    elected = trimmed.sum(0).sign()
    agrees = (trimmed.sign() == elected) & (elected != 0)
    return trimmed.where(agrees, 0.0).sum(0) / agrees.sum(0).clamp(min=1)


class Dropout:
    """Drops elements of one vector at random and makes up for it: DARE.

    Asked for the rows of a tensor in their order, in pieces of any size, it drops the same ones.

    Args:
        density: share that is kept; the kept ones are divided by it.
        seed: of the draw.
        name: of the tensor; each is drawn for itself, whatever the order of tensors.
        number: of the vector among M.

    Source: DARE, arXiv:2311.03099, §3.
    """

    def __init__(self, density: float, *, seed: int, name: str, number: int) -> None:
        self.density = density
        digest = hashlib.sha256(name.encode()).digest()
        self._draw = np.random.default_rng([seed, number, int.from_bytes(digest[:8], "little")])

    def __call__(self, rows: Tensor) -> Tensor:
        """The next rows, [rows, …]: on average what they were."""
        drawn = self._draw.random(math.prod(rows.shape)) < self.density
        kept = torch.from_numpy(drawn).view(rows.shape)
        return rows.where(kept, 0.0) / self.density
