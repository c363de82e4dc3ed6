"""A comparison as a table for the terminal."""

from rich.box import SIMPLE_HEAVY
from rich.console import Group as Stack
from rich.table import Table
from rich.text import Text

from polycycle.comparison.figures import QUALITIES, Comparison, Row
from polycycle.comparison.wording import (
    HEADINGS,
    LEGEND,
    answer_heading,
    quality,
    seeds_words,
    sentences,
)


def comparison_table(comparison: Comparison) -> Stack:
    """Variants against gain, what was kept, and how many seeds say so; then what they answer."""
    table = _table(comparison.study.name, [HEADINGS[key] for key in QUALITIES], "Seeds")
    for row in comparison.rows:
        cells = [quality(row, key, comparison.measure) for key in QUALITIES]
        table.add_row(Text(row.title), *cells, seeds_words(row), style=_style(comparison, row))
    failed = [one for one in comparison.outcomes if one.status == "failed"]
    told = [Text(f"{one.cell}, seed {one.seed} failed: {one.error}", "red") for one in failed]
    return Stack(
        table,
        *_answers(comparison),
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
