"""`polycycle report`: the report of a run, made anew from its result."""

from pathlib import Path
from typing import Annotated

import typer

from polycycle.cli.app import out, tell, verb


@verb("report", "Steps")
def report(
    run_folder: Annotated[Path, typer.Argument(help="A run folder, or its result.json.")],
    folder: Annotated[
        Path | None, typer.Option("--out", help="Where to write; by default report/ in the run.")
    ] = None,
) -> None:
    """Write report.html and report.json from a run's result, and print its table."""
    from polycycle.report import terminal_table, write_report
    from polycycle.results import load_result

    path = run_folder / "result.json" if run_folder.is_dir() else run_folder
    result = load_result(path)
    page = write_report(result, folder or path.parent / "report")
    out.print(terminal_table(result), soft_wrap=False)  # tables and sentences wrap
    tell(f"report: {page}")
