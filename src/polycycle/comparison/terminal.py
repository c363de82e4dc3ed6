"""A comparison as a table for the terminal."""

from rich.box import SIMPLE_HEAVY
from rich.console import Group as Stack
from rich.table import Table
from rich.text import Text

from polycycle.comparison.figures import QUALITIES, Comparison
from polycycle.comparison.wording import HEADINGS, LEGEND, quality, seeds_words, sentences


def comparison_table(comparison: Comparison) -> Stack:
    """Variants against gain, what was kept, and how many seeds say so."""
    table = Table(title=Text(comparison.study.name), title_style="bold", box=SIMPLE_HEAVY)
    table.add_column("")
    for key in QUALITIES:
        table.add_column(HEADINGS[key], justify="right", no_wrap=True)
    table.add_column("Seeds", justify="right")
    for row in comparison.rows:
        cells = [quality(row, key, comparison.measure) for key in QUALITIES]
        style = "bold" if row.cell == comparison.reference else None
        table.add_row(Text(row.title), *cells, seeds_words(row), style=style)
    failed = [one for one in comparison.outcomes if one.status == "failed"]
    told = [Text(f"{one.cell}, seed {one.seed} failed: {one.error}", "red") for one in failed]
    return Stack(table, *(Text(one) for one in sentences(comparison)), Text(LEGEND, "dim"), *told)
