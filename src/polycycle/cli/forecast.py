"""What a recipe will cost, as `polycycle plan` and `polycycle run --dry-run` print it."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from polycycle.cli.app import out, print_json

if TYPE_CHECKING:
    from polycycle.config import Recipe


def show_plan(path: Path, overrides: list[str], *, probe: bool, as_json: bool) -> None:
    """Print the forecast of a recipe."""
    from rich.table import Table

    from polycycle.config import load_recipe
    from polycycle.stages import plan_run

    recipe = load_recipe(path, overrides)
    planned = plan_run(recipe)
    speed = _probe(recipe) if probe else None
    if as_json:
        print_json({**asdict(planned), "tokens_per_second": speed})
        return
    has_experts = recipe.baseline is None
    experts = f", experts {planned.num_experts_per_layer}" if has_experts else ""
    out.print(
        f"{recipe.name}: {planned.parameters_total:,} parameters in all, "
        f"{planned.parameters_active:,} per token{experts}"
    )
    if has_experts and recipe.experts.similarity_tokens is not None:
        out.print("Experts per layer are a forecast: similarity is measured when the recipe runs.")
    table = Table("stage", "tokens", "steps", "trained parameters", "memory per GPU", "time")
    for stage in planned.stages:
        table.add_row(
            stage.stage,
            "what the documents hold" if stage.tokens is None else f"{stage.tokens:,}",
            "" if stage.steps is None else f"{stage.steps:,}",
            f"{stage.parameters_trainable:,}",
            f"{stage.memory_bytes / 1e9:.1f} GB",
            "--probe tells" if speed is None else _duration(stage.tokens, speed),
        )
    out.print(table)
    out.print(
        f"disk: {planned.disk_bytes / 1e9:.1f} GB, of which a model is "
        f"{planned.checkpoint_bytes / 1e9:.1f} GB. Memory is for a GPU that holds "
        "the whole model (or the process, on a CPU); fsdp spreads it over all GPUs."
    )
    out.print(f"folders: {', '.join(planned.folders)}")


def _probe(recipe: "Recipe") -> float:
    import tempfile

    from polycycle.stages import probe_tokens_per_second

    with tempfile.TemporaryDirectory() as folder:
        return probe_tokens_per_second(recipe, Path(folder) / "moe")


def _duration(tokens: int | None, speed: float) -> str:
    if tokens is None:
        return f"{speed:,.0f} tokens/s"
    hours = tokens / speed / 3600
    return f"{hours:,.1f} h" if hours >= 1 else f"{hours * 60:.1f} min"
