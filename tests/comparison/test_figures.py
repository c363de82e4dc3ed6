"""Means, noise, and what is larger than it."""

import pytest

from polycycle.comparison.noise import spread_of, verdict_on
from polycycle.comparison.wording import spread_words


def test_a_spread_is_mean_and_sample_deviation():
    spread = spread_of([1.0, 2.0, 3.0])
    assert (spread.mean, spread.deviation, spread.seeds) == (2.0, 1.0, 3)
    assert spread_words(spread, digits=1, sign=True) == "+2.0 ± 1.0"
    assert spread_words(spread_of([2.0]), digits=1) == "2.0"


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([], "one seed"),
        ([5.0], "one seed"),
        ([1.0, 1.1, 0.9], "better"),
        ([-1.0, -1.1, -0.9], "worse"),
        ([1.0, -1.0, 0.5], "within noise"),
        # t = mean / (deviation / √3) with two degrees of freedom: 4.33 is over 4.30, 4.0 is not.
        ([1.5, 2.5, 3.5], "better"),
        ([1.3, 2.3, 3.3], "within noise"),
        ([0.0, 0.0], "within noise"),
        ([2.0, 2.0], "better"),
    ],
)
def test_a_difference_counts_when_it_is_larger_than_the_noise(differences, verdict):
    assert verdict_on(differences) == verdict
