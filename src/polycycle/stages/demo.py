"""What the demo starts from: texts, a base, and a recipe, side by side in one folder."""

from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

from polycycle.files import write_text
from polycycle.microworld import GROUP_1, ORIGINAL, UNSEEN_ORIGINAL, write_microworld
from polycycle.stages.base import build_base, build_sibling, copy_base

SIBLING = "brackets"
"""The instruction format of the sibling that the demo grafts."""
_REPLAYED, _UNSEEN, _EXPANDED = 3200, 10, 22_000  # documents


def write_demo(
    folder: Path,
    *,
    seed: int,
    tell: Callable[[str], None],
    expanded: Sequence[str] = GROUP_1,
    unseen: Sequence[str] = UNSEEN_ORIGINAL,
    siblings: Sequence[str] = (SIBLING,),
) -> Path:
    """Write `world/`, `base/`, its siblings and `recipe.yaml`; what is there already stays.

    Args:
        folder: of the demo.
        seed: of the texts.
        tell: where notes go.
        expanded: languages of the world that are to be learned.
        unseen: languages that are measured alone, unless they are to be learned, too.
        siblings: instruction formats; for each the base is post-trained, to a folder of that name.

    Returns:
        The recipe's path.
    """
    world = folder / "world"
    if not world.is_dir():
        tell(f"writing the microworld to {world}")
        counts = {
            **dict.fromkeys(ORIGINAL, _REPLAYED),
            **dict.fromkeys(unseen, _UNSEEN),
            **dict.fromkeys(expanded, _EXPANDED),
        }
        write_microworld(world, seed=seed, languages=tuple(counts), num_documents=counts)
    if not (folder / "base").is_dir():
        tell(f"putting the dense base into {folder / 'base'}")
        copy_base(folder / "base")
    write_siblings(folder, folder / "base", siblings, seed=seed, tell=tell)
    recipe = folder / "recipe.yaml"
    text = (files("polycycle.microworld") / "demo.yaml").read_text(encoding="utf-8")
    write_text(recipe, text)
    return recipe


def write_base(folder: Path, family: str, *, tell: Callable[[str], None]) -> None:
    """Train a base of another family to `folder`, with the seed of the shipped one; once."""
    if not folder.is_dir():
        tell(f"training a {family} base to {folder}: some minutes")
        build_base(folder, family=family)


def write_siblings(
    folder: Path, base: Path, forms: Sequence[str], *, seed: int, tell: Callable[[str], None]
) -> None:
    """Post-train a base on each instruction format, to a folder of that name; once."""
    for form in forms:
        if not (folder / form).is_dir():
            tell(
                f"post-training a sibling of the base to {folder / form}: it learns to answer "
                "instructions, in original languages only"
            )
            build_sibling(folder / form, base, form=form, seed=seed)
