"""A comparison as a table for the terminal."""

from rich.box import SIMPLE_HEAVY
from rich.console import Group as Stack
from rich.table import Table
from rich.text import Text

from polycycle.comparison.comparing import QUALITIES, Comparison, Row
from polycycle.comparison.wording import (
    COST_HEADINGS,
    HEADINGS,
    LEGEND,
    answer_heading,
    costs,
    quality,
    seeds_words,
    sentences,
    speed_headings,
    speeds,
)


def comparison_table(comparison: Comparison) -> Stack:
    """Variants against gain and what was kept, and how many seeds say so; answers; costs."""
    table = _table(comparison.study.name, [HEADINGS[key] for key in QUALITIES], "Seeds")
    for row in comparison.rows:
        cells = [quality(row, key, comparison.measure) for key in QUALITIES]
        table.add_row(Text(row.title), *cells, seeds_words(row), style=_style(comparison, row))
    failed = [one for one in comparison.outcomes if one.status == "failed"]
    told = [Text(f"{one.cell}, seed {one.seed} failed: {one.error}", "red") for one in failed]
    return Stack(
        table,
        *_answers(comparison),
        *_costs(comparison),
        *(Text(one, "yellow") for one in comparison.ground.differences),
        *(Text(one) for one in sentences(comparison)),
        Text(LEGEND, "dim"),
        *told,
    )


def _answers(comparison: Comparison) -> list[Table]:
    """One table for each generation task."""
    tables = []
    for task in dict.fromkeys(column.task for column in comparison.answers):
        columns = [column for column in comparison.answers if column.task == task]
        table = _table(task, [answer_heading(column) for column in columns])
        for row in comparison.rows:
            cells = [quality(row, column.key, comparison.measure) for column in columns]
            table.add_row(Text(row.title), *cells, style=_style(comparison, row))
        tables.append(table)
    return tables


def _costs(comparison: Comparison) -> list[Table]:
    """What variants took to train, and how fast they are, where that was measured."""
    if not any(row.figures for row in comparison.rows):
        return []
    table = _table("cost", [f"{name}, {unit}" for name, unit in COST_HEADINGS])
    tables = [table]
    for row in comparison.rows:
        table.add_row(Text(row.title), *costs(row), style=_style(comparison, row))
    if comparison.speeds:
        speed = comparison.speeds[0]
        headings = [f"{name}, {unit}".removeprefix(", ") for name, unit in speed_headings(speed)]
        table = _table("speed", headings)
        for row in comparison.rows:
            table.add_row(Text(row.title), *speeds(row, speed), style=_style(comparison, row))
        tables.append(table)
    return tables


def _table(title: str, numbers: list[str], *others: str) -> Table:
    table = Table(title=Text(title), title_style="bold", box=SIMPLE_HEAVY)
    table.add_column("")
    for heading in numbers:
        table.add_column(Text(heading), justify="right")
    for heading in others:
        table.add_column(heading, justify="right")
    return table


def _style(comparison: Comparison, row: Row) -> str | None:
    return "bold" if row.cell == comparison.reference else None
