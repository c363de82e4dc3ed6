"""`polycycle inspect`: what a model folder holds."""

import json
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polycycle.cli.app import out, print_json, verb

if TYPE_CHECKING:
    from polycycle.surgery import Inspection


@verb("inspect", "Steps")
def inspect(
    path: Annotated[str, typer.Argument(help="A dense or upcycled model: folder or hub id.")],
    revision: Annotated[str | None, typer.Option(help="Commit, branch or tag of a hub id.")] = None,
    with_hash: Annotated[
        bool, typer.Option("--hash", help="Read all weights and compute a dense model's hash.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Say what is in a model: family, parameters, experts per layer, base, export targets."""
    from rich.table import Table

    from polycycle.checkpoint import open_checkpoint
    from polycycle.surgery import inspect_checkpoint

    seen = inspect_checkpoint(open_checkpoint(path, revision=revision), with_hash=with_hash)
    if as_json:
        print_json(seen.to_json())
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    kind = "upcycled" if seen.is_upcycled else "dense"
    rows = {
        "model": f"{kind} {seen.family}{_lora_experts(seen.lora_experts)}",
        "parameters": f"{seen.parameters_total:,} in all, {seen.parameters_active:,} per token",
        "dtypes": ", ".join(f"{dtype} {count:,}" for dtype, count in seen.dtypes.items()),
        "experts": _experts(seen.num_experts_per_layer, seen.num_experts_per_tok),
        **_groups(seen),
        **_judges(seen),
        **({"assigned": _assigned(seen.expert_languages)} if seen.expert_languages else {}),
        **{
            f"trained in {stage.replace('_', '-')}": f"{count:,}"
            for stage, count in seen.parameters_trainable.items()
        },
        "base": _base(seen),
        "base hash": seen.base_hash or _why_no_hash(seen),
        **({"grafted": _grafted(seen.grafts)} if seen.grafts else {}),
        "languages": json.dumps(seen.language_groups) if seen.language_groups else "not recorded",
        "tokenizer": "yes" if seen.has_tokenizer else "none in the folder",
        "can be exported to": ", ".join(seen.export_targets) or "no stock architecture",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    out.print(table)


def _groups(seen: "Inspection") -> dict[str, str]:
    """What each language group brought, where there are several."""
    if len(seen.new_experts_by_group) < 2:
        return {}
    return {
        f"new in g{number}": f"{counts}{_masked(f'g{number}', seen.masked_groups)}"
        for number, counts in enumerate(seen.new_experts_by_group, start=1)
    }


def _masked(group: str, masked: list[str]) -> str:
    return ", masked until it is trained" if group in masked else ""


def _judges(seen: "Inspection") -> dict[str, str]:
    """Language classifiers and the retention gate, where there are any."""
    rows = {}
    if seen.classifier_layers:
        rows["language classifiers"] = f"on layers {', '.join(map(str, seen.classifier_layers))}"
    if seen.exact_retention:
        rows["exact retention"] = "a gate before the first mixture layer"
    return rows


def _base(seen: "Inspection") -> str:
    if seen.no_reference:
        return f"no dense model any more: {seen.no_reference} (made from {seen.base_model})"
    return seen.base_model or ("itself" if not seen.is_upcycled else "not recorded")


def _lora_experts(count: int) -> str:
    return f" with {count} LoRA experts beside each feed-forward map (LoRAMoE)" if count else ""


def _why_no_hash(seen: "Inspection") -> str:
    return "none" if seen.no_reference else "not computed (--hash)"


def _grafted(grafts: list[dict[str, Any]]) -> str:
    """Every graft in order: what was added, and to which tensors."""
    return "; ".join(
        " + ".join(f"{one['scale']:g} × ({one['post']} − {graft['base']})" for one in added)
        + f" on {graft['on']}"
        for graft in grafts
        for added in [graft["deltas"]]
    )


def _experts(counts: list[int], top_k: int) -> str:
    if set(counts) == {1}:
        return f"none ({len(counts)} dense layers)"
    shown = f"{counts[0]} in each of {len(counts)} layers" if len(set(counts)) == 1 else str(counts)
    return f"{shown}, {top_k} per token"


def _assigned(layers: list[list[list[str]]]) -> str:
    """Whose each expert is, layers that are alike together; dense ones are left out."""
    alike: dict[str, list[int]] = {}
    for index, experts in enumerate(layers):
        if len(experts) > 1:
            alike.setdefault(_owners(experts[1:]), []).append(index)
    return "; ".join(
        f"layer{'s' if len(where) > 1 else ''} {_ranges(where)}: {what}"
        for what, where in alike.items()
    )


def _owners(new_experts: list[list[str]]) -> str:
    """`el 1-2, hu 3, all 4-5`: experts next to each other with the same languages, together."""
    shown = []
    for tags, places in groupby(range(len(new_experts)), key=new_experts.__getitem__):
        shown.append(f"{'+'.join(tags) or 'all'} {_ranges([place + 1 for place in places])}")
    return ", ".join(shown)


def _ranges(numbers: Sequence[int]) -> str:
    """`0, 2-4` for 0, 2, 3 and 4."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
