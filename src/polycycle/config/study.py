"""The study: one recipe in several variants and seeds, to be compared."""

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, NonNegativeInt, ValidationError, model_validator

from polycycle.config.load import (
    change_setting,
    parse_override,
    parse_recipe,
    problems_of,
    read_settings,
)
from polycycle.config.recipe import Recipe
from polycycle.config.section import Section
from polycycle.errors import ConfigError, did_you_mean

DEMO = "demo"
_OF_SIBLINGS = "siblings."
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


Settings = Annotated[dict[str, Any], Field(default_factory=dict)]
Seeds = Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]
# Not written down again: a study that was loaded has them among its settings, or has none.
DemoSettings = Annotated[dict[str, Any], Field(default_factory=dict, exclude=True)]


class CellConfig(Section):
    """One variant of the study's recipe."""

    settings: Settings
    """Settings of the recipe that differ, by dotted key: `experts.num_experts: 3`."""
    demo_settings: DemoSettings
    """Those that differ from them in the demo alone; left out on any other recipe."""
    seeds: Seeds | None = None
    """Seeds of this variant; by default the study's."""
    title: str = ""
    """Name in tables; by default the key."""
    demo_title: str = Field(default="", exclude=True)
    """Name in tables of the demo, where that has to be another."""
    of: str | None = None
    """Another variant, of whose runs this one shows a model; it has none of its own."""
    model: str | None = None
    """The model of the run that is shown, by the name that the run's report has for it: `base`,
    `post`, `review`; by default the last."""

    @model_validator(mode="after")
    def _has_a_run_or_shows_another(self) -> Self:
        told = self.settings or self.demo_settings or self.seeds is not None
        if self.of is not None and told:
            raise ValueError("a cell with `of` has no run, so no `settings` and `seeds` of its own")
        if self.of is not None and self.model is None:
            raise ValueError("a cell with `of` shows a model of that run; name it: `model`")
        return self


def _as_cell(value: Any) -> Any:
    """`{experts.num_experts: 3}` is short for `{settings: {experts.num_experts: 3}}`."""
    if value is None:
        return {}
    if isinstance(value, dict) and not set(value) & set(CellConfig.model_fields):
        return {"settings": value}
    return value


class Study(Section):
    """Variants of one recipe, each run with every seed."""

    name: str
    """Name in the report."""
    question: str = ""
    """What the study is to find out, in a sentence; stands at the head of the report."""
    recipe: str
    """The recipe that all variants start from, relative to the study's file; or `demo`, in which
    `graft.post` names instruction formats of siblings and `base`, if given, a family of models or a
    model of your own."""
    output: Path
    """Folder of all runs, and of the comparison."""
    seeds: Seeds = (0, 1, 2)
    """Each variant is run once with each; noise is what they differ by."""
    settings: Settings
    """Settings that all variants change."""
    demo_settings: DemoSettings
    """Settings that all variants change in the demo alone; left out where `polycycle compare
    --recipe` runs the study on another recipe, at full size."""
    siblings: Annotated[dict[str, str], Field(default_factory=dict)]
    """On another recipe than the demo: the models that instruction formats in `graft.post` stand
    for, `brackets: Qwen/Qwen2.5-1.5B-Instruct`."""
    cells: Annotated[
        dict[str, Annotated[CellConfig, BeforeValidator(_as_cell)]], Field(min_length=1)
    ]
    """The variants, by a name that also names their folder."""
    reference: str | None = None
    """The variant that the others are measured against; by default the first."""
    measure_speed: bool = False
    """Whether to measure how fast each finished model reads and writes, beside its base: half a
    minute for a small model. What was measured is not measured again."""

    @model_validator(mode="after")
    def _is_of_the_demo_or_says_nothing_of_it(self) -> Self:
        places = {"": self} | {f"cells.{name}.": cell for name, cell in self.cells.items()}
        found = [
            place + key
            for place, one in places.items()
            for key in ("demo_settings", "demo_title")
            if getattr(one, key, None)
        ]
        if found and self.recipe != DEMO:
            raise ValueError(
                f"{', '.join(found)}: only a study of the demo reads that, and the recipe of this "
                f"one is {self.recipe}; put it into `settings` or `title`, or say `recipe: {DEMO}`"
            )
        return self

    @model_validator(mode="after")
    def _names(self) -> Self:
        for name in self.cells:
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"cells: {name!r} is to name a folder: lower-case letters, digits, . _ - only; "
                    "put a nicer one into its `title`"
                )
        for in_demo in (False, True):
            called: dict[str, str] = {}
            for name, cell in self.cells.items():
                key = "demo_title" if in_demo and cell.demo_title else "title"
                other = called.setdefault(title := getattr(cell, key) or name, name)
                if other != name:
                    raise ValueError(
                        f"cells.{name}.{key}: cells.{other} is called {title!r} too, and a table "
                        "could not tell them apart"
                    )
        for name, cell in self.cells.items():
            if cell.of is None:
                continue
            if cell.of not in self.cells:
                raise ValueError(
                    f"cells.{name}.of: no cell {cell.of!r}.{did_you_mean(cell.of, self.cells)}"
                )
            if (further := self.cells[cell.of].of) is not None:
                own = [one for one, other in self.cells.items() if other.of is None]
                better = further if further in own else f"one that has: {', '.join(own) or 'none'}"
                raise ValueError(f"cells.{name}.of: {cell.of} has no run either; name {better}")
        if self.reference is not None and self.reference not in self.cells:
            raise ValueError(
                f"reference: no cell {self.reference!r}.{did_you_mean(self.reference, self.cells)}"
            )
        return self

    @property
    def reference_cell(self) -> str:
        """The variant that the others are measured against."""
        return self.reference or next(iter(self.cells))

    def title_of(self, cell: str) -> str:
        """What a variant is called in tables."""
        return self.cells[cell].title or cell

    def seeds_of(self, cell: str) -> tuple[int, ...]:
        """The seeds that a variant is run with."""
        return self.cells[self.run_of(cell)].seeds or self.seeds

    def run_of(self, cell: str) -> str:
        """The variant whose runs a cell shows: itself, unless it says another."""
        return self.cells[cell].of or cell


def load_study(
    path: Path,
    output: Path | None = None,
    overrides: Sequence[str] = (),
    recipe: Path | None = None,
) -> Study:
    """The study in a YAML file, with `demo_settings` in their place, or left out.

    Args:
        path: of the file.
        output: put in the place of what the file says.
        overrides: `key.sub=value` settings of the recipe, for all variants; a variant's own win.
            `siblings.FORMAT=model` is of the study's `siblings`.
        recipe: to run it on instead of the file's own. Runs then go to a folder of their own,
            called after it, unless `output` is given.

    Raises:
        ConfigError: the file is missing, is not YAML, or settings are wrong; all together.
    """
    settings = read_settings(path, what="study")
    if output is not None:
        settings["output"] = str(output)
    try:
        study = Study.model_validate(settings)
    except ValidationError as error:
        lines = problems_of(error, Study)
        raise ConfigError("\n  ".join([f"{path}: {len(lines)} problem(s)", *lines])) from error
    place = DEMO if study.recipe == DEMO else str(path.parent / study.recipe)
    folder = study.output
    if recipe is not None:
        _check_recipe_file(recipe)
        place = str(recipe)
        folder = output or folder.with_name(f"{folder.name}-{recipe.stem}")
    study = _at_its_size(study.model_copy(update={"recipe": place, "output": folder}))
    changes = dict(map(parse_override, overrides))
    named = {key: changes.pop(key) for key in list(changes) if key.startswith(_OF_SIBLINGS)}
    if named:
        study = _with_other_siblings(study, named)
    return study.model_copy(update={"settings": {**study.settings, **changes}})


def _check_recipe_file(recipe: Path) -> None:
    """A recipe that `--recipe` names is a file, and not the demo, which has none to name."""
    example = "such as recipes/moe_lpr_qwen2_5.yaml"
    if str(recipe) == DEMO:
        raise ConfigError(
            f"--recipe {DEMO}: a study that is made for the demo runs on it without --recipe; "
            f"leave that out, or name a recipe in YAML, {example}"
        )
    if not recipe.is_file():
        there = [one.name for one in recipe.parent.glob("*.yaml")]
        raise ConfigError(
            f"--recipe {recipe}: no such file.{did_you_mean(recipe.name, there)} Name a recipe in "
            f"YAML, {example}"
        )


def _with_other_siblings(study: Study, named: Mapping[str, Any]) -> Study:
    """The study with the models that `--set siblings.FORMAT=MODEL` gives."""
    siblings = dict(study.siblings)
    for key, model in named.items():
        form = key.removeprefix(_OF_SIBLINGS)
        if study.recipe == DEMO:
            raise ConfigError(
                f"--set {key}: the demo makes its siblings itself; name a --recipe, too, or leave "
                "it out"
            )
        if form not in siblings or not isinstance(model, str):
            raise ConfigError(
                f"--set {key}={model}: write {_OF_SIBLINGS}FORMAT=MODEL, with a folder or hub id."
                f"{did_you_mean(form, set(siblings) - {form})} The study's siblings are "
                f"{', '.join(siblings) or 'none'}"
            )
        siblings[form] = model
    return study.model_copy(update={"siblings": siblings})


def _at_its_size(study: Study) -> Study:
    """The study with what is of the demo alone in its place, or left out."""
    is_demo = study.recipe == DEMO

    def sized(one: Study | CellConfig) -> dict[str, Any]:
        own = one.demo_settings if is_demo else {}
        return {"settings": {**one.settings, **own}, "demo_settings": {}}

    def sized_cell(cell: CellConfig) -> CellConfig:
        if not (cell.demo_settings or cell.demo_title):
            return cell
        title = (is_demo and cell.demo_title) or cell.title
        return cell.model_copy(update={**sized(cell), "title": title, "demo_title": ""})

    cells = {name: sized_cell(cell) for name, cell in study.cells.items()}
    return study.model_copy(update={**sized(study), "cells": cells})


def cell_recipe(
    study: Study, cell: str, recipe: Mapping[str, Any], places: Mapping[str, Any]
) -> Recipe:
    """The recipe of one variant, checked.

    Args:
        study: what it belongs to.
        cell: its name.
        recipe: settings of the study's recipe.
        places: what depends on where and with which seed it is run: `output`, `seed`, ….

    Raises:
        ConfigError: the variant's settings are wrong, naming it.
    """
    settings = copy.deepcopy(dict(recipe))
    where = f"cell {cell}" if study.recipe == DEMO else f"cell {cell} on {study.recipe}"
    for changes in (study.settings, study.cells[cell].settings, places):
        for key, value in changes.items():
            change_setting(settings, key, copy.deepcopy(value), where=f"{where}, {key}")
    return parse_recipe(settings, where=where)
