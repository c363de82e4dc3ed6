"""Watching which experts a model chooses while it writes: our own models, and their exports."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polycycle.checkpoint import Checkpoint
from polycycle.errors import ConfigError
from polycycle.export import EXPORT_FILE, read_record
from polycycle.families import has_lora_experts, is_upcycled
from polycycle.inference.loading import Speaker
from polycycle.inference.trace import ORIGINAL, ExpertName, LayerChoices
from polycycle.languages import languages_by_group
from polycycle.modeling import record_routing


@dataclass(frozen=True, slots=True)
class Watched:
    """What was seen; to be asked after the block that watched.

    Attributes:
        layers: first choices of every mixture layer, of all tokens that the model read.
    """

    layers: Callable[[], list[LayerChoices]]


def refuse_unwatchable(checkpoint: Checkpoint) -> None:
    """Refuse a model that has no experts to choose from, or an export that does not name them.

    Raises:
        ConfigError: and why.
    """
    config, name = checkpoint.config, checkpoint.name
    if is_upcycled(config):
        masked = config.get("masked_groups") or ()
        by_group = config.get("new_experts_by_group") or ()
        if any(any(counts) for i, counts in enumerate(by_group, 1) if f"g{i}" not in masked):
            return
        raise ConfigError(f"{name}: no new expert takes part in routing, so nothing is chosen")
    if has_lora_experts(config):
        raise ConfigError(
            f"{name} mixes all LoRA experts for every token (LoRAMoE), so no token chooses one"
        )
    record = read_record(checkpoint.folder)
    if record is None:
        raise ConfigError(
            f"{name} is no model of polycycle and no export of one, so it has no experts whose "
            "languages are known"
        )
    if "slots" not in record:
        raise ConfigError(
            f"{name}: {EXPORT_FILE} does not say which expert stands where; it was written by an "
            f"earlier polycycle. Export {record['exported_from']} again"
        )


def languages_of_groups(checkpoint: Checkpoint) -> list[list[str]]:
    """Languages of the original and of every expanded group in order; empty where not recorded."""
    record = read_record(checkpoint.folder) or checkpoint.config
    return languages_by_group(record.get("language_groups"))


@contextmanager
def watch_experts(speaker: Speaker) -> Iterator[Watched]:
    """Record the experts' first choices of the forward passes in this block.

    Args:
        speaker: one that `refuse_unwatchable` accepts.
    """
    if is_upcycled(speaker.checkpoint.config):
        with record_routing(speaker.model) as record:
            yield Watched(
                lambda: [
                    LayerChoices(
                        layer.layer_index,
                        _experts_of(speaker.model.config, layer.layer_index),
                        layer.expert_ids[:, 0].tolist(),
                    )
                    for layer in record.layers
                ]
            )
        return
    with _watch_stock(speaker) as watched:
        yield watched


def _experts_of(config: Any, layer_index: int) -> tuple[ExpertName, ...]:
    """Names of a layer's experts, in the order of its router's rows."""
    counts = config.groups_of_layer(layer_index)
    masked = config.masked_groups or ()
    active = {group: count for group, count in counts.items() if group not in masked}
    new = (_name(group, place) for group, count in active.items() for place in range(count))
    return (ORIGINAL, *new)


def _name(group: str | None, place: int) -> ExpertName:
    return ORIGINAL if group is None else ExpertName(int(group.removeprefix("g")), place + 1)


@contextmanager
def _watch_stock(speaker: Speaker) -> Iterator[Watched]:
    """Listen to the routers of a stock architecture; its slots are our experts."""
    record = read_record(speaker.checkpoint.folder)
    assert record is not None  # refuse_unwatchable
    slots = {
        index: tuple(_name(group, place) for group, place in layer)
        for index, layer in enumerate(record["slots"])
    }
    seen: dict[int, list[Tensor]] = {}

    def keep(index: int) -> Callable[..., None]:
        def hook(router: nn.Module, args: Any, output: tuple[Tensor, Tensor, Tensor]) -> None:
            # Logits, weights, and slots of the K largest, largest first.
            seen.setdefault(index, []).append(output[2].reshape(-1, output[2].shape[-1])[:, 0])

        return hook

    router_class: Any = type(speaker.model)._can_record_outputs["router_logits"].target_class
    handles = [
        module.register_forward_hook(keep(index))
        for name, module in speaker.model.named_modules()
        if isinstance(module, router_class)
        for index in [int(re.findall(r"\.layers\.(\d+)\.", f".{name}.")[0])]
        # A layer full of copies of the original chooses nothing.
        if any(slot != ORIGINAL for slot in slots[index])
    ]
    try:
        yield Watched(
            lambda: [
                LayerChoices(index, slots[index], torch.cat(parts).tolist())
                for index, parts in sorted(seen.items())
            ]
        )
    finally:
        for handle in handles:
            handle.remove()
