"""`polycycle upcycle`: dense checkpoint in, mixture of experts out."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polycycle.cli.app import err, print_json, refuse_existing, tell, verb
from polycycle.errors import ConfigError

if TYPE_CHECKING:
    from polycycle.checkpoint import TensorJob


@verb("upcycle", "Steps")
def upcycle(
    dense: Annotated[str, typer.Argument(help="The dense model: a folder or a hub id.")],
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write; must be new.")],
    num_experts: Annotated[
        str,
        typer.Option(
            help="Experts per layer with the frozen original: 6, or 2,4,6,… per layer, or the file "
            "that `polycycle allocate --out` wrote."
        ),
    ] = "6",
    top_k: Annotated[int, typer.Option(help="Experts per token.")] = 2,
    renormalize: Annotated[
        bool, typer.Option(help="Scale the chosen experts' weights to sum to one.")
    ] = True,
    init: Annotated[
        str, typer.Option(help="New experts: `copy` of the original, or `random`.")
    ] = "copy",
    seed: Annotated[int, typer.Option(help="Of the routers (and random experts).")] = 0,
    revision: Annotated[str | None, typer.Option(help="Commit, branch or tag of a hub id.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan as JSON only.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")] = False,
) -> None:
    """Turn every feed-forward block of a dense model into a mixture of experts.

    Expert 0 is the original block; the others start as copies of it, so the result computes what
    the dense model computes. Works tensor by tensor: memory for the largest tensor is enough.
    """
    from polycycle.checkpoint import open_checkpoint
    from polycycle.surgery import execute_upcycle, plan_upcycle

    counts = parse_experts("--num-experts", num_experts)
    check_init(init)
    refuse_existing(folder, may_exist=force or dry_run)
    checkpoint = open_checkpoint(dense, revision=revision)
    plan = plan_upcycle(
        checkpoint,
        num_experts=counts,
        top_k=top_k,
        renormalize=renormalize,
        init=init,  # type: ignore[arg-type]
        seed=seed,
    )
    if dry_run:
        print_jobs(plan.jobs)
        return
    with bytes_bar("upcycling", plan.num_bytes) as progress:
        execute_upcycle(plan, folder, progress=progress)
    if not checkpoint.has_tokenizer:
        tell(f"note: {dense} has no tokenizer, so {folder} has none either; training needs one")
    tell(f"wrote {folder}: {len(plan.jobs)} tensors, {plan.num_bytes / 1e9:.2f} GB")


def check_init(init: str) -> None:
    """Refuse an --init that there is not.

    Raises:
        ConfigError: naming what there is.
    """
    if init not in ("copy", "random"):
        raise ConfigError(f"--init {init!r}: choose copy or random")


def print_jobs(jobs: Sequence["TensorJob"]) -> None:
    """The tensors that would be written, as JSON on standard output."""
    rows = [{"name": job.name, "dtype": job.dtype, "shape": job.shape} for job in jobs]
    print_json({"bytes": sum(job.num_bytes for job in jobs), "tensors": rows})


@contextmanager
def bytes_bar(doing: str, num_bytes: int) -> Iterator[Callable[["TensorJob"], None]]:
    """A bar on the terminal; the block is given what to call after each tensor."""
    from rich.progress import Progress

    with Progress(console=err, transient=True) as bar:
        task = bar.add_task(doing, total=num_bytes)
        yield lambda job: bar.advance(task, job.num_bytes)


def parse_experts(option: str, text: str) -> int | tuple[int, ...]:
    """As `parse_counts`, or the counts that `polycycle allocate --out` wrote to a .json file.

    Raises:
        ConfigError: naming the option, or the file that holds no allocation.
    """
    if not text.endswith(".json"):
        return parse_counts(option, text)
    try:
        return tuple(json.loads(Path(text).read_text(encoding="utf-8"))["num_experts_per_layer"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{option} {text}: no allocation to read ({type(error).__name__}). Make it: polycycle "
            f"allocate --similarity similarity.json --total-experts … --out {text}"
        ) from error


def parse_counts(option: str, text: str) -> int | tuple[int, ...]:
    """`6` is a number for every layer, `2,4,6,6` one for each.

    Raises:
        ConfigError: naming the option.
    """
    try:
        counts = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(
            f"{option} {text!r}: write one number (6), or one per layer (2,4,6,6)"
        ) from error
    return counts[0] if len(counts) == 1 else counts
