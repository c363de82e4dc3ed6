"""The gate's rates and the trade of its threshold, against a model that really runs with it."""

import math

import pytest
import torch

from polycycle.data import IGNORED_LABEL, WindowBatch
from polycycle.evaluation import (
    GatedTexts,
    judge_mixed,
    measure_gate,
    measure_text,
    prefill_speed,
    retention_trade,
)
from polycycle.modeling import block
from tests.modeling.test_retention import gate_of, gated, mixed_prompts
from tests.tiny import token_ids

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


def test_mixed_texts_are_judged_as_the_model_judges_them(tmp_path):
    _, moe = gated(tmp_path)
    prompts, original = mixed_prompts(moe)
    batch, gate = batch_of(prompts), gate_of(moe)
    found = judge_mixed(
        moe, [batch] * 2, language="el", begins="original", threshold=gate.threshold
    )
    assert moe.judge_original(batch.input_ids, batch.is_real.long()).tolist() == original.tolist()
    assert (found.texts, found.text_rate) == (24, original.float().mean().item())
    tokens = [
        moe.judge_original(prompts[:, :end]).float().mean().item()
        for end in range(1, prompts.shape[1] + 1)
    ]
    assert found.token_rate == pytest.approx(sum(tokens) / len(tokens))


def test_a_kept_text_is_read_at_the_bases_speed(tmp_path, monkeypatch):
    _, moe = gated(tmp_path)
    threshold, whole = gate_of(moe).threshold, block.moe_forward
    now = 0.0

    def slow(*args):
        nonlocal now
        now += 0.05
        return whole(*args)

    def clock():  # of its own: a busy machine's says nothing
        nonlocal now
        now += 0.01
        return now

    monkeypatch.setattr(block, "moe_forward", slow)
    monkeypatch.setattr("polycycle.evaluation.speed.perf_counter", clock)
    text = token_ids(300)
    speed = prefill_speed(moe, text, context_length=64, seconds=60)
    assert (speed.batch, speed.length, speed.device, speed.dtype) == (4, 64, "cpu", "float32")
    # Three layers take 50 ms each in the mixture, and nothing else takes any.
    assert 256 / speed.mixture == pytest.approx(0.16)
    assert 256 / speed.kept == pytest.approx(0.01)
    assert 256 / speed.base == pytest.approx(0.01)
    assert gate_of(moe).threshold == threshold
    assert not moe.training


def test_slow_models_read_less_text(tmp_path):
    _, moe = gated(tmp_path)
    speed = prefill_speed(moe, token_ids(600), context_length=256, seconds=0)
    assert (speed.batch, speed.length) == (1, 128)
    assert prefill_speed(moe, token_ids(20), context_length=256).length == 20
