"""No run takes another's place unasked: of the demo, of another recipe, of other settings."""

from collections.abc import Sequence
from pathlib import Path

from polycycle.comparison.running import Cell, demo_world
from polycycle.config import DEMO, Study
from polycycle.errors import ConfigError

_SHOWN_KEYS = 3


def check_folder(study: Study, cells: Sequence[Cell]) -> None:
    """See that no run of one size would take the place of one of the other.

    A run is made anew where its recipe is another one: a command without its `--recipe` could so
    replace days of training by minutes.

    Raises:
        ConfigError: the study's folder holds runs of the other size.
    """
    is_demo = study.recipe == DEMO
    for cell in cells:
        was_demo = _was_of_the_demo(cell)
        if was_demo is not None and was_demo != is_demo:
            held = "the demo" if was_demo else "another recipe than the demo"
            asked = "the demo" if is_demo else study.recipe
            again = "Leave --recipe out" if was_demo else "Give the same --recipe as then"
            raise ConfigError(
                f"{study.output} holds runs of {held} ({cell.recipe_file}), and {asked} is asked "
                f"for, whose runs would take their place. {again}, or name another folder: "
                "--out FOLDER"
            )


def _was_of_the_demo(cell: Cell) -> bool | None:
    """Whether the run that a cell's folder holds read the demo's texts; None where none is told."""
    try:
        root = Path((cell.told or {})["data"]["root"])
    except (KeyError, TypeError):
        return None
    ending = demo_world(Path(), cell.seed).parts
    return root.parts[-len(ending) :] == ending


def check_results(cells: Sequence[Cell]) -> None:
    """See that no finished run would be made again because its settings are others now.

    Raises:
        ConfigError: some would.
    """
    own = [cell for cell in cells if cell.of is None and cell.result_file.is_file()]
    differing = [(cell, cell.changes) for cell in own if cell.told is not None and cell.changes]
    if not differing:
        return
    cell, changes = differing[0]
    said = [f"{key}: {then} then, {now} now" for key, (then, now) in changes.items()]
    more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
    raise ConfigError(
        f"{cell.folder}{more}: finished with other settings than are asked for now: "
        f"{', '.join(said[:_SHOWN_KEYS])}{', …' if len(said) > _SHOWN_KEYS else ''}. Give the same "
        "--recipe and --set as then to keep what is there; another folder (--out FOLDER) to have "
        "both; or --anew to make them again, which replaces them"
    )
