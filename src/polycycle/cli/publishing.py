"""What a run shows of its result: result.json, the report, the cards of its models."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polycycle.results import RunResult


def publish(result: "RunResult", run_folder: Path) -> Path:
    """Write a run's result, its report, and the cards of its models; the report's page."""
    from polycycle.files import write_text
    from polycycle.report import export_card, model_card, write_report
    from polycycle.results import save_result

    save_result(result, run_folder / "result.json")
    write_text(Path(result.final.folder) / "README.md", model_card(result))
    if result.export is not None:
        write_text(Path(result.export.folder) / "README.md", export_card(result.export, run=result))
    return write_report(result, run_folder / "report")
