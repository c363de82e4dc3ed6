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
    hidden_size: Annotated[
        int | None,
        typer.Option(help="Of the base, a multiple of 32; by default 160, as the shipped one."),
    ] = None,
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
    if hidden_size is not None and not base:
        raise ConfigError("--hidden-size is that of a base to train; give --base, too")
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
        from polycycle.stages import HIDDEN_SIZE, build_base

        size = HIDDEN_SIZE if hidden_size is None else hidden_size
        build_base(folder, seed=seed, hidden_size=size)
    else:
        from polycycle.microworld import write_microworld

        write_microworld(folder, seed=seed, num_documents=num_documents)
    tell(f"wrote {folder}")
