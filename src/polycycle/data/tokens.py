"""Tokenized corpora on disk: made once, found again by the hash of everything that shaped them."""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from polycycle.data.documents import Document, OnBadDocument, Skipped, read_documents
from polycycle.data.policy import DocumentPolicy, document_policy, tokenizer_hash
from polycycle.data.sources import TextSource, source_files
from polycycle.data.statistics import CorpusStatistics, count_badly_served, count_words
from polycycle.files import folder_when_whole, hash_file, hash_json, write_json

_FORMAT_VERSION = 2
_BATCH_DOCUMENTS = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizedCorpus:
    """One language's documents as tokens, memory-mapped.

    Attributes:
        folder: where it lies in the cache; pickling passes this on instead of the tokens.
        language: its tag.
        tokens: int32 [tokens], all documents one after another, with start and end tokens.
        ends: int64 [documents], where each document ends in `tokens`.
        text_bytes: int64 [documents], UTF-8 bytes of each text.
        text_hashes: uint64 [documents], a hash of each text.
        files: the files the documents come from.
        places: int64 [documents, 2], each document's index in `files` and its line.
        policy: the start and end tokens.
        statistics: counts.
        skipped: bad documents passed over.
    """

    folder: Path
    language: str
    tokens: NDArray[np.int32]
    ends: NDArray[np.int64]
    text_bytes: NDArray[np.int64]
    text_hashes: NDArray[np.uint64]
    files: tuple[str, ...]
    places: NDArray[np.int64]
    policy: DocumentPolicy
    statistics: CorpusStatistics
    skipped: Skipped

    def __len__(self) -> int:
        return len(self.ends)

    def __reduce__(self) -> tuple[Any, ...]:
        # A memory map pickles as a copy of the whole corpus; data loader workers open it anew.
        return _load, (self.folder, self.language, self.policy)

    def where(self, index: int) -> str:
        """`file:line` of one document."""
        file, line = self.places[index]
        return f"{self.files[file]}:{line}"

    def document(self, index: int) -> NDArray[np.int32]:
        """Tokens of one document, start and end tokens included."""
        start = 0 if index == 0 else int(self.ends[index - 1])
        return self.tokens[start : int(self.ends[index])]

    def text_tokens(self, index: int) -> NDArray[np.int32]:
        """Tokens of one document's text alone."""
        return self.document(index)[(0 if self.policy.bos is None else 1) : -1]


def tokenize_corpus(
    source: TextSource,
    language: str,
    tokenizer: Any,
    cache_dir: Path,
    *,
    root: Path = Path("."),
    max_tokens: int | None = None,
    max_documents: int | None = None,
    max_bytes: int | None = None,
    on_bad_document: OnBadDocument = "error",
    progress: Callable[[int], None] | None = None,
) -> TokenizedCorpus:
    """The tokenized documents of one language, from the cache where they are there.

    Reading stops with the document that reaches the first budget.

    Args:
        source: where the text lies.
        language: its tag.
        tokenizer: a Hugging Face tokenizer.
        cache_dir: holds one folder per hash of files, tokenizer, settings and budgets.
        root: what relative paths start from.
        max_tokens: budget in tokens.
        max_documents: budget in documents.
        max_bytes: budget in UTF-8 bytes.
        on_bad_document: `error` or `skip`.
        progress: called with the tokens made so far.

    Raises:
        DataError: see `read_documents`.
    """
    policy = document_policy(tokenizer)
    key = hash_json(
        {
            "version": _FORMAT_VERSION,
            **text_identity(source, language, root),
            "language": language,
            "tokenizer": tokenizer_hash(tokenizer),
            "policy": asdict(policy),
            "budget": [max_tokens, max_documents, max_bytes],
            "on_bad_document": on_bad_document,
        }
    )
    folder = cache_dir / f"{language}-{key[:24]}"
    cache_dir.mkdir(parents=True, exist_ok=True)
    # One process writes; the others of a distributed run wait, and find it done. The system frees
    # the lock of a process that is killed.
    with FileLock(cache_dir / f".{folder.name}.lock"):
        if not folder.is_dir():
            skipped = Skipped()
            documents = read_documents(
                source, language, root=root, on_bad_document=on_bad_document, skipped=skipped
            )
            writer = _Writer(tokenizer, policy, (max_tokens, max_documents, max_bytes), progress)
            with folder_when_whole(folder) as partial:
                writer.write(documents, partial, skipped)
    corpus = _load(folder, language, policy)
    if progress:  # found in the cache, it was never called
        progress(corpus.statistics.tokens)
    return corpus


def text_identity(source: TextSource, language: str, root: Path) -> dict[str, Any]:
    """What identifies a language's whole text and how it is read, whoever tokenizes it.

    Paths and hashes of local files, or the hub dataset: without a revision it counts as unchanged;
    pin `revision` to follow it.
    """
    content: Any = source.hub
    if content is None:
        files = source_files(source, language, root)
        content = [(str(file), hash_file(file)) for file in files]
    return {"source": asdict(source) | {"path": None}, "content": content}


class _Writer:
    """Tokenizes documents in batches and streams them to disk until a budget is reached."""

    def __init__(
        self,
        tokenizer: Any,
        policy: DocumentPolicy,
        budgets: tuple[int | None, int | None, int | None],
        progress: Callable[[int], None] | None,
    ) -> None:
        self.tokenizer = tokenizer
        self.policy = policy
        self.budgets = budgets
        self.progress = progress
        self.lengths: list[int] = []
        self.text_bytes: list[int] = []
        self.text_hashes: list[int] = []
        self.files: dict[str, int] = {}
        self.places: list[tuple[int, int]] = []
        self.tokens = 0
        self.text_tokens = 0
        self.bytes = 0
        self.words = 0
        self.counts: NDArray[np.int64] = np.zeros(len(tokenizer), np.int64)

    def write(self, documents: Iterable[Document], folder: Path, skipped: Skipped) -> None:
        """Stream everything into `folder`."""
        with (folder / "tokens.bin").open("wb") as file:
            for batch in _batches(documents, _BATCH_DOCUMENTS):
                texts = [document.text for document in batch]
                encoded = self.tokenizer(texts, add_special_tokens=False, verbose=False)[
                    "input_ids"
                ]
                for document, ids in zip(batch, encoded, strict=True):
                    if self._is_full():
                        break
                    file.write(self._add(document, ids).tobytes())
                if self.progress:
                    self.progress(self.tokens)
                if self._is_full():
                    break
        np.save(folder / "ends.npy", np.cumsum(self.lengths, dtype=np.int64))
        np.save(folder / "text_bytes.npy", np.array(self.text_bytes, np.int64))
        np.save(folder / "text_hashes.npy", np.array(self.text_hashes, np.uint64))
        np.save(folder / "places.npy", np.array(self.places, np.int64))
        unknown, fallback = count_badly_served(self.tokenizer, self.counts)
        statistics = CorpusStatistics(
            documents=len(self.lengths),
            tokens=self.tokens,
            text_tokens=self.text_tokens,
            bytes=self.bytes,
            words=self.words,
            unknown_tokens=unknown,
            fallback_tokens=fallback,
        )
        write_json(
            folder / "meta.json",
            {
                "statistics": asdict(statistics),
                "skipped": asdict(skipped),
                "files": list(self.files),
            },
        )

    def _add(self, document: Document, ids: list[int]) -> NDArray[np.int32]:
        start = [] if self.policy.bos is None else [self.policy.bos]
        tokens = np.array([*start, *ids, self.policy.eos], np.int32)
        data = document.text.encode()
        self.lengths.append(len(tokens))
        self.text_bytes.append(len(data))
        self.text_hashes.append(int.from_bytes(hashlib.sha256(data).digest()[:8], "little"))
        self.places.append((self.files.setdefault(document.file, len(self.files)), document.line))
        self.tokens += len(tokens)
        self.text_tokens += len(ids)
        self.bytes += len(data)
        self.words += count_words(document.text)
        np.add.at(self.counts, ids, 1)
        return tokens

    def _is_full(self) -> bool:
        have = (self.tokens, len(self.lengths), self.bytes)
        return any(b is not None and h >= b for h, b in zip(have, self.budgets, strict=True))


def _batches(documents: Iterable[Document], size: int) -> Iterator[list[Document]]:
    iterator = iter(documents)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def _load(folder: Path, language: str, policy: DocumentPolicy) -> TokenizedCorpus:
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    skipped = meta["skipped"]
    return TokenizedCorpus(
        folder=folder,
        language=language,
        tokens=np.memmap(folder / "tokens.bin", np.int32, "r"),
        ends=np.load(folder / "ends.npy"),
        text_bytes=np.load(folder / "text_bytes.npy"),
        text_hashes=np.load(folder / "text_hashes.npy"),
        files=tuple(meta["files"]),
        places=np.load(folder / "places.npy"),
        policy=policy,
        statistics=CorpusStatistics(**meta["statistics"]),
        skipped=Skipped(skipped["count"], [tuple(example) for example in skipped["examples"]]),
    )
