"""`polycycle compare`: variants of a recipe side by side."""

from pathlib import Path
from typing import Annotated

import typer

from polycycle.cli.app import out, print_json, tell, verb


@verb("compare", "Whole runs")
def compare(
    study_file: Annotated[Path, typer.Argument(metavar="STUDY", help="A study, in YAML.")],
    recipe: Annotated[
        Path | None,
        typer.Option(
            help="Run the study on this recipe instead of its own, say at full size: what it "
            "changes for the demo alone is left out. Without --out, runs go to a folder called "
            "after the study's own and the recipe.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder of all runs, instead of the study's own. One that holds runs of the demo "
            "takes no others, and the other way round.",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a setting of the recipe in all variants; siblings.FORMAT=MODEL is for a "
            "study that names siblings, with --recipe.",
        ),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="CELL", help="Run these variants alone.")
    ] = None,
    seeds: Annotated[
        str, typer.Option(help="Run these seeds alone: 0 or 0,1. The table shows all there are.")
    ] = "",
    jobs: Annotated[
        int,
        typer.Option(
            min=1,
            help="Cells to run at once, where small runs leave a GPU or processors idle. Training "
            "times in the comparison are then those of a shared machine.",
        ),
    ] = 1,
    retry_failed: Annotated[
        bool,
        typer.Option("--retry/--no-retry", help="Whether cells that failed before are run again."),
    ] = True,
    anew: Annotated[
        bool,
        typer.Option(
            "--anew",
            help="Run finished cells again whose settings have changed since, in place of what is "
            "there. Without it they are refused.",
        ),
    ] = False,
    show_only: Annotated[
        bool, typer.Option("--show", help="Run nothing; table and page of what is there.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Run variants of one recipe with several seeds, and set them side by side.

    A study names a recipe and what each variant changes:

      name: how many experts

      recipe: recipe.yaml      # or demo

      output: runs/experts

      seeds: [0, 1, 2]

      cells: {two: {experts.num_experts: 2}, six: {experts.num_experts: 6}}

    Most studies that ship are made for the demo, minutes a cell, and name in their first lines the
    command for full size, with --recipe.

    Every cell is a run of its own; stages that are the same are made once. A finished cell is
    never run again, a failed one is shown with its error while the others go on, and an interrupted
    comparison goes on by the same command.
    """
    from polycycle.comparison import (
        check_folder,
        check_results,
        comparison_page,
        comparison_table,
        measure_speeds,
        plan_cells,
        run_cells,
    )
    from polycycle.comparison import (
        compare as compare_cells,
    )
    from polycycle.config import load_study
    from polycycle.errors import ConfigError, did_you_mean
    from polycycle.files import make_folder, write_json, write_text

    study = load_study(study_file, output, overrides or [], recipe)
    cells = plan_cells(study)
    check_folder(study, cells)
    for name in only or ():
        if name not in study.cells:
            raise ConfigError(f"--only {name}: no such cell.{did_you_mean(name, study.cells)}")
    try:
        wanted = {int(part) for part in seeds.split(",") if part.strip()}
    except ValueError as error:
        raise ConfigError(f"--seeds {seeds!r}: write numbers, such as 0 or 0,1") from error
    # A variant that shows a model of another's run needs that run.
    asked = {one for name in only or study.cells for one in (name, study.run_of(name))}
    named = [cell for cell in cells if cell.name in asked]
    chosen = [cell for cell in named if not wanted or cell.seed in wanted]
    there = {cell.seed for cell in named}
    if unknown := sorted(wanted - there):
        no, known = (", ".join(map(str, one)) for one in (unknown, sorted(there)))
        raise ConfigError(f"--seeds {seeds}: no seed {no}; there are {known}")
    make_folder(study.output)
    if not show_only:
        if not anew:
            check_results(chosen)
        run_cells(study, chosen, tell=tell, retry_failed=retry_failed, jobs=jobs)
        if study.measure_speed:
            measure_speeds(study, chosen, tell=tell)
    found = compare_cells(study, cells)
    write_json(study.output / "comparison.json", found.to_json())
    write_text(study.output / "comparison.html", comparison_page(found))
    if as_json:
        print_json(found.to_json())
        return
    out.print(comparison_table(found), soft_wrap=False)
    tell(f"table: {study.output / 'comparison.json'}")
    tell(f"page:  {study.output / 'comparison.html'}")
