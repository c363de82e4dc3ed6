"""One training step of the MoE block against its ideal and against its peers.

    python benchmarks/moe_block.py --repeats 20 --json benchmarks/moe_block.json
    python benchmarks/moe_block.py --device cuda --sizes 2048x5632 4096x14336 \
        --tokens 8192 32768 --dtypes bfloat16 --json benchmarks/moe_block_gpu.json

Forward and backward of a block with six experts and top-2 routing, expert 0 frozen. Contestants,
run interleaved in one process:

- ours: `polycycle.routing.moe_forward`
- ideal: dense feed-forward products of the same FLOPs: the frozen expert's share of the rows
  without weight gradients, the rest with them, each as one large matrix product
- loop: where + linear + index_add over separate experts, expert 0 frozen
- eager, grouped_mm: transformers' Mixtral experts, all six trainable as they come

Times are medians over repeats; ratios are medians of ratios within a repeat, which shared machines
disturb least.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import MixtralConfig
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from polycycle.routing import moe_forward

NUM_EXPERTS, TOP_K = 6, 2
SIZES = {
    "512x1408": (512, 1408),
    "1024x2816": (1024, 2816),
    "2048x5632": (2048, 5632),  # Qwen1.5-1.8B's
    "4096x14336": (4096, 14336),  # Llama-3-8B's
}
Step = Callable[[], None]


def routing(num_tokens: int, dtype: torch.dtype, *, skewed: bool) -> tuple[Tensor, Tensor]:
    """Expert ids [N, K] and weights [N, K]: balanced, or half of all tokens on two experts."""
    if skewed:
        scores = torch.rand(num_tokens, NUM_EXPERTS)
        scores[: num_tokens // 2, :2] += 1
        ids = scores.topk(TOP_K).indices
    else:
        first = torch.arange(num_tokens) % NUM_EXPERTS
        shift = 1 + torch.arange(num_tokens) // NUM_EXPERTS % (NUM_EXPERTS - 1)
        ids = torch.stack([first, (first + shift) % NUM_EXPERTS], 1)[torch.randperm(num_tokens)]
    weights = torch.rand(num_tokens, TOP_K)
    return ids, (weights / weights.sum(-1, keepdim=True)).to(dtype)


def contestants(
    hidden: int, inner: int, num_tokens: int, dtype: torch.dtype, *, skewed: bool
) -> dict[str, Step]:
    """Each contestant's training step on the same inputs and routing, on the default device."""
    torch.manual_seed(0)
    x = torch.randn(num_tokens, hidden, dtype=dtype, requires_grad=True)
    target = torch.randn(num_tokens, hidden, dtype=dtype)
    ids, weights = routing(num_tokens, dtype, skewed=skewed)
    weights.requires_grad_(True)
    mlp = LlamaMLP(LlamaConfig(hidden_size=hidden, intermediate_size=inner)).to(dtype)
    mlp.requires_grad_(False)
    gate_up = nn.Parameter(0.02 * torch.randn(NUM_EXPERTS - 1, 2 * inner, hidden, dtype=dtype))
    down = nn.Parameter(0.02 * torch.randn(NUM_EXPERTS - 1, hidden, inner, dtype=dtype))
    parameters = [x, weights, gate_up, down]
    num_frozen = int((ids == 0).sum())
    num_new = num_tokens * TOP_K - num_frozen
    rows_frozen = torch.randn(num_frozen, hidden, dtype=dtype, requires_grad=True)
    rows_new = torch.randn(num_new, hidden, dtype=dtype, requires_grad=True)

    def ours() -> None:
        y = moe_forward(x, mlp, [(gate_up, down)], mlp.act_fn, ids, weights)
        y.backward(target)

    def ideal() -> None:
        mlp(rows_frozen).backward(rows_frozen.detach())
        gate, up = F.linear(rows_new, gate_up[0]).chunk(2, -1)
        F.linear(F.silu(gate) * up, down[0]).backward(rows_new.detach())

    def loop() -> None:
        y = torch.zeros_like(x)
        for expert in range(NUM_EXPERTS):
            row, slot = torch.where(ids == expert)
            if expert == 0:
                out = mlp(x[row])
            else:
                gate, up = F.linear(x[row], gate_up[expert - 1]).chunk(2, -1)
                out = F.linear(F.silu(gate) * up, down[expert - 1])
            y = y.index_add(0, row, out * weights[row, slot, None])
        y.backward(target)

    steps: dict[str, Step] = {"ours": ours, "ideal": ideal, "loop": loop}
    for name in ("eager", "grouped_mm"):
        steps[name], experts = _mixtral(name, hidden, inner, x, ids, weights, target, gate_up, down)
        parameters += list(experts.parameters())

    def clean(step: Step) -> Step:
        def run() -> None:
            for parameter in (*parameters, rows_frozen, rows_new):
                parameter.grad = None
            step()

        return run

    return {name: clean(step) for name, step in steps.items()}


def _mixtral(
    implementation: str,
    hidden: int,
    inner: int,
    x: Tensor,
    ids: Tensor,
    weights: Tensor,
    target: Tensor,
    gate_up: Tensor,
    down: Tensor,
) -> tuple[Step, Any]:
    config = MixtralConfig(
        hidden_size=hidden,
        intermediate_size=inner,
        num_local_experts=NUM_EXPERTS,
        num_experts_per_tok=TOP_K,
    )
    config._experts_implementation = implementation
    experts = MixtralExperts(config).to(x.dtype)
    with torch.no_grad():
        experts.gate_up_proj.copy_(torch.cat([gate_up[:1], gate_up]))
        experts.down_proj.copy_(torch.cat([down[:1], down]))
    return (lambda: experts(x, ids, weights).backward(target)), experts


def measure(steps: dict[str, Step], repeats: int) -> dict[str, Any]:
    """Median seconds and ratios to the ideal; one warm-up each, then interleaved repeats."""
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            _wait()
            started = time.perf_counter()
            step()
            _wait()
            times[name].append(time.perf_counter() - started)
    ratios = {
        name: [t / i for t, i in zip(series, times["ideal"], strict=True)]
        for name, series in times.items()
    }
    peers = [min(times[p][n] for p in ("loop", "eager", "grouped_mm")) for n in range(repeats)]
    to_peer = [t / p for t, p in zip(times["ours"], peers, strict=True)]
    return {
        "seconds": {name: statistics.median(series) for name, series in times.items()},
        "of_ideal": {name: statistics.median(series) for name, series in ratios.items()},
        "of_ideal_quartiles": _quartiles(ratios["ours"]),
        "of_fastest_peer": statistics.median(to_peer),
    }


def _wait() -> None:
    """A GPU works on while the clock is read."""
    if torch.get_default_device().type == "cuda":
        torch.cuda.synchronize()


def _quartiles(values: list[float]) -> list[float]:
    return statistics.quantiles(values, n=4)[::2] if len(values) > 1 else values * 2


def main() -> None:
    """Measure every size asked for, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--sizes", nargs="+", default=list(SIZES)[:2], choices=list(SIZES))
    parser.add_argument("--tokens", nargs="+", type=int, default=[2048, 4096])
    parser.add_argument("--dtypes", nargs="+", default=["float32"], choices=["float32", "bfloat16"])
    parser.add_argument("--skewed", action="store_true", help="route unevenly")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_default_device(args.device)
    rows = []
    print(
        "| size | tokens | dtype | ideal, ms | ours | loop | eager | grouped_mm | ours ÷ fastest |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for size in args.sizes:
        for tokens in args.tokens:
            for dtype in args.dtypes:
                steps = contestants(*SIZES[size], tokens, getattr(torch, dtype), skewed=args.skewed)
                found = measure(steps, args.repeats)
                rows.append({"size": size, "tokens": tokens, "dtype": dtype, **found})
                of = found["of_ideal"]
                print(
                    f"| {size} | {tokens} | {dtype} | {1000 * found['seconds']['ideal']:.3g} | "
                    f"{of['ours']:.2f} | {of['loop']:.2f} | {of['eager']:.2f} | "
                    f"{of['grouped_mm']:.2f} | {found['of_fastest_peer']:.2f} |",
                    flush=True,
                )
    if args.json:
        setting = {
            "repeats": args.repeats,
            "threads": args.threads,
            "skewed": args.skewed,
            "torch": torch.__version__,
            "machine": platform.processor() or platform.machine(),
            "gpu": torch.cuda.get_device_name() if args.device == "cuda" else None,
        }
        args.json.write_text(json.dumps({"setting": setting, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
