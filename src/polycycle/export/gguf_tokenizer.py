"""A Hugging Face tokenizer in GGUF's words.

llama.cpp has its own tokenizers; a file only names which one, with tokens, merges or scores. What
has no such name is refused here, and `verify` compares token ids on real text.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import TokenType
from gguf.vocab import SpecialVocab
from transformers import AutoTokenizer

from polycycle.errors import ExportError

# What splits text into words before byte-pair merges, and llama.cpp's name for it.
_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
_NAMES = {
    _LLAMA_3: "llama-bpe",
    _LLAMA_3.replace("{1,3}", ""): "qwen2",
}
_GPT_2 = "gpt-2"
_SINGLE_DIGITS = "starcoder"  # each digit alone, then as GPT-2
_DIGITS = (r"\p{N}", r"\p{N}{1,1}", r"\d")


@dataclass(frozen=True, kw_only=True, slots=True)
class GgufTokenizer:
    """What a GGUF file says of its tokenizer.

    Attributes:
        model: `gpt2` (byte-level merges) or `llama` (SentencePiece).
        pre: how text is split before merging.
        tokens: by id.
        types: of each token.
        scores: of each token, for SentencePiece: the earlier a merge, the higher.
        special: ids of special tokens, merges and the chat template.
        adds_space_prefix: whether text gets a space in front.
    """

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float] | None
    special: SpecialVocab
    adds_space_prefix: bool


def read_tokenizer(folder: Path, vocab_size: int) -> GgufTokenizer:
    """The tokenizer of a model folder.

    Args:
        folder: holds `tokenizer.json`.
        vocab_size: rows of the embeddings; ids without a token get an unused one.

    Raises:
        ExportError: llama.cpp has no name for it.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ExportError(
            f"{folder} has no tokenizer.json, which the conversion to GGUF reads; save it with "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    read = json.loads(path.read_text(encoding="utf-8"))
    model = read["model"]
    if model["type"] != "BPE":
        raise ExportError(f"no converter to GGUF for tokenizers of type {model['type']}, only BPE")
    is_sentencepiece = bool(model.get("byte_fallback"))
    special = SpecialVocab(folder, load_merges=not is_sentencepiece, n_vocab=vocab_size)
    special.add_special_token.update(_adds(folder))
    tokens, types = _tokens(read, vocab_size, is_sentencepiece=is_sentencepiece)
    return GgufTokenizer(
        model="llama" if is_sentencepiece else "gpt2",
        pre="default" if is_sentencepiece else _pre_tokenizer(read),
        tokens=tokens,
        types=types,
        scores=_scores(read, tokens) if is_sentencepiece else None,
        special=special,
        adds_space_prefix=is_sentencepiece and _prepends_space(read),
    )


def _adds(folder: Path) -> dict[str, bool]:
    """Whether text gets a start and an end token; llama.cpp has its own defaults."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("a").input_ids
    return {
        "bos": tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id is not None and ids[-1] == tokenizer.eos_token_id,
    }


def _pre_tokenizer(read: dict[str, Any]) -> str:
    parts = _parts(read.get("pre_tokenizer"), "pretokenizers")
    kinds = [part["type"] for part in parts]
    if "ByteLevel" not in kinds:
        raise ExportError(f"no converter to GGUF for the pre-tokenizer {kinds}, only byte-level")
    last = parts[-1]
    if last.get("add_prefix_space"):
        raise ExportError("no converter to GGUF for a byte-level tokenizer with add_prefix_space")
    if kinds == ["ByteLevel"] and last["use_regex"]:
        return _GPT_2
    splits_digits = kinds[0] == "Digits" and parts[0]["individual_digits"]
    regex = parts[0].get("pattern", {}).get("Regex", "") if kinds[0] == "Split" else ""
    if len(parts) == 2 and last["use_regex"] and (splits_digits or regex in _DIGITS):
        return _SINGLE_DIGITS
    if len(parts) == 2 and not last["use_regex"] and regex in _NAMES:
        return _NAMES[regex]
    raise ExportError(
        f"no converter to GGUF for a tokenizer that splits words by {regex or kinds}: known are "
        "those of GPT-2, Llama 3, Qwen 2 and 3, and SmolLM. Export to a transformers target and "
        "convert that with llama.cpp's convert_hf_to_gguf.py"
    )


def _parts(step: dict[str, Any] | None, of_sequence: str) -> list[dict[str, Any]]:
    """The steps of a (pre-)tokenizer's sequence, or the only one."""
    if step is None:
        return []
    return list(step[of_sequence]) if step["type"] == "Sequence" else [step]


def _prepends_space(read: dict[str, Any]) -> bool:
    normalizers = _parts(read.get("normalizer"), "normalizers")
    pre_tokenizers = _parts(read.get("pre_tokenizer"), "pretokenizers")
    return any(step["type"] == "Prepend" for step in normalizers) or any(
        step.get("prepend_scheme") in ("always", "first") for step in pre_tokenizers
    )


def _tokens(
    read: dict[str, Any], vocab_size: int, *, is_sentencepiece: bool
) -> tuple[list[str], list[int]]:
    by_id: dict[int, tuple[str, int]] = {
        id_: (token, _type_of(token, is_sentencepiece=is_sentencepiece))
        for token, id_ in read["model"]["vocab"].items()
    }
    for added in read.get("added_tokens", ()):
        kind = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
        by_id[added["id"]] = (added["content"], kind)
    if max(by_id) >= vocab_size:
        raise ExportError(f"the tokenizer has id {max(by_id)}, the model {vocab_size} embeddings")
    filled = [by_id.get(id_, (f"[PAD{id_}]", TokenType.UNUSED)) for id_ in range(vocab_size)]
    return [token for token, _ in filled], [int(kind) for _, kind in filled]


def _type_of(token: str, *, is_sentencepiece: bool) -> int:
    if is_sentencepiece and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return TokenType.BYTE
    return TokenType.UNKNOWN if is_sentencepiece and token == "<unk>" else TokenType.NORMAL


def _scores(read: dict[str, Any], tokens: list[str]) -> list[float]:
    """SentencePiece merges what scores highest; merges in order of rank are the same merges."""
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(_merges(read)):
        ranks.setdefault(left + right, rank)
    return [-float(ranks.get(token, 0)) for token in tokens]


def _merges(read: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for merge in read["model"]["merges"]:
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        yield left, right
