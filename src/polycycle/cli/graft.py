"""`polycycle graft` and `polycycle ungraft`: post-training added to every expert, and undone."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polycycle.cli.app import refuse_existing, tell, verb
from polycycle.cli.upcycle import bytes_bar, print_jobs
from polycycle.errors import ConfigError

if TYPE_CHECKING:
    from polycycle.surgery import Delta

_TARGETS = ("all", "shared", "experts", "frozen-expert")


@verb("graft", "Steps")
def graft(
    model: Annotated[
        str, typer.Argument(metavar="MOE", help="An upcycled model: a folder or a hub id.")
    ],
    post: Annotated[
        list[str],
        typer.Option(
            help="The post-trained sibling or a saved delta, POST or POST:scale; several add up."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write; must be new.")],
    base: Annotated[
        str | None,
        typer.Option(help="The dense base of both. A saved delta carries its hash and needs none."),
    ] = None,
    scale: Annotated[float, typer.Option(help="λ of every --post that names none.")] = 1.0,
    on: Annotated[
        str,
        typer.Option(help="What gets the delta: all, shared, experts or frozen-expert."),
    ] = "all",
    keep_ungrafted: Annotated[
        bool,
        typer.Option(
            "--keep-ungrafted", help="Keep the new experts as they were, so that ungraft is exact."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan as JSON only.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Replace OUT if it exists; and take a BASE that is not the model's, with a "
            "warning in the record.",
        ),
    ] = False,
) -> None:
    """Give an upcycled model its base's post-training: MOE + λ (POST − BASE), without any data.

    Embeddings, attention, norms and head get the delta, and so does every expert of a layer;
    routers stay. Chat template and end of text come from POST. A whole graft at scale 1 has POST
    as its base from then on: retention is measured against it, and packs belong to it. Any other
    graft has no dense model to be measured against, and `pack` refuses it.

        polycycle graft runs/x/review --base BASE --post BASE-Instruct --out runs/x/grafted
    """
    from polycycle.checkpoint import open_checkpoint
    from polycycle.surgery import execute_graft, plan_graft

    if on not in _TARGETS:
        raise ConfigError(f"--on {on!r}: choose one of {', '.join(_TARGETS)}")
    refuse_existing(out, may_exist=force or dry_run)
    plan = plan_graft(
        open_checkpoint(model),
        _deltas(post, base, scale),
        on=on,  # type: ignore[arg-type]
        keep_ungrafted=keep_ungrafted,
        force=force,
    )
    if dry_run:
        print_jobs(plan.jobs)
        return
    for warning in plan.warnings:
        tell(f"note: {warning}")
    with bytes_bar("grafting", plan.num_bytes) as progress:
        execute_graft(plan, out, progress=progress)
    record = open_checkpoint(out).config["grafts"][-1]
    reason = record["no_reference"]
    tell(
        f"wrote {out}: {plan.num_bytes / 1e9:.2f} GB; its base is now "
        + (str(plan.deltas[0].name) if reason is None else f"no dense model: {reason}")
    )


@verb("ungraft", "Steps")
def ungraft(
    model: Annotated[
        str, typer.Argument(metavar="GRAFTED", help="A grafted model: a folder or a hub id.")
    ],
    base: Annotated[str, typer.Option(help="The dense base that it was made from.")],
    post: Annotated[list[str], typer.Option(help="Every sibling or saved delta that was grafted.")],
    out: Annotated[Path, typer.Option(help="Folder to write; must be new.")],
    kept: Annotated[
        Path | None,
        typer.Option(help="Folder that --keep-ungrafted left; by default the one in GRAFTED."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")] = False,
) -> None:
    """Take every graft away again.

    What came from BASE is BASE's again, bit for bit. New experts are exact after
    `graft --keep-ungrafted`, else within one rounding per graft. A review after the graft stays.
    """
    from polycycle.checkpoint import open_checkpoint
    from polycycle.surgery import ungraft as take_away

    refuse_existing(out, may_exist=force)
    source = open_checkpoint(model)
    size = sum(info.num_bytes for info in source.tensors.values())
    with bytes_bar("ungrafting", size) as progress:
        done = take_away(
            model,
            open_checkpoint(base),
            _deltas(post, base, 1.0),
            out,
            kept=kept,
            progress=progress,
        )
    exact = "exact" if done["is_exact"] else f"within {done['largest_deviation']:.3g}"
    tell(f"wrote {out}: tensors of the base are exact, new experts {exact}")


def _deltas(posts: list[str], base: str | None, scale: float) -> "list[Delta]":
    from polycycle.checkpoint import open_checkpoint
    from polycycle.surgery import open_delta

    opened = None if base is None else open_checkpoint(base)
    parsed = [parse_post(text, scale) for text in posts]
    return [open_delta(name, base=opened, scale=factor) for name, factor in parsed]


def parse_post(text: str, scale: float) -> tuple[str, float]:
    """`models/post:0.5` is a name and its scale; without one, `scale` counts.

    Raises:
        ConfigError: the scale is no number.
    """
    name, separator, factor = text.rpartition(":")
    if Path(text).exists() or not separator:
        return text, scale
    try:
        value = float(factor)
    except ValueError as error:
        raise ConfigError(f"--post {text!r}: write POST or POST:0.5; {factor!r} is none") from error
    if not math.isfinite(value):
        raise ConfigError(f"--post {text!r}: the scale must be finite")
    return name, value
