"""The model that a baseline trains: what it starts from, and what of it is frozen."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polycycle.baselines import (
    add_adapters,
    add_lora_experts,
    expand_blocks,
    highest_columns,
    linear_maps,
    new_block_places,
    plan_blocks,
    plan_lora_experts,
    shield_columns,
    train_everything,
    train_half,
    train_lora_experts,
    train_new_blocks,
)
from polycycle.checkpoint import Checkpoint, TensorJob, copy_job
from polycycle.config import (
    AnyBaseline,
    FullConfig,
    HalfConfig,
    LlamaProConfig,
    LoraConfig,
    LoraMoeConfig,
    ShieldedConfig,
)


def plan_start(
    method: AnyBaseline, base: Checkpoint, seed: int
) -> tuple[list[TensorJob], dict[str, Any]]:
    """Tensors and config of what training starts from; nothing is read but headers."""
    match method:
        case LlamaProConfig():
            return plan_blocks(base, every=method.every)
        case LoraMoeConfig():
            return plan_lora_experts(base, **_lora_experts(method, seed))
        case _:
            return [copy_job(base, name) for name in base.tensors], dict(base.config)


def adds_to_base(method: AnyBaseline) -> bool:
    """Whether training starts from a model of its own, not from the base."""
    return isinstance(method, LlamaProConfig | LoraMoeConfig)


def fill_start(method: AnyBaseline, base: Checkpoint, seed: int, folder: Path) -> dict[str, Any]:
    """Fill `folder` with the base and its new blocks or LoRA experts, still without effect.

    Returns:
        What was added, for the manifest.
    """
    match method:
        case LlamaProConfig():
            return {"new_blocks": list(expand_blocks(base, folder, every=method.every))}
        case LoraMoeConfig():
            add_lora_experts(base, folder, **_lora_experts(method, seed))
            return {}
        case _:
            raise AssertionError(f"{method.method} starts from the base itself")


def _lora_experts(method: LoraMoeConfig, seed: int) -> dict[str, Any]:
    return {
        "num_experts": method.num_experts,
        "rank": method.rank,
        "alpha": 2.0 * method.rank if method.alpha is None else method.alpha,
        "dropout": method.dropout,
        "seed": seed,
    }


def prepare(
    model: Any,
    method: AnyBaseline,
    base: Checkpoint,
    seed: int,
    *,
    columns: Callable[[], Mapping[str, Tensor]],
) -> None:
    """Add what the method adds in memory, and freeze what it freezes.

    Args:
        model: what training starts from.
        method: of training.
        base: the dense model.
        seed: of the recipe.
        columns: which of each map are shielded; asked where some are.
    """
    match method:
        case FullConfig():
            train_everything(model)
        case LoraConfig():
            add_adapters(
                model,
                rank=method.rank,
                alpha=2.0 * method.rank if method.alpha is None else method.alpha,
                dropout=method.dropout,
                targets=method.targets,
                seed=seed,
            )
        case HalfConfig():
            train_half(model, seed)
        case LoraMoeConfig():
            train_lora_experts(model)
        case ShieldedConfig():
            shield_columns(model, columns())
        case LlamaProConfig():
            num_layers = int(base.config["num_hidden_layers"])
            train_new_blocks(model, new_block_places(num_layers, method.every))


def prepare_unscored(model: Any, method: AnyBaseline, base: Checkpoint, seed: int) -> None:
    """As `prepare`, with any columns shielded, as many as there will be: enough to know costs."""

    def columns() -> dict[str, Tensor]:
        assert isinstance(method, ShieldedConfig)
        scores = {name: torch.zeros(one.in_features) for name, one in linear_maps(model).items()}
        return highest_columns(scores, method.share)

    prepare(model, method, base, seed, columns=columns)


def model_without_weights(
    method: AnyBaseline, base: Checkpoint, config: Mapping[str, Any], seed: int
) -> Any:
    """The model as it will train, on the meta device: names, shapes, and what is frozen.

    Args:
        method: of training.
        base: the dense model.
        config: what `plan_start` gave.
        seed: of the recipe.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    prepare_unscored(model, method, base, seed)
    return model
