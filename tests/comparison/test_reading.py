"""A comparison read back from its JSON is the comparison."""

import json

import pytest

from polycycle.comparison import (
    compare,
    plan_cells,
    quality_figures,
    quality_table,
    read_comparison,
    sentences,
)
from polycycle.errors import DataError
from tests.comparison.test_deltamoe_study import asked_for, finish, in_form
from tests.results.example import example_result


def test_a_comparison_read_back_says_and_draws_the_same(tmp_path):
    asked = asked_for(tmp_path)
    cells = plan_cells(asked)
    for cell in cells:
        if cell.of is None and (cell.name, cell.seed) != ("six", 1):
            finish(cell, in_form(example_result(), {"two": 0.4, "six": 0.8}[cell.name]))
    found = compare(asked, cells)
    path = tmp_path / "comparison.json"
    path.write_text(json.dumps(found.to_json()), "utf-8")
    read = read_comparison(path)
    assert read == found
    assert read.answers
    assert quality_table(read) == quality_table(found)
    assert quality_figures(read) == quality_figures(found)
    assert sentences(read) == sentences(found)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"study": {}, "rows": [], "cells": []}'])
def test_what_is_no_comparison_is_refused_with_its_name(tmp_path, text):
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"c\.json: no comparison .*polycycle compare"):
        read_comparison(path)
    with pytest.raises(DataError, match="no comparison"):
        read_comparison(tmp_path / "none.json")
