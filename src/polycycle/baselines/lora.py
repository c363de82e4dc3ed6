"""LoRA: low-rank updates beside frozen linear maps, merged into them at the end.

Letters: D_in, D_out features of a linear map, R rank.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

_EVERY_LINEAR = "all-linear"
_BASE = ".base_layer"


def add_adapters(
    model: nn.Module,
    *,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    targets: tuple[str, ...] | None = None,
    seed: int = 0,
) -> None:
    """Put an adapter beside linear maps, in place; only adapters train from here on.

    An adapter adds alpha/R · B A x, with A [R, D_in] random and B [D_out, R] zero, so the model
    computes what it computed before, bit for bit.

    Args:
        model: a dense model.
        rank: R.
        alpha: scale of the update, divided by R.
        dropout: of what goes into the adapters, in training.
        targets: last part of the names of the maps that get one (`q_proj`); None takes all linear
            maps but the head.
        seed: of A.

    Raises:
        ValueError: no map is called like a target (from peft).

    Source: LoRA, arXiv:2106.09685, §4.1.
    """
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=_EVERY_LINEAR if targets is None else list(targets),
    )
    # In place, without peft's wrapper: parameters keep their names, and a checkpoint is as always.
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)


def merged_tensors(model: nn.Module) -> dict[str, Tensor]:
    """W + alpha/R · B A of every adapted map, under its dense name and on the CPU.

    In training precision. The model is left merged: it computes what it did, to within rounding.
    """
    return {
        f"{name}.weight": layer.base_layer.weight.detach().cpu() for name, layer in _merge(model)
    }


def _merge(model: nn.Module) -> Iterator[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            layer: Any = module
            layer.merge(safe_merge=True)
            yield name, layer
