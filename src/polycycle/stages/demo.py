"""What the demo starts from: texts, a base, and a recipe, side by side in one folder."""

from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

from polycycle.files import write_text
from polycycle.microworld import GROUP_1, ORIGINAL, UNSEEN_ORIGINAL, write_microworld
from polycycle.stages.base import copy_base

_REPLAYED, _UNSEEN, _EXPANDED = 2500, 10, 20_000  # documents


def write_demo(
    folder: Path,
    *,
    seed: int,
    tell: Callable[[str], None],
    expanded: Sequence[str] = GROUP_1,
) -> Path:
    """Write `world/`, `base/` and `recipe.yaml`; what is there already stays.

    Args:
        folder: of the demo.
        seed: of the texts.
        tell: where notes go.
        expanded: languages of the world that the base hardly knows.

    Returns:
        The recipe's path.
    """
    world = folder / "world"
    if not world.is_dir():
        tell(f"writing the microworld to {world}")
        counts = {
            **dict.fromkeys(ORIGINAL, _REPLAYED),
            **dict.fromkeys(UNSEEN_ORIGINAL, _UNSEEN),
            **dict.fromkeys(expanded, _EXPANDED),
        }
        write_microworld(world, seed=seed, languages=tuple(counts), num_documents=counts)
    if not (folder / "base").is_dir():
        tell(f"putting the dense base into {folder / 'base'}")
        copy_base(folder / "base")
    recipe = folder / "recipe.yaml"
    text = (files("polycycle.microworld") / "demo.yaml").read_text(encoding="utf-8")
    write_text(recipe, text)
    return recipe
