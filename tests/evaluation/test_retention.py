"""The gate's rates and the trade of its threshold, against a model that really runs with it."""

import math

import pytest
import torch

from polycycle.data import IGNORED_LABEL, WindowBatch
from polycycle.evaluation import GatedTexts, measure_gate, measure_text, retention_trade
from tests.modeling.test_retention import gate_of, gated, mixed_prompts

BYTES = 1000


def batch_of(prompts, pad=3):
    """Windows of which the second half is shorter, padded on the right."""
    ids = torch.cat([prompts, torch.ones(len(prompts), pad, dtype=torch.long)], 1)
    real = (torch.arange(ids.shape[1]) < prompts.shape[1]).expand_as(ids)
    targets = torch.where(real, ids, IGNORED_LABEL).roll(-1, 1)
    targets[:, -1] = IGNORED_LABEL
    return WindowBatch(ids, targets, real)


def test_the_trade_says_what_the_model_does_at_each_threshold(tmp_path):
    _, moe = gated(tmp_path)
    prompts, original = mixed_prompts(moe)
    gate = gate_of(moe)
    texts = measure_gate(moe, [batch_of(prompts)], num_bytes=BYTES, threshold=gate.threshold)
    trade = retention_trade({"en": texts}, gate.threshold)
    assert trade.texts == {"en": 12}
    assert trade.set_point.text_rate["en"] == original.float().mean().item()
    assert trade.points[0].text_rate["en"] == 1.0
    assert trade.points[-1].text_rate["en"] == 0.0
    compared = 0
    for point in trade.points:
        if min(abs(score - point.threshold) for score in texts.scores) < 1e-5:
            continue  # a text at the very threshold: rounding decides
        compared += 1
        gate.threshold = point.threshold
        really = measure_text(moe, [batch_of(prompts)]).bits_per_byte(BYTES)
        assert point.bits_per_byte["en"] == pytest.approx(really, rel=1e-5)
    assert compared > 6


def test_rates_of_tokens_follow_the_mean_so_far():
    texts = GatedTexts([1.0, -1.0], [10.0, 10.0], [4.0, 4.0], 10, 7, 2)
    trade = retention_trade({"en": texts}, 0.0)
    assert trade.token_rate == {"en": 0.7}
    nats = [point.bits_per_byte["en"] * math.log(2) * 2 for point in trade.points]
    assert nats[0] == pytest.approx(20)
    assert nats[-1] == pytest.approx(8)
    assert trade.set_point.bits_per_byte["en"] * math.log(2) * 2 == pytest.approx(14)
