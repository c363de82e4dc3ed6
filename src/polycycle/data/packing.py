"""Packed training sequences with per-token language labels, in an order fixed by the seed.

Letters: T tokens of a sequence, B sequences of a batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from polycycle.data.tokens import TokenizedCorpus
from polycycle.errors import DataError
from polycycle.languages import NO_LANGUAGE

IGNORED_LABEL = -100
Packing = Literal["documents", "concatenate"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageUse:
    """What a packed dataset takes of one language: documents (repeats count), tokens, epochs."""

    documents: int
    tokens: int
    epochs: float


def share_tokens(total_tokens: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Token budgets that sum to `total_tokens` and are as the weights, to within a token.

    Raises:
        DataError: no weights, or one that is not positive.
    """
    if not weights or min(weights.values()) <= 0:
        raise DataError(f"every language needs a weight above 0, got {dict(weights)}")
    total_weight = sum(weights.values())
    # Differences of rounded running sums, so that rounding never adds up.
    ends = np.cumsum(list(weights.values())) / total_weight * total_tokens
    counts = np.diff(np.round(ends).astype(np.int64), prepend=0)
    return dict(zip(weights, counts.tolist(), strict=True))


class PackedDataset(Dataset[dict[str, Tensor]]):
    """Documents of several languages in one shuffled stream, cut into sequences of T tokens.

    The order is drawn once, from the seed; item i is the same whoever asks for it and whenever.
    Only the order is held in memory, the tokens stay on disk. A document that does not fit into the
    rest of a sequence goes on in another one; one sequence has a tail of padding.

    Args:
        corpora: by language, what to draw from.
        token_budgets: by language, how many tokens to take. A corpus that has fewer is gone over
            again, in a new order, only if `repeat` says so.
        language_ids: by language, the id its tokens carry.
        sequence_length: T.
        seed: of the order.
        packing: `documents` resets positions and hides documents from each other;
            `concatenate` lets attention and loss cross boundaries, as published.
        pad_token: fills the tail.
        repeat: allow more than one epoch.
        wrong_labels: share of the documents whose tokens carry an id drawn from `wrong_ids`.
        wrong_ids: by language.

    Raises:
        DataError: a corpus has fewer tokens than its budget and `repeat` is off, a budget is not
            positive, or a language has no corpus or no id.
    """

    def __init__(
        self,
        corpora: Mapping[str, TokenizedCorpus],
        token_budgets: Mapping[str, int],
        language_ids: Mapping[str, int],
        *,
        sequence_length: int,
        seed: int,
        pad_token: int,
        packing: Packing = "documents",
        repeat: bool = False,
        wrong_labels: float = 0.0,
        wrong_ids: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        _check_budgets(corpora, token_budgets, language_ids)
        self.sequence_length = sequence_length
        self.packing = packing
        self.pad_token = pad_token
        self._corpora = [corpora[language] for language in token_budgets]
        rng = np.random.default_rng(seed)
        chosen = [
            _choose(corpora[language], budget, rng, repeat=repeat)
            for language, budget in token_budgets.items()
        ]
        self.epochs = {
            language: int(lengths.sum()) / corpora[language].statistics.tokens
            for language, (_, lengths) in zip(token_budgets, chosen, strict=True)
        }
        self._use = {
            language: LanguageUse(
                documents=len(documents),
                tokens=int(lengths.sum()),
                epochs=self.epochs[language],
            )
            for language, (documents, lengths) in zip(token_budgets, chosen, strict=True)
        }
        order = rng.permutation(sum(len(documents) for documents, _ in chosen))
        which = [np.full(len(documents), n, np.int16) for n, (documents, _) in enumerate(chosen)]
        self._which = np.concatenate(which)[order]
        self._documents = np.concatenate([documents for documents, _ in chosen])[order]
        lengths = np.concatenate([lengths for _, lengths in chosen])[order]
        self._starts = np.concatenate([[0], np.cumsum(lengths)])
        self._ids = np.array([language_ids[language] for language in token_budgets])[self._which]
        for number, language in enumerate(token_budgets if wrong_labels else ()):
            choices = np.array((wrong_ids or {})[language])
            # Drawn per document, from a generator of its own: the order stays what it is.
            of_language = np.random.default_rng((seed, 1, number))
            count = len(corpora[language])
            is_wrong = of_language.random(count) < wrong_labels
            drawn = choices[of_language.integers(len(choices), size=count)]
            ids = np.where(is_wrong, drawn, language_ids[language])
            here = self._which == number
            self._ids[here] = ids[self._documents[here]]
        # A long document fills several sequences in a row; shuffled, they spread over the batches.
        self._order = rng.permutation(len(self))

    @property
    def num_tokens(self) -> int:
        """Tokens in all, padding not counted."""
        return int(self._starts[-1])

    def summary(self) -> dict[str, LanguageUse]:
        """By language, what is really taken."""
        return dict(self._use)

    def __len__(self) -> int:
        return -(-self.num_tokens // self.sequence_length)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """`input_ids`, `labels`, `position_ids`, `language_ids`, each int64 [T].

        Labels follow transformers' convention (the model shifts them). The first token of each
        document, which has nothing to be predicted from, and padding carry −100.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        index = int(self._order[index])
        length = self.sequence_length
        item = {
            "input_ids": np.full(length, self.pad_token, np.int64),
            "labels": np.full(length, IGNORED_LABEL, np.int64),
            "position_ids": np.arange(length),
            "language_ids": np.full(length, NO_LANGUAGE, np.int64),
        }
        begin, end = index * length, min((index + 1) * length, self.num_tokens)
        entry = int(np.searchsorted(self._starts, begin, side="right")) - 1
        while begin < end:
            stop = min(end, int(self._starts[entry + 1]))
            place = slice(begin - index * length, stop - index * length)
            self._fill(item, place, entry, begin - int(self._starts[entry]))
            begin, entry = stop, entry + 1
        if self.packing == "documents" and (padding := (index + 1) * length - end) > 0:
            item["position_ids"][-padding:] = np.arange(padding)
        return {name: torch.from_numpy(array) for name, array in item.items()}

    def _fill(self, item: dict[str, Any], place: slice, entry: int, offset: int) -> None:
        """Lay one piece of a document into a sequence."""
        which = int(self._which[entry])
        count = place.stop - place.start
        document = self._corpora[which].document(int(self._documents[entry]))
        tokens = document[offset : offset + count]
        item["input_ids"][place] = tokens
        item["labels"][place] = tokens
        item["language_ids"][place] = self._ids[entry]
        if self.packing == "documents":
            item["labels"][place.start] = IGNORED_LABEL
            item["position_ids"][place] = np.arange(count)


def _check_budgets(
    corpora: Mapping[str, TokenizedCorpus],
    token_budgets: Mapping[str, int],
    language_ids: Mapping[str, int],
) -> None:
    if not token_budgets:
        raise DataError("nothing to pack: no language has a token budget")
    for language, budget in token_budgets.items():
        if budget < 1:
            raise DataError(
                f"language {language!r}: a budget of {budget} tokens; raise the tokens in all or "
                "the language's weight, or leave the language out"
            )
        if language not in corpora or language not in language_ids:
            raise DataError(
                f"language {language!r} has a token budget but no "
                f"{'corpus' if language not in corpora else 'language id'}"
            )


def check_budget(corpus: TokenizedCorpus, budget: int) -> None:
    """Refuse a corpus that has fewer tokens than are to be trained on.

    Raises:
        DataError: with both numbers, and what can be done.
    """
    total = corpus.statistics.tokens
    if budget > total:
        raise DataError(
            f"language {corpus.language!r}: the recipe asks for {budget:,} tokens but the corpus "
            f"has {total:,}. Lower the token budget or the language's weight, add text, or say "
            "data.repeat: true to go over it more than once"
        )


def _choose(
    corpus: TokenizedCorpus, budget: int, rng: np.random.Generator, *, repeat: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Documents whose lengths sum to the budget (the last one cut), and those lengths."""
    if not repeat:
        check_budget(corpus, budget)
    total = corpus.statistics.tokens
    lengths = np.diff(corpus.ends, prepend=0)
    documents = np.concatenate([rng.permutation(len(corpus)) for _ in range(-(-budget // total))])
    ends = np.cumsum(lengths[documents])
    needed = int(np.searchsorted(ends, budget)) + 1
    chosen = documents[:needed]
    taken = lengths[chosen].copy()
    taken[-1] -= max(int(ends[needed - 1]) - budget, 0)
    return chosen, taken


def collate(items: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Sequences stacked into a batch, [B, T] each."""
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def packed_model_inputs(batch: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the model is called with for packed sequences; every packed call goes through here.

    transformers keeps packed documents apart only when positions are reset, no attention mask is
    passed and no cache is used: with an all-ones mask or the default cache, attention crosses the
    boundaries in silence (logits moved by 3.4 in a trial).

    Raises:
        ValueError: the batch carries an attention mask.
    """
    if "attention_mask" in batch:
        raise ValueError(
            "a packed batch must not carry an attention_mask: transformers would then let "
            "attention cross document boundaries"
        )
    return {
        "input_ids": batch["input_ids"],
        "position_ids": batch["position_ids"],
        "use_cache": False,
    }
