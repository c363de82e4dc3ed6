"""`polycycle demo`: the whole story on the built-in world."""

import json
from pathlib import Path
from typing import Annotated

import typer

from polycycle.cli.app import tell, verb


@verb("demo", "Whole runs")
def demo(
    folder: Annotated[
        Path, typer.Option("--out", help="Where everything goes; an unfinished demo goes on.")
    ] = Path("polycycle-demo"),
    seed: Annotated[int, typer.Option(help="Of texts, data order and initialisation.")] = 0,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the demo's recipe."),
    ] = None,
) -> None:
    """Teach a tiny model Greek, Hungarian and Turkish, in minutes on a CPU, without a download.

    Writes a small parallel world and a dense base that knows it in five languages, upcycles the
    base, trains new experts, reviews the routers, grafts in what a sibling of the base learned by
    post-training, exports a stock model that computes the same, and reports what was gained and
    kept.
    """
    from polycycle.cli.run import carry_out
    from polycycle.stages import SIBLING, write_demo

    recipe = write_demo(folder, seed=seed, tell=tell)
    places = {
        "base": folder / "base",
        "graft.post": folder / SIBLING,
        "data.root": folder / "world",
        "output": folder / "run",
    }
    # In quotes, because a value is YAML, which makes of a folder `[el]` a list.
    quoted = {key: json.dumps(str(path), ensure_ascii=False) for key, path in places.items()}
    settings = [f"{key}={path}" for key, path in quoted.items()]
    carry_out(recipe, [*settings, f"seed={seed}", *(overrides or [])], until="end")
