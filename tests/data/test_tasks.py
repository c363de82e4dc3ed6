import json

import pytest

from polycycle.data import TaskExample, read_task
from polycycle.errors import DataError

GOOD = {"prompt": "The sky\nis", "response": " blue\u2028or grey", "source": "en"}


def test_examples_are_read_with_line_separators_inside_texts(tmp_path):
    file = tmp_path / "en.jsonl"
    file.write_text(json.dumps(GOOD, ensure_ascii=False) + "\n\n" + json.dumps(GOOD), "utf-8")
    assert read_task(file) == [TaskExample("The sky\nis", " blue\u2028or grey")] * 2
    assert len(read_task(file, max_examples=1)) == 1


def test_a_task_can_say_what_any_answer_in_form_looks_like(tmp_path):
    row = {"prompt": "[So?]", "response": "(so)", "form": r"\(.+\)"}
    (tmp_path / "en.jsonl").write_text(json.dumps(row))
    assert read_task(tmp_path / "en.jsonl") == [TaskExample("[So?]", "(so)", r"\(.+\)")]


BAD = {
    "not json": ("{", "not JSON"),
    "no response": ({"prompt": "a", "respons": "b"}, "no field 'response'.*respons"),
    "prompt": ({**GOOD, "prompt": 3}, "prompt is a number, expected a text"),
    "empty response": ({**GOOD, "response": " \n"}, "response is empty"),
    "form": ({**GOOD, "form": 3}, "form is a number, expected a regular expression"),
    "no pattern": ({**GOOD, "form": "("}, "form is no regular expression"),
    "not its form": ({**GOOD, "form": r"\(.+\)"}, r"form .* does not match the response"),
    "two lines": ({**GOOD, "response": "a\nb"}, "response has more than one line"),
}


@pytest.mark.parametrize(("row", "problem"), BAD.values(), ids=BAD)
def test_a_bad_example_is_named_with_its_line_and_field(tmp_path, row, problem):
    file = tmp_path / "en.jsonl"
    bad = row if isinstance(row, str) else json.dumps(row)
    file.write_text(json.dumps(GOOD) + "\n" + bad + "\n")
    with pytest.raises(DataError, match=rf"en\.jsonl:2: {problem}.*expected"):
        read_task(file)


def test_an_empty_or_missing_task_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no task at"):
        read_task(tmp_path / "none.jsonl")
    (tmp_path / "en.jsonl").touch()
    with pytest.raises(DataError, match="no examples in it"):
        read_task(tmp_path / "en.jsonl")
