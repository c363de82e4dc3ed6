"""Generation tasks from jsonl files: prompts, and what a model should write after each."""

import re
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from polycycle.data.lines import json_type, parsed_lines
from polycycle.errors import DataError, did_you_mean

_FIELDS = ("prompt", "response")


@dataclass(frozen=True, slots=True)
class TaskExample:
    """A prompt and what should follow it.

    Attributes:
        prompt: what the model is given to complete.
        response: the right completion, of one line: a completion ends at the first newline.
        form: regular expression that any completion in the asked form matches as a whole, right or
            wrong; None where no form is asked for.
    """

    prompt: str
    response: str
    form: str | None = None


def read_task(path: Path, *, max_examples: int | None = None) -> list[TaskExample]:
    """The examples in a jsonl file with `prompt`, `response` and, if wanted, `form`.

    Blank lines are no examples; other fields are left unread.

    Raises:
        DataError: naming file, line and field.
    """
    if not path.is_file():
        raise DataError(f"no task at {path}; leave it out of data.tasks if there is none")
    lines = parsed_lines(path, _example, expected='{"prompt": …, "response": one line}')
    examples = [example for _, example in islice(lines, max_examples)]
    if not examples:
        raise DataError(f"{path}: no examples in it")
    return examples


def _example(row: dict[str, Any]) -> TaskExample:
    for name in _FIELDS:
        if name not in row:
            raise ValueError(f"no field {name!r}.{did_you_mean(name, row)}")
    for name in _FIELDS:
        if not isinstance(row[name], str):
            raise ValueError(f"{name} is {json_type(row[name])}, expected a text")
        if not row[name].strip():
            raise ValueError(f"{name} is empty, expected a text")
    if "\n" in row["response"].strip():
        raise ValueError(
            "response has more than one line, but a completion ends at its first newline; join "
            "the lines with spaces"
        )
    return TaskExample(row["prompt"], row["response"], _form(row.get("form"), row["response"]))


def _form(form: Any, response: str) -> str | None:
    """The pattern, once it is seen to be one that the right completion matches."""
    if form is None:
        return None
    if not isinstance(form, str):
        raise ValueError(f"form is {json_type(form)}, expected a regular expression")
    try:
        matches = re.fullmatch(form, response.strip())
    except re.error as error:
        raise ValueError(f"form is no regular expression: {error}") from error
    if not matches:
        raise ValueError(f"form {form!r} does not match the response as a whole")
    return form
