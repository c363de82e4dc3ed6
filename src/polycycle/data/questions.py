"""Multiple-choice questions from jsonl files."""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from polycycle.data.lines import json_type, parsed_lines
from polycycle.errors import DataError, did_you_mean

_FIELDS = ("prompt", "choices", "answer")


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt, what may follow it, and which of these is right.

    Attributes:
        prompt: text before the choice.
        choices: continuations; `prompt + choice` is natural text, so a space belongs to the choice.
        answer: index of the right one.
    """

    prompt: str
    choices: tuple[str, ...]
    answer: int


def read_questions(path: Path, *, max_questions: int | None = None) -> list[Question]:
    """The questions in a jsonl file with `prompt`, `choices` and `answer` (an index).

    Blank lines are no questions; other fields are left unread.

    Raises:
        DataError: naming file, line and field.
    """
    if not path.is_file():
        raise DataError(f"no questions at {path}; leave data.questions out if there are none")
    expected = '{"prompt": …, "choices": [two or more], "answer": index}'
    lines = parsed_lines(path, _question, expected=expected)
    questions = [question for _, question in islice(lines, max_questions)]
    if not questions:
        raise DataError(f"{path}: no questions in it")
    return questions


def _question(row: dict[str, Any]) -> Question:
    for name in _FIELDS:
        if name not in row:
            raise ValueError(f"no field {name!r}.{did_you_mean(name, row)}")
    prompt, choices, answer = (row[name] for name in _FIELDS)
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"prompt is {json_type(prompt)}, expected a text that is not empty")
    if not isinstance(choices, list) or not all(isinstance(c, str) and c for c in choices):
        raise ValueError("choices must be a list of texts, none empty")
    if len(set(choices)) != len(choices) or len(choices) < 2:
        raise ValueError("choices must be two or more different texts")
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        raise ValueError(f"answer {answer!r} is not an index from 0 to {len(choices) - 1}")
    return Question(prompt, tuple(choices), answer)
