"""A whole comparison: cells run once, failures shown, everything traceable."""

import json

import pytest
import torch
from typer.testing import CliRunner

from polycycle.cli import app
from polycycle.comparison import check_results, plan_cells, running
from polycycle.config import load_study
from polycycle.errors import ConfigError
from polycycle.results import save_result
from tests.config.test_study import study
from tests.results.example import example_result
from tests.text import VOCAB_SIZE, make_tokenizer, sentences, write_jsonl
from tests.tiny import save_dense


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    base = save_dense(folder / "base", vocab_size=VOCAB_SIZE, dtype=torch.bfloat16)
    make_tokenizer().save_pretrained(base)
    for language in ("en", "el"):
        for part, seed, count in (("train", 0, 60), ("valid", 1, 6)):
            rows = [{"text": text} for text in sentences(language, count, seed=seed)]
            write_jsonl(folder / part / f"{language}.jsonl", rows)
    training = {"batch_size": 4, "sequence_length": 32}
    recipe = {
        "base": str(base),
        "output": "elsewhere",
        "languages": {"original": ["en"], "expanded": ["el"]},
        "data": {
            "root": str(folder),
            "train": "train/{language}.jsonl",
            "valid": "valid/{language}.jsonl",
        },
        "experts": {"num_experts": 3},
        "post_pretrain": {"tokens": 1000, **training},
        "review": {"replay_documents": 10, "expanded_documents": 10, **training},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return folder


def call(*arguments):
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


@pytest.mark.slow
def test_a_comparison_runs_what_is_missing_and_shows_what_failed(world):
    study = {
        "name": "prior or not <b>",
        "question": "Does the prior loss keep more?",
        "recipe": "recipe.yaml",
        "output": str(world / "out"),
        "seeds": [0],
        "measure_speed": True,
        "cells": {
            "with": None,
            "without": {"title": "Without <prior>", "settings": {"review.prior_coef": 0.0}},
            "too-much": {"post_pretrain.tokens": 10_000_000},
        },
    }
    file = world / "study.yaml"
    file.write_text(json.dumps(study))
    first = call(file, "--only", "with")
    assert first.exit_code == 0, first.output
    assert "0 of 1" in first.output
    before = (world / "out/with/seed-0/result.json").stat().st_mtime_ns
    done = call(file)
    assert done.exit_code == 0, done.output
    assert "too-much, seed 0 failed" in done.output
    assert "el" in done.output
    assert (world / "out/with/seed-0/result.json").stat().st_mtime_ns == before
    # The second cell took over what the first had made.
    log = (world / "out/without/seed-0.log").read_text()
    assert "post-pretrain: taken over from" in log
    found = json.loads((world / "out/comparison.json").read_text())
    states = {cell["cell"]: cell["status"] for cell in found["cells"]}
    assert states == {"with": "done", "without": "done", "too-much": "failed"}
    result = json.loads((world / "out/without/seed-0/result.json").read_text())
    base, final = result["models"][0]["scores"], result["models"][-1]["scores"]
    row = next(row for row in found["rows"] if row["cell"] == "without")
    saved = base["el"]["bits_per_byte"] - final["el"]["bits_per_byte"]
    assert row["figures"]["gain"] == {"mean": saved, "deviation": None, "seeds": 1}
    kept = base["en"]["bits_per_byte"] / final["en"]["bits_per_byte"]
    assert row["figures"]["kept"]["mean"] == pytest.approx(kept)
    assert row["against_reference"]["gain"] == "one seed"
    assert row["figures"]["decode_of_base"]["mean"] > 0
    cells = {cell["cell"]: cell for cell in found["cells"]}
    assert cells["without"]["speed"]["content_hash"] == result["models"][-1]["content_hash"]
    assert cells["too-much"]["speed"] is None
    page = (world / "out/comparison.html").read_text()
    assert "Without &lt;prior&gt;" in page
    assert "<b>" not in page.replace("<b>Gain", "", 1)
    assert page.count("<svg") == 1  # same costs, no unseen languages
    assert "http" not in page.split("</style>")[1]
    # Nothing is left to do; a failed cell is tried again unless told not to.
    shown = call(file, "--no-retry")
    assert "3 cells, 3 need no run" in shown.output


def test_a_demos_texts_hold_the_languages_of_cells_that_are_run_later(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(running, "write_demo", lambda home, **given: written.append(given))
    monkeypatch.setattr(running, "_run", lambda cell, at_once: 0)
    cells = {
        "greek": {"languages.expanded": ["el"]},
        "russian": {"languages.expanded": ["ru"], "languages.unseen_original": ["ar"]},
    }
    settings = {"data.train": "train/{language}.jsonl"}
    asked = load_study(study(tmp_path, seeds=[0], settings=settings, cells=cells))
    running.run_cells(asked, plan_cells(asked)[:1], tell=lambda note: None)
    (given,) = written
    assert given["expanded"] == ("el", "ru")
    assert given["unseen"] == ("fr", "pt", "ar")


def test_a_variant_that_shows_a_model_of_another_is_run_by_that_ones_run(world, monkeypatch):
    ran = []
    monkeypatch.setattr(running, "_run", lambda cell, at_once: ran.append(cell.name) or 0)
    cells = {"one": None, "base": {"of": "one", "model": "base"}, "two": {"experts.top_k": 1}}
    study = {"name": "s", "recipe": "recipe.yaml", "output": str(world / "of"), "cells": cells}
    (world / "of.yaml").write_text(json.dumps(study | {"seeds": [0]}))
    done = call(world / "of.yaml", "--only", "base")
    assert done.exit_code == 0, done.output
    assert ran == ["one"]


def test_wrong_options_say_what_there_is(world):
    study = {"name": "s", "recipe": "recipe.yaml", "output": "o", "cells": {"one": None}}
    (world / "s.yaml").write_text(json.dumps(study))
    assert "Did you mean 'one'" in call(world / "s.yaml", "--only", "ones").output
    assert "write numbers" in call(world / "s.yaml", "--seeds", "a").output
    for seeds in ("7", "0,7"):
        found = call(world / "s.yaml", "--seeds", seeds).output
        assert f"--seeds {seeds}: no seed 7; there are 0, 1, 2" in found
    study["cells"]["two"] = {"seeds": [5, 3]}
    (world / "s.yaml").write_text(json.dumps(study))
    found = call(world / "s.yaml", "--only", "two", "--seeds", "0").output
    assert "--seeds 0: no seed 0; there are 3, 5" in found


def test_where_no_folder_can_be_is_said_before_anything_is_run(world, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "_run", lambda cell, at_once: pytest.fail("run"))
    study = {"name": "s", "recipe": "recipe.yaml", "output": "o", "cells": {"one": None}}
    (world / "s.yaml").write_text(json.dumps(study))
    (tmp_path / "file").write_text("a file")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "one").write_text("a file")
    for output, place in (("file", "file"), ("file/below", "file/below"), ("out", "out/one")):
        done = call(world / "s.yaml", "--out", tmp_path / output)
        assert done.exit_code == 1
        assert f"ConfigError: output: {tmp_path / place} cannot be a folder" in done.output


def test_a_study_on_another_recipe_keeps_to_a_folder_of_its_own(world, tmp_path):
    asked = study(tmp_path, seeds=[0], cells={"one": None})
    shown = call(asked, "--recipe", world / "recipe.yaml", "--show")
    assert shown.exit_code == 0, shown.output
    own = tmp_path / "out-recipe"
    found = json.loads((own / "comparison.json").read_text())
    assert found["study"]["recipe"] == str(world / "recipe.yaml")
    (cell,) = plan_cells(load_study(asked, recipe=world / "recipe.yaml"))
    cell.recipe_file.parent.mkdir(parents=True)
    cell.recipe_file.write_text(cell.text)
    mixed = call(asked, "--out", own, "--show")
    assert mixed.exit_code == 1
    assert "another recipe than the demo" in mixed.output
    assert json.loads((own / "comparison.json").read_text()) == found


def test_a_finished_cell_of_other_settings_is_not_replaced_unasked(world, monkeypatch):
    ran = []

    def fake(cell, at_once):
        ran.append((cell.name, cell.recipe.review.prior_coef))
        running._put_down_recipe(cell)
        cell.folder.mkdir(parents=True, exist_ok=True)
        save_result(example_result(), cell.result_file)
        return 0

    monkeypatch.setattr(running, "_run", fake)
    asked = {"name": "s", "recipe": "recipe.yaml", "output": str(world / "kept"), "seeds": [0]}
    (world / "kept.yaml").write_text(json.dumps(asked | {"cells": {"one": None, "two": None}}))
    again = [world / "kept.yaml", "--set", "review.prior_coef=0.5"]
    first = call(*again)
    assert first.exit_code == 0, first.output
    other = call(world / "kept.yaml", "--set", "review.prior_coef=0.25")
    assert other.exit_code == 1
    said = " ".join(other.output.split())
    assert "one/seed-0 and 1 more: finished with other settings" in said.replace("/ ", "/")
    assert "review.prior_coef: 0.5 then, 0.25 now" in said
    assert call(*again).exit_code == 0
    assert ran == [("one", 0.5), ("two", 0.5)]
    assert call(world / "kept.yaml", "--set", "review.prior_coef=0.25", "--anew").exit_code == 0
    assert ran[2:] == [("one", 0.25), ("two", 0.25)]


def test_a_setting_told_to_be_nothing_differs_from_one_that_was_not_told(tmp_path):
    nothing = {"one": {"evaluation.context_length": None}}
    (cell,) = plan_cells(load_study(study(tmp_path, seeds=[0], cells=nothing)))
    running._put_down_recipe(cell)
    assert not cell.changes
    (other,) = plan_cells(load_study(study(tmp_path, seeds=[0], cells={"one": None})))
    assert other.changes == {"evaluation.context_length": (None, "not set")}
    cell.folder.mkdir(parents=True)
    save_result(example_result(), cell.result_file)
    with pytest.raises(ConfigError, match=r"evaluation\.context_length: None then, not set now"):
        check_results([other])


def test_a_failure_is_of_the_recipe_that_failed(tmp_path):
    (cell,) = plan_cells(load_study(study(tmp_path, seeds=[0], cells={"one": None})))
    running._put_down_recipe(cell)
    cell.failure_file.write_text("exit code 1")
    assert cell.has_failed
    changed = {"one": {"experts.top_k": 1}}
    (other,) = plan_cells(load_study(study(tmp_path, seeds=[0], cells=changed)))
    assert not other.has_failed
