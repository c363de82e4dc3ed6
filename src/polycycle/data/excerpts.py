"""The first so many tokens of a text, document by document, without reading or caching the rest."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polycycle.data.documents import Document, OnBadDocument, Skipped, read_documents
from polycycle.data.policy import document_policy
from polycycle.data.sources import TextSource
from polycycle.errors import DataError

_BATCH_DOCUMENTS = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Excerpt:
    """The beginning of one language's text.

    Attributes:
        language: its tag.
        documents: int32 [tokens] each, as the tokenizer makes them: with its start token where it
            adds one, without an end token. The last one is cut to the budget.
        num_cut: documents that were longer than the longest window, and cut to it.
        num_too_long: documents passed over because they are longer still.
        skipped: bad documents passed over.
    """

    language: str
    documents: tuple[NDArray[np.int32], ...]
    num_cut: int
    num_too_long: int
    skipped: Skipped

    @property
    def num_tokens(self) -> int:
        """Tokens of all documents."""
        return sum(map(len, self.documents))


def read_excerpt(
    source: TextSource,
    language: str,
    tokenizer: Any,
    *,
    num_tokens: int,
    max_document_tokens: int = 10_000,
    skip_above_tokens: int = 32_000,
    root: Path = Path("."),
    on_bad_document: OnBadDocument = "error",
    progress: Callable[[int], None] | None = None,
) -> Excerpt:
    """Exactly the first `num_tokens` tokens of one language.

    Args:
        source: where the text lies.
        language: its tag.
        tokenizer: a Hugging Face tokenizer.
        num_tokens: how many to take.
        max_document_tokens: longer documents are cut to this.
        skip_above_tokens: longer documents are passed over.
        root: what relative paths start from.
        on_bad_document: `error` or `skip`.
        progress: called with the tokens taken so far.

    Raises:
        DataError: see `read_documents`; or there is less text than asked for.
    """
    start = document_policy(tokenizer).bos
    prefix = [] if start is None else [start]
    skipped = Skipped()
    texts = read_documents(
        source, language, root=root, on_bad_document=on_bad_document, skipped=skipped
    )
    documents: list[NDArray[np.int32]] = []
    missing, num_cut, num_too_long = num_tokens, 0, 0
    for ids in _tokenized(texts, tokenizer):
        tokens = [*prefix, *ids]
        if len(tokens) > skip_above_tokens:
            num_too_long += 1
            continue
        num_cut += len(tokens) > max_document_tokens
        documents.append(np.array(tokens[: min(max_document_tokens, missing)], np.int32))
        missing -= len(documents[-1])
        if progress:
            progress(num_tokens - missing)
        if missing == 0:
            break
    excerpt = Excerpt(
        language=language,
        documents=tuple(documents),
        num_cut=num_cut,
        num_too_long=num_too_long,
        skipped=skipped,
    )
    if missing:
        raise DataError(_too_little(excerpt, source, num_tokens, max_document_tokens))
    return excerpt


def _tokenized(documents: Iterator[Document], tokenizer: Any) -> Iterator[list[int]]:
    """Token ids of each document that has any, without special tokens."""
    while batch := list(itertools.islice(documents, _BATCH_DOCUMENTS)):
        texts = [document.text for document in batch]
        encoded = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        yield from (ids for ids in encoded if ids)


def _too_little(
    excerpt: Excerpt, source: TextSource, num_tokens: int, max_document_tokens: int
) -> str:
    losses = [
        (excerpt.num_cut, f"cut to {max_document_tokens:,} tokens"),
        (excerpt.num_too_long, "passed over as too long"),
        (excerpt.skipped.count, "skipped as bad"),
    ]
    lost = "; ".join(f"{count:,} {what}" for count, what in losses if count)
    return (
        f"language {excerpt.language!r}: {num_tokens:,} tokens are asked for, but {source.name} "
        f"has {excerpt.num_tokens:,} in {len(excerpt.documents):,} documents"
        f"{f' ({lost})' if lost else ''}. Give more text, or ask for no more than "
        f"{excerpt.num_tokens} (--tokens-per-language; in a recipe, "
        "experts.allocation.tokens_per_language)"
    )
