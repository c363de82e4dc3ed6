"""A comparison as a table for the terminal."""

from collections.abc import Iterable

from rich.box import SIMPLE_HEAVY
from rich.console import Group as Stack
from rich.table import Table
from rich.text import Text

from polycycle.comparison.comparing import QUALITIES, Comparison, Row
from polycycle.comparison.figures import AnswerColumn
from polycycle.comparison.wording import (
    ANSWER_KINDS,
    COST_HEADINGS,
    HEADINGS,
    LEGEND,
    costs,
    numbered,
    quality,
    seeds_words,
    sentences,
    speed_headings,
    speeds,
)


def comparison_table(comparison: Comparison) -> Stack:
    """Variants against gain and what was kept, and how many seeds say so; answers; costs."""
    table = _table(comparison.study.name, [HEADINGS[key] for key in QUALITIES], "Seeds")
    for title, row in numbered(comparison):
        cells = [quality(row, key, comparison.measure) for key in QUALITIES]
        table.add_row(Text(title), *cells, seeds_words(row), style=_style(comparison, row))
    failed = [one for one in comparison.outcomes if one.status == "failed"]
    told = [Text(f"{one.cell}, seed {one.seed} failed: {one.error}", "red") for one in failed]
    return Stack(
        table,
        *_answers(comparison),
        *_saved(comparison),
        *_costs(comparison),
        *(Text(one, "yellow") for one in comparison.ground.differences),
        *(Text(one) for one in sentences(comparison)),
        *(Text(one, "dim") for one in (*comparison.ground.changed_defaults, LEGEND)),
        *told,
    )


def _answers(comparison: Comparison) -> list[Table]:
    """One table for each kind of score of each generation task and benchmark."""
    by_table: dict[str, list[AnswerColumn]] = {}
    for column in comparison.answers:
        title = f"{column.task}: {ANSWER_KINDS[column.what]}"
        by_table.setdefault(title, []).append(column)
    tables = []
    for title, columns in by_table.items():
        table = _table(title, [column.group for column in columns])
        for name, row in numbered(comparison):
            cells = [quality(row, column.key, comparison.measure) for column in columns]
            table.add_row(Text(name), *cells, style=_style(comparison, row))
        tables.append(table)
    return tables


def _saved(comparison: Comparison) -> list[Table]:
    """How many bits per byte fewer than the base's are needed, by group of languages."""
    if not comparison.saved:
        return []
    table = _table(
        "share of bits per byte saved", [key.split("/", 1)[1] for key in comparison.saved]
    )
    for name, row in numbered(comparison):
        cells = [quality(row, key, comparison.measure) for key in comparison.saved]
        table.add_row(Text(name), *cells, style=_style(comparison, row))
    return [table]


def _costs(comparison: Comparison) -> list[Table]:
    """What variants took to train, and how fast they are, where that was measured."""
    if not any(row.figures for row in comparison.rows):
        return []
    tables = []
    for title, first, last in (("size", 0, 3), ("training", 3, len(COST_HEADINGS))):
        table = _table(title, _on_two_lines(COST_HEADINGS[first:last]))
        for name, row in numbered(comparison):
            table.add_row(Text(name), *costs(row)[first:last], style=_style(comparison, row))
        tables.append(table)
    if comparison.speeds:
        speed = comparison.speeds[0]
        table = _table("speed", _on_two_lines(speed_headings(speed)))
        for name, row in numbered(comparison):
            table.add_row(Text(name), *speeds(row, speed), style=_style(comparison, row))
        tables.append(table)
    return tables


def _on_two_lines(headings: Iterable[tuple[str, str]]) -> list[str]:
    """With their units below, so that 80 columns leave room for what variants are called."""
    return [f"{name}\n{unit}" for name, unit in headings]


def _table(title: str, numbers: Iterable[str], *others: str) -> Table:
    table = Table(title=Text(title), title_style="bold", box=SIMPLE_HEAVY)
    table.padding = (0, 1, 0, 0)
    table.pad_edge = False
    table.add_column("")
    for heading in (*numbers, *others):
        table.add_column(Text(heading, justify="right"), justify="right", no_wrap=True)
    return table


def _style(comparison: Comparison, row: Row) -> str | None:
    return "bold" if row.cell == comparison.reference else None
