"""What a tokenizer makes of a language: counts, and a warning where it serves one badly."""

import json
import re
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Scripts written without spaces: a character counts as a word.
_UNSPACED = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff\u3040-\u30ff\u0e00-\u0eff\u1780-\u17ff]")
# English text by its own tokenizers has 0.2 to 0.3 tokens per byte; one token per byte is 1.0.
_MAX_RELATIVE_TOKENS_PER_BYTE = 2.0
_MAX_FALLBACK_SHARE = 0.1
_MAX_UNKNOWN_SHARE = 0.001


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusStatistics:
    """What a tokenizer makes of a corpus.

    Attributes:
        documents: documents kept.
        tokens: tokens with start and end tokens.
        text_tokens: tokens of the text alone.
        bytes: UTF-8 bytes of text.
        words: whitespace-separated words; a character of a script without spaces is a word.
        unknown_tokens: tokens that stand for something the tokenizer does not know.
        fallback_tokens: tokens that are a single byte of a longer character.
    """

    documents: int
    tokens: int
    text_tokens: int
    bytes: int
    words: int
    unknown_tokens: int
    fallback_tokens: int

    @property
    def tokens_per_word(self) -> float:
        """Fertility: tokens per word."""
        return self.text_tokens / max(self.words, 1)

    @property
    def tokens_per_byte(self) -> float:
        """Tokens per UTF-8 byte."""
        return self.text_tokens / max(self.bytes, 1)

    @property
    def unknown_share(self) -> float:
        """Share of the text's tokens that are the unknown token."""
        return self.unknown_tokens / max(self.text_tokens, 1)

    @property
    def fallback_share(self) -> float:
        """Share of the text's tokens that are a single byte of a longer character."""
        return self.fallback_tokens / max(self.text_tokens, 1)


def tokenizer_warnings(
    statistics: Mapping[str, CorpusStatistics], original: Collection[str]
) -> dict[str, str]:
    """By language, what is wrong with how the tokenizer serves it; well-served ones are absent.

    A language is badly served when more than 0.1 % of its tokens are unknown, more than 10 % are
    single bytes of longer characters, or it needs over twice the tokens per byte that the original
    languages need on average (this last only where an original language is measured).

    Args:
        statistics: by language.
        original: the languages that the base was made for.
    """
    known = [one.tokens_per_byte for language, one in statistics.items() if language in original]
    usual = sum(known) / len(known) if known else None
    found = {
        language: _problems(one, None if language in original else usual)
        for language, one in statistics.items()
    }
    return {
        language: f"{language}: {'; '.join(problems)}. Embeddings are frozen, so what the "
        "tokenizer hardly represents stays hard to learn: prefer a base whose tokenizer knows it"
        for language, problems in found.items()
        if problems
    }


def _problems(one: CorpusStatistics, usual_tokens_per_byte: float | None) -> list[str]:
    problems = []
    if one.unknown_share > _MAX_UNKNOWN_SHARE:
        problems.append(f"{one.unknown_share:.1%} of tokens are unknown, their text is lost")
    if one.fallback_share > _MAX_FALLBACK_SHARE:
        problems.append(f"{one.fallback_share:.0%} of tokens are single bytes of a character")
    if usual_tokens_per_byte is not None:
        ratio = one.tokens_per_byte / max(usual_tokens_per_byte, 1e-12)
        if ratio > _MAX_RELATIVE_TOKENS_PER_BYTE:
            problems.append(
                f"{one.tokens_per_byte:.2f} tokens per byte, {ratio:.1f} times the original "
                "languages' mean"
            )
    return problems


def count_words(text: str) -> int:
    """Whitespace-separated words; characters of scripts without spaces count one each."""
    unspaced = len(_UNSPACED.findall(text))
    rest = _UNSPACED.sub(" ", text) if unspaced else text
    return unspaced + sum(
        any(unicodedata.category(char)[0] in "LNM" for char in word) for word in rest.split()
    )


def count_badly_served(tokenizer: Any, counts: NDArray[np.int64]) -> tuple[int, int]:
    """How many tokens are the unknown token, and how many are lone bytes of a character.

    Args:
        tokenizer: a Hugging Face tokenizer.
        counts: int64 [vocabulary], how often each token was used.
    """
    used = np.flatnonzero(counts)
    names = tokenizer.convert_ids_to_tokens(used.tolist())
    # `é` is one byte in a byte alphabet, but a whole character in a SentencePiece vocabulary.
    lone_byte = _alphabet_byte if _is_byte_level(tokenizer) else _sentencepiece_byte
    lone = sum(
        int(counts[i]) for i, name in zip(used, names, strict=True) if name and lone_byte(name)
    )
    unknown = tokenizer.unk_token_id
    return (0 if unknown is None else int(counts[unknown])), lone


def _is_byte_level(tokenizer: Any) -> bool:
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    return any('"ByteLevel"' in json.dumps(parts[part]) for part in ("pre_tokenizer", "decoder"))


_PRINTABLE = {*range(33, 127), *range(161, 173), *range(174, 256)}
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
# GPT-2's byte alphabet: bytes that are not printable Latin-1 are written from U+0100 on.
_HIGH_BYTES = {chr(byte) for byte in _PRINTABLE if byte >= 128} | {
    chr(256 + number) for number, byte in enumerate(_OTHERS) if byte >= 128
}


def _alphabet_byte(token: str) -> bool:
    return token in _HIGH_BYTES


def _sentencepiece_byte(token: str) -> bool:
    return re.fullmatch(r"<0x[89A-F][0-9A-F]>", token) is not None
