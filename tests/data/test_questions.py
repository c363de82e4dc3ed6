import gzip
import json

import pytest

from polycycle.data import Question, read_questions
from polycycle.errors import DataError

GOOD = {"prompt": "The sky is", "choices": [" blue", " a\u2028b"], "answer": 0, "id": 7}


def test_questions_are_read_with_line_separators_inside_texts(tmp_path):
    file = tmp_path / "en.jsonl"
    file.write_text(json.dumps(GOOD, ensure_ascii=False) + "\n\n" + json.dumps(GOOD), "utf-8")
    assert read_questions(file) == [Question("The sky is", (" blue", " a\u2028b"), 0)] * 2
    assert len(read_questions(file, max_questions=1)) == 1
    (tmp_path / "en.jsonl.gz").write_bytes(gzip.compress(file.read_bytes()))
    assert read_questions(tmp_path / "en.jsonl.gz") == read_questions(file)


BAD = {
    "not json": ("{", "not JSON"),
    "no answer": ({"prompt": "a", "choices": ["b", "c"], "anwser": 0}, "no field 'answer'.*anwser"),
    "prompt": ({**GOOD, "prompt": 3}, "prompt is a number"),
    "choices are text": ({**GOOD, "choices": "ab"}, "choices must be a list"),
    "one choice": ({**GOOD, "choices": ["a"]}, "choices must be two or more different"),
    "same choices": ({**GOOD, "choices": ["a", "a"]}, "choices must be two or more different"),
    "answer beyond": ({**GOOD, "answer": 2}, "answer 2 is not an index from 0 to 1"),
    "answer true": ({**GOOD, "answer": True}, "answer True is not an index"),
    "answer letter": ({**GOOD, "answer": "A"}, "answer 'A' is not an index"),
}


@pytest.mark.parametrize(("row", "problem"), BAD.values(), ids=BAD)
def test_a_bad_question_is_named_with_its_line_and_field(tmp_path, row, problem):
    file = tmp_path / "en.jsonl"
    bad = row if isinstance(row, str) else json.dumps(row)
    file.write_text(json.dumps(GOOD) + "\n" + bad + "\n")
    with pytest.raises(DataError, match=rf"en\.jsonl:2: {problem}.*expected"):
        read_questions(file)


def test_an_empty_or_missing_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no questions at"):
        read_questions(tmp_path / "none.jsonl")
    (tmp_path / "en.jsonl").touch()
    with pytest.raises(DataError, match="no questions in it"):
        read_questions(tmp_path / "en.jsonl")
