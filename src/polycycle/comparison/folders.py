"""No run takes another's place unasked: of the demo, of another recipe, of other settings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from polycycle.comparison.running import Cell, demo_world
from polycycle.config import DEMO, Study, leaves, parse_yaml
from polycycle.errors import ConfigError

_SHOWN_KEYS = 3
_NONE = "not set"


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
        root = Path((_settings(cell) or {})["data"]["root"])
    except (KeyError, TypeError):
        return None
    ending = demo_world(Path(), cell.seed).parts
    return root.parts[-len(ending) :] == ending


def check_results(cells: Sequence[Cell]) -> None:
    """See that no finished run would be made again because its settings are others now.

    Raises:
        ConfigError: some would.
    """
    lost = [
        one for one in cells if one.of is None and one.result_file.is_file() and not one.is_done
    ]
    differing = [(cell, keys) for cell in lost if (keys := _changed(cell))]
    if not differing:
        return
    cell, keys = differing[0]
    more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
    raise ConfigError(
        f"{cell.folder}{more}: finished with other settings than are asked for now: "
        f"{', '.join(keys[:_SHOWN_KEYS])}{', …' if len(keys) > _SHOWN_KEYS else ''}. Give the same "
        "--recipe and --set as then to keep what is there; another folder (--out FOLDER) to have "
        "both; or --anew to make them again, which replaces them"
    )


def _changed(cell: Cell) -> list[str]:
    """`review.tokens: 5 then, 9 now` of each setting that differs but the name."""
    then = _settings(cell)
    if then is None:
        return []
    before, now = leaves(then), leaves(cell.recipe.model_dump(mode="json", exclude_unset=True))
    keys = [key for key in (before | now) if key != "name" and before.get(key) != now.get(key)]
    return [f"{key}: {before.get(key, _NONE)} then, {now.get(key, _NONE)} now" for key in keys]


def _settings(cell: Cell) -> dict[str, Any] | None:
    """What the run in a cell's folder was told; None where nothing says so."""
    if not cell.recipe_file.is_file():
        return None
    try:
        found = parse_yaml(cell.recipe_file.read_text(encoding="utf-8"), where="recipe")
    except (ConfigError, UnicodeDecodeError):
        return None
    return found if isinstance(found, dict) else None
