"""Models taking turns at reading and writing."""

import pytest
import torch

from polycycle.evaluation import measure_paces, take_turns
from polycycle.surgery import upcycle
from tests.tiny import load, save_dense, token_ids


class Clock:
    """Time that passes only when a model works."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr("polycycle.evaluation.speed.perf_counter", lambda: self.now)


class Reader:
    """A stand-in that takes its time for each token, and the first time longer."""

    device = torch.device("cpu")

    def __init__(self, clock, seconds):
        self.clock, self.seconds, self.training = clock, seconds, True
        self.calls = []

    def train(self, mode=True):
        self.training = mode

    def eval(self):
        self.train(False)

    def modules(self):
        return [self]

    def __call__(self, input_ids, **how):
        assert not self.training
        self.clock.now += self.seconds * input_ids.numel() + (10.0 if not self.calls else 0.0)
        self.calls.append((tuple(input_ids.shape), how.get("use_cache")))

        class Out:
            logits = torch.zeros(*input_ids.shape, 4)
            past_key_values = "cache"

        return Out()


def test_in_every_round_each_has_one_turn_and_another_one_begins():
    order = []
    turns = {name: lambda name=name: order.append(name) or 1.0 for name in "abc"}
    taken = take_turns(turns, rounds=4)
    assert {name: len(times) for name, times in taken.items()} == {"a": 4, "b": 4, "c": 4}
    assert "".join(order) == "abcbcacababc"


def test_time_ends_the_rounds_but_three_there_are(monkeypatch):
    clock = Clock(monkeypatch)

    def turn():
        clock.now += 1.0
        return 1.0

    assert len(take_turns({"a": turn}, rounds=9, seconds=0.5)["a"]) == 3
    assert len(take_turns({"a": turn}, rounds=9, seconds=4.5)["a"]) == 5
    assert len(take_turns({"a": turn}, rounds=4)["a"]) == 4


def test_paces_are_tokens_per_second_and_ratios_to_the_first(monkeypatch):
    clock = Clock(monkeypatch)
    models = {"dense": Reader(clock, 0.001), "mixture": Reader(clock, 0.002)}
    paces = measure_paces(models, token_ids(50), prefill=(2, 16), decode_batches=(1, 4))
    dense, mixture = paces["dense"], paces["mixture"]
    works = [("prefill", 2, 16), ("decode", 1, 64), ("decode", 4, 64)]
    assert [(pace.work, pace.batch, pace.length) for pace in dense] == works
    for pace in dense:
        assert pace.tokens_per_second == pytest.approx(1000)
        assert (pace.of_base, pace.of_base_quartiles, pace.rounds) == (1.0, (1.0, 1.0), 7)
    for pace in mixture:
        assert pace.tokens_per_second == pytest.approx(500)
        assert pace.of_base == pytest.approx(0.5)
    calls = models["mixture"].calls
    assert calls[0] == ((2, 16), False)
    assert calls[-65:] == [((4, 32), True), *[((4, 1), True)] * 64]
    assert models["dense"].training  # as it was


def test_a_real_mixture_and_its_base_are_measured(tmp_path):
    save_dense(tmp_path / "base")
    upcycle(tmp_path / "base", tmp_path / "moe", num_experts=3)
    models = {"base": load(tmp_path / "base"), "moe": load(tmp_path / "moe")}
    how = {"prefill": (2, 16), "decode_batches": (2,), "decode_tokens": 4, "prompt_tokens": 4}
    paces = measure_paces(models, token_ids(30), rounds=2, **how)
    for pace in paces["moe"]:
        low, high = pace.quartiles
        assert 0 < low <= pace.tokens_per_second <= high
        assert pace.rounds == 2
    assert [pace.of_base for pace in paces["base"]] == [1.0, 1.0]
