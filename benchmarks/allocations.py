"""LayerMoE's question at demo scale: where should the experts stand, and how many are needed?

    python benchmarks/allocations.py --out runs/allocations --json benchmarks/allocations.json

Runs the demo (`polycycle demo`) once per allocation and seed, about four minutes each on two CPU
cores. A run that is complete is not run again, an interrupted one goes on; a run that fails is
listed as failed, and the others go on. All allocations but the first and the last add eight new
experts, 40 % of the first one's.
"""

import argparse
import itertools
import json
import random
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

TOTAL_EXPERTS = 12  # 8 new ones in 4 layers: 40 % of the 20 that six experts everywhere add
LAYERMOE = "experts.allocation={share_of_uniform: 0.4, tokens_per_language: 20000}"
CELLS = {
    "uniform, 6 experts": ["experts.num_experts=6"],
    "LayerMoE": ["experts.num_experts=6", LAYERMOE],
    "uniform, 3 experts": ["experts.num_experts=3"],
    "inverted": ["experts.num_experts=[2,4,4,2]"],
    "LayerMoE, classifier on 2 layers": [
        "experts.num_experts=6",
        LAYERMOE,
        "experts.classifier={layers: 2}",
    ],
    "random": [],  # another list for each seed
    "MoLA-style": ["experts.num_experts=[2,2,3,5]"],
    # Layer 0 stays dense; the rest by LayerMoE's rule, or alike with one expert more in all.
    "LayerMoE, layer 0 dense": ["experts.num_experts=[1,2,2,7]"],
    "uniform, layer 0 dense": ["experts.num_experts=[1,4,4,4]"],
}
GROUPS = {
    "original": ("en", "zh", "es"),
    "unseen": ("fr", "pt"),
    "expanded": ("el", "hu", "tr"),
}


def random_allocation(seed: int) -> list[int]:
    """Experts per layer, drawn evenly from all lists of the same total with 2 or more a layer."""
    spare = TOTAL_EXPERTS - 2 * 4
    cuts = sorted(random.Random(seed).sample(range(spare + 3), 3))
    bounds = [-1, *cuts, spare + 3]
    return [2 + right - left - 1 for left, right in itertools.pairwise(bounds)]


def run_cell(folder: Path, cell: str, seed: int) -> dict[str, Any]:
    """Run the demo with this allocation, unless its report is there; what the report says."""
    home = folder / f"seed-{seed}"
    run = home / "runs" / cell.replace(",", "").replace(" ", "-").lower()
    report = run / "report/report.json"
    if not report.is_file():
        settings = CELLS[cell] or [f"experts.num_experts={random_allocation(seed)}"]
        command = [sys.executable, "-m", "polycycle", "demo", "--seed", str(seed)]
        command += ["--out", str(home)]
        for setting in (f"output={run}", *settings):
            command += ["--set", setting]
        run.parent.mkdir(parents=True, exist_ok=True)
        with run.with_suffix(".log").open("w") as log:
            code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
        if code != 0:
            return {"cell": cell, "seed": seed, "failed": f"exit code {code}, {log.name}"}
    return {"cell": cell, "seed": seed, **_figures(json.loads(report.read_text()))}


def _figures(report: dict[str, Any]) -> dict[str, Any]:
    models = {model["name"]: model for model in report["models"]}
    base, final = models[report["models"][0]["name"]], report["models"][-1]
    found: dict[str, Any] = {
        "num_experts_per_layer": final["routing"]["num_experts"],
        "parameters_total": final["parameters_total"],
        "seconds": sum(cost["seconds"] for cost in report["costs"]),
        "per_language": {},
    }
    for name, model in models.items():
        found["per_language"][name] = {
            language: score["accuracy"] for language, score in model["scores"].items()
        }
    for group, languages in GROUPS.items():
        for name, model in (("before", base), ("after", final)):
            found[f"{group}_{name}"] = statistics.mean(
                model["scores"][language]["accuracy"] for language in languages
            )
    return found


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown: mean ± standard deviation over the seeds that are there."""
    lines = [
        "| allocation | experts | kept en, zh, es | kept fr, pt | el, hu, tr | seeds |",
        "|---|---|---|---|---|---|",
    ]
    for cell in CELLS:
        done = [row for row in rows if row["cell"] == cell and "failed" not in row]
        failed = [row for row in rows if row["cell"] == cell and "failed" in row]
        if done:
            counts = {tuple(row["num_experts_per_layer"]) for row in done}
            counts_text = " / ".join(" ".join(map(str, count)) for count in sorted(counts))
            kept = [_spread(done, group, relative=True) for group in ("original", "unseen")]
            gained = _spread(done, "expanded", relative=False)
            lines.append(
                f"| {cell} | {counts_text} | {kept[0]} | {kept[1]} | {gained} | {len(done)} |"
            )
        lines += [f"| {cell} | failed: {row['failed']} | | | | {row['seed']} |" for row in failed]
        if not done and not failed:
            lines.append(f"| {cell} | not run | | | | 0 |")
    return lines


def _spread(rows: list[dict[str, Any]], group: str, *, relative: bool) -> str:
    values = [
        100 * row[f"{group}_after"] / (row[f"{group}_before"] if relative else 1.0) for row in rows
    ]
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


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
