"""Benchmarks from local files: which are found, what their rows become, and what is refused."""

import pytest

from polycycle.data import find_task_data, read_benchmark
from polycycle.errors import DataError
from tests.text import write_jsonl

QUESTION = {"prompt": "the river runs", "choices": [" down", " up"], "answer": 0}


def one(folder, name, languages=("el",), **names):
    return read_benchmark(find_task_data(folder, **names).benchmarks[name], languages)


def test_a_benchmark_is_a_folder_of_splits_of_languages(tmp_path):
    write_jsonl(tmp_path / "quiz/test/el.jsonl", [QUESTION])
    write_jsonl(tmp_path / "quiz/train/el.jsonl", [QUESTION, QUESTION])
    write_jsonl(tmp_path / "notes.txt", [{}])
    (tmp_path / "empty").mkdir()
    data = find_task_data(tmp_path)
    assert list(data.benchmarks) == ["quiz"]
    (rows,) = one(tmp_path, "quiz", ("el", "tr"))  # nothing in Turkish
    assert (rows.language, rows.form) == ("el", "choices")
    assert rows.measured == (QUESTION,)
    assert len(rows.shots) == 2


def test_test_is_measured_before_dev_and_train_never(tmp_path):
    for split in ("dev", "test", "train"):
        write_jsonl(tmp_path / f"quiz/{split}/el.jsonl", [{**QUESTION, "prompt": split}])
    (rows,) = one(tmp_path, "quiz")
    assert rows.measured[0]["prompt"] == "test"
    assert rows.shots[0]["prompt"] == "train"


def test_labelled_text_becomes_a_choice_among_all_labels(tmp_path):
    write_jsonl(tmp_path / "topics/dev/el.jsonl", [{"text": "ψωμί", "label": "food", "id": "1"}])
    write_jsonl(tmp_path / "topics/train/el.jsonl", [{"text": "ποτάμι", "label": "travel"}])
    (rows,) = one(tmp_path, "topics")
    assert rows.measured == (
        {"prompt": "Text: ψωμί\nTopic:", "choices": [" food", " travel"], "answer": 0},
    )
    assert rows.shots[0]["answer"] == 1


def test_rows_with_a_text_per_language_become_translations_both_ways(tmp_path):
    write_jsonl(tmp_path / "pairs.jsonl", [{"en": "bread", "el": "ψωμί", "tr": "ekmek"}])
    there, back = one(tmp_path, "pairs", ("en", "el"))
    assert (there.benchmark, back.benchmark) == ("pairs-from-en", "pairs-to-en")
    assert there.measured[0]["prompt"] == "English sentence: bread\nGreek sentence:"
    assert there.measured[0]["response"] == "ψωμί"
    assert back.measured[0]["source"] == "ψωμί"


def test_devtest_is_measured_and_dev_gives_the_shots(tmp_path):
    write_jsonl(tmp_path / "flores/dev.jsonl", [{"en": "a", "el": "α"}])
    write_jsonl(tmp_path / "flores/devtest.jsonl", [{"en": "b", "el": "β"}])
    there, _ = one(tmp_path, "flores")
    assert (there.measured[0]["response"], there.shots[0]["response"]) == ("β", "α")


def test_another_file_is_another_hash(tmp_path):
    write_jsonl(tmp_path / "quiz/test/el.jsonl", [QUESTION])
    (before,) = one(tmp_path, "quiz")
    write_jsonl(tmp_path / "quiz/test/el.jsonl", [{**QUESTION, "answer": 1}])
    (after,) = one(tmp_path, "quiz")
    assert before.data_hash != after.data_hash


def test_a_folder_named_like_a_task_of_lm_eval_is_its_dataset(tmp_path):
    write_jsonl(tmp_path / "arc_el/test.jsonl", [{"anything": 1}])
    write_jsonl(tmp_path / "hellaswag/test/el.jsonl", [QUESTION])
    data = find_task_data(tmp_path, {"arc_el", "hellaswag"})
    assert list(data.datasets) == ["arc_el"]
    assert list(data.benchmarks) == ["hellaswag"]  # folders of languages are ours


@pytest.mark.parametrize(
    ("file", "row", "message"),
    [
        ("quiz/test/el.jsonl", {"question": "?"}, "el.jsonl:1: a row with question; expected"),
        ("quiz/test/el.jsonl", {"text": "a", "label": 1}, "el.jsonl:1: label is a number"),
        ("quiz/test/greek.jsonl", QUESTION, "files are named by language"),
        ("pairs.jsonl", {"el": "α"}, "pairs.jsonl:1: no text in English"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path, file, row, message):
    write_jsonl(tmp_path / file, [row])
    with pytest.raises(DataError, match=message):
        one(tmp_path, file.split("/")[0].removesuffix(".jsonl"))


def test_a_folder_without_a_benchmark_says_what_one_looks_like(tmp_path):
    with pytest.raises(DataError, match=r"NAME/test/el\.jsonl"):
        find_task_data(tmp_path)
    with pytest.raises(DataError, match="no task data at"):
        find_task_data(tmp_path / "none")
