"""Peak memory of `polycycle upcycle` on a synthetic checkpoint of 2 GB or more.

    python benchmarks/upcycle_memory.py [--layers 8] [--hidden 2048] [--num-experts 6] [--json FILE]

Prints JSON: bytes of the dense model, of the result, of its largest tensor, and the peak resident
memory of the upcycling process. The promise: at most the largest output tensor plus 1 GB.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch
from transformers import AutoConfig

from polycycle.checkpoint import TensorJob, write_tensors

_CHILD = """
import resource, sys, time
from pathlib import Path
from polycycle.surgery import upcycle
started = time.perf_counter()
plan = upcycle(sys.argv[1], Path(sys.argv[2]), num_experts=int(sys.argv[3]))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(peak, plan.largest_tensor_bytes, plan.num_bytes, time.perf_counter() - started)
"""


def write_synthetic(folder: Path, *, layers: int, hidden: int) -> int:
    """A Llama of random bfloat16 weights, in shards of 1 GB; gives its size in bytes."""
    config = AutoConfig.for_model(
        "llama",
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        vocab_size=32_000,
    )
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    jobs = [
        TensorJob(
            name=name,
            dtype="BF16",
            shape=tuple(tensor.shape),
            make=partial(torch.randn, tensor.shape, dtype=torch.bfloat16),
        )
        for name, tensor in model.state_dict().items()
    ]
    folder.mkdir()
    write_tensors(folder, jobs, max_shard_bytes=10**9)
    config.save_pretrained(folder)
    return sum(job.num_bytes for job in jobs)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=14)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--num-experts", type=int, default=6)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        dense, out = Path(temporary) / "dense", Path(temporary) / "moe"
        dense_bytes = write_synthetic(dense, layers=args.layers, hidden=args.hidden)
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, str(dense), str(out), str(args.num_experts)],
            check=True,
            capture_output=True,
            text=True,
        )
    peak, largest, total, seconds = (float(value) for value in done.stdout.split())
    result = {
        "dense_gb": dense_bytes / 1e9,
        "result_gb": total / 1e9,
        "largest_tensor_gb": largest / 1e9,
        "peak_memory_gb": peak / 1e9,
        "promised_gb": largest / 1e9 + 1,
        "kept": peak <= largest + 1e9,
        "seconds": seconds,
    }
    rounded = {key: round(v, 2) if isinstance(v, float) else v for key, v in result.items()}
    text = json.dumps(rounded)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
