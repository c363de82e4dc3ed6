"""`polycycle microworld`: the built-in world as files, and its base."""

from pathlib import Path
from typing import Annotated

import typer

from polycycle.cli.app import tell, verb
from polycycle.errors import ConfigError


@verb("microworld", "About")
def microworld(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    num_documents: Annotated[int, typer.Option(help="Training documents per language.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of the documents, or of the base.")] = 0,
    base: Annotated[
        bool,
        typer.Option("--base", help="Train the dense base (some minutes) instead of writing text."),
    ] = False,
    sibling: Annotated[
        str | None,
        typer.Option(
            metavar="FORMAT",
            help="Post-train --of on an instruction format, in original languages only: brackets "
            "asks [so?] and is answered (so), equation asks <so?> and is answered = so.",
        ),
    ] = None,
    of: Annotated[
        Path | None,
        typer.Option(metavar="BASE", help="The base of a sibling; the shipped one by default."),
    ] = None,
) -> None:
    """Write the built-in parallel world, train the dense base that knows it, or a sibling of it.

    polycycle microworld world
    polycycle microworld my-base --base
    polycycle microworld my-chat --sibling brackets --of my-base
    """
    if of is not None and sibling is None:
        raise ConfigError("--of names the base of a --sibling; give its format, too")
    if base and sibling is not None:
        raise ConfigError("--base and --sibling are two models; make one after the other")
    if sibling is not None:
        from polycycle.stages import build_sibling, shipped_base

        known = of or shipped_base()
        if known is None:
            raise ConfigError(
                "no base ships with this copy of polycycle; train one with "
                "`polycycle microworld BASE --base`, then add --of BASE"
            )
        build_sibling(folder, known, form=sibling, seed=seed)
    elif base:
        from polycycle.stages import build_base

        build_base(folder, seed=seed)
    else:
        from polycycle.microworld import write_microworld

        write_microworld(folder, seed=seed, num_documents=num_documents)
    tell(f"wrote {folder}")
