import gzip
import json

import datasets
import pytest
import zstandard
from datasets import Dataset

from polycycle.data import Skipped, TextSource, read_documents
from polycycle.errors import DataError

GOOD = b'{"text": "good"}\n'


def texts(source, language="en", **settings):
    return [document.text for document in read_documents(source, language, **settings)]


BAD_LINES = {
    "not json": (b"{'text': 1}", "not JSON.*column 2"),
    "not an object": (b'["a"]', "expected a JSON object, got a list"),
    "missing field": (b'{"txt": "a"}', "no field 'text'.*'txt'.*Did you mean 'txt'"),
    "not a string": (b'{"text": 3}', "field 'text' is a number, expected a string"),
    "null": (b'{"text": null}', "field 'text' is null"),
    "empty": (b'{"text": "  "}', "field 'text' is empty"),
    "undecodable": (b'{"text": "\xe9t\xe9"}', r"byte 11 of the line \(0xe9\) is not UTF-8.*iconv"),
    "lone surrogate": (b'{"text": "\\ud800"}', r"lone surrogate \(\\ud800\) at character 1"),
}


@pytest.mark.parametrize(("line", "problem"), BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_line_is_named_with_its_file_and_line_and_a_fix(tmp_path, line, problem):
    file = tmp_path / "en.jsonl"
    file.write_bytes(GOOD + line + b"\n")
    with pytest.raises(DataError, match=rf"en\.jsonl:2: .*{problem}.*on_bad_document: skip"):
        texts(TextSource(path=str(file)))


@pytest.mark.parametrize(("line", "problem"), BAD_LINES.values(), ids=BAD_LINES)
def test_a_skipped_document_is_counted_and_listed(tmp_path, line, problem):
    file = tmp_path / "en.jsonl"
    file.write_bytes(GOOD + line + b"\n" + GOOD)
    skipped = Skipped()
    source = TextSource(path=str(file))
    assert texts(source, on_bad_document="skip", skipped=skipped) == ["good", "good"]
    assert skipped.count == 1
    assert skipped.examples[0][0] == f"{file}:2"


def test_skipping_without_a_place_to_list_is_refused(tmp_path):
    with pytest.raises(DataError, match="needs `skipped"):
        texts(TextSource(path=str(tmp_path)), on_bad_document="skip")


def test_a_document_knows_its_line_though_blank_lines_are_passed_over(tmp_path):
    (tmp_path / "en.txt").write_bytes("\ufeffone\r\n\na\u2028b".encode())
    documents = list(read_documents(TextSource(path="en.txt"), "en", root=tmp_path))
    assert documents[0].text == "one"
    assert [document.line for document in documents] == [1, 3]
    assert documents[1].where == f"{tmp_path / 'en.txt'}:3"


def _write(path, data):
    path.write_bytes(data)


WRITERS = {
    "en.jsonl": _write,
    "en.jsonl.gz": lambda path, data: path.write_bytes(gzip.compress(data)),
    # Two frames after each other, as parallel compressors write.
    "en.jsonl.zst": lambda path, data: path.write_bytes(
        zstandard.compress(data[:7]) + zstandard.compress(data[7:])
    ),
}


@pytest.mark.parametrize(("name", "write"), WRITERS.items(), ids=WRITERS)
def test_plain_gz_and_zst_hold_the_same_documents(tmp_path, name, write):
    write(tmp_path / name, GOOD + json.dumps({"text": "καλό"}).encode())
    assert texts(TextSource(path=name), root=tmp_path) == ["good", "καλό"]


@pytest.mark.parametrize("name", ["en.jsonl.gz", "en.jsonl.zst"])
@pytest.mark.parametrize("on_bad_document", ["error", "skip"])
def test_a_truncated_file_is_an_error_even_when_skipping(tmp_path, name, on_bad_document):
    lines = b"".join(b'{"text": "%d"}\n' % (n * 7919) for n in range(2000))
    WRITERS[name](tmp_path / name, lines)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) * 3 // 4])
    with pytest.raises(DataError, match=rf"{name}:\d+: cannot be read.*truncated or damaged"):
        texts(
            TextSource(path=name), root=tmp_path, on_bad_document=on_bad_document, skipped=Skipped()
        )


def test_parquet_gives_the_same_documents_and_names_a_bad_row(tmp_path):
    file = tmp_path / "en.parquet"
    Dataset.from_dict({"text": ["one", None], "id": [1, 2]}).to_parquet(str(file))
    skipped = Skipped()
    source = TextSource(path=str(file))
    assert texts(source, on_bad_document="skip", skipped=skipped) == ["one"]
    assert skipped.examples[0][0] == f"{file}:2"
    with pytest.raises(DataError, match=r"en\.parquet:1: no field 'txt'.*'text', 'id'"):
        texts(TextSource(path=str(file), text_field="txt"))


def test_damaged_parquet_is_an_error(tmp_path):
    (tmp_path / "en.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match=r"en\.parquet:1: parquet cannot be read"):
        texts(TextSource(path="en.parquet"), root=tmp_path)


def test_a_folder_means_the_file_of_the_language_and_a_glob_all_files(tmp_path):
    for language in ("el", "en"):
        (tmp_path / f"{language}.jsonl").write_text(json.dumps({"text": language}))
    assert texts(TextSource(path=str(tmp_path))) == ["en"]
    assert texts(TextSource(path="*.jsonl"), root=tmp_path) == ["el", "en"]
    with pytest.raises(DataError, match=r"no file of language 'tr'.*el\.jsonl, en\.jsonl"):
        texts(TextSource(path=str(tmp_path)), "tr")
    (tmp_path / "en.txt").write_text("again")
    with pytest.raises(DataError, match=r"both en\.jsonl and en\.txt are of language 'en'"):
        texts(TextSource(path=str(tmp_path)))


def test_rows_of_other_languages_are_passed_over_and_an_absent_language_is_an_error(tmp_path):
    rows = [{"text": "a", "lang": "en"}, {"text": "b", "lang": "el"}]
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = TextSource(path="all.jsonl", language_field="lang")
    assert texts(source, "el", root=tmp_path) == ["b"]
    with pytest.raises(DataError, match="no row has lang = 'tr'; there are el, en"):
        texts(source, "tr", root=tmp_path)


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("none.jsonl", r"no such file or folder.*Did you mean 'nope\.jsonl'"),
        ("*.parquet", "no file matches"),
        ("nope.jsonl", "no document of language 'en'.*empty"),
        ("a.csv", "does not say what the file is"),
    ],
)
def test_an_empty_corpus_says_what_is_missing(tmp_path, path, problem):
    (tmp_path / "nope.jsonl").touch()
    (tmp_path / "a.csv").write_text("text\nx")
    with pytest.raises(DataError, match=problem):
        texts(TextSource(path=path), root=tmp_path)


def test_a_source_is_local_or_on_the_hub_and_not_both():
    with pytest.raises(DataError, match="exactly one"):
        TextSource(path="a", hub="b")


def test_a_hub_dataset_is_streamed_with_subset_split_and_revision(monkeypatch):
    asked = {}

    def load_dataset(hub, **settings):
        asked.update(settings, hub=hub)
        return Dataset.from_dict({"text": ["one", "two", ""]}).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = TextSource(hub="org/wiki", subset="el", split="valid", revision="abc")
    documents = read_documents(source, "el")
    assert next(documents).where == "org/wiki (el, valid, abc):1"
    assert next(documents).text == "two"
    with pytest.raises(DataError, match=r"org/wiki \(el, valid, abc\):3: field 'text' is empty"):
        next(documents)
    assert asked == {
        "hub": "org/wiki", "name": "el", "split": "valid", "revision": "abc", "streaming": True
    }  # fmt: skip


def test_a_hub_dataset_that_is_not_there_says_what_to_check(monkeypatch):
    def load_dataset(hub, **settings):
        raise FileNotFoundError("no such dataset")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match=r"org/none.*no such dataset.*Check id"):
        texts(TextSource(hub="org/none"))
