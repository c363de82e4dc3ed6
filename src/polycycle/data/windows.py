"""Windows over held-out documents in which every token is scored exactly once.

Letters: B windows of a batch, T tokens of the longest window in it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polycycle.data.packing import IGNORED_LABEL
from polycycle.data.tokens import TokenizedCorpus

Window = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Tokens of a window, and the token that each is to predict."""


@dataclass(frozen=True, slots=True)
class WindowBatch:
    """Windows of similar length, padded on the right.

    Attributes:
        input_ids: int64 [B, T].
        targets: int64 [B, T]; the token that position t is to predict, −100 where another window
            scores it or there is none. Already shifted: compare with the logits as they come.
        is_real: bool [B, T], False for padding.
    """

    input_ids: Tensor
    targets: Tensor
    is_real: Tensor


def evaluation_windows(
    corpus: TokenizedCorpus,
    *,
    context_length: int,
    batch_tokens: int = 8192,
    num_documents: int | None = None,
) -> Iterator[WindowBatch]:
    """Batches that score each text token of the corpus once, given its start token.

    A document that fits is one window; a longer one is scored by windows that overlap by half, so
    that every token but the first has at least half a window of context. No attention mask is
    needed: padding is on the right, and attention is causal.

    Args:
        corpus: held-out text.
        context_length: tokens of the longest window.
        batch_tokens: tokens of a batch, padding included.
        num_documents: only the first so many; all by default.
    """
    windows = [
        window
        for index in range(len(corpus) if num_documents is None else num_documents)
        for window in _windows(corpus.policy.start, corpus.text_tokens(index), context_length)
    ]
    yield from _batches(windows, batch_tokens, corpus.policy.eos)


def _batches(windows: list[Window], batch_tokens: int, pad_token: int) -> Iterator[WindowBatch]:
    """Windows of similar length together."""
    windows.sort(key=lambda window: len(window[0]))
    batch: list[Window] = []
    for window in windows:
        if batch and (len(batch) + 1) * len(window[0]) > batch_tokens:
            yield _padded(batch, pad_token)
            batch = []
        batch.append(window)
    if batch:
        yield _padded(batch, pad_token)


def mixed_windows(
    first: TokenizedCorpus,
    second: TokenizedCorpus,
    *,
    context_length: int,
    num_texts: int,
    batch_tokens: int = 8192,
) -> Iterator[WindowBatch]:
    """Texts that begin with the first half of one document and end with the last of another.

    Document i of one corpus meets document i of the other; the shorter corpus ends it. A half is at
    most half of the context.

    Args:
        first: what the texts begin with.
        second: what they end with.
        context_length: tokens of the longest window.
        num_texts: at most so many.
        batch_tokens: tokens of a batch, padding included.
    """
    longest = max((context_length - 1) // 2, 1)
    windows = []
    for index in range(min(num_texts, len(first), len(second))):
        head, tail = first.text_tokens(index), second.text_tokens(index)
        head, tail = head[: (len(head) + 1) // 2], tail[len(tail) // 2 :]
        mixed = np.concatenate([[first.policy.start], head[:longest], tail[:longest]])
        tokens = mixed.astype(np.int64)
        windows.append((tokens[:-1], tokens[1:]))
    yield from _batches(windows, batch_tokens, first.policy.eos)


def _windows(start: int, text: NDArray[np.int32], context_length: int) -> Iterator[Window]:
    tokens = np.concatenate([[start], text]).astype(np.int64)
    num_targets = len(tokens) - 1
    scored = 0
    while scored < num_targets:
        # The window ends after the next unscored stretch and reaches back as far as it can.
        stride = context_length if scored == 0 else context_length // 2
        end = min(scored + stride, num_targets)
        begin = max(0, end - context_length)
        targets = tokens[begin + 1 : end + 1].copy()
        targets[: scored - begin] = IGNORED_LABEL
        yield tokens[begin:end], targets
        scored = end


def _padded(windows: list[Window], pad_token: int) -> WindowBatch:
    longest = max(len(inputs) for inputs, _ in windows)
    input_ids = torch.full((len(windows), longest), pad_token)
    targets = torch.full((len(windows), longest), IGNORED_LABEL)
    is_real = torch.zeros(len(windows), longest, dtype=torch.bool)
    for row, (inputs, its_targets) in enumerate(windows):
        input_ids[row, : len(inputs)] = torch.from_numpy(inputs)
        targets[row, : len(inputs)] = torch.from_numpy(its_targets)
        is_real[row, : len(inputs)] = True
    return WindowBatch(input_ids, targets, is_real)
