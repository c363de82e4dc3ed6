"""From the results of many runs to one table: means, their noise, and what is larger than it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from polycycle.comparison.figures import (
    AnswerColumn,
    Figures,
    answer_columns,
    costs_of,
    figures_of,
    language_keys,
)
from polycycle.comparison.ground import CommonGround, common_ground
from polycycle.comparison.noise import Spread, Verdict, spread_of, verdict_on
from polycycle.comparison.running import Cell
from polycycle.comparison.speeds import shown_model, speed_of
from polycycle.config import Study
from polycycle.errors import ConfigError, PolycycleError
from polycycle.results import (
    Measure,
    ModelScores,
    ModelSpeed,
    RunResult,
    load_result,
    measure_of_run,
)

Status = Literal["done", "failed", "not run"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CellOutcome:
    """One cell: its figures, or why there are none."""

    cell: str
    seed: int
    folder: str
    status: Status
    figures: Figures | None = None
    num_experts: tuple[int, ...] | None = None
    speed: ModelSpeed | None = None
    error: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One variant over its seeds.

    Attributes:
        cell: its name.
        title: what it is called.
        num_experts: per mixture layer, if all seeds agree.
        figures: by name of `Figures`.
        against_reference: for gain, kept, kept_unseen, answers, languages and bits saved, whether
            the difference from the reference variant is larger than the noise between seeds.
        failed: seeds that failed.
        missing: seeds not run.
        differences: those differences, over the seeds that both variants have.
    """

    cell: str
    title: str
    num_experts: tuple[int, ...] | None
    figures: dict[str, Spread]
    against_reference: dict[str, Verdict]
    failed: tuple[int, ...]
    missing: tuple[int, ...]
    differences: dict[str, Spread] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A whole study, as far as it has been run."""

    study: Study
    measure: Measure
    outcomes: tuple[CellOutcome, ...]
    rows: tuple[Row, ...]
    ground: CommonGround = field(default_factory=CommonGround)
    answers: tuple[AnswerColumn, ...] = ()
    answers_by_language: tuple[AnswerColumn, ...] = ()
    languages: tuple[str, ...] = ()

    @property
    def speeds(self) -> list[ModelSpeed]:
        """What was measured of how fast models are, cell by cell."""
        return [one.speed for one in self.outcomes if one.speed is not None]

    @property
    def saved(self) -> list[str]:
        """Groups of languages of which some variant has bits per byte, by key of its figure."""
        keys = dict.fromkeys(key for row in self.rows for key in row.figures)
        return [key for key in keys if key.startswith("saved/") and key[len("saved/")].isupper()]

    def figures_of(self, cell: str) -> dict[int, Figures]:
        """Of a variant, seed by seed, where its run is done."""
        return {
            one.seed: one.figures
            for one in self.outcomes
            if one.cell == cell and one.figures is not None
        }

    @property
    def reference(self) -> str:
        """The variant that the others are measured against."""
        return self.study.reference_cell

    def to_json(self) -> dict[str, Any]:
        """Plain values; every number can be traced to a run folder."""
        return {
            "study": self.study.model_dump(mode="json"),
            "measure": self.measure,
            "reference": self.reference,
            "compared": asdict(self.ground),
            "languages": list(self.languages),
            "rows": [asdict(row) for row in self.rows],
            "cells": [
                asdict(replace(outcome, speed=None))
                | {"speed": outcome.speed and outcome.speed.model_dump(mode="json")}
                for outcome in self.outcomes
            ],
        }


QUALITIES = ("gain", "kept", "kept_unseen")


def compare(study: Study, cells: Sequence[Cell]) -> Comparison:
    """Read the results that are there.

    All runs are measured alike: by questions if every one of them has them, else in bits per byte.
    """
    loaded, unreadable = _load(cells)
    results = {(c.name, c.seed): loaded[c.folder] for c in cells if c.folder in loaded}
    by_questions = all(measure_of_run(result) == "accuracy" for result in results.values())
    measure: Measure = "accuracy" if results and by_questions else "bits_per_byte"
    outcomes = tuple(
        _outcome(cell, results.get((cell.name, cell.seed)), measure, unreadable.get(cell.folder))
        for cell in cells
    )
    by_cell = {
        name: {one.seed: one for one in outcomes if one.cell == name} for name in study.cells
    }
    reference = study.reference_cell
    rows = tuple(
        _row(study, name, by_cell[name], by_cell[reference], is_reference=name == reference)
        for name in study.cells
    )
    has = {key for row in rows for key in row.figures}
    spoken = dict.fromkeys(key for result in results.values() for key in language_keys(result))
    asked = {at: c.recipe for c in cells if c.of is None and (at := (c.name, c.seed)) in results}
    runs = {at: results[at] for at in asked}
    ground = common_ground(runs, asked, _tokens_by_title(study, cells, results))
    if ground.facts:
        ground = replace(ground, facts=(("Recipe", study.recipe), *ground.facts))
    return Comparison(
        study=study,
        measure=measure,
        outcomes=outcomes,
        rows=rows,
        ground=ground,
        answers=_shown_columns(results, has),
        answers_by_language=_shown_columns(results, has, by_language=True),
        languages=tuple(key for key in spoken if key in has),
    )


def _load(cells: Sequence[Cell]) -> tuple[dict[Path, RunResult], dict[Path, str]]:
    """Results of finished runs by their folders, and why others cannot be read."""
    loaded, unreadable = {}, {}
    for folder, file in {cell.folder: cell.result_file for cell in cells if cell.is_done}.items():
        try:
            loaded[folder] = load_result(file)
        except PolycycleError as error:
            unreadable[folder] = f"no result to read; delete it to make it anew: {error}"
    return loaded, unreadable


def _tokens_by_title(
    study: Study, cells: Sequence[Cell], results: Mapping[tuple[str, int], RunResult]
) -> dict[str, list[int]]:
    """What each variant's model was trained on, seed by seed; 0 where no stage led to it."""
    found: dict[str, list[int]] = {}
    for cell in cells:
        result = results.get((cell.name, cell.seed))
        if result is not None:
            costs = costs_of(result, cell.model or result.final.name)
            tokens = sum(cost.tokens for cost in costs)
            found.setdefault(study.title_of(cell.name), []).append(tokens)
    return found


def _shown_columns(
    results: Mapping[tuple[str, int], RunResult], has: Collection[str], *, by_language: bool = False
) -> tuple[AnswerColumn, ...]:
    """Columns that any run may fill, those that some cell does, in the order of the runs."""
    found = (answer_columns(result, by_language=by_language) for result in results.values())
    columns = dict.fromkeys(column for of_run in found for column in of_run)
    return tuple(column for column in columns if column.key in has)


def _outcome(
    cell: Cell, result: RunResult | None, measure: Measure, unreadable: str | None
) -> CellOutcome:
    where = {"cell": cell.name, "seed": cell.seed, "folder": str(cell.folder)}
    if result is None:
        if unreadable or cell.has_failed:
            error = unreadable or cell.last_words()
            return CellOutcome(**where, status="failed", error=error)  # type: ignore[arg-type]
        return CellOutcome(**where, status="not run")  # type: ignore[arg-type]
    shown = shown_model(cell, result)
    if shown is None:
        there = ", ".join(model.name for model in result.models)
        raise ConfigError(
            f"cells.{cell.name}.model: the run has no {cell.model!r}; there are {there}"
        )
    speed = speed_of(cell, result)
    return CellOutcome(
        **where,  # type: ignore[arg-type]
        status="done",
        figures=figures_of(result, measure, model=shown.name, speed=speed),
        num_experts=_all_layers(shown),
        speed=speed,
    )


def paired(mine: Mapping[int, Figures], theirs: Mapping[int, Figures], key: str) -> list[float]:
    """How much more of a figure one variant has than another, over the seeds that both have."""
    return [
        value - other
        for seed, figures in mine.items()
        if seed in theirs
        and (value := figures.get(key)) is not None
        and (other := theirs[seed].get(key)) is not None
    ]


def _all_layers(model: ModelScores) -> tuple[int, ...] | None:
    """Experts of each layer from the first to the last mixture layer, dense ones as 1."""
    routing = model.routing
    if routing is None:
        return None
    counts = dict(zip(routing.moe_layers, routing.num_experts, strict=True))
    return tuple(counts.get(layer, 1) for layer in range(max(counts) + 1))


def _row(
    study: Study,
    name: str,
    outcomes: Mapping[int, CellOutcome],
    reference: Mapping[int, CellOutcome],
    *,
    is_reference: bool,
) -> Row:
    done = {seed: one.figures for seed, one in outcomes.items() if one.figures is not None}
    against = {seed: one.figures for seed, one in reference.items() if one.figures is not None}
    figures = {}
    for key in dict.fromkeys(key for one in done.values() for key in one.names()):
        values = [value for one in done.values() if (value := one.get(key)) is not None]
        if values:
            figures[key] = spread_of(values)
    verdicts: dict[str, Verdict] = {}
    spreads: dict[str, Spread] = {}
    several = (key for one in done.values() for key in one.by_key)
    for key in dict.fromkeys([*QUALITIES, *several]) if done else ():
        differences = paired(done, against, key)
        verdicts[key] = "reference" if is_reference else verdict_on(differences)
        if differences and not is_reference:
            spreads[key] = spread_of(differences)
    counts = {one.num_experts for one in outcomes.values() if one.num_experts}
    return Row(
        cell=name,
        title=study.title_of(name),
        num_experts=counts.pop() if len(counts) == 1 else None,
        figures=figures,
        differences=spreads,
        against_reference=verdicts,
        failed=tuple(seed for seed, one in outcomes.items() if one.status == "failed"),
        missing=tuple(seed for seed, one in outcomes.items() if one.status == "not run"),
    )
