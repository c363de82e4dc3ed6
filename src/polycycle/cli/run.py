"""`polycycle run`, and its parts `post-pretrain` and `review`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from polycycle.cli.app import out, tell, verb
from polycycle.cli.forecast import show_plan
from polycycle.cli.publishing import publish

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, in YAML.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting: --set data.root=/text"),
]


@verb("run", "Whole runs")
def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what it would cost (= polycycle plan).")
    ] = False,
) -> None:
    """Carry out a recipe: upcycle, post-pretrain, review, graft, evaluate, export, report.

    Each stage writes one folder; what is done and unchanged is skipped. Stop it at any moment, the
    same command goes on.
    """
    if dry_run:
        show_plan(recipe, overrides or [], probe=False, as_json=False)
        return
    carry_out(recipe, overrides or [], until="end")


@verb("post-pretrain", "Steps")
def post_pretrain(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Carry out a recipe up to post-pretraining: new experts learn the expanded languages."""
    carry_out(recipe, overrides or [], until="post_pretrain")


@verb("review", "Steps")
def review(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Carry out a recipe up to review: routers send original languages back to expert 0."""
    carry_out(recipe, overrides or [], until="review")


def carry_out(
    path: Path, overrides: list[str], *, until: Literal["post_pretrain", "review", "end"]
) -> None:
    """Run a recipe and show what came out."""
    from polycycle.config import load_recipe

    recipe = load_recipe(path, overrides)
    from polycycle.ranks import is_first_rank, leave_ranks
    from polycycle.report import terminal_table
    from polycycle.results import with_benchmarks
    from polycycle.stages import run_recipe

    result = run_recipe(recipe, tell, until=until)
    leave_ranks()
    if not is_first_rank():
        return
    result = with_benchmarks(result, recipe.output)
    page = publish(result, recipe.output)
    out.print(terminal_table(result), soft_wrap=False)  # tables and sentences wrap
    tell(f"model:  {result.final.folder}")
    if result.export is not None:
        tell(
            f"export: {result.export.folder} ({result.export.target}, proved on "
            f"{result.export.compared_on})"
        )
    tell(f"report: {page}")
