"""`polycycle similarity`: from options and from a recipe, on dense and upcycled models."""

import json

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from polycycle.cli import app
from polycycle.surgery import upcycle
from tests.text import VOCAB_SIZE, make_tokenizer, sentences, write_jsonl
from tests.tiny import save_dense

LANGUAGES = ("en", "es", "el", "tr")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with `dense`, `moe` and `text/<language>.jsonl`."""
    folder = tmp_path_factory.mktemp("similarity")
    save_dense(folder / "dense", vocab_size=VOCAB_SIZE)
    make_tokenizer().save_pretrained(folder / "dense")
    upcycle(folder / "dense", folder / "moe", num_experts=(3, 1, 4))
    for language in LANGUAGES:
        rows = [{"text": text} for text in sentences(language, 30)]
        write_jsonl(folder / "text" / f"{language}.jsonl", rows)
    return folder


def call(*arguments):
    return CliRunner().invoke(app, ["similarity", *map(str, arguments)])


def measured(place, model, out, *more):
    arguments = [place / model, "--data", place / "text", "--original", "en,es"]
    arguments += ["--expanded", "el,tr", "--tokens-per-language", "200", "--out", out]
    return call(*arguments, *more)


def test_the_file_holds_table_groups_model_and_versions(place, tmp_path):
    done = measured(place, "dense", tmp_path / "s.json", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "s.json").read_text())
    assert json.loads(done.stdout) == found
    assert found["languages"] == list(LANGUAGES)
    assert found["groups"] == {"original": ["en", "es"], "expanded": [["el", "tr"]]}
    assert found["tokens_per_language"] == 200
    assert len(found["model"]["content_hash"]) == 64
    assert set(found["versions"]) == {"polycycle", "torch", "transformers"}
    table = np.array(found["table"])
    assert table.shape == (3, 4, 4)
    assert np.allclose(table, table.swapaxes(1, 2))
    by_hand = (table[:, 2:, :2].mean((1, 2)) + table[:, 2, 3]) / 2
    assert np.allclose(found["per_layer"], by_hand)


def test_a_fresh_upcycle_gives_the_same_table_and_its_own_hash(place, tmp_path):
    files = [tmp_path / "dense.json", tmp_path / "moe.json"]
    for file in files:
        assert measured(place, file.stem, file).exit_code == 0
    dense, moe = (json.loads(file.read_text()) for file in files)
    assert np.allclose(dense["table"], moe["table"], rtol=0, atol=1e-6)
    assert dense["model"]["content_hash"] != moe["model"]["content_hash"]


def test_a_recipe_says_the_same_and_allocate_reads_it(place, tmp_path):
    recipe = {
        "base": str(place / "dense"),
        "output": str(tmp_path / "run"),
        "languages": {
            "original": ["en", "es"],
            "unseen_original": ["fr"],
            "expanded": ["el", "tr"],
        },
        "data": {"train": "{language}.jsonl", "valid": "valid/{language}.jsonl"},
        "post_pretrain": {"tokens": 1000},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    by_recipe, by_options = tmp_path / "recipe.json", tmp_path / "options.json"
    arguments = ["--recipe", tmp_path / "recipe.yaml", "--set", f"data.root={place / 'text'}"]
    done = call(*arguments, "--tokens-per-language", "200", "--out", by_recipe)
    assert done.exit_code == 0, done.output
    assert "expanded el, tr; original en, es" in done.stdout
    measured(place, "dense", by_options, "--row-tokens", "50")
    tables = [json.loads(file.read_text())["table"] for file in (by_recipe, by_options)]
    assert np.allclose(*tables, rtol=0, atol=1e-6)
    plan = ["allocate", "--similarity", str(by_recipe), "--total-experts", "9", "--json"]
    counts = json.loads(CliRunner().invoke(app, plan).stdout)["num_experts_per_layer"]
    assert sum(counts) == 9


def test_the_groups_of_a_recipe_are_measured_one_by_one(place, tmp_path):
    recipe = {
        "base": str(place / "dense"),
        "output": str(tmp_path / "run"),
        "languages": {"original": ["en"], "expanded": [["el"], ["tr"]]},
        "data": {"train": "{language}.jsonl", "valid": "valid/{language}.jsonl"},
        "post_pretrain": {"tokens": 1000},
    }
    path, out = tmp_path / "recipe.yaml", tmp_path / "s.json"
    path.write_text(yaml.safe_dump(recipe))
    arguments = ["--recipe", path, "--set", f"data.root={place / 'text'}", "--out", out]
    arguments += ["--tokens-per-language", "100"]
    assert call(*arguments).exit_code == 0
    assert json.loads(out.read_text())["languages"] == ["en", "el"]
    assert call(place / "moe", *arguments, "--group", 2).exit_code == 0
    found = json.loads(out.read_text())
    assert found["groups"] == {"original": ["en"], "expanded": [["el"], ["tr"]]}
    refused = call(*arguments, "--group", 2)
    assert "the finished model of the groups before" in " ".join(refused.output.split())
    assert "has 2 groups" in " ".join(call(*arguments, "--group", 3).output.split())


def test_a_mixed_file_is_told_apart_by_its_language_column(place, tmp_path):
    rows = [{"t": text, "l": tag} for tag in LANGUAGES for text in sentences(tag, 30)]
    mixed = write_jsonl(tmp_path / "mixed.jsonl", rows)
    arguments = [place / "dense", "--data", mixed, "--original", "en,es", "--expanded", "el,tr"]
    arguments += ["--tokens-per-language", "200", "--out", tmp_path / "s.json"]
    done = call(*arguments, "--text-field", "t", "--language-field", "l")
    assert done.exit_code == 0, done.output
    measured(place, "dense", tmp_path / "folder.json")
    files = ("s.json", "folder.json")
    tables = [json.loads((tmp_path / file).read_text())["table"] for file in files]
    assert tables[0] == tables[1]


TEXT = ["--data", "{place}/text"]
GROUPS = ["--original", "en,es", "--expanded", "el,tr"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{place}/dense", *TEXT, "--original", "en"], "--expanded missing: type polycycle"),
        ([*TEXT, *GROUPS], "MODEL missing"),
        (["{place}/none", *TEXT, *GROUPS], "no such folder"),
        (["{place}/dense", *TEXT, "--original", "en,xx1", "--expanded", "el"], "--original en,xx1"),
        (
            ["{place}/dense", *TEXT, "--original=en", "--expanded=hu", "--tokens-per-language=10"],
            "no file of language 'hu'",
        ),
        (["{place}/dense", *TEXT, "--original", "en", "--expanded", "en"], "more than one group"),
        (["{place}/dense", *TEXT, *GROUPS], "100,000 tokens are asked for"),
        (
            ["{place}/dense", "--data", "{place}/text/en.jsonl", *GROUPS],
            "every language would read the same text",
        ),
        (["{place}/dense", *TEXT, *GROUPS, "--set", "seed=1"], "give one with --recipe"),
        (["--recipe", "r.yaml", *TEXT], "drop --data"),
        (["--recipe", "{place}/none.yaml"], "no recipe at"),
        (["{place}/dense", *TEXT, *GROUPS, "--group", "2"], "--group 2 is one of a recipe's"),
    ],
)
def test_errors_say_what_to_type(place, tmp_path, arguments, message):
    filled = [argument.format(place=place, language="{language}") for argument in arguments]
    done = call(*filled, "--out", tmp_path / "s.json")
    assert done.exit_code == 1
    assert message in " ".join(done.output.split())
    assert "Traceback" not in done.output
    assert not (tmp_path / "s.json").exists()


def test_a_model_without_our_feed_forward_blocks_is_refused(place, tmp_path):
    folder = save_dense(tmp_path / "dense")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    done = call(folder, "--data", place / "text", *GROUPS, "--out", tmp_path / "s.json")
    assert done.exit_code == 1
    assert "'gpt2' is not supported" in done.output
