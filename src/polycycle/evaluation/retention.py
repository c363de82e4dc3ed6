"""How often the retention gate fires, and what moving its threshold trades.

Whatever the threshold, a text is computed either by the base or by the mixture of experts. So both
are measured once, with the gate's score of each text, and any threshold follows by choosing.

Letters: B windows of a batch, T tokens of the longest one.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from polycycle.data import IGNORED_LABEL, WindowBatch
from polycycle.modeling import (
    RoutingRecord,
    evaluation_mode,
    frozen_expert_only,
    record_routing,
    without_retention_gate,
)
from polycycle.results import MixedText, RetentionPoint, RetentionSpeed, RetentionTrade

_QUANTILES = 11


@dataclass(slots=True)
class GatedTexts:
    """One language's held-out windows, as the gate sees them. All lists run over windows.

    Attributes:
        scores: mean gate score.
        base_nats: loss of the base, summed over scored tokens.
        mixture_nats: loss of the mixture of experts without the gate.
        tokens: tokens of all windows.
        tokens_original: how many of them the gate judges original where they stand, by the mean
            score up to them.
        num_bytes: UTF-8 bytes of the text.
    """

    scores: list[float]
    base_nats: list[float]
    mixture_nats: list[float]
    tokens: int
    tokens_original: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Judged:
    """What the gate makes of the windows of one batch.

    Attributes:
        scores: [B] mean score of each window.
        tokens: tokens of all windows, padding left out.
        tokens_original: how many of them it judges original where they stand.
    """

    scores: Tensor
    tokens: int
    tokens_original: int


@torch.no_grad()
def measure_gate(
    model: Any, batches: Iterable[WindowBatch], *, num_bytes: int, threshold: float
) -> GatedTexts:
    """Score every window, and compute it both ways. Two forward passes.

    Args:
        model: with a retention gate, on any device.
        batches: windows in which each token is scored once.
        num_bytes: UTF-8 bytes of their text.
        threshold: the gate's, for the share of tokens.
    """
    texts = GatedTexts([], [], [], 0, 0, num_bytes)
    with evaluation_mode(model):
        for batch in batches:
            _add(model, batch, texts, threshold)
    return texts


def _add(model: Any, batch: WindowBatch, texts: GatedTexts, threshold: float) -> None:
    ids, targets = batch.input_ids.to(model.device), batch.targets.to(model.device)
    real_BT = batch.is_real.to(model.device)
    with without_retention_gate(), record_routing(model) as routing:
        texts.mixture_nats += _nats(model, ids, targets)
    with frozen_expert_only():
        texts.base_nats += _nats(model, ids, targets)
    judged = _judged(routing, real_BT, threshold)
    texts.scores += judged.scores.tolist()
    texts.tokens += judged.tokens
    texts.tokens_original += judged.tokens_original


def _judged(routing: RoutingRecord, real_BT: Tensor, threshold: float) -> Judged:
    scores_BT = routing.gate_scores
    assert scores_BT is not None, "the model has no retention gate"
    sums = (scores_BT * real_BT).double().cumsum(1)
    counts = real_BT.double().cumsum(1)
    return Judged(
        scores=sums[:, -1] / counts[:, -1],
        tokens=int(real_BT.sum()),
        tokens_original=int(((sums > threshold * counts) & real_BT).sum()),
    )


@torch.no_grad()
def judge_mixed(
    model: Any,
    batches: Iterable[WindowBatch],
    *,
    language: str,
    begins: Literal["original", "expanded"],
    threshold: float,
) -> MixedText:
    """How often the gate takes texts of two languages for original. One forward pass.

    Args:
        model: with a retention gate, on any device.
        batches: texts of which one half is of an original language.
        language: the expanded one.
        begins: which half stands first.
        threshold: the gate's.
    """
    texts = texts_original = tokens = tokens_original = 0
    with evaluation_mode(model):
        for batch in batches:
            with without_retention_gate(), record_routing(model) as routing:
                model(input_ids=batch.input_ids.to(model.device), use_cache=False)
            judged = _judged(routing, batch.is_real.to(model.device), threshold)
            texts += len(judged.scores)
            texts_original += int((judged.scores > threshold).sum())
            tokens += judged.tokens
            tokens_original += judged.tokens_original
    return MixedText(
        language=language,
        begins=begins,
        texts=texts,
        text_rate=texts_original / texts,
        token_rate=tokens_original / tokens,
    )


def _nats(model: Any, ids: Tensor, targets: Tensor) -> list[float]:
    """Loss of each window, summed over its scored tokens."""
    logits = model(input_ids=ids, use_cache=False).logits
    return [
        F.cross_entropy(row.float(), wanted, ignore_index=IGNORED_LABEL, reduction="sum").item()
        for row, wanted in zip(logits, targets, strict=True)
    ]


def retention_trade(
    texts: Mapping[str, GatedTexts],
    threshold: float,
    *,
    mixed: Sequence[MixedText] = (),
    speed: RetentionSpeed | None = None,
) -> RetentionTrade:
    """Rates at the threshold that is set, and the trade at thresholds over the whole range.

    Args:
        texts: by language.
        threshold: the gate's.
        mixed: rates on text of two languages.
        speed: what a kept text gains.
    """
    pooled = [score for one in texts.values() for score in one.scores]
    grid = {*np.quantile(pooled, np.linspace(0, 1, _QUANTILES)).tolist(), threshold}
    points = [_point(texts, value) for value in (-math.inf, *sorted(grid), math.inf)]
    return RetentionTrade(
        threshold=threshold,
        texts={language: len(one.scores) for language, one in texts.items()},
        token_rate={language: one.tokens_original / one.tokens for language, one in texts.items()},
        points=tuple(points),
        mixed=tuple(mixed),
        speed=speed,
    )


def _point(texts: Mapping[str, GatedTexts], threshold: float) -> RetentionPoint:
    fired = {language: [s > threshold for s in one.scores] for language, one in texts.items()}
    return RetentionPoint(
        threshold=threshold,
        text_rate={language: sum(hits) / len(hits) for language, hits in fired.items()},
        bits_per_byte={
            language: _bits_per_byte(one, fired[language]) for language, one in texts.items()
        },
    )


def _bits_per_byte(one: GatedTexts, fired: Sequence[bool]) -> float:
    pairs = zip(fired, one.base_nats, one.mixture_nats, strict=True)
    nats = sum(base if hit else mixture for hit, base, mixture in pairs)
    return nats / math.log(2) / one.num_bytes
