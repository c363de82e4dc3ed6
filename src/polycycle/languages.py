"""Languages: their tags, their names, and the groups a recipe puts them into.

G0 is what the dense model already speaks (`original`, plus `unseen_original`: original languages
that are never replayed and only measured); G1, G2, … are the groups added later (`expanded`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from polycycle.errors import ConfigError

NO_LANGUAGE = -1
"""The language id of padding: a token that belongs to no document."""

NAMES = {
    "ar": "Arabic",
    "bn": "Bengali",
    "cs": "Czech",
    "de": "German",
    "el": "Greek",
    "en": "English",
    "es": "Spanish",
    "fa": "Persian",
    "fi": "Finnish",
    "fr": "French",
    "he": "Hebrew",
    "hi": "Hindi",
    "hu": "Hungarian",
    "id": "Indonesian",
    "it": "Italian",
    "ja": "Japanese",
    "ko": "Korean",
    "ne": "Nepali",
    "nl": "Dutch",
    "pl": "Polish",
    "pt": "Portuguese",
    "ro": "Romanian",
    "ru": "Russian",
    "sv": "Swedish",
    "sw": "Swahili",
    "ta": "Tamil",
    "te": "Telugu",
    "th": "Thai",
    "tr": "Turkish",
    "uk": "Ukrainian",
    "ur": "Urdu",
    "vi": "Vietnamese",
    "zh": "Chinese",
}
RIGHT_TO_LEFT = frozenset({"ar", "dv", "fa", "he", "ps", "sd", "ug", "ur", "yi"})

# BCP-47 as far as corpora use it: language, optional script, optional region.
_TAG = re.compile(r"[a-z]{2,3}(-[A-Z][a-z]{3})?(-([A-Z]{2}|[0-9]{3}))?")


def check_tag(tag: str) -> str:
    """`tag` itself when it is a BCP-47 language tag (`el`, `zh-Hant`, `pt-BR`).

    Raises:
        ConfigError: it is not.
    """
    if not _TAG.fullmatch(tag):
        raise ConfigError(
            f"{tag!r} is not a language tag; write BCP-47 such as 'el', 'zh-Hant' or 'pt-BR'"
        )
    return tag


def language_name(tag: str) -> str:
    """English name of a language, or the tag itself when we do not know it."""
    return NAMES.get(tag, NAMES.get(tag.split("-")[0], tag))


def is_right_to_left(tag: str) -> bool:
    """Whether text of this language is written from right to left."""
    return tag.split("-")[0] in RIGHT_TO_LEFT


def languages_by_group(recorded: Mapping[str, Any] | None) -> list[list[str]]:
    """Original languages, then those of every expanded group, of a config's `language_groups`."""
    groups = LanguageGroups.recorded(recorded)
    return [list(groups.original), *map(list, groups.expanded)]


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageGroups:
    """Who is original and who is expanded; the order fixes every token's language id.

    Attributes:
        original: languages the dense model speaks and that review replays (part of G0).
        unseen_original: original languages held out of all training, only measured (part of G0).
        expanded: one tuple of tags per group added so far (G1, G2, …).
    """

    original: tuple[str, ...]
    unseen_original: tuple[str, ...] = ()
    expanded: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        tags = self.all
        for tag in tags:
            check_tag(tag)
        repeated = sorted({tag for tag in tags if tags.count(tag) > 1})
        if repeated:
            raise ConfigError(
                f"languages: {', '.join(repeated)} stand in more than one group; "
                "a language is original, unseen original, or in exactly one expanded group"
            )

    @classmethod
    def recorded(cls, record: Mapping[str, Any] | None) -> "LanguageGroups":
        """The groups of a config's `language_groups`; none at all where nothing is recorded."""
        said = record or {}
        return cls(
            original=tuple(said.get("original") or ()),
            unseen_original=tuple(said.get("unseen_original") or ()),
            expanded=tuple(map(tuple, said.get("expanded") or ())),
        )

    def record(self) -> dict[str, Any]:
        """What stands in a config as `language_groups`."""
        return {
            "original": list(self.original),
            "unseen_original": list(self.unseen_original),
            "expanded": [list(group) for group in self.expanded],
        }

    def first(self, number: int) -> "LanguageGroups":
        """The same with only the first so many expanded groups; language ids stay what they are."""
        return replace(self, expanded=self.expanded[:number])

    @property
    def all(self) -> tuple[str, ...]:
        """Every language, in the order that language ids count."""
        return (*self.original, *self.unseen_original, *self.all_expanded)

    @property
    def all_original(self) -> tuple[str, ...]:
        """G0: the original languages, replayed or not."""
        return (*self.original, *self.unseen_original)

    @property
    def all_expanded(self) -> tuple[str, ...]:
        """Every expanded language, all groups together."""
        return tuple(tag for group in self.expanded for tag in group)

    def id_of(self, tag: str) -> int:
        """The language id that stands for `tag` in per-token labels.

        Raises:
            ConfigError: the recipe does not know this language.
        """
        if tag not in self.all:
            raise ConfigError(
                f"language {tag!r} is in no group; known are {', '.join(self.all)}. "
                "Add it under languages.original, languages.unseen_original or languages.expanded"
            )
        return self.all.index(tag)

    def group_of(self, tag: str) -> int:
        """0 for an original language, g for a language of expanded group Gg."""
        for number, group in enumerate(self.expanded, start=1):
            if tag in group:
                return number
        self.id_of(tag)
        return 0
