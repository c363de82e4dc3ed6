"""llama.cpp's side of a verification: run as a script, in a process without polycycle.

    python -P llama_cpp_side.py JOB.json

Reads and writes what `stock_side` does, for folders that hold a GGUF file.
"""

import importlib.metadata
import importlib.util
import json
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from llama_cpp import Llama
from safetensors import safe_open
from torch import Tensor

_FLOAT32_CACHE = 0  # GGML_TYPE_F32


def run(model: Llama, ids: list[int], *, prompt_tokens: int, new_tokens: int) -> tuple[Tensor, Any]:
    """Logits [S, V] of a text, and the greedy continuation of its beginning."""
    model.reset()
    model.eval(ids)
    logits_SV = torch.from_numpy(np.array(model.scores[: len(ids)]))
    model.reset()
    model.eval(ids[:prompt_tokens])
    greedy: list[int] = []
    for _ in range(new_tokens):
        greedy.append(int(model.scores[model.n_tokens - 1].argmax()))
        model.eval(greedy[-1:])
    return logits_SV, torch.tensor(greedy)


def measure(job: dict[str, Any], threads: int, compare: Any, in_order: Any) -> dict[str, Any]:
    """Load a GGUF file with llama.cpp and compare it with the reference."""
    with safe_open(job["reference"], framework="pt") as file:
        keys = in_order(file.keys())
        longest = max(len(file.get_tensor(key)) for key in keys)
        model = Llama(
            str(Path(job["folder"]) / "model.gguf"),
            n_ctx=longest + 64,
            n_batch=longest + 64,
            n_ubatch=longest + 64,
            n_threads=threads,
            n_threads_batch=threads,
            logits_all=True,
            type_k=_FLOAT32_CACHE,
            type_v=_FLOAT32_CACHE,
            flash_attn=False,
            verbose=False,
        )
        labels: dict[str, list[dict[str, Any]]] = {}
        for key in keys:
            label, number, _ = key.rsplit("/", 2)
            ids = file.get_tensor(key).tolist()
            expected = file.get_tensor(f"{label}/{number}/logits")
            greedy = file.get_tensor(f"{label}/{number}/greedy")
            prompt = int(file.get_tensor(f"{label}/{number}/prompt_tokens"))
            got, text = run(model, ids, prompt_tokens=prompt, new_tokens=len(greedy))
            found = compare(expected, got) | {"same_greedy": torch.equal(text, greedy)}
            if job["texts"] is not None:
                whole = job["texts"][label][int(number)].encode()
                again = model.tokenize(whole, add_bos=True, special=False)
                found["same_ids"] = again[: len(ids)] == ids
            labels.setdefault(label, []).append(found)
    file_type = int(model.metadata["general.file_type"])
    return {
        "model_class": f"llama.cpp's {model.metadata['general.architecture']}",
        "dtype": {0: "float32", 1: "float16", 32: "bfloat16"}[file_type],
        "tensor_names": {},
        "labels": labels,
    }


def main(job_path: str) -> None:
    """Measure every file of a job; each result is a JSON file of its own."""
    # Its neighbour, which needs nothing of polycycle either, by its path alone.
    here = Path(__file__).with_name("stock_side.py")
    spec = importlib.util.spec_from_file_location("stock_side", here)
    assert spec is not None
    assert spec.loader is not None
    stock_side = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stock_side)
    job = json.loads(Path(job_path).read_text(encoding="utf-8"))
    for one in job["models"]:
        try:
            measured = measure(one, job["threads"], stock_side.compare, stock_side.in_order)
        except Exception as error:  # whatever it is, the file does not load or run
            measured = {"error": f"{type(error).__name__}: {error}"}
        measured["polycycle_imported"] = any(n.split(".")[0] == "polycycle" for n in sys.modules)
        measured["versions"] = {
            "python": platform.python_version(),
            "llama-cpp-python": importlib.metadata.version("llama-cpp-python"),
        }
        Path(one["result"]).write_text(json.dumps(measured), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
