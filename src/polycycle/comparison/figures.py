"""From the results of many runs to one table: means, their noise, and what is larger than it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from polycycle.comparison.ground import CommonGround, common_ground
from polycycle.comparison.noise import Spread, Verdict, spread_of, verdict_on
from polycycle.comparison.running import Cell
from polycycle.comparison.speeds import shown_model, speed_of
from polycycle.config import Study
from polycycle.errors import ConfigError
from polycycle.results import (
    Measure,
    ModelScores,
    ModelSpeed,
    RunResult,
    StageCost,
    average_answers,
    average_gain,
    average_retention,
    gain,
    groups_of,
    load_result,
    measure_of_run,
    retention,
    tasks_of,
)

Status = Literal["done", "failed", "not run"]


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerColumn:
    """One number of a generation task, over a group of languages.

    Attributes:
        task: its name.
        group: title of the languages.
        what: share of answers that are right letter for letter, or in the form asked for.
    """

    task: str
    group: str
    what: Literal["exact_match", "in_form"]

    @property
    def key(self) -> str:
        """Its name among figures."""
        return f"{self.task}/{self.group}/{self.what}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """What one run comes to, against the base. None where a run has no such number.

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
        prefill_tokens_per_second: reading several texts whole.
        prefill_of_base: how many times as fast as the base, which took turns with it.
        decode_tokens_per_second: writing one text.
        decode_of_base: likewise.
        decode_batch_tokens_per_second: writing several texts at once, of all together.
        decode_batch_of_base: likewise.
        answers: of generation tasks, shares by key of `AnswerColumn`.
        languages: gain or retention of each language: `gain/el`, `kept/en`.
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
    prefill_tokens_per_second: float | None = None
    prefill_of_base: float | None = None
    decode_tokens_per_second: float | None = None
    decode_of_base: float | None = None
    decode_batch_tokens_per_second: float | None = None
    decode_batch_of_base: float | None = None
    answers: dict[str, float] = field(default_factory=dict)
    languages: dict[str, float] = field(default_factory=dict)

    def get(self, key: str) -> float | None:
        """A figure by its name, an answer by its column's key, or a language's."""
        several = self.answers | self.languages
        value: float | None = several[key] if key in several else getattr(self, key, None)
        return value

    def names(self) -> list[str]:
        """Names of all figures."""
        single = [one.name for one in fields(self) if one.name not in ("answers", "languages")]
        return [*single, *self.answers, *self.languages]


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
        against_reference: for gain, kept, kept_unseen, answers and languages, whether the
            difference from the reference variant is larger than the noise between seeds.
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
    languages: tuple[str, ...] = ()

    @property
    def speeds(self) -> list[ModelSpeed]:
        """What was measured of how fast models are, cell by cell."""
        return [one.speed for one in self.outcomes if one.speed is not None]

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
    loaded = {c.folder: load_result(c.result_file) for c in cells if c.is_done}
    results = {(c.name, c.seed): loaded[c.folder] for c in cells if c.folder in loaded}
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
    has = {key for row in rows for key in row.figures}
    columns = dict.fromkeys(one for result in results.values() for one in answer_columns(result))
    spoken = dict.fromkeys(key for result in results.values() for key in language_keys(result))
    own = {cell.name for cell in cells if cell.of is None}
    ground = common_ground({at: one for at, one in results.items() if at[0] in own})
    return Comparison(
        study=study,
        measure=measure,
        outcomes=outcomes,
        rows=rows,
        ground=ground,
        answers=tuple(one for one in columns if one.key in has),
        languages=tuple(key for key in spoken if key in has),
    )


def language_keys(result: RunResult) -> list[str]:
    """Every language's figure: what was gained of those to learn, what was kept of the others."""
    return [
        f"{'gain' if group.is_expanded else 'kept'}/{tag}"
        for group in groups_of(result)
        for tag in group.languages
    ]


def answer_columns(result: RunResult) -> list[AnswerColumn]:
    """What a run may say about its generation tasks."""
    kinds: tuple[Literal["exact_match", "in_form"], ...] = ("exact_match", "in_form")
    return [
        AnswerColumn(task=task, group=group.title, what=what)
        for task in tasks_of(result)
        for group in groups_of(result)
        for what in kinds
    ]


def _outcome(cell: Cell, result: RunResult | None, measure: Measure) -> CellOutcome:
    where = {"cell": cell.name, "seed": cell.seed, "folder": str(cell.folder)}
    if result is None:
        if cell.has_failed:
            return CellOutcome(**where, status="failed", error=cell.last_words())  # type: ignore[arg-type]
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


def _all_layers(model: ModelScores) -> tuple[int, ...] | None:
    """Experts of each layer from the first to the last mixture layer, dense ones as 1."""
    routing = model.routing
    if routing is None:
        return None
    counts = dict(zip(routing.moe_layers, routing.num_experts, strict=True))
    return tuple(counts.get(layer, 1) for layer in range(max(counts) + 1))


def figures_of(
    result: RunResult,
    measure: Measure,
    *,
    model: str | None = None,
    speed: ModelSpeed | None = None,
) -> Figures:
    """What a run comes to, by its last model or another one.

    All is measured against the base, a whole graft too, whose own report measures it against the
    sibling: variants are to be compared.
    """
    shown = result.final if model is None else result.model(model)
    groups = groups_of(result)
    expanded = [tag for group in groups if group.is_expanded for tag in group.languages]
    kept = {
        group.key: average_retention(
            result, shown.name, group.languages, by=measure, against="base"
        )
        for group in groups
        if not group.is_expanded
    }
    costs = _costs_of(result, shown.name)
    flops = [cost.training_flops for cost in costs]
    known = [value for value in flops if value is not None]
    return Figures(
        gain=average_gain(result, shown.name, expanded, by=measure, against="base"),
        kept=kept.get("original"),
        kept_unseen=kept.get("unseen_original"),
        parameters_total=shown.parameters_total,
        parameters_active=shown.parameters_active,
        parameters_trainable=max((c.parameters_trainable for c in costs), default=None),
        training_flops=sum(known) if known and len(known) == len(flops) else None,
        seconds=sum(cost.seconds for cost in costs) if costs else None,
        peak_memory_bytes=max((cost.peak_memory_bytes for cost in costs), default=None),
        **({} if speed is None else _speeds(speed)),
        answers=_answers(result, shown.name),
        languages=_languages(result, shown.name, measure),
    )


def _speeds(speed: ModelSpeed) -> dict[str, float]:
    """Figures of what was measured: the first and the last number of texts that were written."""
    batches = [pace.batch for pace in speed.paces if pace.work == "decode"]
    paces = {
        "prefill": speed.pace("prefill"),
        "decode": speed.pace("decode", min(batches, default=None)),
        "decode_batch": speed.pace("decode", max(batches, default=None)),
    }
    found = {}
    for key, pace in paces.items():
        if pace is not None:
            found[f"{key}_tokens_per_second"] = pace.tokens_per_second
            found[f"{key}_of_base"] = pace.of_base
    return found


def _languages(result: RunResult, model: str, measure: Measure) -> dict[str, float]:
    found = {}
    for key in language_keys(result):
        kind, tag = key.split("/", 1)
        value = (gain if kind == "gain" else retention)(
            result, model, tag, by=measure, against="base"
        )
        if value is not None:
            found[key] = value
    return found


def _costs_of(result: RunResult, model: str) -> list[StageCost]:
    """What the stages took that lead to a model; none made the base and its siblings."""
    if model == result.final.name:
        return list(result.costs)
    names, stages = [one.name for one in result.models], [cost.stage for cost in result.costs]
    if model not in stages and model != "graft":
        return []
    before = names[: names.index(model) + 1]
    last = max((stages.index(name) for name in before if name in stages), default=-1)
    return list(result.costs[: last + 1])


def _answers(result: RunResult, model: str) -> dict[str, float]:
    languages = {group.title: group.languages for group in groups_of(result)}
    found = {}
    for column in answer_columns(result):
        scores = average_answers(result, model, languages[column.group], column.task)
        value: float | None = getattr(scores, column.what)
        if value is not None:
            found[column.key] = value
    return found


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
    several = (key for one in done.values() for key in (*one.answers, *one.languages))
    for key in dict.fromkeys([*QUALITIES, *several]) if done else ():
        differences = [
            mine - theirs
            for seed in done
            if seed in against
            and (mine := done[seed].get(key)) is not None
            and (theirs := against[seed].get(key)) is not None
        ]
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
