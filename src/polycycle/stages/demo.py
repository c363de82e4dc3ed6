"""What the demo starts from: texts, a base, and a recipe, side by side in one folder."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from polycycle.checkpoint import content_hash, open_checkpoint
from polycycle.errors import ConfigError
from polycycle.files import write_text
from polycycle.microworld import (
    GROUP_1,
    LANGUAGES,
    ORIGINAL,
    UNSEEN_ORIGINAL,
    WORLD_RECORD,
    write_microworld,
)
from polycycle.stages.base import SIBLING_RECORD, build_base, build_sibling, copy_base

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

    To a world that lacks a language, as where a study got a cell more, that language is added.

    Args:
        folder: of the demo.
        seed: of the texts.
        tell: where notes go.
        expanded: languages of the world that are to be learned.
        unseen: languages that are measured alone, unless they are to be learned, too.
        siblings: instruction formats; for each the base is post-trained, to a folder of that name.

    Returns:
        The recipe's path.

    Raises:
        ConfigError: the texts that are there are of another seed, or there is no such language.
    """
    _check_seed(folder / "world", seed)
    counts = {
        **dict.fromkeys(ORIGINAL, _REPLAYED),
        **dict.fromkeys(unseen, _UNSEEN),
        **dict.fromkeys(expanded, _EXPANDED),
    }
    _write_world(folder / "world", counts, seed=seed, tell=tell)
    if not (folder / "base").is_dir():
        tell(f"putting the dense base into {folder / 'base'}")
        copy_base(folder / "base")
    write_siblings(folder, folder / "base", siblings, seed=seed, tell=tell)
    recipe = folder / "recipe.yaml"
    text = (files("polycycle.microworld") / "demo.yaml").read_text(encoding="utf-8")
    write_text(recipe, text)
    return recipe


def _check_seed(world: Path, seed: int) -> None:
    """Texts and siblings that are there stay; those of earlier versions are taken on trust."""
    record = world / WORLD_RECORD
    if not record.is_file():
        return
    found = json.loads(record.read_text(encoding="utf-8"))["seed"]
    if found != seed:
        raise ConfigError(
            f"{world} holds texts of seed {found}, not of seed {seed}. Type --seed {found} to go "
            "on with them, or another --out to start with others"
        )


def _write_world(
    world: Path, counts: Mapping[str, int], *, seed: int, tell: Callable[[str], None]
) -> None:
    """Texts of the languages that have none in `world` yet: so many training documents of each."""
    missing = {
        tag: count
        for tag, count in counts.items()
        if not (world / "train" / f"{tag}.jsonl").is_file()
    }
    if not missing:
        return
    if unknown := [tag for tag in missing if tag not in LANGUAGES]:
        raise ConfigError(
            f"languages: the microworld has no {', '.join(unknown)}; it has "
            f"{', '.join(LANGUAGES)}. For other languages, start from a recipe with text of your "
            "own instead of the demo"
        )
    is_new = not world.is_dir()
    tell(f"writing the microworld to {world}" + ("" if is_new else f": {', '.join(missing)}"))
    written = world if is_new else world.with_name(f".{world.name}.more")
    write_microworld(written, seed=seed, languages=tuple(missing), num_documents=missing)
    if is_new:
        return
    # Training text comes last, for by it a language counts as there.
    for file in sorted(written.rglob("*.jsonl"), key=lambda file: file.parent.name == "train"):
        place = world / file.relative_to(written)
        place.parent.mkdir(exist_ok=True)
        file.replace(place)
    shutil.rmtree(written)


def write_base(folder: Path, family: str, *, tell: Callable[[str], None]) -> None:
    """Train a base of another family to `folder`, with the seed of the shipped one; once."""
    if not folder.is_dir():
        tell(f"training a {family} base to {folder}: some minutes")
        build_base(folder, family=family)


def write_siblings(
    folder: Path, base: Path, forms: Sequence[str], *, seed: int, tell: Callable[[str], None]
) -> None:
    """Post-train a base on each instruction format, to a folder of that name; once.

    Raises:
        ConfigError: a sibling that is there was made of another base than the one that is there.
    """
    for form in forms:
        if (folder / form).is_dir():
            _check_sibling(folder / form, base)
            continue
        tell(
            f"post-training a sibling of the base to {folder / form}: it learns to answer "
            "instructions, in original languages only"
        )
        build_sibling(folder / form, base, form=form, seed=seed)


def _check_sibling(sibling: Path, base: Path) -> None:
    """A base may have been trained anew in its place; one without a record is taken on trust."""
    record = sibling / SIBLING_RECORD
    if not record.is_file():
        return
    made_of = json.loads(record.read_text(encoding="utf-8"))["base_hash"]
    if made_of != content_hash(open_checkpoint(base)):
        raise ConfigError(
            f"{sibling} is a sibling of another base than the one in {base}, which must have "
            f"changed since. Remove {sibling}, and the same command makes it anew"
        )
