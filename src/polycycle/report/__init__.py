"""From a result to what people read: a page, a model card, a table in the terminal."""

from polycycle.report.card import export_card, model_card
from polycycle.report.delta_page import delta_page
from polycycle.report.terminal import (
    export_table,
    scores_tables,
    terminal_benchmarks,
    terminal_table,
)
from polycycle.report.verdict import Verdict, verdict_of
from polycycle.report.writing import write_report

__all__ = [
    "Verdict",
    "delta_page",
    "export_card",
    "export_table",
    "model_card",
    "scores_tables",
    "terminal_benchmarks",
    "terminal_table",
    "verdict_of",
    "write_report",
]
