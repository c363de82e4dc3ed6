"""A recipe that exports: the last step, refused before any training where it cannot be exact."""

import pytest
from huggingface_hub import ModelCard

from polycycle.config import parse_recipe
from polycycle.errors import ConfigError, ExportError
from polycycle.report import export_card, terminal_table, write_report
from polycycle.results import load_result, save_result
from polycycle.stages import run_recipe
from tests.stages.test_pipeline import recipe_settings  # noqa: F401  a fixture


def test_a_run_ends_with_a_proved_export(recipe_settings, tmp_path):  # noqa: F811
    recipe_settings["export"] = {}
    recipe_settings["license"] = "apache-2.0"
    recipe_settings["data"]["train"] = {
        language: {"path": f"train/{language}.jsonl", "license": "CC0-1.0"}
        for language in ("en", "el", "tr")
    }
    result = run_recipe(parse_recipe(recipe_settings), lambda note: None)
    export = result.export
    assert (export.target, export.model_class) == ("mixtral", "MixtralForCausalLM")
    assert export.passed
    assert export.compared_on == "real text"
    assert list(export.languages) == ["en", "es", "el", "tr"]
    assert (tmp_path / "run" / "export" / "tokenizer.json").is_file()
    assert load_result(save_result(result, tmp_path / "result.json")) == result
    page = write_report(result, tmp_path / "report").read_text()
    assert "which computes the same" in page
    card = ModelCard(export_card(export, run=result))
    assert card.data.license == "apache-2.0"
    assert "**it computes the same**" in card.text
    assert "- Greek: `el.jsonl`, CC0-1.0" in card.text
    assert "arXiv:2408.11396" in card.text
    assert "import polycycle" not in card.text
    notes = []
    again = run_recipe(parse_recipe(recipe_settings), notes.append)
    assert "export: done before, unchanged" in notes
    assert again.export == export
    assert terminal_table(again)


def test_what_cannot_be_exact_is_refused_before_the_training(recipe_settings, tmp_path):  # noqa: F811
    recipe_settings["export"] = {}
    recipe_settings["experts"]["exact_retention"] = {}
    with pytest.raises(ExportError, match="without-exact-retention"):
        run_recipe(parse_recipe(recipe_settings), lambda note: None)
    assert not (tmp_path / "run" / "post-pretrain").exists()
    recipe_settings["export"]["without_exact_retention"] = True
    result = run_recipe(parse_recipe(recipe_settings), lambda note: None)
    assert result.export.without_exact_retention
    assert "exact retention was left out" in export_card(result.export)


def test_a_dense_baseline_has_nothing_to_export(recipe_settings):  # noqa: F811
    recipe_settings |= {"export": {}, "baseline": "full"}
    with pytest.raises(ConfigError, match="leave `baseline` or `export` out"):
        parse_recipe(recipe_settings)
