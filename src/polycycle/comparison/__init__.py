"""Variants of one recipe side by side: run what is missing, then table, plots and page."""

from polycycle.comparison.comparing import Comparison, compare
from polycycle.comparison.folders import check_folder, check_results
from polycycle.comparison.page import comparison_page, quality_figures, quality_table
from polycycle.comparison.reading import read_comparison
from polycycle.comparison.running import Cell, plan_cells, run_cells
from polycycle.comparison.speeds import measure_speeds
from polycycle.comparison.terminal import comparison_table
from polycycle.comparison.wording import LEGEND, sentences

__all__ = [
    "LEGEND",
    "Cell",
    "Comparison",
    "check_folder",
    "check_results",
    "compare",
    "comparison_page",
    "comparison_table",
    "measure_speeds",
    "plan_cells",
    "quality_figures",
    "quality_table",
    "read_comparison",
    "run_cells",
    "sentences",
]
