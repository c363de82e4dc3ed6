"""What a kept text gains in speed: prefill by the base, with the gate open, and with it closed.

Letters: N tokens of a text, B rows read together, T tokens of each.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from polycycle.modeling import frozen_expert_only
from polycycle.results import RetentionSpeed
from polycycle.routing import RetentionGate

_KINDS = ("base", "kept", "mixture")
_ROUNDS = 7
_WARM_UP_TOKENS = 128
_LONGEST = 512
_ROWS = 4


@torch.no_grad()
def prefill_speed(
    model: Any, tokens: Tensor, *, context_length: int, seconds: float = 3.0
) -> RetentionSpeed:
    """Tokens per second of original text, by the base, kept by the gate, and by the mixture.

    The three take turns, so that what else the machine does hits them alike; medians of seven. The
    base is the one inside the model: its own blocks run and nothing else (`frozen_expert_only`).
    Logits are computed for the last token only, as in generation.

    Args:
        model: with a retention gate, on any device.
        tokens: int [N] of running text; its beginning is read, at most 4 × 512.
        context_length: the longest T.
        seconds: roughly how long it may take; slower models read fewer tokens.
    """
    was_training = model.training
    model.eval()
    try:
        for kind in _KINDS:  # once for what is done only once
            _seconds(model, tokens[None, :_WARM_UP_TOKENS], kind)
        slowest = max(_seconds(model, tokens[None, :_WARM_UP_TOKENS], kind) for kind in _KINDS)
        affordable = int(seconds / (len(_KINDS) * _ROUNDS * slowest) * _WARM_UP_TOKENS)
        length = min(context_length, _LONGEST, len(tokens), max(affordable, _WARM_UP_TOKENS))
        rows = max(min(_ROWS, len(tokens) // length, affordable // length), 1)
        batch_BT = tokens[: rows * length].reshape(rows, length)
        taken: dict[str, list[float]] = {kind: [] for kind in _KINDS}
        for _ in range(_ROUNDS):
            for kind, times in taken.items():
                times.append(_seconds(model, batch_BT, kind))
    finally:
        model.train(was_training)
    speed = {kind: batch_BT.numel() / median(times) for kind, times in taken.items()}
    return RetentionSpeed(
        **speed,
        batch=rows,
        length=length,
        repeats=_ROUNDS,
        device=model.device.type,
        dtype=str(model.dtype).removeprefix("torch."),
    )


def _seconds(model: Any, batch_BT: Tensor, kind: str) -> float:
    ids = batch_BT.to(model.device, torch.long)
    with _as(model, kind):
        _wait(model)
        start = perf_counter()
        model(input_ids=ids, use_cache=False, logits_to_keep=1)
        _wait(model)
        return perf_counter() - start


@contextmanager
def _as(model: Any, kind: str) -> Iterator[None]:
    """The base alone, or a gate that keeps everything, or one that keeps nothing."""
    if kind == "base":
        with frozen_expert_only():
            yield
        return
    (gate,) = [module for module in model.modules() if isinstance(module, RetentionGate)]
    threshold = gate.threshold
    gate.threshold = -math.inf if kind == "kept" else math.inf
    try:
        yield
    finally:
        gate.threshold = threshold


def _wait(model: Any) -> None:
    """A GPU is given its work and goes on alone."""
    if model.device.type == "cuda":
        torch.cuda.synchronize()
