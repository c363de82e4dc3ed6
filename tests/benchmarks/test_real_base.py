"""A base of real text is trained by one command, learns, and says how it was made."""

import gzip
import json

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks import real_base
from polycycle.errors import DataError
from tests.text import make_tokenizer, sentences


@pytest.fixture
def text(tmp_path):
    """600 sentences of English, 60 of Greek, and others held out."""
    for part, seed in (("train", 0), ("valid", 1)):
        (tmp_path / "text" / part).mkdir(parents=True)
        for language, count in (("en", 600), ("el", 60)):
            rows = [json.dumps({"text": one}) for one in sentences(language, count, seed=seed)]
            with gzip.open(tmp_path / "text" / part / f"{language}.jsonl.gz", "wt") as file:
                file.write("\n".join(rows))
    return tmp_path / "text"


def build(text, out, *settings):
    """A model of two layers, after 60 steps of 16 windows."""
    real_base.main(
        [
            *(str(text), str(out), "--languages", "en=0.8", "el=0.2"),
            *("--hidden-size", "32", "--layers", "2", "--tokens", str(60 * 16 * 32)),
            *("--batch-size", "16", "--sequence-length", "32", "--learning-rate", "1e-2"),
            *settings,
        ]
    )
    return json.loads((out / "training.json").read_text("utf-8"))


def test_a_base_learns_loads_and_says_how_it_was_made(text, tmp_path):
    make_tokenizer().save_pretrained(tmp_path / "tokenizer")
    out = tmp_path / "base"
    found = build(text, out, "--tokenizer", str(tmp_path / "tokenizer"))

    model = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    assert str(model.dtype) == "torch.bfloat16"
    assert model.num_parameters() == found["parameters"]
    assert len(AutoTokenizer.from_pretrained(out)) == model.config.vocab_size == 320

    (first, early), (last, late) = found["loss"]
    assert (first, last) == (50, 60)
    assert late < 0.7 * early  # of the first 50 steps, and of the last 10
    # Eight bits per byte is what is known from nothing.
    assert all(bits < 3 for bits in found["valid_bits_per_byte"].values())
    assert found["epochs"]["el"] > found["epochs"]["en"] > 1  # both are gone over again
    assert found["tokens"] == 60 * 16 * 32
    assert found["settings"]["languages"] == {"en": 0.8, "el": 0.2}
    assert found["settings"]["vocab_size"] == 320  # the given tokenizer's, not the default
    assert found["settings"]["text"] == "text"
    assert set(found["seconds"]) == {"tokenizing", "training", "validation"}
    assert found["environment"]["torch"]


def test_a_base_without_a_tokenizer_gets_one_of_its_own_text(text, tmp_path):
    found = build(text, tmp_path / "base", "--vocab-size", "300", "--tokens", "512")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    assert found["steps"] == 1
    assert len(tokenizer) == 300
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1)
    assert tokenizer.decode(tokenizer("Größe, ποτάμι")["input_ids"]) == "Größe, ποτάμι"
    with pytest.raises(SystemExit):  # what is there is never replaced
        build(text, tmp_path / "base")


def test_passes_over_a_small_text_are_whole_and_cut_at_different_places():
    starts = real_base.window_starts(100, 25, 10, np.random.default_rng(0))
    assert len(starts) == 25
    assert starts.min() >= 0
    assert starts.max() <= 90
    assert len(set(starts % 10)) > 1
    for place in (starts[:9], starts[-5:]):  # within a pass no token is read twice
        assert len(set(place // 10)) == len(place)


def test_text_that_is_missing_at_the_end_is_missed_at_the_start(text, tmp_path, monkeypatch):
    monkeypatch.setattr(real_base, "build_model", None)  # the training would call it
    (text / "valid" / "el.jsonl.gz").unlink()
    with pytest.raises(DataError, match=r"valid: no file of language 'el'"):
        build(text, tmp_path / "base")
    assert not (tmp_path / "base").exists()
