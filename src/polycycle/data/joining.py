"""Several packed datasets read as one."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset

from polycycle.data.packing import PackedDataset


class JoinedDataset(Dataset[dict[str, Tensor]]):
    """The sequences of all parts, shuffled together in an order fixed by the seed.

    Args:
        parts: with sequences of one length.
        seed: of the order.
    """

    def __init__(self, parts: Sequence[PackedDataset], seed: int) -> None:
        lengths = {part.sequence_length for part in parts}
        if len(lengths) != 1:
            raise ValueError(f"parts have sequences of {sorted(lengths)} tokens; give one length")
        self.num_tokens = sum(part.num_tokens for part in parts)
        self._all: ConcatDataset[dict[str, Tensor]] = ConcatDataset(parts)
        self._order = np.random.default_rng(seed).permutation(len(self._all))

    def __len__(self) -> int:
        return len(self._all)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """See `PackedDataset`."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        item: dict[str, Tensor] = self._all[int(self._order[index])]
        return item
