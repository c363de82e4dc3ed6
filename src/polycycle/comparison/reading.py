"""A comparison back from the JSON that it was written to."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from polycycle.comparison.comparing import CellOutcome, Comparison, Row
from polycycle.comparison.figures import AnswerColumn
from polycycle.comparison.ground import CommonGround
from polycycle.comparison.wording import ANSWER_KINDS
from polycycle.config import Study
from polycycle.errors import DataError


def read_comparison(path: Path) -> Comparison:
    """The comparison that `polycycle compare` wrote to `comparison.json`, or a copy of that file.

    Raises:
        DataError: the file is missing, or is no such JSON.
    """
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        rows = TypeAdapter(tuple[Row, ...]).validate_python(raw["rows"])
        answers = _answers(rows)
        return Comparison(
            study=Study.model_validate(raw["study"]),
            measure=raw["measure"],
            outcomes=TypeAdapter(tuple[CellOutcome, ...]).validate_python(raw["cells"]),
            rows=rows,
            ground=TypeAdapter(CommonGround).validate_python(raw.get("compared", {})),
            answers=tuple(one for one in answers if not one.is_of_one_language),
            answers_by_language=tuple(one for one in answers if one.is_of_one_language),
            languages=tuple(raw.get("languages", ())),
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or ["empty"])[0]
        raise DataError(
            f"{path}: no comparison ({reason}). `polycycle compare STUDY` writes one to "
            "comparison.json in the study's output"
        ) from error


def _answers(rows: Sequence[Row]) -> tuple[AnswerColumn, ...]:
    """The columns that figures of generation tasks stand in, by their keys.

    By task, group and kind, as a run has them: a row may lack some.
    """
    keys = dict.fromkeys(key for row in rows for key in row.figures if key.count("/") >= 2)
    parts = [key.rsplit("/", 2) for key in keys]
    tasks = list(dict.fromkeys(task for task, _, _ in parts))
    groups = list(dict.fromkeys(group for _, group, _ in parts))
    kinds = list(ANSWER_KINDS)
    parts.sort(key=lambda part: (tasks.index(part[0]), groups.index(part[1]), kinds.index(part[2])))
    found = [{"task": task, "group": group, "what": what} for task, group, what in parts]
    return TypeAdapter(tuple[AnswerColumn, ...]).validate_python(found)
