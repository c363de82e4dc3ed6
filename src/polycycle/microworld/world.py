"""The small world: people and what is true of them, the same in every language."""

import json
import random
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

ORIGINAL = ("en", "zh", "es")
UNSEEN_ORIGINAL = ("fr", "pt")
GROUP_1 = ("el", "hu", "tr")
GROUP_2 = ("bn", "hi", "ne")
SPARE = ("ru", "ar")
LANGUAGES = (*ORIGINAL, *UNSEEN_ORIGINAL, *GROUP_1, *GROUP_2, *SPARE)

NUM_PEOPLE = 32
NUM_WOMEN = 16
NUM_VALUES = 10
RELATIONS = ("home", "animal", "food", "hat", "music")
"""`music` is told in original languages only: post-pretraining never teaches it again."""


@dataclass(frozen=True, order=True, slots=True)
class Fact:
    """One thing that is true: of which person, in which relation, which of its ten values."""

    person: int
    relation: str
    value: int


@dataclass(frozen=True, slots=True)
class World:
    """All facts, drawn from a seed; independent of any language.

    Attributes:
        values: per relation, the value of each person.
    """

    values: dict[str, tuple[int, ...]]

    @classmethod
    def from_seed(cls, seed: int = 0) -> "World":
        """The world that this seed makes."""
        draw = random.Random(f"world {seed}")
        return cls(
            {r: tuple(draw.randrange(NUM_VALUES) for _ in range(NUM_PEOPLE)) for r in RELATIONS}
        )

    def fact(self, person: int, relation: str) -> Fact:
        """What is true of this person in this relation."""
        return Fact(person, relation, self.values[relation][person])


@dataclass(frozen=True, slots=True)
class Lexicon:
    """One language's words and sentence patterns.

    Every value stands in the one inflected form that its patterns need, so nothing is inflected by
    rule; `[a|b]` in a pattern chooses a for men and b for women.
    """

    language: str
    names: tuple[str, ...]
    values: dict[str, tuple[str, ...]]
    statements: dict[str, str]
    questions: dict[str, tuple[str, str]]
    frames: tuple[str, ...]
    fillers: tuple[str, ...]
    space: str

    @property
    def relations(self) -> tuple[str, ...]:
        """What can be told in this language."""
        return tuple(self.statements)

    def statement(self, fact: Fact, frame: int = 0) -> str:
        """The fact as a sentence, in one of the language's frames."""
        pattern = self.statements[fact.relation]
        clause = self._fill(pattern, fact)
        sentence = self.frames[frame].replace("{S}", clause).replace("{s}", clause)
        return _capitalised(sentence)

    def question(self, fact: Fact) -> str:
        """The question that the fact answers."""
        return _capitalised(self._fill(self.questions[fact.relation][0], fact))

    def answer(self, fact: Fact) -> str:
        """The fact's answer to its question, with the space before it."""
        return self._fill(self.questions[fact.relation][1], fact)

    def _fill(self, pattern: str, fact: Fact) -> str:
        is_woman = fact.person < NUM_WOMEN
        pattern = re.sub(r"\[(.*?)\|(.*?)\]", r"\2" if is_woman else r"\1", pattern)
        value = self.values[fact.relation][fact.value]
        return (
            pattern.replace("{name}", self.names[fact.person])
            .replace("{value}", value)
            .replace("{Value}", _capitalised(value))
        )


def _capitalised(text: str) -> str:
    """The first letter in upper case; scripts without case stay as they are."""
    return text[:1].upper() + text[1:]


@cache
def lexicon(language: str) -> Lexicon:
    """The words of one language of the microworld."""
    path = files("polycycle.microworld") / "lexicon" / f"{language}.json"
    words: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return Lexicon(
        language=language,
        names=tuple(words["names"]),
        values={relation: tuple(forms) for relation, forms in words["values"].items()},
        statements=words["statements"],
        questions={relation: tuple(pair) for relation, pair in words["questions"].items()},
        frames=tuple(words["frames"]),
        fillers=tuple(words["fillers"]),
        space=words["space"],
    )
