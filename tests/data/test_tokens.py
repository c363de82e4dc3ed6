import multiprocessing
import os
import pickle
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from tokenizers.processors import TemplateProcessing

from polycycle.data import (
    Skipped,
    TextSource,
    check_disjoint,
    document_policy,
    read_documents,
    tokenize_corpus,
    tokenizer_warnings,
    tokenizing_bars,
)
from polycycle.data.statistics import count_words
from polycycle.errors import DataError
from tests.data.corpora import ENGLISH, corpus_of, make_tokenizer, write_jsonl


def with_bos(tokenizer):
    """The same tokenizer, adding `<pad>` as BOS by itself."""
    tokenizer.bos_token = "<pad>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<pad> $A", special_tokens=[("<pad>", 1)]
    )
    return tokenizer


@pytest.mark.parametrize("adds_bos", [False, True])
def test_a_document_is_its_text_between_start_and_end_tokens(tmp_path, adds_bos):
    tokenizer = with_bos(make_tokenizer()) if adds_bos else make_tokenizer()
    corpus = corpus_of(tmp_path, ENGLISH, tokenizer=tokenizer)
    for index, text in enumerate(ENGLISH):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert corpus.document(index).tolist() == [1] * adds_bos + ids + [0]
        assert corpus.text_tokens(index).tolist() == ids
        assert corpus.text_bytes[index] == len(text.encode())
        assert corpus.where(index) == f"{tmp_path / 'en.jsonl'}:{index + 1}"
    assert corpus.policy.start == (1 if adds_bos else 0)
    assert corpus.statistics.tokens == len(corpus.tokens)


def test_a_tokenizer_without_an_end_token_is_refused():
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(DataError, match="no eos_token"):
        document_policy(tokenizer)


def test_reading_stops_with_the_document_that_reaches_a_budget(tmp_path):
    full = corpus_of(tmp_path, ENGLISH * 200)
    length = int(full.ends[2])
    assert len(corpus_of(tmp_path, ENGLISH * 200, max_tokens=length)) == 3
    assert len(corpus_of(tmp_path, ENGLISH * 200, max_tokens=length + 1)) == 4
    assert len(corpus_of(tmp_path, ENGLISH * 200, max_documents=300)) == 300
    assert len(corpus_of(tmp_path, ENGLISH * 200, max_bytes=len(ENGLISH[0]))) == 1


def test_a_bad_line_after_the_budget_is_never_read(tmp_path):
    path = write_jsonl(tmp_path / "en.jsonl", ENGLISH * 100)
    path.write_bytes(path.read_bytes() + b"not json\n")
    source = TextSource(path=str(path))
    tokenizer = make_tokenizer()
    assert len(tokenize_corpus(source, "en", tokenizer, tmp_path / "c", max_documents=2)) == 2
    with pytest.raises(DataError, match=r"en\.jsonl:401: not JSON"):
        tokenize_corpus(source, "en", tokenizer, tmp_path / "c")
    corpus = tokenize_corpus(source, "en", tokenizer, tmp_path / "c", on_bad_document="skip")
    assert corpus.skipped.count == 1
    assert corpus.skipped.examples[0][0] == f"{path}:401"


def test_a_corpus_is_made_once_and_again_when_what_shaped_it_changes(tmp_path):
    first = corpus_of(tmp_path, ENGLISH)
    stamp = (first.folder / "tokens.bin").stat().st_mtime_ns
    tokenizer = make_tokenizer()
    tokenizer(["a", "b c d"], padding=True)  # leaves padding switched on
    again = corpus_of(tmp_path, ENGLISH, tokenizer=tokenizer)
    assert again.folder == first.folder
    assert (again.folder / "tokens.bin").stat().st_mtime_ns == stamp
    others = [
        corpus_of(tmp_path, ENGLISH, tokenizer=make_tokenizer(vocab_size=270)),
        corpus_of(tmp_path, ENGLISH, tokenizer=with_bos(make_tokenizer())),
        corpus_of(tmp_path, ENGLISH, max_tokens=5),
        corpus_of(tmp_path, ENGLISH, on_bad_document="skip"),
        corpus_of(tmp_path, [*ENGLISH[:3], "dogs ran"]),
    ]
    assert len({first.folder, *(other.folder for other in others)}) == 6


def _tokenize_and_wait(folder, started):
    def progress(tokens):
        started.touch()
        time.sleep(60)

    corpus_of(folder, ENGLISH, progress=progress)


def test_a_kill_in_the_middle_leaves_no_folder_that_is_taken_for_whole(tmp_path):
    started = tmp_path / "started"
    child = multiprocessing.get_context("spawn").Process(
        target=_tokenize_and_wait, args=(tmp_path, started)
    )
    child.start()
    while not started.exists():
        assert child.is_alive()
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    cache = tmp_path / "cache"
    assert [path for path in cache.iterdir() if not path.name.startswith(".")] == []
    assert len(corpus_of(tmp_path, ENGLISH)) == len(ENGLISH)


def _tokenize(folder: Path, made):
    path = TextSource(path=str(folder / "en.jsonl"))
    cache = folder / "cache"

    def progress(tokens):
        if not any(cache.glob("en-*")):  # else it is there already
            made.put(os.getpid())
            time.sleep(0.3)

    tokenize_corpus(path, "en", make_tokenizer(), cache, progress=progress)


def test_of_two_racing_processes_one_writes_and_both_read(tmp_path):
    write_jsonl(tmp_path / "en.jsonl", ENGLISH)
    context = multiprocessing.get_context("spawn")
    made = context.Queue()
    children = [context.Process(target=_tokenize, args=(tmp_path, made)) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0]
    made.get(timeout=5)
    assert made.empty()


def test_a_corpus_is_pickled_as_its_folder(tmp_path):
    corpus = corpus_of(tmp_path, ENGLISH * 500)
    pickled = pickle.dumps(corpus)
    assert len(pickled) < 2000
    again = pickle.loads(pickled)
    np.testing.assert_array_equal(again.tokens, corpus.tokens)
    assert again.statistics == corpus.statistics


def test_words_are_counted_by_spaces_or_by_character():
    assert count_words("the old cat — sat.") == 4
    assert count_words("我爱北京 and 猫") == 6
    assert count_words("ไทย") == 3


def test_lone_bytes_are_counted_and_a_badly_served_language_is_warned_of(tmp_path):
    tokenizer = make_tokenizer()
    english = corpus_of(tmp_path, ENGLISH, tokenizer=tokenizer).statistics
    greek = corpus_of(tmp_path, ["καλά"], "el", tokenizer=tokenizer).statistics
    assert greek.fallback_tokens == greek.text_tokens == greek.bytes == 8
    assert greek.words == 1
    assert english.fallback_share == english.unknown_share == 0.0
    warnings = tokenizer_warnings({"en": english, "el": greek}, {"en"})
    assert list(warnings) == ["el"]
    assert "100% of tokens are single bytes" in warnings["el"]
    assert "1.00 tokens per byte" in warnings["el"]


def test_a_text_in_both_train_and_valid_is_named_by_its_places(tmp_path):
    (tmp_path / "valid").mkdir()
    train = corpus_of(tmp_path, ENGLISH)
    check_disjoint(train, corpus_of(tmp_path / "valid", ["new"]))
    valid = corpus_of(tmp_path / "valid", ["new", ENGLISH[2]])
    with pytest.raises(DataError, match=r"1 documents.*valid/en\.jsonl:2 is .*/en\.jsonl:3"):
        check_disjoint(train, valid)


def test_bars_count_tokens(tmp_path):
    with tokenizing_bars() as start:
        corpus_of(tmp_path, ENGLISH, progress=start("en", 100))
    seen = []
    corpus = corpus_of(tmp_path, ENGLISH, progress=seen.append)  # from the cache
    assert seen == [corpus.statistics.tokens]


@pytest.mark.corpus
@pytest.mark.parametrize("language", ["en", "zh", "el", "hi"])
def test_real_text_is_read_whole_and_stops_at_its_budget(tmp_path, language):
    root = Path(os.environ["POLYCYCLE_CORPUS"])
    source = TextSource(path=f"train/{language}.jsonl.gz")
    settings = {"root": root, "max_tokens": 200_000}
    corpus = tokenize_corpus(source, language, make_tokenizer(), tmp_path, **settings)
    assert 200_000 <= corpus.statistics.tokens < 200_000 + corpus.text_bytes[-1] + 2
    skipped = Skipped()
    documents = list(read_documents(source, language, root=root, skipped=skipped))
    assert skipped.count == 0
    assert len(documents) > len(corpus) > 0
