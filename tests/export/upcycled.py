"""Upcycled models whose every part matters: no zero biases, no equal experts, odd settings."""

from pathlib import Path
from typing import Any

import torch

from polycycle.surgery import upcycle
from tests.tiny import load, save_dense


def save_upcycled(
    folder: Path,
    family: str,
    *,
    num_experts: Any = 4,
    top_k: int = 2,
    dtype: torch.dtype = torch.float32,
    classifier_layers: tuple[int, ...] = (),
    config: dict[str, Any] | None = None,
    **settings: Any,
) -> Path:
    """A model with random experts, routers, biases and classifiers, from plain `save_pretrained`.

    Args:
        folder: `folder/dense`, `folder/fresh` and `folder/moe` are written; the last is returned.
        family: the dense family.
        num_experts: as `upcycle` takes it.
        top_k: as `upcycle` takes it.
        dtype: of all weights.
        classifier_layers: layers with a classifier that judges about half of the tokens original.
        config: settings of the dense model.
        settings: of `upcycle`.
    """
    settings_of_dense = {"initializer_range": 0.15, **(config or {})}
    dense = save_dense(folder / "dense", family, dtype=dtype, **settings_of_dense)
    upcycle(
        dense,
        folder / "fresh",
        num_experts=num_experts,
        top_k=top_k,
        init="random",
        classifier_layers=classifier_layers,
        **settings,
    )
    model = load(folder / "fresh")
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".bias") or ".classifier." in name or "retention_gate" in name:
                parameter.normal_()
            elif ".router.rows." in name:
                parameter.mul_(2)
    model.save_pretrained(folder / "moe")
    return folder / "moe"
