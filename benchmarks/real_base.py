"""A small dense base, trained from nothing on real text, for the studies on real text.

    python benchmarks/real_base.py TEXT OUT --languages en=0.31 es=0.20 zh=0.18 fr=0.13 pt=0.13 \
        el=0.01 hu=0.01 tr=0.01 bn=0.006 hi=0.006 ne=0.006 [--tokenizer FOLDER]

TEXT holds train/<language>.jsonl.gz and valid/<language>.jsonl.gz. OUT gets a Llama in bfloat16
(57 M parameters by default), its tokenizer, and training.json: settings, losses, bits per byte of
the held-out text, seconds and machine. Windows are cut out of a language's documents as these stand
one after another; what has fewer tokens than its share is gone over again, cut at other places.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    get_cosine_with_min_lr_schedule_with_warmup,
)

from polycycle.data import (
    TextSource,
    TokenizedCorpus,
    read_documents,
    share_tokens,
    tokenize_corpus,
)
from polycycle.errors import DataError
from polycycle.files import folder_when_whole, write_json
from polycycle.stages import evaluate_on_text, shipped_base
from polycycle.stages.environment import describe_environment
from polycycle.training import uses_bfloat16

HEAD_SIZE = 64
TOKENIZER_BYTES = 20_000_000
LOG_STEPS = 50
DEFAULTS: dict[str, int | float] = {
    "--hidden-size": 576,
    "--layers": 12,
    "--tokens": 32_000_000,
    "--batch-size": 128,
    "--sequence-length": 256,
    "--learning-rate": 1e-3,
    "--seed": 0,
}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def train_tokenizer(text: Path, shares: Mapping[str, float], vocab_size: int) -> Any:
    """A byte-level BPE of the first documents of each language, as many bytes as its share."""
    budgets = share_tokens(TOKENIZER_BYTES, shares)

    def texts() -> Iterator[str]:
        for language, budget in budgets.items():
            num_bytes = 0
            for document in read_documents(TextSource(path="train"), language, root=text):
                yield document.text
                num_bytes += len(document.text.encode())
                if num_bytes >= budget:
                    break

    # The microworld's says how: bytes, `<|endoftext|>` is 0, `<|pad|>` is 1. Only its merges go.
    tokenizer = AutoTokenizer.from_pretrained(shipped_base())
    return tokenizer.train_new_from_iterator(texts(), vocab_size, show_progress=False)


def build_model(tokenizer: Any, args: argparse.Namespace) -> Any:
    """A Llama with random weights; key-value heads are half as many as heads, if these are even."""
    torch.manual_seed(args.seed)
    hidden_size = args.hidden_size
    head_size = min(HEAD_SIZE, hidden_size)
    heads = hidden_size // head_size
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=max(64, 64 * round(8 / 3 * hidden_size / 64)),
        num_hidden_layers=args.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2 if heads % 2 == 0 else heads,
        head_dim=head_size,
        max_position_embeddings=args.sequence_length,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config).to(DEVICE)


def window_starts(
    num_tokens: int, count: int, length: int, draw: np.random.Generator
) -> NDArray[np.int64]:
    """Where `count` windows of `length` start: passes over all tokens, each cut elsewhere."""
    passes: list[NDArray[np.int64]] = []
    while sum(map(len, passes)) < count:
        offset = draw.integers(min(length, num_tokens - length + 1))
        passes.append(draw.permutation(np.arange(offset, num_tokens - length + 1, length)))
    return np.concatenate([*passes, np.empty(0, np.int64)])[:count]


def cut_batches(
    corpora: Mapping[str, TokenizedCorpus], windows: Mapping[str, int], args: argparse.Namespace
) -> Iterator[Tensor]:
    """Batches [batch_size, sequence_length] of as many windows per language as asked for, mixed."""
    length, draw = args.sequence_length, np.random.default_rng(args.seed)
    starts, before = [], 0
    for language, corpus in corpora.items():
        num_tokens = len(corpus.tokens)
        if num_tokens < length:
            raise DataError(
                f"language {language!r}: {num_tokens} tokens of text, fewer than one window of "
                f"{length}; give more text, or a lower --sequence-length"
            )
        starts.append(before + window_starts(num_tokens, windows[language], length, draw))
        before += num_tokens
    tokens = np.concatenate([corpus.tokens for corpus in corpora.values()])
    for rows in draw.permutation(np.concatenate(starts)).reshape(-1, args.batch_size):
        ids = torch.from_numpy(tokens[rows[:, None] + np.arange(length)])
        # The host waits for the GPU only to log, so it prepares this while the GPU computes.
        yield (ids.pin_memory() if DEVICE == "cuda" else ids).to(DEVICE, non_blocking=True).long()


def train(
    model: Any, batches: Iterator[Tensor], steps: int, args: argparse.Namespace
) -> list[tuple[int, float]]:
    """Train in place; gives the mean loss of every 50 steps, with the step it ends at."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=args.learning_rate,
        betas=(0.9, 0.95),
        fused=DEVICE == "cuda",
    )
    schedule = get_cosine_with_min_lr_schedule_with_warmup(
        optimizer, round(0.02 * steps), steps, min_lr_rate=0.1
    )
    forward = torch.compile(model) if args.compile else model
    model.train()
    losses: list[tuple[int, float]] = []
    logged, total, started = 0, torch.zeros((), device=DEVICE), time.perf_counter()
    for step, ids in enumerate(batches, start=1):
        with torch.autocast(DEVICE, torch.bfloat16, enabled=uses_bfloat16("auto")):
            loss = forward(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        total += loss.detach()
        if step % LOG_STEPS == 0 or step == steps:
            losses.append((step, round(total.item() / (step - logged), 4)))
            pace = (step - logged) * ids.numel() / (time.perf_counter() - started)
            line = f"step {step}/{steps}: loss {losses[-1][1]:.3f}, {pace:,.0f} tokens/s"
            print(line, flush=True)
            logged, started = step, time.perf_counter()
            total.zero_()
    return losses


def build(args: argparse.Namespace, folder: Path, cache: Path) -> None:
    """Tokenize, train, measure, and write everything to `folder`."""
    marks, shares = [time.perf_counter()], dict(args.languages)
    for language in shares:  # what is missing is missed now, not after the training
        next(read_documents(TextSource(path="valid"), language, root=args.text))
    if args.tokenizer:
        tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    else:
        tokenizer = train_tokenizer(args.text, shares, args.vocab_size)
    tokenizer.save_pretrained(folder)
    step_tokens = args.batch_size * args.sequence_length
    steps = max(1, args.tokens // step_tokens)
    windows = share_tokens(steps * args.batch_size, shares)
    corpora = {
        language: tokenize_corpus(
            TextSource(path="train"),
            language,
            tokenizer,
            cache,
            root=args.text,
            max_tokens=max(1, count) * args.sequence_length,
        )
        for language, count in windows.items()
    }
    marks.append(time.perf_counter())
    model = build_model(tokenizer, args)
    print(f"{model.num_parameters():,} parameters; text read in {marks[1] - marks[0]:.0f} s")
    losses = train(model, cut_batches(corpora, windows, args), steps, args)
    marks.append(time.perf_counter())
    model.to(torch.bfloat16).save_pretrained(folder)
    measured = evaluate_on_text(str(folder), list(shares), str(args.text / "valid")).scores
    bits = {language: round(score.bits_per_byte, 4) for language, score in measured.items()}
    marks.append(time.perf_counter())
    # Of a folder only the name: where it lies says nothing about the base.
    settings = {k: v.name if isinstance(v, Path) else v for k, v in vars(args).items()}
    seconds = np.diff(marks).round(1).tolist()
    epochs = {
        language: round(count * args.sequence_length / len(corpora[language].tokens), 2)
        for language, count in windows.items()
    }
    written = {
        "settings": settings | {"languages": shares, "vocab_size": len(tokenizer)},
        "parameters": model.num_parameters(),
        "steps": steps,
        "tokens": steps * step_tokens,
        "epochs": epochs,
        "loss": losses,
        "valid_bits_per_byte": bits,
        "seconds": dict(zip(("tokenizing", "training", "validation"), seconds, strict=True)),
        "environment": describe_environment("auto").model_dump(mode="json"),
    }
    write_json(folder / "training.json", written)
    print("bits per byte: " + ", ".join(f"{language} {one:.3f}" for language, one in bits.items()))


def language_share(text: str) -> tuple[str, float]:
    """`en=0.31`, parsed."""
    language, _, share = text.partition("=")
    return language, float(share)


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line, and build."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text", type=Path, metavar="TEXT")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument(
        "--languages", nargs="+", type=language_share, required=True, metavar="LANGUAGE=SHARE"
    )
    parser.add_argument("--tokenizer", type=Path, help="folder; by default one is trained")
    parser.add_argument("--vocab-size", type=int, default=16_384, help="of a trained tokenizer")
    for name, default in DEFAULTS.items():
        parser.add_argument(name, type=type(default), default=default)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args(argv)
    if args.out.exists():
        parser.error(f"{args.out} is there already; give another OUT, or remove it")
    if args.hidden_size % min(HEAD_SIZE, args.hidden_size):
        parser.error(f"--hidden-size {args.hidden_size}: not a multiple of {HEAD_SIZE}")
    if DEVICE == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, where bfloat16 is not used
    with folder_when_whole(args.out) as partial, tempfile.TemporaryDirectory() as cache:
        build(args, partial, Path(cache))


if __name__ == "__main__":
    main()
