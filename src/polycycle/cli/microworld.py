"""`polycycle microworld`: the built-in world as files, and its base."""

from pathlib import Path
from typing import Annotated

import typer

from polycycle.cli.app import tell, verb


@verb("microworld", "About")
def microworld(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    num_documents: Annotated[int, typer.Option(help="Training documents per language.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of the documents, or of the base.")] = 0,
    base: Annotated[
        bool,
        typer.Option("--base", help="Train the dense base (some minutes) instead of writing text."),
    ] = False,
) -> None:
    """Write the built-in parallel world, or train the small dense base that knows it."""
    if base:
        from polycycle.stages import build_base

        build_base(folder, seed=seed)
    else:
        from polycycle.microworld import write_microworld

        write_microworld(folder, seed=seed, num_documents=num_documents)
    tell(f"wrote {folder}")
