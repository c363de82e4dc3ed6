"""Studies with grafts: models of one run as rows, and answers to tasks as columns."""

import json

import pytest
from rich.console import Console

from polycycle.comparison import (
    compare,
    comparison_page,
    comparison_table,
    plan_cells,
    read_comparison,
    run_cells,
)
from polycycle.comparison.figures import figures_of
from polycycle.config import load_study
from polycycle.errors import ConfigError
from polycycle.results import TaskScore, save_result
from tests.config.test_study import study
from tests.results.example import example_result

KINDS = ("exact_match", "in_form")


def asked_for(tmp_path, **changes):
    cells = {
        "base": {"of": "two", "model": "base", "title": "Base"},
        "two": {"experts.num_experts": 2},
        "six": {"experts.num_experts": 6},
    }
    return load_study(study(tmp_path, **{"cells": cells, "seeds": [0, 1], **changes}))


def finish(cell, result):
    """As if the cell had been run."""
    cell.folder.mkdir(parents=True)
    cell.recipe_file.write_text(cell.text, encoding="utf-8")
    save_result(result, cell.result_file)


def in_form(result, share, tasks=("instructions",)):
    """The example, with the form of its answers to instructions judged."""
    final = result.final
    scores = {
        tag: one.model_copy(
            update={
                "tasks": {
                    task: TaskScore(examples=10, exact_match=share / 2, chrf=50.0, in_form=share)
                    for task in tasks
                }
            }
        )
        for tag, one in final.scores.items()
    }
    final = final.model_copy(update={"scores": scores})
    return result.model_copy(update={"models": (*result.models[:-1], final)})


def test_a_cell_may_show_another_model_of_a_cells_run(tmp_path):
    asked = asked_for(tmp_path)
    cells = plan_cells(asked)
    assert [(cell.name, cell.of) for cell in cells[:3]] == [
        ("base", "two"),
        ("two", None),
        ("six", None),
    ]
    assert cells[0].folder == cells[1].folder
    assert cells[1].reuse == (cells[2].folder,)
    told = []
    for cell in cells:
        if cell.of is None:
            finish(cell, example_result())
    run_cells(asked, cells, tell=told.append)
    assert told == ["s: 4 cells, 4 need no run"]
    found = {row.cell: row for row in compare(asked, cells).rows}
    assert found["base"].figures["gain"].mean == 0
    assert found["base"].figures["kept"].mean == 1
    assert "training_flops" not in found["base"].figures
    assert "seconds" not in found["base"].figures
    assert found["two"].figures["gain"].mean > 0
    assert found["two"].figures["seconds"].mean > 0


def test_a_model_of_the_middle_costs_what_led_to_it():
    result = example_result()
    before, final = (
        figures_of(result, "accuracy", model=name) for name in ("post-pretrain", "review")
    )
    stages = [cost.stage for cost in result.costs]
    count = stages.index("post-pretrain") + 1
    assert before.seconds == sum(cost.seconds for cost in result.costs[:count]) < final.seconds
    assert final.seconds == sum(cost.seconds for cost in result.costs)
    assert final == figures_of(result, "accuracy")


def test_a_whole_graft_is_compared_with_the_base_not_with_its_sibling():
    result = example_result()
    plain = figures_of(result, "accuracy")
    final = result.final.model_copy(update={"reference": "post-pretrain"})
    grafted = result.model_copy(update={"models": (*result.models[:-1], final)})
    assert figures_of(grafted, "accuracy") == plain


def test_answers_are_columns_by_task_and_group_and_only_where_some_cell_has_them(tmp_path):
    asked = asked_for(tmp_path)
    cells = plan_cells(asked)
    for cell in cells:
        if cell.of is None:
            share = {"two": 0.4, "six": 0.8}[cell.name] + 0.01 * cell.seed
            finish(cell, in_form(example_result(), share))
    found = compare(asked, cells)
    keys = [column.key for column in found.answers]
    assert keys == [
        f"instructions/{group}/{what}"
        for group in ("Original", "Unseen original", "Expanded")
        for what in ("exact_match", "in_form")
    ]
    base, two, six = found.rows
    assert six.figures["instructions/Expanded/in_form"].mean == pytest.approx(0.805)
    assert six.figures["instructions/Original/exact_match"].mean == pytest.approx(0.4025)
    assert "instructions/Expanded/in_form" not in base.figures  # nobody judged its form
    against = compare(asked.model_copy(update={"reference": "two"}), cells).rows[2]
    assert against.against_reference["instructions/Expanded/in_form"] == "better"
    page = comparison_page(found)
    for words in ("Exact, expanded", "In form, original", "80.5 ± 0.7 %", "Gain against instr"):
        assert words in page
    console = Console(width=80, record=True)
    console.print(comparison_table(found))
    shown = console.export_text()
    lines = [line.strip() for line in shown.splitlines()]
    titles = [line for line in lines if line.startswith("instructions: ")]
    assert titles == ["instructions: Exact", "instructions: In form"]
    assert "…" not in shown  # whatever the number of groups, no number is cut
    assert sum(line.startswith("3 six") for line in lines) == 6  # in every table
    assert "is right most often in instructions, expanded" in shown.replace("\n", " ")
    assert json.dumps(found.to_json())
    assert two.title == "two"


def test_answers_are_shown_language_by_language_for_every_task(tmp_path):
    asked = asked_for(tmp_path, seeds=[0])
    cells = plan_cells(asked)
    for cell in cells:
        if cell.of is None:
            finish(cell, in_form(example_result(), 0.8, tasks=("brackets", "equation")))
    found = compare(asked, cells)
    spoken = example_result().final.scores
    keys = [column.key for column in found.answers_by_language]
    assert sorted(keys) == sorted(
        f"{task}/{tag}/{what}"
        for task in ("brackets", "equation")
        for tag in spoken
        for what in KINDS
    )
    assert found.rows[1].figures["equation/el/exact_match"].mean == 0.4
    page = comparison_page(found)
    table = page[page.index("language by language") :]
    assert table.count("40.0 % / 80.0 %") == 2 * 2 * len(spoken)  # tasks, cells that have answers
    assert table.index("<span>brackets") < table.index("<span>equation")


def test_answers_without_a_form_are_told_by_their_letters(tmp_path):
    asked = asked_for(tmp_path, seeds=[0])
    cells = plan_cells(asked)
    for cell in cells:
        if cell.of is None:
            finish(cell, example_result())
    found = compare(asked, cells)
    (tmp_path / "comparison.json").write_text(json.dumps(found.to_json()), "utf-8")
    assert read_comparison(tmp_path / "comparison.json").answers == found.answers
    of_task = [one for one in found.answers if one.task == "translation"]
    assert {one.what for one in of_task} == {"exact_match", "chrf"}
    final = example_result().final
    tags = example_result().languages.expanded[0]
    chrf = [final.scores[tag].tasks["translation"].chrf for tag in tags]
    mean = sum(chrf) / len(chrf)
    assert found.rows[1].figures["translation/Expanded/chrf"].mean == pytest.approx(mean / 100)
    page = comparison_page(found)
    assert f">{mean:.1f}<" in page  # of 100, without a percent sign
    assert "comes nearest to what was asked for (chrF) in translation, expanded" in page
    assert 'aria-label="Gain against translation, in letters"' in page


def test_nobody_is_praised_for_answers_that_are_never_right(tmp_path):
    asked = asked_for(tmp_path, cells={"two": {"experts.num_experts": 2}, "six": None}, seeds=[0])
    cells = plan_cells(asked)
    for cell in cells:
        if cell.of is None:
            finish(cell, in_form(example_result(), 0.0))
    page = comparison_page(compare(asked, cells))
    assert "right most often" not in page
    assert "Gain against instructions" not in page


def test_without_tasks_there_are_no_such_columns(tmp_path):
    asked = asked_for(tmp_path)
    cells = plan_cells(asked)
    for cell in cells:
        if cell.of is None:
            finish(cell, example_result(with_tasks=False))
    found = compare(asked, cells)
    assert found.answers == ()
    assert "In form" not in comparison_page(found)
    assert "language by language" not in comparison_page(found)


def test_a_demo_trains_the_base_of_another_family_once_and_siblings_of_it(tmp_path, monkeypatch):
    """With the training left out: what is made from what, and where."""
    made = []

    def note(folder, *origin, **how):
        made.append((folder.relative_to(tmp_path).as_posix(), *origin, how))
        folder.mkdir(parents=True)

    for name in ("build_base", "build_sibling", "copy_base"):
        monkeypatch.setattr(f"polycycle.stages.demo.{name}", note)
    monkeypatch.setattr(
        "polycycle.stages.demo.write_microworld", lambda world, **how: world.mkdir(parents=True)
    )
    monkeypatch.setattr("polycycle.comparison.running._run", lambda cell, at_once: 0)
    other = {"base": "qwen3", "graft.post": ["brackets", "equation"]}
    cells = {"plain": {"graft.post": "brackets"}, "other": other}
    asked = load_study(study(tmp_path, cells=cells, seeds=[3, 4]))
    run_cells(asked, plan_cells(asked), tell=lambda note: None)
    demo = tmp_path / "out" / "demo"
    qwen = demo / "qwen3"
    assert made[:5] == [
        ("out/demo/seed-3/base", {}),
        ("out/demo/seed-3/brackets", demo / "seed-3" / "base", {"form": "brackets", "seed": 3}),
        ("out/demo/qwen3", {"family": "qwen3"}),
        ("out/demo/seed-3/siblings-of-qwen3/brackets", qwen, {"form": "brackets", "seed": 3}),
        ("out/demo/seed-3/siblings-of-qwen3/equation", qwen, {"form": "equation", "seed": 3}),
    ]
    assert [one[0] for one in made[5:]] == [
        "out/demo/seed-4/base",
        "out/demo/seed-4/brackets",
        "out/demo/seed-4/siblings-of-qwen3/brackets",
        "out/demo/seed-4/siblings-of-qwen3/equation",
    ]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"a": {"of": "b", "model": "base"}}, "no cell 'b'"),
        ({"a": None, "b": {"of": "a"}}, "name it: `model`"),
        ({"a": None, "b": {"of": "a", "model": "base", "seeds": [0]}}, "no `settings` and `seeds`"),
        (
            {"a": None, "b": {"of": "a", "model": "x"}, "c": {"of": "b", "model": "x"}},
            "has no run either; name a",
        ),
        (
            {"a": {"of": "b", "model": "x"}, "b": {"of": "a", "model": "x"}, "c": None},
            "b has no run either; name one that has: c$",
        ),
        ({"a": {"of": "a", "model": "x"}}, "a has no run either; name one that has: none$"),
    ],
)
def test_a_cell_that_shows_nothing_is_refused(tmp_path, cells, message):
    with pytest.raises(ConfigError, match=message):
        asked_for(tmp_path, cells=cells)


@pytest.mark.parametrize(
    ("settings", "model", "message"),
    [
        ({}, "graft", "no 'graft'.* There will be base, post-pretrain, review$"),
        ({"baseline": "full"}, "full-finetuning", "Did you mean 'full-fine-tuning'"),
        ({"graft.post": ["brackets", "equation"]}, "post-3", "base, .*, post, post-2, graft$"),
    ],
)
def test_a_model_that_the_run_will_not_have_is_refused_before_it(
    tmp_path, settings, model, message
):
    cells = {"two": {"settings": settings}, "shown": {"of": "two", "model": model}}
    with pytest.raises(ConfigError, match=rf"cells\.shown\.model: .*{message}"):
        plan_cells(asked_for(tmp_path, cells=cells, seeds=[0]))


def test_a_model_that_the_run_has_not_is_named(tmp_path):
    asked = asked_for(tmp_path, cells={"two": {"settings": {}, "model": "review"}}, seeds=[0])
    cells = plan_cells(asked)
    result = example_result()
    finish(cells[0], result.model_copy(update={"models": result.models[:2]}))
    with pytest.raises(ConfigError, match=r"no 'review'; there are base, post-pretrain$"):
        compare(asked, cells)
