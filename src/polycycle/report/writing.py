"""The report's files."""

from pathlib import Path

from polycycle.files import write_text
from polycycle.report.page import page
from polycycle.results import RunResult, save_result


def write_report(result: RunResult, folder: Path) -> Path:
    """Write `report.html` and `report.json` into a folder, made if need be.

    Returns:
        The path of `report.html`, which needs no other file.
    """
    save_result(result, folder / "report.json")
    path = folder / "report.html"
    write_text(path, page(result))
    return path
