"""LLaMA-Pro: new blocks between the frozen ones of a dense model, which so gets deeper."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polycycle.checkpoint import DTYPES, Checkpoint, TensorJob, copy_job, write_tensors
from polycycle.errors import UpcycleError
from polycycle.families import family_of_dense
from polycycle.files import write_json

_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
_ATTENTION_OUT = "self_attn.o_proj."
# Settings of a config that hold one value per layer.
_PER_LAYER = ("layer_types", "no_rope_layers")


def new_block_places(num_layers: int, every: int) -> tuple[int, ...]:
    """Where the new blocks stand in the deeper model: one after every `every` of the base's.

    Args:
        num_layers: of the base.
        every: blocks of the base to each new one; what is left over at the end gets none.

    Raises:
        UpcycleError: the base has fewer blocks than that.
    """
    if num_layers < every:
        raise UpcycleError(
            f"baseline.every={every}: the base has only {num_layers} blocks, so none would be "
            f"added; set it to {num_layers} or less"
        )
    return tuple(every + number * (every + 1) for number in range(num_layers // every))


def expand_blocks(base: Checkpoint, folder: Path, *, every: int) -> tuple[int, ...]:
    """Write the deeper model; it computes what the base computes, bit for bit.

    A new block is a copy of the one before it whose attention and feed-forward outputs are zero, so
    that it hands on what it is given.

    Args:
        base: a dense model.
        folder: an existing folder to write into.
        every: see `new_block_places`.

    Returns:
        Places of the new blocks.

    Raises:
        UpcycleError: the family is not supported, or the base is too shallow.

    Source: LLaMA-Pro, arXiv:2401.02415, §3.2.
    """
    jobs, config = plan_blocks(base, every=every)
    write_tensors(folder, jobs)
    write_json(folder / "config.json", config)
    base.copy_side_files(folder)
    return new_block_places(int(base.config["num_hidden_layers"]), every)


def plan_blocks(base: Checkpoint, *, every: int) -> tuple[list[TensorJob], dict[str, Any]]:
    """Tensors and config of the deeper model; see `expand_blocks`."""
    family = family_of_dense(base.config, where=base.name)
    num_layers = int(base.config["num_hidden_layers"])
    places = new_block_places(num_layers, every)
    zeroed = (_ATTENTION_OUT, f"mlp.{family.down_name}.")
    sources = _sources(num_layers, places)
    parts: dict[int, list[str]] = {layer: [] for layer in range(num_layers)}
    jobs = []
    for name in base.tensors:
        match = _LAYER.fullmatch(name)
        if match is None:
            jobs.append(copy_job(base, name))
        else:
            parts[int(match[1])].append(match[2])
    for layer, source in enumerate(sources):
        for part in parts[source]:
            is_zero = layer in places and part.startswith(zeroed)
            jobs.append(_job(base, f"model.layers.{source}.{part}", layer, part, is_zero=is_zero))
    return jobs, _deeper_config(base, sources)


def llama_pro_names(base: Checkpoint, *, every: int) -> dict[str, str]:
    """By name in the deeper model, the base's tensor that each is, or is a copy of.

    The zeroed outputs of new blocks come from none. So what is added to the base's tensors and to
    their copies makes of the deeper base the deeper sibling.

    Args:
        base: a dense model.
        every: see `new_block_places`.
    """
    family = family_of_dense(base.config, where=base.name)
    num_layers = int(base.config["num_hidden_layers"])
    places = new_block_places(num_layers, every)
    zeroed = (_ATTENTION_OUT, f"mlp.{family.down_name}.")
    names = {name: name for name in base.tensors if not _LAYER.fullmatch(name)}
    for layer, source in enumerate(_sources(num_layers, places)):
        for name in base.tensors:
            match = _LAYER.fullmatch(name)
            if match is None or int(match[1]) != source:
                continue
            if not (layer in places and match[2].startswith(zeroed)):
                names[f"model.layers.{layer}.{match[2]}"] = name
    return names


def train_new_blocks(model: nn.Module, places: tuple[int, ...]) -> None:
    """Set `requires_grad` for the blocks at these places, and for nothing else."""
    model.requires_grad_(False)
    layers: Any = model.get_submodule("model.layers")
    for place in places:
        layers[place].requires_grad_(True)


def _sources(num_layers: int, places: tuple[int, ...]) -> list[int]:
    """Per block of the deeper model, the base's block that it is, or is a copy of."""
    sources: list[int] = []
    for layer in range(num_layers + len(places)):
        sources.append(sources[-1] if layer in places else sources[-1] + 1 if sources else 0)
    return sources


def _job(base: Checkpoint, source: str, layer: int, part: str, *, is_zero: bool) -> TensorJob:
    info = base.info(source)
    return TensorJob(
        name=f"model.layers.{layer}.{part}",
        dtype=info.dtype,
        shape=info.shape,
        make=partial(_zeros, info.shape, info.dtype) if is_zero else partial(base.read, source),
    )


def _zeros(shape: tuple[int, ...], dtype: str) -> Tensor:
    return torch.zeros(shape, dtype=DTYPES[dtype])


def _deeper_config(base: Checkpoint, sources: list[int]) -> dict[str, Any]:
    """The base's config with more layers; each keeps the kind of attention of its source."""
    from transformers import AutoConfig

    # What config.json leaves out, the class derives from the number of layers.
    derived = AutoConfig.from_pretrained(base.folder)
    config = {**base.config, "num_hidden_layers": len(sources)}
    for key in _PER_LAYER:
        values = getattr(derived, key, None)
        if values is not None:
            config[key] = [values[source] for source in sources]
    return config
