"""Speed in a comparison: measured once per cell, and only of the weights that are shown."""

import json

import pytest
from rich.console import Console

from polycycle.comparison import (
    compare,
    comparison_page,
    comparison_table,
    measure_speeds,
    read_comparison,
)
from polycycle.comparison import plan_cells as plan
from polycycle.errors import CheckpointError
from polycycle.results import ModelSpeed, Pace
from tests.comparison.test_deltamoe_study import asked_for, finish
from tests.results.example import example_result


def pace(work, batch, rate, ratio):
    return Pace(
        work=work,
        batch=batch,
        length=64,
        tokens_per_second=rate,
        quartiles=(rate - 1, rate + 1),
        of_base=ratio,
        of_base_quartiles=(ratio, ratio),
        rounds=7,
    )


def speed_of_model(model, ratio=0.8, batches=(1, 8)):
    return ModelSpeed(
        content_hash=model.content_hash,
        base_hash=example_result().models[0].content_hash,
        paces=(
            pace("prefill", 4, 4000 * ratio, ratio),
            *(pace("decode", batch, 50 * batch * ratio, ratio - 0.1) for batch in batches),
        ),
        prompt_tokens=32,
        device="cpu",
        dtype="float32",
        threads=2,
    )


@pytest.fixture
def study(tmp_path):
    asked = asked_for(tmp_path, measure_speed=True)
    cells = plan(asked)
    for cell in cells:
        if cell.of is None:
            finish(cell, example_result())
    return asked, cells


def measured(monkeypatch, found):
    """Stand in for the measurement; what was asked for is returned."""
    asked = []

    def measure(recipe, model_path):
        asked.append((recipe.output.parent.name, recipe.seed, model_path))
        return found(model_path)

    monkeypatch.setattr("polycycle.comparison.speeds.measure_speed", measure)
    return asked


def by_folder(path, **how):
    (model,) = [one for one in example_result().models if one.folder == path]
    return speed_of_model(model, **how)


def test_every_finished_cell_is_measured_once(study, monkeypatch):
    asked, cells = study
    done = measured(monkeypatch, by_folder)
    measure_speeds(asked, cells, tell=lambda line: None)
    final, base = example_result().final.folder, example_result().models[0].folder
    assert done[:3] == [("two", 0, base), ("two", 0, final), ("six", 0, final)]
    assert len(done) == 6
    measure_speeds(asked, cells, tell=lambda line: None)
    assert len(done) == 6
    cells[1].speed_file.write_text("{}")  # of another version
    measure_speeds(asked, cells, tell=lambda line: None)
    assert done[6:] == [("two", 0, final)]


def test_what_cannot_be_measured_is_told_and_the_rest_goes_on(study, monkeypatch):
    asked, cells = study

    def refuse(path):
        if path == example_result().models[0].folder:
            raise CheckpointError("it is gone")
        return by_folder(path)

    measured(monkeypatch, refuse)
    told = []
    measure_speeds(asked, cells, tell=told.append)
    assert told[:2] == ["speed of Base, seed 0 …", "    not measured: it is gone"]
    rows = {row.cell: row for row in compare(asked, cells).rows}
    assert "prefill_of_base" not in rows["base"].figures
    assert rows["two"].figures["prefill_of_base"].mean == 0.8


def test_speeds_stand_in_table_page_and_json(study, monkeypatch):
    asked, cells = study
    measured(monkeypatch, by_folder)
    measure_speeds(asked, cells, tell=lambda line: None)
    found = compare(asked, cells)
    figures = found.rows[1].figures
    assert figures["prefill_tokens_per_second"].mean == 3200
    assert figures["decode_tokens_per_second"].mean == 40
    assert figures["decode_batch_tokens_per_second"].mean == 320
    assert figures["decode_of_base"].mean == pytest.approx(0.7)
    page = comparison_page(found)
    for words in ("Reads 4 texts", "Writes 1 text", "Writes 8 texts", "0.80 ± 0.00", "2 threads"):
        assert words in page
    console = Console(width=200, record=True)
    console.print(comparison_table(found))
    assert "Reads 4 texts" in console.export_text()
    cell = json.loads(json.dumps(found.to_json()))["cells"][1]
    assert cell["speed"]["paces"][0]["of_base"] == 0.8
    (asked.output / "comparison.json").write_text(json.dumps(found.to_json()))
    assert read_comparison(asked.output / "comparison.json") == found


def test_a_speed_of_other_weights_is_not_shown(study):
    asked, cells = study
    stale = speed_of_model(example_result().final).model_copy(update={"content_hash": "x"})
    cells[1].speed_file.write_text(stale.model_dump_json())
    found = compare(asked, cells)
    assert found.speeds == []
    assert "Reads" not in comparison_page(found)


def test_speeds_of_other_threads_are_told_apart(study):
    asked, cells = study
    for cell, threads in zip(cells[1:3], (2, 8), strict=True):
        speed = speed_of_model(example_result().final).model_copy(update={"threads": threads})
        cell.speed_file.write_text(speed.model_dump_json())
    page = comparison_page(compare(asked, cells))
    said = "On cpu, 2 threads, in float32; or cpu, 8 threads, in float32. So only ratios compare"
    assert said in page


def test_one_number_of_texts_is_one_pair_of_columns(study):
    asked, cells = study
    speed = speed_of_model(example_result().final, batches=(2,))
    cells[1].speed_file.write_text(speed.model_dump_json())
    page = comparison_page(compare(asked, cells))
    assert page.count(">Writes 2 texts") == 1
