"""Every family × target × allocation × dtype: what comes of exporting it.

    python benchmarks/export_matrix.py --json benchmarks/export_matrix.json

Tiny models with random weights (three layers, four experts in the largest, two per token), each
written as the target and compared, in a process without polycycle, with the upcycled model on
4 × 128 random token ids. A cell is what the comparison found, or why the export was refused.
Prints the table as Markdown; `--table FILE` does so from results that are already there.
"""

import argparse
import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from polycycle.errors import ExportError
from polycycle.export import TARGETS, Pair, execute_export, plan_export, verify_all
from polycycle.families import SUPPORTED, family_of_dense
from polycycle.surgery import upcycle

ALLOCATIONS: dict[str, list[int]] = {
    "equal": [4, 4, 4],
    "one layer dense": [4, 1, 4],
    "unequal": [4, 3, 2],
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SHAPE: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.15,
    "eos_token_id": 0,
    "bos_token_id": None,
    "pad_token_id": 1,
}
# What users of a family really have beside the shape.
SETTINGS: dict[str, dict[str, Any]] = {
    "llama": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    },
    "mistral": {"sliding_window": None},
    "mistral with sliding window": {"sliding_window": 8},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 12},
    "olmo2": {},
}
COLUMNS = [(allocation, dtype) for allocation in ALLOCATIONS for dtype in DTYPES]


def save_model(folder: Path, kind: str, counts: list[int], dtype: torch.dtype) -> Path:
    """A random upcycled model, saved by plain `save_pretrained`."""
    settings = {**SHAPE, **SETTINGS[kind]}
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind.split()[0], **settings)
    AutoModelForCausalLM.from_config(config).to(dtype).save_pretrained(folder / "dense")
    upcycle(folder / "dense", folder / "fresh", num_experts=counts, top_k=2, init="random")
    model = AutoModelForCausalLM.from_pretrained(folder / "fresh", dtype="auto")
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".bias") or "norm" in name:  # initial 0 and 1 would hide mistakes
                parameter.add_(0.1 * torch.randn_like(parameter))
            elif ".router.rows." in name:
                parameter.mul_(2)
    model.save_pretrained(folder / "moe")
    return folder / "moe"


def measure(work: Path) -> list[dict[str, Any]]:
    """Every cell of the matrix; one process runs all the exports."""
    cells: list[dict[str, Any]] = []
    pairs: dict[int, Pair] = {}
    for kind in SETTINGS:
        family = family_of_dense({"model_type": kind.split()[0]}, where=kind)
        for allocation, dtype in COLUMNS:
            folder = work / f"{kind}-{allocation}-{dtype}"
            model = save_model(folder, kind, ALLOCATIONS[allocation], DTYPES[dtype])
            for target in family.export_targets:
                cell = {"family": kind, "target": target, "allocation": allocation, "dtype": dtype}
                try:
                    plan = plan_export(model, target=target)
                    execute_export(plan, folder / target, with_verification=False)
                    pairs[len(cells)] = Pair(exported=folder / target, against=model)
                except ExportError as error:
                    reasons = str(error).splitlines()
                    cell["refused"] = next(
                        line.split(": ", 1)[1] for line in reasons if line.startswith(f"  {target}")
                    )
                cells.append(cell)
    for number, found in zip(pairs, verify_all(list(pairs.values())), strict=True):
        cells[number] |= summary(found)
    return cells


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """Of a verification, what the table shows."""
    (compared,) = found["languages"].values()
    return {
        "passed": found["passed"],
        "bit_equal": compared["is_bit_equal"],
        "largest_difference": compared["max_abs_difference"] / compared["scale"],
        "mean_kl_nats": compared["mean_kl"],
        "argmax_agreement": compared["argmax_agreement"],
        "same_greedy": f"{compared['same_greedy']} of {compared['texts']}",
        "settled_in_float32": "settled_in_float32" in found,
    }


def markdown(cells: list[dict[str, Any]]) -> str:
    """One row per family and target."""
    rows: dict[tuple[str, str], dict[tuple[str, str], str]] = {}
    for cell in cells:
        row = rows.setdefault((cell["family"], cell["target"]), {})
        row[cell["allocation"], cell["dtype"]] = in_words(cell)
    headings = ["family", "target", *(f"{allocation}, {dtype}" for allocation, dtype in COLUMNS)]
    lines = [headings, ["---"] * len(headings)]
    lines += [[*key, *(row[column] for column in COLUMNS)] for key, row in rows.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def in_words(cell: dict[str, Any]) -> str:
    """A cell of the table."""
    if "refused" in cell:
        return "refused"
    if not cell["passed"]:
        return "**FAILED**"
    if cell["bit_equal"]:
        return "bit-equal"
    words = f"{cell['largest_difference']:.0e}"
    return f"{words} (settled in float32)" if cell["settled_in_float32"] else words


def main() -> None:
    """Measure or read, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="where to save the results")
    parser.add_argument("--table", type=Path, help="print the table of saved results")
    given = parser.parse_args()
    if given.table:
        print(markdown(json.loads(given.table.read_text(encoding="utf-8"))["cells"]))
        return
    assert set(SUPPORTED) >= {kind.split()[0] for kind in SETTINGS}
    with tempfile.TemporaryDirectory(prefix="export-matrix-") as work:
        cells = measure(Path(work))
    assert {cell["target"] for cell in cells} == set(TARGETS)
    print(markdown(cells))
    if given.json:
        setting = {
            "versions": {name: version(name) for name in ("torch", "transformers")},
            "device": "cpu",
            "allocations": ALLOCATIONS,
            "top_k": 2,
            "compared_on": "4 × 128 random token ids",
        }
        text = json.dumps({"setting": setting, "cells": cells}, indent=2, ensure_ascii=False)
        given.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
