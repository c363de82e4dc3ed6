"""Runs of the demo and runs on another recipe stand in folders of their own."""

from collections.abc import Sequence
from pathlib import Path

from polycycle.comparison.running import Cell, demo_world
from polycycle.config import DEMO, Study, parse_yaml
from polycycle.errors import ConfigError


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
    if not cell.recipe_file.is_file():
        return None
    try:
        settings = parse_yaml(cell.recipe_file.read_text(encoding="utf-8"), where="recipe")
        root = Path(settings["data"]["root"])
    except (ConfigError, UnicodeDecodeError, KeyError, TypeError):
        return None
    ending = demo_world(Path(), cell.seed).parts
    return root.parts[-len(ending) :] == ending
