"""A second group of languages at demo scale: what happens to the base's and the first group's?

    python benchmarks/lifelong.py --out runs/lifelong --json benchmarks/lifelong.json

Teaches the microworld's base Greek, Hungarian and Turkish, then Bengali, Hindi and Nepali: in our
form (router rows kept, group prior), in the published form (routers drawn anew, no prior for the
first group), and in our form with uniform layers and 1.5 × the new experts. Some ten minutes each
on two CPU cores. A run that is complete is not run again, an interrupted one goes on; one that
fails is listed as failed, and the others go on.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from polycycle.microworld import GROUP_1, GROUP_2, ORIGINAL, UNSEEN_ORIGINAL, write_microworld
from polycycle.stages import write_demo

LAYERMOE = {
    "experts.num_experts": "6",
    "experts.allocation": "{share_of_uniform: 0.4, tokens_per_language: 20000}",
}
CELLS = {
    "LayerMoE, rows kept, group prior": {**LAYERMOE, "review.prior_form": "group"},
    "LayerMoE, as published": {**LAYERMOE, "experts.growth": "{routers: redraw}"},
    "uniform, 1.5 x new experts": {"experts.num_experts": "4", "review.prior_form": "group"},
}
SHARED = ("cache", "similarity", "upcycle", "post-pretrain", "evaluate-base")
GROUPS = {
    "original": ORIGINAL,
    "unseen": UNSEEN_ORIGINAL,
    "first": GROUP_1,
    "second": GROUP_2,
}


def write_world(home: Path, seed: int) -> Path:
    """Base, texts of all groups, and the demo's recipe with a second group; the recipe's path."""
    world = home / "world"
    if not world.is_dir():
        counts = {
            **dict.fromkeys(ORIGINAL, 2500),
            **dict.fromkeys(UNSEEN_ORIGINAL, 10),
            **dict.fromkeys((*GROUP_1, *GROUP_2), 20_000),
        }
        write_microworld(world, seed=seed, languages=tuple(counts), num_documents=counts)
    return write_demo(home, seed=seed, tell=print)


def run_cell(folder: Path, cell: str, seed: int) -> dict[str, Any]:
    """Run the recipe in this form, unless its report is there; what the report says."""
    home = folder / f"seed-{seed}"
    recipe = write_world(home, seed)
    run = home / "runs" / cell.replace(",", "").replace(" ", "-").lower()
    report = run / "report/report.json"
    if not report.is_file():
        _share_first_stages(home, cell, run)
        settings = {
            "base": home / "base",
            "data.root": home / "world",
            "output": run,
            "seed": seed,
            "languages.expanded": json.dumps([GROUP_1, GROUP_2]),
            "data.train": "train/{language}.jsonl",
            "post_pretrain.tokens": 2_000_000,
            **CELLS[cell],
        }
        command = [sys.executable, "-m", "polycycle", "run", str(recipe)]
        for key, value in settings.items():
            command += ["--set", f"{key}={value}"]
        run.parent.mkdir(parents=True, exist_ok=True)
        with run.with_suffix(".log").open("w") as log:
            code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
        if code != 0:
            return {"cell": cell, "seed": seed, "failed": f"exit code {code}, {log.name}"}
    return {"cell": cell, "seed": seed, **_figures(json.loads(report.read_text()))}


def _share_first_stages(home: Path, cell: str, run: Path) -> None:
    """Both LayerMoE cells begin with the same stages: take them from the one that has them."""
    first = home / "runs" / next(iter(CELLS)).replace(",", "").replace(" ", "-").lower()
    if "LayerMoE" in cell and first.is_dir() and not run.is_dir():
        for stage in SHARED:
            if (first / stage).is_dir():
                shutil.copytree(first / stage, run / stage)


def _figures(report: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "num_experts_per_layer": report["models"][-1]["routing"]["num_experts"],
        "seconds": sum(cost["seconds"] for cost in report["costs"]),
        "accuracy": {},
    }
    for model in report["models"]:
        scores = model["scores"]
        found["accuracy"][model["name"]] = {
            **{tag: score["accuracy"] for tag, score in scores.items()},
            **{
                group: statistics.mean(scores[tag]["accuracy"] for tag in tags)
                for group, tags in GROUPS.items()
            },
        }
    return found


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown: questions answered rightly, in %, after each stage; mean over seeds."""
    lines = [
        "| form | experts | after | en, zh, es | fr, pt | el, hu, tr | bn, hi, ne | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for cell in CELLS:
        done = [row for row in rows if row["cell"] == cell and "failed" not in row]
        for model in done[0]["accuracy"] if done else ():
            counts = " / ".join(" ".join(map(str, row["num_experts_per_layer"])) for row in done)
            shown = [
                f"{100 * statistics.mean(row['accuracy'][model][group] for row in done):.1f}"
                for group in GROUPS
            ]
            lines.append(f"| {cell} | {counts} | {model} | {' | '.join(shown)} | {len(done)} |")
        lines += [
            f"| {cell} | failed: {row['failed']} | | | | | | {row['seed']} |"
            for row in rows
            if row["cell"] == cell and "failed" in row
        ]
    return lines


def main() -> None:
    """Run what is missing, print the table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="where the runs go")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for seed in args.seeds:
        for cell in CELLS:
            rows.append(run_cell(args.out, cell, seed))
            print("\n".join(table(rows)), flush=True)
            if args.json:
                args.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
