"""Variants of one recipe side by side: run what is missing, then table, plots and page."""

from polycycle.comparison.figures import Comparison, compare
from polycycle.comparison.page import comparison_page
from polycycle.comparison.running import Cell, plan_cells, run_cells
from polycycle.comparison.terminal import comparison_table

__all__ = [
    "Cell",
    "Comparison",
    "compare",
    "comparison_page",
    "comparison_table",
    "plan_cells",
    "run_cells",
]
