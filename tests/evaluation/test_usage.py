"""Divergence and entropy of expert usage, against sums by hand and the definition's other form."""

import pytest
import torch

from polycycle.evaluation import LayerTally, TextTally, jensen_shannon, routing_table, usage_entropy
from polycycle.languages import LanguageGroups

GROUPS = LanguageGroups(original=("en", "es"), unseen_original=("fr",), expanded=(("el",),))


def by_divergences(p, q):
    """(KL(p ‖ m) + KL(q ‖ m)) / 2 in bits, m the mean of p and q: the definition's other form."""
    m = (p + q) / 2
    parts = [torch.where(one > 0, one * (one / m).log2(), 0.0).sum() for one in (p, q)]
    return float(sum(parts) / 2)


@pytest.mark.parametrize(
    ("p", "q", "bits"),
    [
        ([1.0, 0.0], [1.0, 0.0], 0.0),
        ([1.0, 0.0, 0.0], [0.0, 0.5, 0.5], 1.0),
        # H(3/4, 1/4) − H(1/2, 1/2) / 2 = 0.811278 − 0.5
        ([1.0, 0.0], [0.5, 0.5], 0.3112781245),
    ],
)
def test_the_divergence_is_what_one_computes_by_hand(p, q, bits):
    p, q = torch.tensor(p), torch.tensor(q)
    assert jensen_shannon(p, q) == pytest.approx(bits, abs=1e-9)
    assert jensen_shannon(q, p) == jensen_shannon(p, q)


def test_the_divergence_is_the_mean_divergence_from_the_mean():
    generator = torch.Generator().manual_seed(0)
    for experts in (2, 6, 64):
        p, q = (torch.rand(experts, generator=generator, dtype=torch.float64) for _ in range(2))
        p, q = p.relu() / p.sum(), (q - 0.4).relu() / (q - 0.4).relu().sum()
        assert jensen_shannon(p, q) == pytest.approx(by_divergences(p, q), abs=1e-12)


def tally(assignments, judged=None):
    counts = torch.tensor(assignments)
    return TextTally(1.0, 10, 0.0, {3: LayerTally(2.0, counts, 10, judged)})


def test_a_language_is_held_against_the_other_original_languages():
    table = routing_table(
        {
            "en": tally([10, 0, 0]),
            "es": tally([0, 10, 0]),
            "fr": tally([5, 5, 0]),
            "el": tally([0, 0, 10]),
        },
        GROUPS,
    )
    found = {language: layers[0] for language, layers in table.divergence_from_original.items()}
    # en against es alone; fr and el against the mean of both: (½, ½, 0).
    assert found == pytest.approx({"en": 1.0, "es": 1.0, "fr": 0.0, "el": 1.0})
    assert table.usage_entropy["fr"][0] == pytest.approx(
        usage_entropy(torch.tensor([0.5, 0.5, 0.0]))
    )
    assert table.usage_entropy["el"] == (0.0,)
    assert table.classifier_accuracy == {}


def test_the_only_original_language_has_none_to_differ_from():
    groups = LanguageGroups(original=("en",), expanded=(("el",),))
    table = routing_table({"en": tally([10, 0]), "el": tally([5, 5])}, groups)
    assert set(table.divergence_from_original) == {"el"}


def test_judged_original_is_right_for_original_languages_and_wrong_for_expanded_ones():
    judged = {"en": 9, "es": 10, "fr": 8, "el": 3}
    table = routing_table({tag: tally([5, 5], n) for tag, n in judged.items()}, GROUPS)
    rightly = {tag: shares[0] for tag, shares in table.classifier_accuracy.items()}
    assert rightly == pytest.approx({"en": 0.9, "es": 1.0, "fr": 0.8, "el": 0.7})
