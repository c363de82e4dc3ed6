"""`polycycle delta`: what post-training changed, saved once."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polycycle.cli.app import out as screen
from polycycle.cli.app import print_json, refuse_existing, tell, verb
from polycycle.cli.upcycle import bytes_bar
from polycycle.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from polycycle.surgery import DeltaNorms

_DTYPES = ("float32", "bfloat16", "float16")
_PAGE = "norms.html"
_SHOWN = 5


@verb("delta", "Steps")
def delta(
    base: Annotated[str, typer.Argument(help="The dense base: a folder or a hub id.")],
    post: Annotated[str, typer.Argument(help="The model post-trained from it: folder or hub id.")],
    out: Annotated[Path, typer.Option(help="Folder to write; must be new.")],
    dtype: Annotated[
        str | None,
        typer.Option(help="Store in fewer bits: float32, bfloat16 or float16. Exact without it."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the norms as JSON.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")] = False,
) -> None:
    """Save POST − BASE once, for `graft --post OUT`, with a table and a plot of its norms.

    Stored one precision wider than the weights, so twice POST's size: base + delta is POST again.
    With --dtype it is smaller, and the error that makes is told. OUT/norms.html shows how far each
    tensor was moved.
    """
    from polycycle.checkpoint import open_checkpoint
    from polycycle.files import write_text
    from polycycle.report import delta_page
    from polycycle.surgery import save_delta

    narrow = _dtype(dtype)
    refuse_existing(out, may_exist=force)
    siblings = open_checkpoint(base), open_checkpoint(post)
    size = 2 * sum(info.num_bytes for info in siblings[1].tensors.values())
    with bytes_bar("subtracting", size) as progress:
        norms = save_delta(*siblings, out, dtype=narrow, progress=progress)
    write_text(out / _PAGE, delta_page(norms.to_json()))
    if as_json:
        print_json(norms.to_json())
    else:
        _show(norms)
    tell(f"wrote {out}; open {out / _PAGE} for all tensors")


def _dtype(name: str | None) -> "torch.dtype | None":
    if name is None:
        return None
    if name not in _DTYPES:
        raise ConfigError(f"--dtype {name!r}: choose {', '.join(_DTYPES)}, or leave it out")
    import torch

    chosen: torch.dtype = getattr(torch, name)
    return chosen


def _show(norms: "DeltaNorms") -> None:
    from rich.table import Table

    screen.print(
        f"Post-training moved the weights by {100 * norms.relative:.3g}% of their norm. Stored as "
        f"{norms.stored_as}: rounding changed the delta by {100 * norms.rounding_error:.3g}%, and "
        f"base + delta differs from POST in {100 * norms.inexact_share:.3g}% of the elements."
    )
    table = Table(f"most moved {_SHOWN} of {len(norms.tensors)} tensors", "% of its norm")
    moved = sorted(norms.tensors, key=lambda one: -(one.relative or 0.0))
    for one in moved[:_SHOWN]:
        table.add_row(one.name, f"{100 * (one.relative or 0.0):.3g}")
    screen.print(table)
