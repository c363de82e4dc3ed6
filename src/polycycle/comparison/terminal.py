"""A comparison as a table for the terminal."""

from collections.abc import Callable, Iterable, Mapping

from rich.box import SIMPLE_HEAVY
from rich.console import Group as Stack
from rich.table import Table
from rich.text import Text

from polycycle.comparison.comparing import QUALITIES, Comparison, Row
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

    def qualities(row: Row) -> list[str]:
        return [*(quality(row, key, comparison.measure) for key in QUALITIES), seeds_words(row)]

    headings = [*(HEADINGS[key] for key in QUALITIES), "Seeds"]
    failed = [one for one in comparison.outcomes if one.status == "failed"]
    told = [Text(f"{one.cell}, seed {one.seed} failed: {one.error}", "red") for one in failed]
    return Stack(
        _table(comparison, comparison.study.name, headings, qualities),
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
    by_table: dict[str, dict[str, str]] = {}
    for column in comparison.answers:
        title = f"{column.task}: {ANSWER_KINDS[column.what]}"
        by_table.setdefault(title, {})[column.key] = column.group
    return [_figures(comparison, title, columns) for title, columns in by_table.items()]


def _saved(comparison: Comparison) -> list[Table]:
    """How many bits per byte fewer than the base's are needed, by group of languages."""
    columns = {key: key.split("/", 1)[1] for key in comparison.saved}
    return [_figures(comparison, "share of bits per byte saved", columns)] if columns else []


def _costs(comparison: Comparison) -> list[Table]:
    """What variants took to train, and how fast they are, where that was measured."""
    if not any(row.figures for row in comparison.rows):
        return []
    headings = _on_two_lines(COST_HEADINGS)
    tables = [
        _table(comparison, "size", headings[:3], lambda row: costs(row)[:3]),
        _table(comparison, "training", headings[3:], lambda row: costs(row)[3:]),
    ]
    if comparison.speeds:
        speed = comparison.speeds[0]
        headings = _on_two_lines(speed_headings(speed))
        tables.append(_table(comparison, "speed", headings, lambda row: speeds(row, speed)))
    return tables


def _on_two_lines(headings: Iterable[tuple[str, str]]) -> list[str]:
    """With their units below, so that 80 columns leave room for what variants are called."""
    return [f"{name}\n{unit}" for name, unit in headings]


def _figures(comparison: Comparison, title: str, columns: Mapping[str, str]) -> Table:
    """Figures of every variant, by key, under those headings."""

    def cells(row: Row) -> list[str]:
        return [quality(row, key, comparison.measure) for key in columns]

    return _table(comparison, title, columns.values(), cells)


def _table(
    comparison: Comparison,
    title: str,
    headings: Iterable[str],
    cells: Callable[[Row], Iterable[str]],
) -> Table:
    """A row for each variant, numbered as in the plots; the reference stands out."""
    table = Table(title=Text(title), title_style="bold", box=SIMPLE_HEAVY)
    table.padding = (0, 1, 0, 0)
    table.pad_edge = False
    table.add_column("")
    for heading in headings:
        table.add_column(Text(heading, justify="right"), justify="right", no_wrap=True)
    for name, row in numbered(comparison):
        style = "bold" if row.cell == comparison.reference else None
        table.add_row(Text(name), *cells(row), style=style)
    return table
