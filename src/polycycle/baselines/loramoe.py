"""LoRAMoE: LoRA experts beside the frozen feed-forward maps, mixed by routers.

Letters: E LoRA experts, R rank, D_in, D_out features of a map.
"""

import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polycycle.checkpoint import (
    DTYPES,
    Checkpoint,
    TensorJob,
    combine_hashes,
    copy_job,
    write_tensors,
)
from polycycle.families import family_of_dense
from polycycle.files import write_json
from polycycle.modeling import LoraExperts
from polycycle.surgery import seeded_generator


def add_lora_experts(
    base: Checkpoint,
    folder: Path,
    *,
    num_experts: int,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    seed: int = 0,
) -> None:
    """Write the model with experts; it computes what the base computes, bit for bit.

    Every tensor of the base is in it under its own name. Experts' second maps are zero.

    Args:
        base: a dense model.
        folder: an existing folder to write into.
        num_experts: E.
        rank: R.
        alpha: an expert's update is multiplied by alpha ÷ R.
        dropout: of what goes into the experts, in training.
        seed: of first maps and routers.

    Raises:
        UpcycleError: the family is not supported.

    Source: LoRAMoE, arXiv:2312.09979, §3.2 and the released code.
    """
    jobs, config = plan_lora_experts(
        base, num_experts=num_experts, rank=rank, alpha=alpha, dropout=dropout, seed=seed
    )
    hashes = write_tensors(folder, jobs)
    of_base = {name: hashes[name] for name in base.tensors}
    config["base_hash"] = combine_hashes(of_base, base.tensors)
    write_json(folder / "config.json", config)
    base.copy_side_files(folder)


def plan_lora_experts(
    base: Checkpoint, *, num_experts: int, rank: int, alpha: float, dropout: float, seed: int
) -> tuple[list[TensorJob], dict[str, Any]]:
    """Tensors and config of the model with experts; see `add_lora_experts`."""
    from polycycle.families.lora_experts import lora_experts_classes

    family = family_of_dense(base.config, where=base.name)
    config_class, model_class = lora_experts_classes(family)
    jobs = [copy_job(base, name) for name in base.tensors]
    for layer in range(int(base.config["num_hidden_layers"])):
        for part in (*family.gate_up_names, family.down_name):
            jobs += _expert_jobs(base, f"model.layers.{layer}.mlp.{part}", num_experts, rank, seed)
    config = {
        **{key: value for key, value in base.config.items() if key != "auto_map"},
        "architectures": [model_class.__name__],
        "model_type": config_class.model_type,
        "num_lora_experts": num_experts,
        "lora_rank": rank,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "base_model": base.name,
    }
    return jobs, config


def train_lora_experts(model: nn.Module) -> None:
    """Set `requires_grad` for LoRA experts and their routers, and for nothing else."""
    model.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, LoraExperts):
            module.requires_grad_(True)


def _expert_jobs(
    base: Checkpoint, name: str, num_experts: int, rank: int, seed: int
) -> list[TensorJob]:
    info = base.info(f"{name}.weight")
    out_features, in_features = info.shape
    bound = 1 / math.sqrt(in_features)  # Kaiming-uniform with a = √5

    def drawn(shape: tuple[int, ...], of: str) -> Tensor:
        generator = seeded_generator(f"{seed}/{of}")
        return ((2 * torch.rand(shape, generator=generator) - 1) * bound).to(DTYPES[info.dtype])

    shapes: dict[str, tuple[int, ...]] = {
        f"{name}.lora.a": (num_experts, rank, in_features),
        f"{name}.lora.b": (num_experts, rank, out_features),
        f"{name}.lora.router": (num_experts, in_features),
    }
    return [
        TensorJob(
            name=of,
            dtype=info.dtype,
            shape=shape,
            make=partial(torch.zeros, shape, dtype=DTYPES[info.dtype])
            if of.endswith(".b")
            else partial(drawn, shape, of),
        )
        for of, shape in shapes.items()
    ]
