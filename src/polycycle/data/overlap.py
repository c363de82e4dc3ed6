"""That held-out text was not trained on."""

import numpy as np

from polycycle.data.tokens import TokenizedCorpus
from polycycle.errors import DataError

_NUM_EXAMPLES = 3


def check_disjoint(
    train: TokenizedCorpus, valid: TokenizedCorpus, *, train_name: str = "data.train"
) -> None:
    """Refuse a held-out corpus that shares documents with the training corpus.

    Texts are compared by a 64-bit hash: two corpora of a million documents agree by chance about
    once in twenty million times.

    Raises:
        DataError: naming how many texts stand in both, and the first places in each.
    """
    shared, in_train, in_valid = np.intersect1d(
        train.text_hashes, valid.text_hashes, return_indices=True
    )
    if not len(shared):
        return
    first = np.argsort(in_valid)[:_NUM_EXAMPLES]
    examples = "; ".join(
        f"{valid.where(int(in_valid[i]))} is {train.where(int(in_train[i]))}" for i in first
    )
    raise DataError(
        f"language {train.language!r}: {len(shared)} documents of data.valid stand in {train_name} "
        f"too ({examples}), so validation would measure memory. Take them out of one of the two"
    )
