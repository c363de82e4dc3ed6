"""The page of studies says what was measured, and its plots are drawn from that."""

import json
import re
from xml.etree import ElementTree

import pytest

from polycycle.config import load_study
from polycycle.errors import DataError
from tools import studies
from tools.studies import PAGE, PICTURES, RECIPES, RESULTS, ROOT

TEXT = "# Studies\n\n<!-- measured: tiny -->\n\nNot run yet.\n\n<!-- end -->\n\nRead: nothing.\n"


def row(cell, title, gain, kept):
    """As `polycycle compare` writes one, by hand."""
    figures = {"gain": gain, "kept": kept}
    return {
        "cell": cell,
        "title": title,
        "num_experts": None if gain is None else [1, 4],
        "figures": {
            key: {"mean": value, "deviation": None, "seeds": 1}
            for key, value in figures.items()
            if value is not None
        },
        "against_reference": {} if gain is None else {"gain": "one seed", "kept": "reference"},
        "failed": [],
        "missing": [0] if gain is None else [],
    }


@pytest.fixture
def repository(tmp_path):
    """One study with a result, and a page with a place for it."""
    study = {
        "name": "Tiny",
        "recipe": "demo",
        "output": "runs/tiny",
        "seeds": [0],
        "cells": {"few": {}, "many": {}, "later": {}},
    }
    rows = [
        row("few", "Few", 40.0, 0.99),
        row("many", "Many | more <b>", 50.0, 0.9),
        row("later", "Later", None, None),
    ]
    found = {"study": study, "measure": "accuracy", "reference": "few", "rows": rows, "cells": []}
    files = {
        PAGE: TEXT,
        RECIPES / "tiny.yaml": json.dumps(study),
        RESULTS / "tiny.json": json.dumps(found),
    }
    for place, text in files.items():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(text, "utf-8")
    return tmp_path


def test_a_result_gets_a_table_and_a_plot_and_the_rest_of_the_page_stays(repository, capsys):
    assert studies.main(["--check"], repository) == 1
    assert (repository / PAGE).read_text("utf-8") == TEXT
    assert studies.main([], repository) == 0
    page = (repository / PAGE).read_text("utf-8")
    assert "Not run yet" not in page
    assert page.endswith("<!-- end -->\n\nRead: nothing.\n")
    assert "| 2 Many / more &lt;b> | +50.0 | 90.0 % | — | 1 4 |" in page
    assert "| 3 Later |" in page
    assert "<b>" not in page
    assert "![Gain against what is kept](images/studies/tiny.svg)" in page
    svg = (repository / PICTURES / "tiny.svg").read_text("utf-8")
    assert svg.startswith('<svg xmlns="http://www.w3.org/2000/svg" ')
    assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    assert svg.count("<circle") == 2
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")
    assert "Many | more &lt;b&gt;" in (repository / RESULTS / "tiny.html").read_text("utf-8")
    capsys.readouterr()
    assert studies.main(["--check"], repository) == 0
    assert capsys.readouterr().out == ""


def test_a_result_that_goes_leaves_its_place_empty_again(repository):
    studies.main([], repository)
    (repository / RESULTS / "tiny.json").unlink()
    studies.main([], repository)
    assert (repository / PAGE).read_text("utf-8") == TEXT


def test_a_result_without_a_place_or_of_another_study_is_refused(repository):
    (repository / PAGE).write_text("# Studies\n", "utf-8")
    with pytest.raises(SystemExit, match="no place for tiny"):
        studies.main([], repository)
    recipe = repository / RECIPES / "tiny.yaml"
    recipe.write_text(recipe.read_text("utf-8").replace("Tiny", "Other"), "utf-8")
    with pytest.raises(SystemExit, match="is of 'Tiny', not of 'Other'"):
        studies.main([], repository)
    recipe.write_text(recipe.read_text("utf-8").replace("Other", "Tiny"), "utf-8")
    result = repository / RESULTS / "tiny.json"
    result.write_text(result.read_text("utf-8").replace("runs/tiny", "/home/me/tiny"), "utf-8")
    with pytest.raises(SystemExit, match=r"names /home/me/tiny, a place on your machine"):
        studies.main([], repository)
    (repository / RESULTS / "tiny.json").write_text("{}", "utf-8")
    with pytest.raises(DataError, match=r"tiny\.json: no comparison"):
        studies.main([], repository)


def test_the_committed_page_and_plots_are_what_the_committed_results_make():
    for place, text in studies.files(ROOT).items():
        committed = (ROOT / place).read_text("utf-8")
        assert committed == text, f"{place} drifted: run `make docs-studies`"
    drawn = [*(ROOT / PICTURES).glob("*.svg"), *(ROOT / RESULTS).glob("*.html")]
    assert {path.stem for path in drawn} <= {path.stem for path in (ROOT / RESULTS).glob("*.json")}


def test_every_study_that_ships_has_a_place_on_the_page():
    page = (ROOT / PAGE).read_text("utf-8")
    names = {path.stem for path in (ROOT / RECIPES).glob("*.yaml")}
    assert {match.group(2) for match in studies.PLACE.finditer(page)} == names
    for name in names:
        place = page.index(f"<!-- measured: {name} -->")
        heading = re.findall(r"^### (.+)$", page[:place], re.MULTILINE)[-1]
        assert heading == load_study(ROOT / RECIPES / f"{name}.yaml").name
        assert f"](../recipes/studies/{name}.yaml)" in page[page.index(f"### {heading}\n") : place]
