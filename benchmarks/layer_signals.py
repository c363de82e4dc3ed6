"""Which layers need new experts? Similarity of languages against three other signals.

    python benchmarks/layer_signals.py MODEL --data 'train/{language}.jsonl' --json signals.json

For every layer of a dense model:

- similarity: S of LayerMoE, on which its allocation rests (fewer experts where it is high)
- deviation: how far the feed-forward weights move in a few steps on one language,
  ‖ΔW‖/‖W‖, mean over the expanded languages; and the same over the original ones
- neurons: share of the layer's neurons that are specific to expanded languages: the entropy of
  their activation frequency over languages is among the lowest 5 % of the model (LAPE,
  arXiv:2402.16438), and an expanded language activates them most
- recognised: how many tokens of an original language that a linear judge of the layer's
  feed-forward inputs never saw it takes for original, when it was fitted on the other originals
  against the expanded ones; mean over the originals left out. What a router can know there.
"""

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from polycycle.allocation import similarity_table
from polycycle.data import TextSource, read_excerpt
from polycycle.evaluation import mean_unit_vectors
from polycycle.evaluation.similarity import feed_forward_blocks
from polycycle.languages import LanguageGroups

ROW_TOKENS = 128
SPECIFIC = 0.05


def token_rows(documents: list[Any]) -> Tensor:
    """[rows, ROW_TOKENS], documents one after the other."""
    ids = torch.cat([torch.as_tensor(document, dtype=torch.long) for document in documents])
    return ids[: len(ids) // ROW_TOKENS * ROW_TOKENS].view(-1, ROW_TOKENS)


@torch.no_grad()
def observe(model: Any, rows: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Per layer, the feed-forward inputs [T, D] and how often each neuron's gate is open [F]."""
    inputs: list[Tensor] = []
    active: list[Tensor] = []
    hooks = []
    for block in feed_forward_blocks(model):
        hooks.append(block.register_forward_pre_hook(lambda _, args: inputs.append(args[0])))
        hooks.append(
            block.gate_proj.register_forward_hook(lambda _, __, out: active.append(out > 0))
        )
    model(input_ids=rows, use_cache=False)
    for hook in hooks:
        hook.remove()
    return [x.flatten(0, 1) for x in inputs], [a.flatten(0, 1).double().mean(0) for a in active]


def deviation(model: Any, rows: Tensor, *, steps: int, learning_rate: float) -> list[float]:
    """‖ΔW‖/‖W‖ of each layer's feed-forward weights after some steps of AdamW on these rows."""
    trained = copy.deepcopy(model)
    trained.requires_grad_(False)
    weights = [list(block.parameters()) for block in feed_forward_blocks(trained)]
    for parameter in (p for layer in weights for p in layer):
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(
        [p for layer in weights for p in layer], lr=learning_rate, weight_decay=0.0
    )
    for step in range(steps):
        batch = rows[torch.arange(8 * step, 8 * step + 8) % len(rows)]
        trained(input_ids=batch, labels=batch, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    before = [[p.detach() for p in block.parameters()] for block in feed_forward_blocks(model)]
    return [
        float(_norm([a.detach() - b for a, b in zip(new, old, strict=True)]) / _norm(old))
        for new, old in zip(weights, before, strict=True)
    ]


@torch.no_grad()
def _norm(tensors: list[Tensor]) -> Tensor:
    return torch.stack([tensor.double().norm() for tensor in tensors]).norm()


def recognised(states: dict[str, Tensor], groups: LanguageGroups) -> float:
    """Share of tokens of a held-out original language taken for original, mean over originals."""
    originals = [tag for tag in (*groups.original, *groups.unseen_original) if tag in states]
    found = []
    for held_out in originals:
        others = torch.cat([states[tag] for tag in originals if tag != held_out])
        expanded = torch.cat([states[tag] for tag in groups.all_expanded])
        x = torch.cat([others, expanded]).double()
        x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
        y = torch.cat([torch.ones(len(others)), -torch.ones(len(expanded))]).double()
        weight = torch.cat([y[: len(others)] / len(others), -y[len(others) :] / len(expanded)])
        gram = (x * weight[:, None]).T @ x
        ridge = 1e-3 * gram.diagonal().mean() * torch.eye(len(gram), dtype=x.dtype)
        judge = torch.linalg.solve(gram + ridge, (x * weight[:, None]).T @ y)
        seen = F.pad(states[held_out].double(), (0, 1), value=1.0) @ judge
        found.append(float((seen > 0).double().mean()))
    return sum(found) / len(found)


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--data", required=True, help="pattern with {language}")
    parser.add_argument("--original", default="en,zh,es")
    parser.add_argument("--unseen", default="", help="originals that no training shows")
    parser.add_argument("--expanded", default="el,hu,tr")
    parser.add_argument("--tokens", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    groups = LanguageGroups(
        original=tuple(args.original.split(",")),
        unseen_original=tuple(filter(None, args.unseen.split(","))),
        expanded=(tuple(args.expanded.split(",")),),
    )
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    vectors, states, frequency, moved = {}, {}, {}, {}
    for language in groups.all:
        source = TextSource(path=args.data.replace("{language}", language))
        excerpt = read_excerpt(source, language, tokenizer, num_tokens=args.tokens)
        rows = token_rows(list(excerpt.documents))
        vectors[language] = mean_unit_vectors(model, excerpt.documents)
        states[language], frequency[language] = observe(model, rows[:40])
        moved[language] = deviation(model, rows, steps=args.steps, learning_rate=args.learning_rate)
    trained = {tag: v for tag, v in vectors.items() if tag not in groups.unseen_original}
    table = similarity_table(trained, groups)
    layers = range(len(table.per_layer))
    # [languages, layers, neurons] → entropy of each neuron's frequencies over languages
    rates = torch.stack([torch.stack(frequency[language]) for language in groups.all])
    shares = rates / rates.sum(0, keepdim=True).clamp_min(1e-12)
    entropy = -(shares * shares.clamp_min(1e-12).log()).sum(0)
    specific = entropy <= entropy.flatten().kthvalue(int(SPECIFIC * entropy.numel())).values
    is_expanded = torch.tensor([tag in groups.all_expanded for tag in groups.all])
    specific &= is_expanded[rates.argmax(0)]
    originals = (*groups.original, *groups.unseen_original)
    found = {
        "similarity": list(table.per_layer),
        "deviation_expanded": _mean(moved, groups.all_expanded),
        "deviation_original": _mean(moved, originals),
        "neurons": specific.double().mean(1).tolist(),
        "recognised": [
            recognised({tag: s[layer] for tag, s in states.items()}, groups) for layer in layers
        ],
    }
    print("| layer | " + " | ".join(found) + " |")
    print("|---|" + "---|" * len(found))
    for layer in layers:
        print(f"| {layer} | " + " | ".join(f"{of[layer]:.3f}" for of in found.values()) + " |")
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


def _mean(by_language: dict[str, list[float]], languages: tuple[str, ...]) -> list[float]:
    columns = zip(*(by_language[language] for language in languages), strict=True)
    return [sum(column) / len(column) for column in columns]


if __name__ == "__main__":
    main()
