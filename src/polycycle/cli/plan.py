"""`polycycle plan`: what a recipe will cost."""

from typing import Annotated

import typer

from polycycle.cli.app import verb
from polycycle.cli.forecast import show_plan
from polycycle.cli.run import Overrides, RecipePath


@verb("plan", "Whole runs")
def plan(
    recipe: RecipePath,
    overrides: Overrides = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Time ten training steps here to estimate the duration.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Say what a recipe will take: stages, tokens, steps, parameters, memory, disk, time."""
    show_plan(recipe, overrides or [], probe=probe, as_json=as_json)
