"""`polycycle pack` and `polycycle unpack`: an expansion without its base, and back."""

from pathlib import Path
from typing import Annotated

import typer

from polycycle.cli.app import refuse_existing, tell, verb

Force = Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")]


@verb("pack", "Steps")
def pack(
    model: Annotated[str, typer.Argument(help="An upcycled model: a folder or a hub id.")],
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write; must be new.")],
    force: Force = False,
) -> None:
    """Save only what an expansion added: experts, routers, classifiers.

    The pack names its base and carries the base's content hash; `polycycle unpack` restores the
    whole model from both, bit for bit.
    """
    from polycycle.surgery import pack as write_pack

    refuse_existing(folder, may_exist=force)
    saved = write_pack(model, folder)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    tell(f"wrote {folder}: {size / 1e6:,.1f} MB; the base's {saved / 1e6:,.1f} MB are left out")


@verb("unpack", "Steps")
def unpack(
    base: Annotated[str, typer.Argument(help="The dense base: a folder or a hub id.")],
    pack_folder: Annotated[str, typer.Argument(metavar="PACK", help="What pack wrote.")],
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write; must be new.")],
    groups: Annotated[
        int | None, typer.Option(help="Keep only the first so many language groups.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Commit, branch or tag of a hub base.")] = (
        None
    ),
    force: Force = False,
) -> None:
    """Put a language pack onto its base; a base with other weights is refused."""
    from polycycle.surgery import unpack as restore

    refuse_existing(folder, may_exist=force)
    restore(base, pack_folder, folder, groups=groups, revision=revision)
    tell(f"wrote {folder}")
