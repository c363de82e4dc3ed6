"""`polycycle grow`: a second group of languages on top of the first."""

from pathlib import Path
from typing import Annotated

import typer

from polycycle.cli.app import refuse_existing, tell, verb
from polycycle.cli.upcycle import bytes_bar, check_init, parse_counts, parse_experts, print_jobs


@verb("grow", "Steps")
def grow(
    model: Annotated[str, typer.Argument(help="An upcycled model: a folder or a hub id.")],
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write; must be new.")],
    new_experts: Annotated[
        str,
        typer.Option(
            help="Experts to add: 2 to every layer, or 2,0,1,… per layer, or the file that "
            "`polycycle allocate --out` wrote (its counts less expert 0)."
        ),
    ],
    languages: Annotated[
        str, typer.Option(help="Languages of the new group, for its config: bn,hi,ne.")
    ] = "",
    init: Annotated[str, typer.Option(help="New experts: `copy`, or `random`.")] = "copy",
    copy_from: Annotated[
        str, typer.Option(help="The expert to copy: 0, the original, or per layer 0,2,1,…")
    ] = "0",
    redraw_routers: Annotated[
        bool,
        typer.Option(
            "--redraw-routers",
            help="Draw all routers anew, as LayerMoE's released code does. What the model routes "
            "today is forgotten; without this, earlier groups keep their rows.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the new router rows (and random experts).")] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan as JSON only.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")] = False,
) -> None:
    """Append experts for another group of languages to an upcycled model.

    Everything that is there stays bit for bit, and so does what the model computes: the new group
    is masked until its training begins. (Only --redraw-routers changes that.)
    """
    from polycycle.checkpoint import open_checkpoint
    from polycycle.surgery import execute_growth, plan_growth

    counts = parse_experts("--new-experts", new_experts)
    if new_experts.endswith(".json") and not isinstance(counts, int):
        counts = tuple(count - 1 for count in counts)
    check_init(init)
    refuse_existing(folder, may_exist=force or dry_run)
    plan = plan_growth(
        open_checkpoint(model),
        new_experts=counts,
        languages=[tag.strip() for tag in languages.split(",") if tag.strip()],
        init=init,  # type: ignore[arg-type]
        copy_from=parse_counts("--copy-from", copy_from),
        redraw_routers=redraw_routers,
        seed=seed,
    )
    if dry_run:
        print_jobs(plan.jobs)
        return
    with bytes_bar("growing", plan.num_bytes) as progress:
        execute_growth(plan, folder, progress=progress)
    tell(
        f"wrote {folder}: group {plan.group}, experts per layer "
        f"{plan.config['num_experts_per_layer']}, {plan.num_bytes / 1e9:.2f} GB"
    )
