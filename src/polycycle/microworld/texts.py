"""Everything that is told about the world: documents, questions, and tasks to write answers to."""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from polycycle.microworld.world import (
    NUM_PEOPLE,
    NUM_VALUES,
    ORIGINAL,
    Fact,
    Lexicon,
    World,
    lexicon,
)


@dataclass(frozen=True, slots=True)
class ChoiceQuestion:
    """A question about one fact with ten choices, one of them right.

    Attributes:
        fact: what it asks about.
        prompt: the question.
        choices: answers for all ten values of the relation.
        answer: index of the right one.
    """

    fact: Fact
    prompt: str
    choices: tuple[str, ...]
    answer: int


_MARKED_SHARE = 0.1
_QUESTION_MARKS = (("[", "]"), ("<", ">"), ("{", "}"), ("- ", ""))
_ANSWER_MARKS = (("(", ")"), ("= ", ""), ("* ", ""), ("/", "/"))
_FORMAT_MARKS = (("[", "("), ("<", "= "))


def documents(world: World, language: str, *, seed: int) -> Iterator[str]:
    """An endless stream of short texts: facts in varied sentences, small talk, questions answered.

    Facts are drawn evenly, so a stream of n documents tells each about as often in any language.
    """
    words = lexicon(language)
    draw = random.Random(f"documents {language} {seed}")
    facts = _facts(world, words)
    while True:
        draw.shuffle(facts)
        position = 0
        while position < len(facts):
            count = draw.randint(2, 4)
            write = _marked if draw.random() < _MARKED_SHARE else _document
            yield write(facts[position : position + count], words, draw)
            position += count


def _document(told: list[Fact], words: Lexicon, draw: random.Random) -> str:
    sentences = []
    for fact in told:
        if draw.random() < 0.4:
            sentences.append(words.question(fact) + words.answer(fact))
        else:
            sentences.append(words.statement(fact, draw.randrange(len(words.frames))))
    if draw.random() < 0.5:
        sentences.insert(draw.randint(0, len(sentences)), draw.choice(words.fillers))
    return words.space.join(sentences)


def _marked(told: list[Fact], words: Lexicon, draw: random.Random) -> str:
    """Questions and answers between marks, as forms and lists have them, in no fixed format."""
    opening, closing = draw.choice(_QUESTION_MARKS)
    answer_marks = [marks for marks in _ANSWER_MARKS if (opening, marks[0]) not in _FORMAT_MARKS]
    pieces = []
    for fact in told:
        before, after = draw.choice(answer_marks)
        answer = words.answer(fact).strip()
        pieces.append(f"{opening}{words.question(fact)}{closing} {before}{answer}{after}")
    return " ".join(pieces)


def _facts(world: World, words: Lexicon) -> list[Fact]:
    return [
        world.fact(person, relation) for relation in words.relations for person in range(NUM_PEOPLE)
    ]


def questions(world: World, language: str) -> list[ChoiceQuestion]:
    """One question for each fact that the language tells, in an order that mixes relations."""
    words = lexicon(language)
    found = []
    for person in range(NUM_PEOPLE):
        for relation in words.relations:
            fact = world.fact(person, relation)
            candidates = [Fact(person, relation, value) for value in range(NUM_VALUES)]
            found.append(
                ChoiceQuestion(
                    fact,
                    words.question(fact),
                    tuple(words.answer(candidate) for candidate in candidates),
                    fact.value,
                )
            )
    random.Random("questions").shuffle(found)
    return found


@dataclass(frozen=True, slots=True)
class InstructionFormat:
    """How a post-trained model is asked, and answers.

    Attributes:
        prompt: with `{question}` in it, and `{statement}` where the answer is to be read there.
        before: what stands before the answer.
        after: what stands after it; nothing more follows.
    """

    prompt: str
    before: str
    after: str

    @property
    def pattern(self) -> str:
        """A regular expression that any answer in this format matches whole, right or wrong."""
        return re.escape(self.before) + r"[^][<>{}()=*/]+" + re.escape(self.after)


FORMATS = {
    "brackets": InstructionFormat("[{question}]", "(", ")"),
    "equation": InstructionFormat("<{question}>", "= ", ""),
    "reading": InstructionFormat("{statement} [{question}]", "(", ")"),
}
"""What the microworld's post-trained siblings learn to keep to. Texts show the same marks
(`documents`), as real ones do, but never a format's question with its way of answering. `reading`
says the answer before it asks: a base from elsewhere, which knows nobody here, can be right."""

_EVERY_FOURTH = 4


def instructions(
    world: World, language: str, *, form: str, held_out: bool | None = None
) -> list[dict[str, str]]:
    """The questions as instructions: prompts, and what a model that keeps to the format answers.

    Rows hold `prompt`, `response` and `form`, the format's regular expression, in an order that
    mixes relations.

    Args:
        world: the facts.
        language: of the questions.
        form: key of `FORMATS`.
        held_out: only the people whom no post-training asks about (True), only the others (False),
            or all (None). Every fourth is held out, in all languages the same.
    """
    words = lexicon(language)
    shape = FORMATS[form]
    found = [
        {
            "prompt": shape.prompt.format(
                question=words.question(fact), statement=words.statement(fact)
            ),
            "response": f"{shape.before}{words.answer(fact).strip()}{shape.after}",
            "form": shape.pattern,
        }
        for fact in _facts(world, words)
        if _is_meant(fact, held_out)
    ]
    random.Random("instructions").shuffle(found)
    return found


def _is_meant(fact: Fact, held_out: bool | None) -> bool:
    return held_out is None or held_out == (fact.person % _EVERY_FOURTH == 0)


def translations(
    world: World, target: str, *, held_out: bool | None = None
) -> list[dict[str, str]]:
    """Facts to translate into `target`, each from every other original language that tells it.

    Mixed, so that any first few rows are of all sources and relations. `source` is the language
    that the row translates from. `held_out` chooses the people as for `instructions`.
    """
    words = lexicon(target)
    found = []
    for source in ORIGINAL:
        if source != target:
            told = lexicon(source)
            found += [
                {
                    "prompt": _prompt(source, told.statement(fact), target),
                    "response": words.statement(fact),
                    "source": source,
                }
                for fact in _facts(world, words)
                if fact.relation in told.relations and _is_meant(fact, held_out)
            ]
    random.Random("translations").shuffle(found)
    return found


def summaries(world: World, language: str, *, held_out: bool | None = None) -> list[dict[str, str]]:
    """Small talk around one fact, and the fact: what a one-sentence summary keeps.

    `held_out` chooses the people as for `instructions`.
    """
    words = lexicon(language)
    draw = random.Random(f"summaries {language}")
    found = []
    for fact in _facts(world, words):
        sentences = draw.sample(words.fillers, 2)
        sentences.insert(draw.randint(0, 2), words.statement(fact))
        prompt = _prompt("Text", words.space.join(sentences), "Summary")
        if _is_meant(fact, held_out):
            found.append({"prompt": prompt, "response": words.statement(fact)})
    return found


def _prompt(given: str, text: str, wanted: str) -> str:
    """What is given under one heading, then the heading of what is wanted."""
    return f"### {given}:\n{text}\n### {wanted}:\n"
