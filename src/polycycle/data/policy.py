"""What a tokenizer is (its hash), and which tokens stand around a document or end an answer."""

import json
from dataclasses import dataclass
from typing import Any

from polycycle.errors import DataError
from polycycle.files import hash_json


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentPolicy:
    """Which tokens stand before and after a document's own.

    Attributes:
        bos: the beginning-of-sequence token where the tokenizer adds one by itself, else None.
        eos: the end-of-document token; it carries its document's language.
    """

    bos: int | None
    eos: int

    @property
    def start(self) -> int:
        """What the first token of a document is predicted from: BOS, else EOS."""
        return self.eos if self.bos is None else self.bos


def document_policy(tokenizer: Any) -> DocumentPolicy:
    """The start- and end-of-document tokens of a tokenizer.

    Raises:
        DataError: it has no end-of-text token.
    """
    if tokenizer.eos_token_id is None:
        raise DataError(
            f"the tokenizer {tokenizer.name_or_path!r} has no eos_token, so documents could not be "
            "told apart; set one in its tokenizer_config.json"
        )
    ids = tokenizer("a")["input_ids"]
    adds_bos = tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]
    return DocumentPolicy(
        bos=tokenizer.bos_token_id if adds_bos else None, eos=tokenizer.eos_token_id
    )


def pad_token(tokenizer: Any) -> int:
    """What fills the tail of a last sequence; end of text where the tokenizer has no padding."""
    pad: int | None = tokenizer.pad_token_id
    return document_policy(tokenizer).eos if pad is None else pad


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """What ends an answer: the end tokens of a model's generation settings, and its tokenizer's."""
    own = getattr(model.generation_config, "eos_token_id", None)
    ends = own if isinstance(own, list) else [own]
    return list(dict.fromkeys(i for i in (*ends, tokenizer.eos_token_id) if i is not None))


def tokenizer_hash(tokenizer: Any) -> str:
    """SHA-256 of what a tokenizer does, as its serialised form says it.

    Padding and truncation are left out: a call may switch them on and off, and neither is used.

    Raises:
        DataError: it is a slow tokenizer, which cannot be written down.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise DataError(
            f"the tokenizer {tokenizer.name_or_path!r} has no tokenizer.json; convert it to a fast "
            "one: AutoTokenizer.from_pretrained(…, use_fast=True).save_pretrained(…)"
        )
    return hash_json(json.loads(backend.to_str()) | {"padding": None, "truncation": None})
