"""Whole documents side by side in rows without padding, for a look at all of their tokens.

Letters: T tokens of a row.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from polycycle.data.packing import packed_model_inputs

Tokens = NDArray[np.int32]


def packed_rows(
    documents: Iterable[Tokens], row_tokens: int, *, device: torch.device | str = "cpu"
) -> Iterator[dict[str, Any]]:
    """Model inputs [1, T] of a row each; positions start anew with each document.

    Args:
        documents: token ids of each, not empty.
        row_tokens: the most of a row; a longer document has a row of its own.
        device: where the model is.
    """
    for row in _rows(documents, row_tokens):
        batch = {
            "input_ids": np.concatenate(row).astype(np.int64),
            "position_ids": np.concatenate([np.arange(len(document)) for document in row]),
        }
        yield packed_model_inputs(
            {name: torch.from_numpy(array)[None].to(device) for name, array in batch.items()}
        )


def _rows(documents: Iterable[Tokens], row_tokens: int) -> Iterator[list[Tokens]]:
    """Whole documents, together at most `row_tokens` tokens where each alone is."""
    row: list[Tokens] = []
    length = 0
    for document in documents:
        if row and length + len(document) > row_tokens:
            yield row
            row, length = [], 0
        row.append(document)
        length += len(document)
    if row:
        yield row
