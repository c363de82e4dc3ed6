"""The reference pages say what the code says."""

import json

import typer.main

from polycycle.cli import app
from polycycle.config import Recipe, Study
from tools import reference


def test_the_committed_pages_are_what_the_code_says_now():
    for name, text in reference.pages().items():
        committed = (reference.FOLDER / name).read_text("utf-8")
        assert committed == text, f"docs/reference/{name} drifted: run `make docs-reference`"


def test_every_setting_and_every_option_has_a_meaning():
    for name, text in reference.pages().items():
        rows = [line for line in text.splitlines() if line.startswith("| ")]
        assert rows
        assert [row for row in rows if row.endswith(("|  |", "| |"))] == [], name


def test_every_section_of_a_recipe_and_every_verb_has_a_heading():
    recipe, commands = reference.recipe_page(), reference.cli_page()
    for key, _ in reference.sections(Recipe):
        assert f"# {reference.heading(key)}\n" in recipe
    for verb in typer.main.get_command(app).commands:
        assert f"### `{verb}`\n" in commands
    assert set(Study.model_fields) <= set(reference.study_page().replace("`", " ").split())


def test_links_to_sections_lead_to_a_heading():
    for name, text in reference.pages().items():
        headings = {
            reference.anchor(line.lstrip("# ").strip("`").lower().replace(" ", "-"))
            for line in text.splitlines()
            if line.startswith("#")
        }
        for part in text.split("](#")[1:]:
            assert part.split(")")[0] in headings, name


def test_a_default_reads_as_yaml_reads_it():
    assert reference.number(5e-5) == "5.0e-5"
    assert reference.number(100_000) == "100_000"
    assert reference.in_yaml((1, None, True)) == "[1, null, true]"


def test_the_schema_knows_every_setting_refuses_others_and_accepts_short_forms():
    committed = json.loads((reference.FOLDER / reference.SCHEMA).read_text("utf-8"))
    assert committed == json.loads(reference.schema()), "run `make docs-reference`"
    parts = {"": committed, **committed["$defs"]}
    assert all(part["additionalProperties"] is False for part in parts.values())
    assert committed["properties"].keys() == Recipe.model_fields.keys()
    assert committed["required"] == ["base", "output", "languages", "data", "post_pretrain"]
    flat, nested = parts["LanguagesConfig"]["properties"]["expanded"]["anyOf"]
    assert flat["items"] == {"type": "string"}
    assert nested["items"]["items"] == {"type": "string"}
    short, whole = parts["DataConfig"]["properties"]["train"]["anyOf"]
    assert short == {"type": "string"}
    assert {"type": "string"} in whole["additionalProperties"]["anyOf"]
    assert "paper" in parts["PostPretrainConfig"]["properties"]["tokens"]["description"]
