"""`polycycle allocate`: from similarities and a budget to experts per layer."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polycycle.cli.app import out, print_json, tell, verb

if TYPE_CHECKING:
    from polycycle.allocation import AllocationPlan


@verb("allocate", "Steps")
def allocate(
    similarity: Annotated[
        Path,
        typer.Option(
            help='What `polycycle similarity` wrote, or {"per_layer": [0.41, 0.38, …]} by hand.'
        ),
    ],
    total_experts: Annotated[
        int | None, typer.Option(help="Budget: experts of all layers, frozen ones included.")
    ] = None,
    new_experts: Annotated[
        int | None, typer.Option(help="Budget: experts that training adds, over all layers.")
    ] = None,
    share_of_uniform: Annotated[
        float | None,
        typer.Option(help="Budget: at most this share of the new experts of N in every layer."),
    ] = None,
    num_experts: Annotated[
        int | None, typer.Option(help="N for --share-of-uniform; 6 when not given (paper).")
    ] = None,
    min_experts: Annotated[
        int | None,
        typer.Option(help="Least per layer; 2 when not given, 1 lets layers stay dense."),
    ] = None,
    max_experts: Annotated[
        int | None, typer.Option(help="Most per layer; no limit when not given.")
    ] = None,
    dense_layers: Annotated[
        str, typer.Option(help="Layers that stay dense whatever their similarity: 0 or 0,1.")
    ] = "",
    export_friendly: Annotated[
        bool,
        typer.Option(
            "--export-friendly",
            help="Give every layer either 1 expert or E, the same for all (E is --max-experts, or "
            "the most the rule gives a layer): stock architectures hold that with nothing lost.",
        ),
    ] = False,
    path: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Also write the JSON to FILE.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Share a budget of experts over the layers: fewer where languages are already similar.

    LayerMoE's rule: N_i = ceil(δ · (1/S_i) / Σ 1/S_j) experts for a layer of similarity S_i, the
    frozen one included, with the largest δ whose sum stays within the budget. Layers of equal
    similarity step together, so a total may be out of reach; what remains is said, not spent.
    Pure arithmetic: neither torch nor the model is loaded.

    Give exactly one budget:

      polycycle allocate --similarity similarity.json --total-experts 84

      polycycle allocate --similarity similarity.json --new-experts 56

      polycycle allocate --similarity similarity.json --share-of-uniform 0.4 --num-experts 6

    The list goes into a recipe as experts.num_experts, or into `polycycle upcycle --num-experts`.
    """
    from polycycle.allocation import (
        allocate_experts,
        allocate_export_friendly,
        read_similarity,
        with_dense_layers,
    )
    from polycycle.errors import ConfigError
    from polycycle.files import write_json

    if num_experts is not None and share_of_uniform is None:
        raise ConfigError(
            f"--num-experts {num_experts} is the yardstick of --share-of-uniform; add "
            "--share-of-uniform 0.4, or drop it"
        )
    if export_friendly and min_experts is not None and min_experts != 1:
        raise ConfigError(
            f"--export-friendly leaves layers dense, which --min-experts {min_experts} forbids; "
            "drop one of the two"
        )
    per_layer = read_similarity(similarity)
    budget = _budget(len(per_layer), total_experts, new_experts, share_of_uniform, num_experts or 6)
    least = 2 if min_experts is None else min_experts
    rule = (
        partial(allocate_export_friendly, max_experts=max_experts)
        if export_friendly
        else partial(allocate_experts, min_experts=least, max_experts=max_experts)
    )
    plan = with_dense_layers(_layers(dense_layers), per_layer, budget, rule)
    if path is not None:
        write_json(path, plan.to_json())
    if as_json:
        print_json(plan.to_json())
        return
    _show(plan)
    if path is not None:
        tell(f"wrote {path}")


def _layers(text: str) -> list[int]:
    from polycycle.errors import ConfigError

    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise ConfigError(
            f"--dense-layers {text!r}: write layers counted from 0, such as 0 or 0,1"
        ) from error


def _budget(
    num_layers: int,
    total_experts: int | None,
    new_experts: int | None,
    share: float | None,
    num_experts: int,
) -> int:
    """The total that was asked for, in one of three ways."""
    from polycycle.allocation import share_of_uniform
    from polycycle.errors import ConfigError

    budgets = {
        "--total-experts": total_experts,
        "--new-experts": new_experts,
        "--share-of-uniform": share,
    }
    given = [option for option, value in budgets.items() if value is not None]
    if len(given) != 1:
        raise ConfigError(
            f"{' and '.join(given) or 'no budget'}: give exactly one of {', '.join(budgets)}, "
            f"for example --total-experts {3 * num_layers}"
        )
    if total_experts is not None:
        return total_experts
    if new_experts is not None:
        return num_layers + new_experts
    assert share is not None
    return share_of_uniform(share, num_layers=num_layers, num_experts=num_experts)


def _show(plan: "AllocationPlan") -> None:
    from rich.table import Table

    table = Table("layer", "similarity", "experts", "", box=None, padding=(0, 2, 0, 0))
    layers = zip(plan.similarity, plan.num_experts_per_layer, strict=True)
    for layer, (similarity, count) in enumerate(layers):
        note = "dense" if count == 1 else "▪" * min(count, 60)
        table.add_row(str(layer), f"{similarity:.4f}", str(count), note)
    out.print(table)
    reached = f"{plan.total_experts} experts in all, {plan.new_experts} of them new"
    if plan.delta is not None:
        reached += f", δ = {plan.delta:.4g}"
    out.print(reached)
    if not plan.meets_budget:
        out.print(f"{plan.budget_experts} cannot be met exactly: {_why(plan)}")
    out.print("num_experts: " + ",".join(map(str, plan.num_experts_per_layer)))


def _why(plan: "AllocationPlan") -> str:
    if plan.next_total_experts is None:
        return f"every layer has the most it may have ({plan.max_experts})"
    return f"the next total the rule can give is {plan.next_total_experts}"
