"""Excerpts: exactly the first tokens, and how much there was when that is too little."""

import numpy as np
import pytest

from polycycle.data import TextSource, read_excerpt
from polycycle.errors import DataError
from tests.data.corpora import ENGLISH, make_tokenizer, write_jsonl


def excerpt(folder, texts=ENGLISH, tokenizer=None, **settings):
    path = write_jsonl(folder / "en.jsonl", texts)
    return read_excerpt(TextSource(path=str(path)), "en", tokenizer or make_tokenizer(), **settings)


def lengths(texts):
    return [len(ids) for ids in make_tokenizer()(texts)["input_ids"]]


def test_it_is_the_beginning_of_the_text_and_the_last_document_is_cut(tmp_path):
    first, second, third, _ = lengths(ENGLISH)
    found = excerpt(tmp_path, num_tokens=first + second + third - 1)
    assert [len(document) for document in found.documents] == [first, second, third - 1]
    assert found.num_tokens == first + second + third - 1
    whole = make_tokenizer()(ENGLISH[0])["input_ids"]
    assert found.documents[0].tolist() == whole
    assert (found.num_cut, found.num_too_long) == (0, 0)


def test_the_start_token_is_there_where_the_tokenizer_adds_one_and_no_end_token(tmp_path):
    from tokenizers.processors import TemplateProcessing

    tokenizer = make_tokenizer()
    tokenizer.bos_token = "<pad>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<pad> $A", special_tokens=[("<pad>", 1)]
    )
    found = excerpt(tmp_path, tokenizer=tokenizer, num_tokens=15)
    assert all(document[0] == 1 for document in found.documents)
    assert not any(0 in document for document in found.documents)


def test_long_documents_are_cut_and_longer_ones_passed_over(tmp_path):
    texts = ["the cat " * 100, "the cat " * 20, *ENGLISH]
    limit = lengths(texts)[1]
    found = excerpt(
        tmp_path, texts, num_tokens=15, max_document_tokens=limit - 5, skip_above_tokens=limit
    )
    assert (found.num_too_long, found.num_cut) == (1, 1)
    kept = make_tokenizer()(texts[1])["input_ids"][: min(15, limit - 5)]
    assert np.array_equal(found.documents[0], kept)


def test_too_little_text_says_how_much_there_was(tmp_path):
    texts = ["the cat " * 100, *ENGLISH]
    there = sum(lengths(ENGLISH))
    with pytest.raises(DataError, match=f"has {there} in 4 documents") as error:
        excerpt(tmp_path, texts, num_tokens=1000, skip_above_tokens=50)
    assert "1 passed over as too long" in str(error.value)
    assert f"ask for no more than {there}" in str(error.value)


def test_the_rest_of_the_text_is_not_read(tmp_path):
    path = write_jsonl(tmp_path / "en.jsonl", ENGLISH * 20)
    path.write_text(path.read_text() + "not json\n")
    read_excerpt(TextSource(path=str(path)), "en", make_tokenizer(), num_tokens=10)


def test_progress_counts_up_to_the_budget(tmp_path):
    seen = []
    excerpt(tmp_path, num_tokens=15, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 15
