"""Means over seeds, and which differences are larger than the noise between them."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["better", "worse", "within noise", "one seed", "reference"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """A figure over seeds: mean, standard deviation (None of one seed), number of seeds."""

    mean: float
    deviation: float | None
    seeds: int


def spread_of(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Spread(mean=statistics.mean(values), deviation=deviation, seeds=len(values))


# Two-sided 95 % points of Student's t by degrees of freedom; beyond ten, the normal's is near.
_T95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)


def verdict_on(differences: Sequence[float]) -> Verdict:
    """Whether differences, paired by seed, are larger than noise: a paired t-test at 95 %.

    With three seeds that asks for a mean difference of 2.5 standard deviations; a study that finds
    "within noise" has not shown that nothing is there.
    """
    if len(differences) < 2:
        return "one seed"
    mean = statistics.mean(differences)
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    limit = _T95[min(len(differences) - 1, len(_T95)) - 1] * error
    if abs(mean) <= limit or mean == 0:
        return "within noise"
    return "better" if mean > 0 else "worse"
