"""How fast a dense model and its mixtures of two to eight experts read and write.

    python benchmarks/inference_speed.py --rounds 5 --decode-tokens 32 --json FILE

(inference_speed.json beside this file is what that wrote.)

A Llama of random weights is upcycled to each number of experts, with the same experts per token
(top-k), so that every mixture computes the same number of products for a token, whatever it holds.
Routers are random, so all experts are used. All models are in memory at once and take turns at

- prefill: texts of random tokens read whole, without a cache
- decode: greedy writing after a short prompt, with a key-value cache, of one text and of several

Tokens per second are medians over rounds; ratios are medians of ratios within a round, which shared
machines disturb least. Beside them stand the quartiles.

By default 2 threads, hidden size 512, 8 layers: 3.4 GB; the command above took 2 min 11 s on two
cores, the defaults (7 rounds of 64 tokens) take twice that.
"""

import argparse
import json
import platform
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import polycycle  # noqa: F401  registers the upcycled classes
from polycycle.evaluation import measure_paces
from polycycle.results import Pace
from polycycle.surgery import inspect_checkpoint, upcycle


def make_models(
    folder: Path, config: LlamaConfig, experts: list[int], top_k: int, dtype: torch.dtype
) -> dict[str, Any]:
    """The dense model, and one mixture for each number of experts, loaded."""
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder / "dense")
    for count in experts:
        upcycle(folder / "dense", folder / str(count), num_experts=count, top_k=top_k)
    names = {"dense": "dense", **{f"{count} experts": str(count) for count in experts}}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return {
        title: AutoModelForCausalLM.from_pretrained(folder / name, dtype=dtype).to(device)
        for title, name in names.items()
    }


def active_parameters(folder: Path) -> int:
    """Parameters that a token passes through."""
    from polycycle.checkpoint import open_checkpoint

    return inspect_checkpoint(open_checkpoint(folder)).parameters_active


def table(paces: dict[str, tuple[Pace, ...]]) -> str:
    """One line per model: tokens per second, and in brackets the ratio to dense with quartiles."""
    first = next(iter(paces.values()))
    titles = [f"{pace.work}, {pace.batch} × {pace.length}" for pace in first]
    lines = [
        "| model | " + " | ".join(titles) + " |",
        "|---" * (len(titles) + 1) + "|",
    ]
    for name, of_model in paces.items():
        cells = [
            f"{pace.tokens_per_second:.0f} ({pace.of_base:.2f}; "
            f"{pace.of_base_quartiles[0]:.2f}–{pace.of_base_quartiles[1]:.2f})"
            for pace in of_model
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Build, measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--inner", type=int, default=1408, help="of a feed-forward block")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--kv-heads", type=int, default=4)
    parser.add_argument("--vocab", type=int, default=16_000)
    parser.add_argument("--experts", nargs="+", type=int, default=[2, 3, 4, 5, 6, 7, 8])
    parser.add_argument("--top-k", type=int, default=2)
    parser.add_argument("--prefill", nargs=2, type=int, default=[4, 256], metavar=("TEXTS", "LEN"))
    parser.add_argument("--decode-texts", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--decode-tokens", type=int, default=64)
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = LlamaConfig(
        vocab_size=args.vocab,
        hidden_size=args.hidden,
        intermediate_size=args.inner,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=args.kv_heads,
        tie_word_embeddings=True,
    )
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        models = make_models(folder, config, args.experts, args.top_k, getattr(torch, args.dtype))
        sizes = {
            title: {
                "parameters_total": sum(p.numel() for p in model.parameters()),
                "parameters_active": active_parameters(folder / title.removesuffix(" experts")),
            }
            for title, model in models.items()
        }
        paces = measure_paces(
            models,
            torch.randint(args.vocab, (4096,)),
            prefill=(args.prefill[0], args.prefill[1]),
            decode_batches=args.decode_texts,
            decode_tokens=args.decode_tokens,
            prompt_tokens=args.prompt_tokens,
            rounds=args.rounds,
        )
    print(table(paces))
    if args.json:
        setting = {
            **{key: value for key, value in vars(args).items() if key != "json"},
            "device": next(iter(models.values())).device.type,
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "machine": platform.processor() or platform.machine(),
        }
        rows = [
            {
                "model": title,
                **sizes[title],
                "paces": [pace.model_dump(mode="json") for pace in of_model],
            }
            for title, of_model in paces.items()
        ]
        args.json.write_text(json.dumps({"setting": setting, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
