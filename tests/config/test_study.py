"""Studies: what they may say, and that every variant is checked before anything is run."""

import json
from pathlib import Path

import pytest

from polycycle.comparison import plan_cells
from polycycle.config import load_study
from polycycle.errors import ConfigError
from polycycle.stages.base import SIBLING_RATE, SIBLING_TOKENS

ROOT = Path(__file__).parents[2]


def study(tmp_path, **changes):
    settings = {
        "name": "s",
        "recipe": "demo",
        "output": str(tmp_path / "out"),
        "cells": {"two": {"experts.num_experts": 2}, "six": None},
        **changes,
    }
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(settings))  # JSON is YAML
    return path


@pytest.mark.parametrize("path", [*ROOT.glob("recipes/studies/*.yaml")], ids=lambda path: path.name)
def test_every_study_that_ships_is_possible(path):
    assert plan_cells(load_study(path))


def test_the_deltamoe_study_post_trains_as_the_sibling_was(tmp_path):
    cells = plan_cells(load_study(ROOT / "recipes/studies/deltamoe.yaml", tmp_path))
    asked = [cell.recipe.post_train for cell in cells if cell.recipe.post_train is not None]
    assert len(asked) == 6
    assert {(one.tokens, one.learning_rate) for one in asked} == {(SIBLING_TOKENS, SIBLING_RATE)}


def test_two_siblings_are_grafted_alone_and_together_and_asked_in_both_formats(tmp_path):
    cells = plan_cells(load_study(ROOT / "recipes/studies/siblings.yaml", tmp_path))
    assert all(set(cell.recipe.data.tasks) == {"brackets", "equation"} for cell in cells)
    grafts = {
        cell.name: [(Path(one.model).name, one.scale) for one in cell.recipe.graft.post]
        for cell in cells
        if cell.of is None
    }
    assert grafts["both"] == [("brackets", 1.0), ("equation", 1.0)]
    assert grafts["halves"] == [("brackets", 0.5), ("equation", 0.5)]
    alone = [grafts[name] for name in ("brackets", "equation")]
    assert alone == [[("brackets", 1.0)], [("equation", 1.0)]]


def test_a_demo_cell_may_ask_for_a_base_of_another_family_with_siblings_of_its_own(tmp_path):
    cells = {
        cell.name: cell
        for cell in plan_cells(load_study(ROOT / "recipes/studies/model_families.yaml", tmp_path))
        if cell.seed == 1
    }
    demo = tmp_path / "demo"
    llama, qwen3 = (cells[name].recipe for name in ("llama", "qwen3"))
    assert llama.base == str(demo / "seed-1" / "base")
    assert qwen3.base == str(demo / "qwen3")  # the same for all seeds
    posts = [recipe.graft.post[0].model for recipe in (llama, qwen3)]
    siblings = demo / "seed-1"
    assert posts == [str(siblings / "brackets"), str(siblings / "siblings-of-qwen3" / "brackets")]
    assert llama.data.root == qwen3.data.root == siblings / "world"


def test_the_real_study_takes_its_places_from_the_command_line(tmp_path):
    world = "/w/{language}.jsonl"
    places = ["base=B", "data.root=T", "graft.post.model=S", f"data.tasks.reading={world}"]
    overrides = [*places, f"post_train.data={world}"]
    asked = load_study(ROOT / "recipes/studies/real_deltamoe.yaml", tmp_path, overrides)
    recipes = {cell.name: cell.recipe for cell in plan_cells(asked)}
    assert {recipe.base for recipe in recipes.values()} == {"B"}
    assert {recipe.data.tasks["reading"] for recipe in recipes.values()} == {world}
    assert recipes["post-trained"].post_train.data == world
    assert recipes["post-trained"].graft is None
    assert recipes["chat-vector"].graft.post[0].model == "S"
    assert recipes["deltamoe"].post_train is None


def test_cells_are_variants_of_the_recipe_seed_by_seed(tmp_path):
    asked = load_study(
        study(
            tmp_path,
            seeds=[3, 4],
            settings={"experts.num_experts": 5, "review.tokens": 7},
            cells={
                "two": {"experts.num_experts": 2},
                "once": {"seeds": [4], "title": "Once", "settings": {"review": None}},
            },
        )
    )
    cells = plan_cells(asked)
    assert [(cell.name, cell.seed) for cell in cells] == [("two", 3), ("two", 4), ("once", 4)]
    two, _, once = (cell.recipe for cell in cells)
    assert (two.experts.num_experts, two.review.tokens, two.seed) == (2, 7, 3)
    assert (once.experts.num_experts, once.review) == (5, None)
    assert two.output == tmp_path / "out" / "two" / "seed-3"
    assert cells[1].reuse == (cells[2].folder,)


def test_a_setting_for_all_variants_gives_way_to_their_own(tmp_path):
    overrides = ["review.tokens=9", "experts.num_experts=[1,4,4,4]"]
    two, six = plan_cells(load_study(study(tmp_path, seeds=[0]), overrides=overrides))
    assert (two.recipe.review.tokens, six.recipe.review.tokens) == (9, 9)
    assert two.recipe.experts.num_experts == 2
    assert six.recipe.experts.num_experts == (1, 4, 4, 4)


def test_a_study_of_the_demo_may_bring_another_base(tmp_path):
    cells = {"own": None, "mine": {"base": "bases/96"}}
    own, mine = plan_cells(load_study(study(tmp_path, seeds=[0], cells=cells)))
    assert (own.recipe.base, mine.recipe.base) == (
        str(tmp_path / "out/demo/seed-0/base"),
        "bases/96",
    )
    assert own.recipe.data.root == mine.recipe.data.root == tmp_path / "out/demo/seed-0/world"
    every = plan_cells(load_study(study(tmp_path, seeds=[0]), overrides=["base=bases/256"]))
    assert {cell.recipe.base for cell in every} == {"bases/256"}


def test_bases_of_the_same_name_have_siblings_of_their_own(tmp_path):
    cells = {"a": {"base": "a/base"}, "b": {"base": "b/base"}, "number": {"base": 96}}
    asked = study(tmp_path, seeds=[0], settings={"graft.post": "brackets"}, cells=cells)
    recipes = [cell.recipe for cell in plan_cells(load_study(asked))]
    assert [recipe.base for recipe in recipes] == ["a/base", "b/base", "96"]
    home = tmp_path / "out/demo/seed-0"
    assert [recipe.graft.post[0].model for recipe in recipes] == [
        str(home / f"siblings-of-{name}" / "brackets") for name in ("a--base", "b--base", "96")
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cells": {}}, "cells"),
        ({"cells": {"Two!": None}}, "'Two!' is to name a folder"),
        ({"reference": "tow"}, "no cell 'tow'. Did you mean 'two'"),
        ({"seed": [1]}, "seed: unknown setting. Did you mean 'seeds'"),
        ({"seeds": []}, "\n  seeds: needs at least 1, got none$"),
        ({"seeds": [0, -1]}, r"seeds\.1: .*greater than or equal to 0 \(got -1\)"),
        ({"cells": {"a": {"seeds": []}}}, r"cells\.a\.seeds: needs at least 1, got none"),
        (
            {"cells": {"a": {"title": "A"}, "b": {"title": "A"}}},
            r"\n  cells\.b\.title: cells\.a is called 'A' too",
        ),
        ({"cells": {"a": None, "b": {"title": "a"}}}, r"cells\.b\.title: cells\.a is called 'a'"),
        (
            {"cells": {"a": None, "b": {"of": "c", "model": "base"}}},
            r"1 problem\(s\)\n  cells\.b\.of: no cell 'c'",
        ),
        (
            {"cells": {"a": {"titel": "A", "settings": {}}}},
            "cells.a.titel: unknown setting. Did you mean 'title'",
        ),
        ({"cells": {"a": {"title": "A", "seed": 1}}}, "cells.a.seed: unknown setting"),
    ],
)
def test_a_study_that_cannot_be_is_refused(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        load_study(study(tmp_path, **changes))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"experts.num_expert": 2}, "cell odd: .*\n.*experts.num_expert: unknown setting"),
        ({"seed.x": 2}, "cell odd, seed.x: seed is a single value"),
    ],
)
def test_a_wrong_variant_is_named(tmp_path, settings, message):
    path = study(tmp_path, cells={"good": None, "odd": settings})
    with pytest.raises(ConfigError, match=message):
        plan_cells(load_study(path))


def test_a_missing_study_or_recipe_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no study at"):
        load_study(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"no recipe at .*none\.yaml"):
        plan_cells(load_study(study(tmp_path, recipe="none.yaml")))
