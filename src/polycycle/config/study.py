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
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


Settings = Annotated[dict[str, Any], Field(default_factory=dict)]
Seeds = Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]


class CellConfig(Section):
    """One variant of the study's recipe."""

    settings: Settings
    """Settings of the recipe that differ, by dotted key: `experts.num_experts: 3`."""
    seeds: Seeds | None = None
    """Seeds of this variant; by default the study's."""
    title: str = ""
    """Name in tables; by default the key."""
    of: str | None = None
    """Another variant, of whose runs this one shows a model; it has none of its own."""
    model: str | None = None
    """The model of the run that is shown, by the name that the run's report has for it: `base`,
    `post`, `review`; by default the last."""

    @model_validator(mode="after")
    def _has_a_run_or_shows_another(self) -> Self:
        if self.of is not None and (self.settings or self.seeds is not None):
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
    def _names(self) -> Self:
        for name in self.cells:
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"cells: {name!r} is to name a folder: lower-case letters, digits, . _ - only; "
                    "put a nicer one into its `title`"
                )
        called: dict[str, str] = {}
        for name in self.cells:
            other = called.setdefault(title := self.title_of(name), name)
            if other != name:
                raise ValueError(
                    f"cells.{name}.title: cells.{other} is called {title!r} too, and a table could "
                    "not tell them apart"
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


def load_study(path: Path, output: Path | None = None, overrides: Sequence[str] = ()) -> Study:
    """The study in a YAML file.

    Args:
        path: of the file.
        output: put in the place of what the file says.
        overrides: `key.sub=value` settings of the recipe, for all variants; a variant's own win.

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
    settings = {**study.settings, **dict(map(parse_override, overrides))}
    recipe = DEMO if study.recipe == DEMO else str(path.parent / study.recipe)
    return study.model_copy(update={"recipe": recipe, "settings": settings})


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
    where = f"cell {cell}"
    for changes in (study.settings, study.cells[cell].settings, places):
        for key, value in changes.items():
            change_setting(settings, key, copy.deepcopy(value), where=f"{where}, {key}")
    return parse_recipe(settings, where=where)
