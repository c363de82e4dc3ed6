"""How fast the models of a study read and write, measured once for each cell that is done."""

from collections.abc import Callable, Sequence

from pydantic import ValidationError

from polycycle.comparison.running import Cell
from polycycle.config import Study
from polycycle.errors import PolycycleError
from polycycle.files import write_json
from polycycle.results import ModelScores, ModelSpeed, RunResult, load_result
from polycycle.stages import measure_speed


def measure_speeds(study: Study, cells: Sequence[Cell], *, tell: Callable[[str], None]) -> None:
    """Measure each finished cell's model against its base; what was measured is not repeated.

    A model that cannot be measured is told, and the rest goes on.
    """
    for cell in cells:
        if not cell.is_done:
            continue
        try:
            result = load_result(cell.result_file)
        except PolycycleError:
            continue  # the table says what is wrong with it
        model = shown_model(cell, result)
        if model is None or speed_of(cell, result) is not None:
            continue
        what = f"speed of {study.title_of(cell.name)}, seed {cell.seed}"
        tell(f"{what} …")
        try:
            speed = measure_speed(cell.recipe, model.folder)
        except (PolycycleError, OSError, RuntimeError) as error:
            tell(f"    not measured: {error}")
            continue
        write_json(cell.speed_file, speed.model_dump(mode="json"))


def shown_model(cell: Cell, result: RunResult) -> ModelScores | None:
    """What a cell stands for: the run's last model, or the one that it names; None if none is."""
    if cell.model is None:
        return result.final
    return next((one for one in result.models if one.name == cell.model), None)


def speed_of(cell: Cell, result: RunResult) -> ModelSpeed | None:
    """What was measured of the cell's model; None if nothing was, or of other weights."""
    model = shown_model(cell, result)
    try:
        found = ModelSpeed.model_validate_json(cell.speed_file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValidationError):  # never measured, or by another version
        return None
    hashes = (found.content_hash, found.base_hash)
    is_of_it = model is not None and hashes == (model.content_hash, result.models[0].content_hash)
    return found if is_of_it else None
