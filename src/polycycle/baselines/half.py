"""Half fine-tuning: in every block, half of the tensors of each kind keep what they hold."""

import random
import re
from collections import defaultdict

from torch import nn

_IN_BLOCK = re.compile(r"model\.layers\.(\d+)\.(self_attn|mlp|)")


def train_half(model: nn.Module, seed: int) -> None:
    """Set `requires_grad` for half of the tensors, drawn by the seed.

    In each block half of the attention's, the feed-forward block's and the other tensors train; of
    an odd number, one more in every second block. What stands outside of blocks (embeddings, last
    norm, head) trains.

    Args:
        model: a dense model.
        seed: of the draw.

    Source: Half fine-tuning, arXiv:2404.18466, §3 (category-level selection).
    Differs: drawn once, because there is one round of training.
    """
    parts: dict[tuple[int, str], list[str]] = defaultdict(list)
    for name, _ in model.named_parameters():
        if match := _IN_BLOCK.match(name):
            parts[int(match[1]), match[2]].append(name)
    frozen = set()
    for (layer, kind), names in sorted(parts.items()):
        count = (len(names) + layer % 2) // 2
        frozen |= set(random.Random(f"{seed}/{layer}/{kind}").sample(sorted(names), count))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
