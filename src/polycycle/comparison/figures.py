"""From the results of many runs to one table: means, their noise, and what is larger than it."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from polycycle.comparison.running import Cell
from polycycle.config import Study
from polycycle.results import (
    Measure,
    RunResult,
    average_gain,
    average_retention,
    groups_of,
    load_result,
    measure_of_run,
)

Status = Literal["done", "failed", "not run"]
Verdict = Literal["better", "worse", "within noise", "one seed", "reference"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """What one run comes to. None where a run has no such number.

    Attributes:
        gain: mean over expanded languages; percentage points or bits per byte saved.
        kept: mean retention of the replayed original languages, 1.0 is all.
        kept_unseen: the same of the unseen original languages.
        parameters_total: of the final model.
        parameters_active: that one of its tokens passes through.
        parameters_trainable: the most that any stage trained.
        training_flops: of all stages.
        seconds: of all training stages.
        peak_memory_bytes: the most of any stage.
    """

    gain: float | None
    kept: float | None
    kept_unseen: float | None
    parameters_total: float | None
    parameters_active: float | None
    parameters_trainable: float | None
    training_flops: float | None
    seconds: float | None
    peak_memory_bytes: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class CellOutcome:
    """One cell: its figures, or why there are none."""

    cell: str
    seed: int
    folder: str
    status: Status
    figures: Figures | None = None
    num_experts: tuple[int, ...] | None = None
    error: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """A figure over seeds: mean, standard deviation (None of one seed), number of seeds."""

    mean: float
    deviation: float | None
    seeds: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One variant over its seeds.

    Attributes:
        cell: its name.
        title: what it is called.
        num_experts: per mixture layer, if all seeds agree.
        figures: by name of `Figures`.
        against_reference: for gain, kept and kept_unseen, whether the difference from the
            reference variant is larger than the noise between seeds.
        failed: seeds that failed.
        missing: seeds not run.
    """

    cell: str
    title: str
    num_experts: tuple[int, ...] | None
    figures: dict[str, Spread]
    against_reference: dict[str, Verdict]
    failed: tuple[int, ...]
    missing: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A whole study, as far as it has been run."""

    study: Study
    measure: Measure
    outcomes: tuple[CellOutcome, ...]
    rows: tuple[Row, ...]

    @property
    def reference(self) -> str:
        """The variant that the others are measured against."""
        return self.study.reference or next(iter(self.study.cells))

    def to_json(self) -> dict[str, Any]:
        """Plain values; every number can be traced to a run folder."""
        return {
            "study": self.study.model_dump(mode="json"),
            "measure": self.measure,
            "reference": self.reference,
            "rows": [asdict(row) for row in self.rows],
            "cells": [asdict(outcome) for outcome in self.outcomes],
        }


QUALITIES = ("gain", "kept", "kept_unseen")


def compare(study: Study, cells: Sequence[Cell]) -> Comparison:
    """Read the results that are there.

    All runs are measured alike: by questions if every one of them has them, else in bits per byte.
    """
    results = {(c.name, c.seed): load_result(c.result_file) for c in cells if c.is_done}
    by_questions = all(measure_of_run(result) == "accuracy" for result in results.values())
    measure: Measure = "accuracy" if results and by_questions else "bits_per_byte"
    outcomes = tuple(_outcome(cell, results.get((cell.name, cell.seed)), measure) for cell in cells)
    by_cell = {
        name: {one.seed: one for one in outcomes if one.cell == name} for name in study.cells
    }
    reference = study.reference or next(iter(study.cells))
    rows = tuple(
        _row(study, name, by_cell[name], by_cell[reference], is_reference=name == reference)
        for name in study.cells
    )
    return Comparison(study=study, measure=measure, outcomes=outcomes, rows=rows)


def _outcome(cell: Cell, result: RunResult | None, measure: Measure) -> CellOutcome:
    where = {"cell": cell.name, "seed": cell.seed, "folder": str(cell.folder)}
    if result is None:
        if cell.has_failed:
            return CellOutcome(**where, status="failed", error=cell.last_words())  # type: ignore[arg-type]
        return CellOutcome(**where, status="not run")  # type: ignore[arg-type]
    routing = result.final.routing
    return CellOutcome(
        **where,  # type: ignore[arg-type]
        status="done",
        figures=figures_of(result, measure),
        num_experts=None if routing is None else _all_layers(result),
    )


def _all_layers(result: RunResult) -> tuple[int, ...] | None:
    """Experts of each layer from the first to the last mixture layer, dense ones as 1."""
    routing = result.final.routing
    assert routing is not None
    counts = dict(zip(routing.moe_layers, routing.num_experts, strict=True))
    return tuple(counts.get(layer, 1) for layer in range(max(counts) + 1))


def figures_of(result: RunResult, measure: Measure) -> Figures:
    """What a run comes to."""
    final = result.final
    groups = groups_of(result)
    expanded = [tag for group in groups if group.is_expanded for tag in group.languages]
    kept = {
        group.key: average_retention(result, final.name, group.languages, by=measure)
        for group in groups
        if not group.is_expanded
    }
    flops = [cost.training_flops for cost in result.costs]
    known = [value for value in flops if value is not None]
    return Figures(
        gain=average_gain(result, final.name, expanded, by=measure),
        kept=kept.get("original"),
        kept_unseen=kept.get("unseen_original"),
        parameters_total=final.parameters_total,
        parameters_active=final.parameters_active,
        parameters_trainable=max((c.parameters_trainable for c in result.costs), default=None),
        training_flops=sum(known) if known and len(known) == len(flops) else None,
        seconds=sum(cost.seconds for cost in result.costs),
        peak_memory_bytes=max((cost.peak_memory_bytes for cost in result.costs), default=None),
    )


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
    for key in Figures.__dataclass_fields__:
        values = [value for one in done.values() if (value := getattr(one, key)) is not None]
        if values:
            figures[key] = spread_of(values)
    verdicts: dict[str, Verdict] = {}
    for key in QUALITIES if done else ():
        differences = [
            getattr(done[seed], key) - getattr(against[seed], key)
            for seed in done
            if seed in against
            and getattr(done[seed], key) is not None
            and getattr(against[seed], key) is not None
        ]
        verdicts[key] = "reference" if is_reference else verdict_on(differences)
    counts = {one.num_experts for one in outcomes.values() if one.num_experts}
    return Row(
        cell=name,
        title=study.title_of(name),
        num_experts=counts.pop() if len(counts) == 1 else None,
        figures=figures,
        against_reference=verdicts,
        failed=tuple(seed for seed, one in outcomes.items() if one.status == "failed"),
        missing=tuple(seed for seed, one in outcomes.items() if one.status == "not run"),
    )


def spread_of(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Spread(mean=statistics.mean(values), deviation=deviation, seeds=len(values))


# Two-sided 95 % points of Student's t by degrees of freedom; beyond ten, the normal's is near.
_T95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)


def verdict_on(differences: Sequence[float]) -> Verdict:
    """Whether differences, paired by seed, are larger than noise: a paired t-test at 95 %.

    With three seeds that asks for a mean difference of 2.5 standard deviations; a study that finds
    "within noise" has not shown that nothing is there.
    """
    if len(differences) < 2:
        return "one seed"
    mean = statistics.mean(differences)
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    limit = _T95[min(len(differences) - 1, len(_T95)) - 1] * error
    if abs(mean) <= limit or mean == 0:
        return "within noise"
    return "better" if mean > 0 else "worse"
