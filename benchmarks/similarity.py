"""Similarity of one pair of languages: mean unit vectors against the published pairwise matrices.

    OMP_NUM_THREADS=2 python benchmarks/similarity.py --json similarity_benchmark.json

Both are measured at 10,000 tokens per language, two layers, one pair, on a random Llama, each in a
process of its own; contestants take turns over the repeats. Documents of 500 tokens.

- published: the model runs for the pair; all FFN inputs are kept on the CPU; per layer both are
  normalised, multiplied into one matrix of tokens × tokens, and averaged (LayerMoE's released code;
  in its favour the language-model head is left out here, which it runs too)
- ours: `polycycle.evaluation.mean_unit_vectors`, then `polycycle.allocation.similarity_table`

The figures for 100,000 tokens are **scaled, not measured**, by this law: forward passes, and what
is kept of them, grow with the tokens; the product of two matrices, and its size, with their square;
our memory does not grow. Six languages (three expanded) are 12 pairs: the published code runs the
model 24 times, ours 6 times.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

SCALED_TOKENS = 100_000
PAIRS, LANGUAGES = 12, 6  # three original, three expanded: 9 pairs across, 3 among the expanded
_DOCUMENT_TOKENS = 500


def child(way: str, tokens: int, hidden: int) -> dict[str, Any]:
    """One contestant, once: seconds by part, peak memory beyond the model's, and the result."""
    import resource
    import time

    import numpy as np
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from polycycle.allocation import similarity_table
    from polycycle.evaluation import mean_unit_vectors
    from polycycle.languages import LanguageGroups

    config = AutoConfig.for_model(
        "llama",
        hidden_size=hidden,
        intermediate_size=11 * hidden // 4,
        num_hidden_layers=2,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        vocab_size=8192,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    draw = np.random.default_rng(0)
    pair = [
        [
            draw.integers(4096 * n, 4096 * n + 4096, _DOCUMENT_TOKENS)
            for _ in range(-(-tokens // 500))
        ]
        for n in range(2)
    ]
    with torch.no_grad():
        model.model(input_ids=torch.from_numpy(pair[0][0])[None], use_cache=False)
        before = _resident_bytes()
        started = time.perf_counter()
        if way == "ours":
            means = [mean_unit_vectors(model, documents).numpy() for documents in pair]
            forward = time.perf_counter() - started
            groups = LanguageGroups(original=("en",), expanded=(("el",),))
            table = similarity_table({"en": means[0], "el": means[1]}, groups)
            found = list(table.per_layer)
        else:
            states = [_all_states(model, documents) for documents in pair]
            forward = time.perf_counter() - started
            found = [_all_pairs(*layers) for layers in zip(*states, strict=True)]
        seconds = time.perf_counter() - started
    return {
        "forward_seconds": forward,
        "other_seconds": seconds - forward,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before,
        "per_layer": found,
    }


def _all_states(model: Any, documents: list[Any]) -> list[Any]:
    """FFN inputs [T, D] of every layer, one document at a time."""
    import torch

    kept: list[list[Any]] = [[] for _ in model.model.layers]
    handles = [
        layer.mlp.register_forward_pre_hook(lambda _, args, rows=rows: rows.append(args[0][0]))
        for layer, rows in zip(model.model.layers, kept, strict=True)
    ]
    for document in documents:
        model.model(input_ids=torch.from_numpy(document)[None], use_cache=False)
    for handle in handles:
        handle.remove()
    return [torch.cat(rows) for rows in kept]


def _all_pairs(a: Any, b: Any) -> float:
    a = a / a.norm(dim=1, keepdim=True)
    b = b / b.norm(dim=1, keepdim=True)
    return float((a @ b.T).mean())


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def summarise(runs: dict[str, list[dict[str, Any]]], tokens: int) -> dict[str, Any]:
    """Medians as measured, and the same scaled by the law of the docstring."""

    def median(way: str, key: str) -> float:
        return statistics.median(run[key] for run in runs[way])

    grow = SCALED_TOKENS / tokens
    matrix = 4 * tokens**2
    rest = median("published", "peak_bytes") - matrix
    forward, product = median("published", "forward_seconds"), median("published", "other_seconds")
    ours = median("ours", "forward_seconds") + median("ours", "other_seconds")
    return {
        "measured": {
            "tokens": tokens,
            "published_seconds": forward + product,
            "published_forward_seconds": forward,
            "published_gb": median("published", "peak_bytes") / 1e9,
            "ours_seconds": ours,
            "ours_gb": median("ours", "peak_bytes") / 1e9,
        },
        "scaled": {
            "tokens": SCALED_TOKENS,
            "published_seconds": forward * grow + product * grow**2,
            "published_gb": (rest * grow + matrix * grow**2) / 1e9,
            "ours_seconds": ours * grow,
            "ours_gb": median("ours", "peak_bytes") / 1e9,
        },
        "scaled_six_languages": {
            "tokens": SCALED_TOKENS,
            "published_seconds": PAIRS * (forward * grow + product * grow**2),
            "ours_seconds": LANGUAGES / 2 * ours * grow,
        },
        "largest_difference": max(
            abs(a - b)
            for a, b in zip(
                runs["ours"][0]["per_layer"], runs["published"][0]["per_layer"], strict=True
            )
        ),
    }


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=10_000)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", choices=["published", "ours"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(args.child, args.tokens, args.hidden)))
        return
    runs: dict[str, list[dict[str, Any]]] = {"published": [], "ours": []}
    for _ in range(args.repeats):
        for way, found in runs.items():
            command = [sys.executable, __file__, "--child", way, "--tokens", str(args.tokens)]
            done = subprocess.run(
                [*command, "--hidden", str(args.hidden)], check=True, capture_output=True, text=True
            )
            found.append(json.loads(done.stdout.splitlines()[-1]))
    result = summarise(runs, args.tokens)
    print("| | published, s | ours, s | times | published, GB | ours, GB |")
    print("|---|---|---|---|---|---|")
    for name, row in result.items():
        if not isinstance(row, dict):
            continue
        times = row["published_seconds"] / row["ours_seconds"]
        memory = [f"{row[key]:.2f}" if key in row else "" for key in ("published_gb", "ours_gb")]
        print(
            f"| {name.replace('_', ' ')}, {row['tokens']:,} tokens | "
            f"{row['published_seconds']:.1f} | {row['ours_seconds']:.1f} | {times:.1f} | "
            f"{memory[0]} | {memory[1]} |"
        )
    print(f"largest difference between the two: {result['largest_difference']:.1e}")
    if args.json:
        setting = {
            "hidden": args.hidden,
            "repeats": args.repeats,
            "threads": os.environ.get("OMP_NUM_THREADS"),
            "machine": platform.platform(terse=True),
        }
        args.json.write_text(json.dumps({"setting": setting, **result}, indent=2) + "\n")


if __name__ == "__main__":
    main()
