"""Studies that are made for the demo, run on another recipe instead."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from polycycle.comparison import check_folder, compare, plan_cells, read_comparison
from polycycle.config import load_recipe, load_study
from polycycle.errors import ConfigError
from polycycle.families import SUPPORTED
from polycycle.files import write_json
from polycycle.microworld import FORMATS
from tests.config.test_study import ROOT, study

RECIPE = ROOT / "recipes/moe_lpr_qwen2_5.yaml"
LAYERS = 28  # of the base of that recipe
OF_THE_DEMO = [
    path
    for path in sorted(ROOT.glob("recipes/studies/*.yaml"))
    if yaml.safe_load(path.read_text("utf-8"))["recipe"] == "demo"
]


def full_version(path):
    """The recipe and the settings of the command that a study's first lines give for full size."""
    head = path.read_text("utf-8").split("\nname: ")[0]
    commands = re.sub(r" \\\n# +", " ", head).split("\n")
    (command,) = [line for line in commands if "--recipe" in line]
    _, polycycle, verb, study_file, *options = shlex.split(command)
    assert (polycycle, verb, study_file) == ("polycycle", "compare", f"recipes/studies/{path.name}")
    assert set(options[::2]) <= {"--recipe", "--set"}
    values = list(zip(options[::2], options[1::2], strict=True))
    (recipe,) = [value for name, value in values if name == "--recipe"]
    return ROOT / recipe, [value for name, value in values if name == "--set"]


@pytest.mark.parametrize("path", OF_THE_DEMO, ids=lambda path: path.stem)
def test_every_study_of_the_demo_has_a_full_version_without_anything_of_the_demo(path):
    recipe_file, overrides = full_version(path)
    asked = load_study(path, overrides=overrides, recipe=recipe_file)
    of_recipe = [one for one in overrides if not one.startswith("siblings.")]
    full = load_recipe(recipe_file, of_recipe)
    for cell in plan_cells(asked):
        told, changed = cell.recipe, asked.cells[asked.run_of(cell.name)].settings
        if "post_pretrain.tokens" not in changed:
            assert told.post_pretrain.tokens == full.post_pretrain.tokens
        assert told.post_pretrain.tokens > 1_000_000_000
        for stage in ("post_pretrain", "review"):
            mine, theirs = (getattr(one, stage) for one in (told, full))
            if mine is not None:
                assert mine.batch_size == theirs.batch_size
                assert mine.sequence_length == theirs.sequence_length
                assert mine.learning_rate <= 4 * theirs.learning_rate
        if told.review is not None:
            assert told.review.tokens is None
            assert not 0 < told.review.replay_documents < 10_000
        assert told.evaluation == full.evaluation
        assert (told.data.root, told.data.train) == (full.data.root, full.data.train)
        assert told.base not in SUPPORTED
        assert not told.base.startswith("runs/")
        assert not [one for one in (told.graft.post if told.graft else ()) if one.model in FORMATS]
        if told.experts.allocation is not None:
            assert told.experts.allocation.tokens_per_language == 100_000
        counts = told.experts.num_experts
        assert isinstance(counts, int) or len(counts) == LAYERS
        if told.experts.assignment != "shared":
            assert sum(told.experts.assignment.values()) == counts - 1


def test_what_is_of_the_demo_alone_is_left_out_on_another_recipe(tmp_path):
    path = study(
        tmp_path,
        seeds=[0],
        settings={"review.prior_coef": 0.3, "review.tokens": 5},
        demo_settings={"review.tokens": 7, "post_pretrain.tokens": 9},
        cells={
            "one": {
                "title": "Six",
                "demo_title": "Two",
                "settings": {"experts.num_experts": 6},
                "demo_settings": {"experts.num_experts": 2},
            },
            "base": {"title": "Its base", "demo_title": "Ours", "of": "one", "model": "base"},
        },
    )
    found = {}
    for size, recipe in {"demo": None, "full": RECIPE}.items():
        asked = load_study(path, tmp_path / size, ["review.tokens=8"] if recipe else [], recipe)
        told = plan_cells(asked)[0].recipe
        titles = [asked.title_of(name) for name in asked.cells]
        found[size] = (
            told.experts.num_experts,
            told.review.tokens,
            told.post_pretrain.tokens,
            titles,
        )
        assert told.review.prior_coef == 0.3
    assert found == {
        "demo": (2, 7, 9, ["Two", "Ours"]),
        "full": (6, 8, 24_000_000_000, ["Six", "Its base"]),
    }


def test_the_command_line_wins_over_what_is_of_the_demo_alone(tmp_path):
    path = study(tmp_path, seeds=[0], demo_settings={"review.tokens": 7})
    (one, _) = plan_cells(load_study(path, overrides=["review.tokens=9"]))
    assert one.recipe.review.tokens == 9


def test_a_cell_without_a_run_has_nothing_to_tell_the_demo(tmp_path):
    cells = {"one": None, "base": {"of": "one", "model": "base", "demo_settings": {"seed": 1}}}
    with pytest.raises(ConfigError, match="a cell with `of` has no run"):
        load_study(study(tmp_path, cells=cells))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"demo_settings": {"review.tokens": 7}}, "demo_settings"),
        ({"cells": {"a": {"demo_title": "A"}}}, r"cells\.a\.demo_title"),
        ({"cells": {"a": {"demo_settings": {"seed": 1}}}}, r"cells\.a\.demo_settings"),
    ],
)
def test_a_study_of_another_recipe_says_nothing_of_the_demo(tmp_path, changes, named):
    with pytest.raises(ConfigError, match=rf"\n  {named}: only a study of the demo reads that"):
        load_study(study(tmp_path, recipe=str(RECIPE), **changes))


def test_titles_differ_in_the_demo_too(tmp_path):
    cells = {"one": {"title": "A", "demo_title": "C"}, "two": {"title": "B", "demo_title": "C"}}
    with pytest.raises(ConfigError, match=r"cells.two.demo_title: cells.one is called 'C' too"):
        load_study(study(tmp_path, cells=cells))


def test_instruction_formats_stand_for_the_studys_siblings(tmp_path):
    both = ["brackets", {"model": "equation", "scale": 0.5}]
    siblings = {"brackets": "A/chat", "equation": "B/chat"}
    path = study(tmp_path, seeds=[0], siblings=siblings, cells={"both": {"graft.post": both}})

    def grafted(*overrides):
        (cell,) = plan_cells(load_study(path, overrides=overrides, recipe=RECIPE))
        return [(one.model, one.scale) for one in cell.recipe.graft.post]

    assert grafted() == [("A/chat", 1.0), ("B/chat", 0.5)]
    assert grafted("siblings.equation=C/chat") == [("A/chat", 1.0), ("C/chat", 0.5)]
    with pytest.raises(ConfigError, match="Did you mean 'equation'"):
        grafted("siblings.equatoin=C/chat")
    with pytest.raises(ConfigError, match=r"the demo makes its siblings itself; name a --recipe"):
        load_study(path, overrides=["siblings.equation=C/chat"])


def test_an_instruction_format_that_stands_for_no_model_is_named(tmp_path):
    path = study(tmp_path, cells={"grafted": {"graft.post": "brackets"}})
    with pytest.raises(ConfigError, match=r"cell grafted, graft.post: 'brackets'.*\n?.*`siblings:"):
        plan_cells(load_study(path, recipe=RECIPE))


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (RECIPE.with_name("moe_lpr_qwen.yaml"), "Did you mean 'moe_lpr_qwen2_5.yaml'"),
        (ROOT / "recipes", "no such file. Name a recipe in YAML, such as recipes/"),
        (Path("demo"), "--recipe demo: .* leave that out, or name a recipe"),
    ],
)
def test_a_recipe_that_is_none_is_refused(tmp_path, recipe, message):
    with pytest.raises(ConfigError, match=message):
        load_study(study(tmp_path), recipe=recipe)


def test_a_wrong_variant_is_named_with_the_recipe(tmp_path):
    path = study(tmp_path, cells={"odd": {"experts.assignment": {"sw": 5}}})
    with pytest.raises(ConfigError, match=r"cell odd on .*moe_lpr_qwen2_5.yaml: .*\n.*'sw'"):
        plan_cells(load_study(path, recipe=RECIPE))


def test_runs_on_another_recipe_have_a_folder_of_their_own(tmp_path):
    path = study(tmp_path)
    assert load_study(path).output == tmp_path / "out"
    assert load_study(path, recipe=RECIPE).output == tmp_path / "out-moe_lpr_qwen2_5"
    assert load_study(path, tmp_path / "full", recipe=RECIPE).output == tmp_path / "full"


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (None, RECIPE, "holds runs of the demo .*two/seed-0.yaml.* Leave --recipe out, or"),
        (RECIPE, None, "another recipe than the demo .* Give the same --recipe .* --out FOLDER"),
    ],
)
def test_a_folder_with_runs_of_the_other_size_is_refused(tmp_path, before, after, message):
    def planned(recipe):
        asked = load_study(study(tmp_path, seeds=[0]), tmp_path / "out", recipe=recipe)
        return asked, plan_cells(asked)

    first, cells = planned(before)
    check_folder(first, cells)
    cells[0].recipe_file.parent.mkdir(parents=True)
    cells[0].recipe_file.write_text(cells[0].text, "utf-8")
    check_folder(first, cells)
    with pytest.raises(ConfigError, match=message):
        check_folder(*planned(after))
    cells[0].recipe_file.write_text("no: recipe")
    check_folder(*planned(after))


def test_a_comparison_says_which_recipe_was_run_and_reads_it_back(tmp_path):
    path = study(tmp_path, demo_settings={"review.tokens": 7}, siblings={"brackets": "A/chat"})
    asked = load_study(path, recipe=RECIPE)
    written = compare(asked, plan_cells(asked)).to_json()
    assert written["study"]["recipe"] == str(RECIPE)
    assert written["study"]["settings"] == {}
    write_json(tmp_path / "comparison.json", written)
    assert read_comparison(tmp_path / "comparison.json").study == asked
