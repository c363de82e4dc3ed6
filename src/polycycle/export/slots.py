"""Which expert fills which slot of a stock router, so that the layer computes the same.

A stock router has the same number of slots, S, in every layer and always takes K of them. Ours may
have fewer experts in a layer, or a language classifier in front.
"""

from dataclasses import dataclass
from typing import Literal

from polycycle.errors import ExportError
from polycycle.export.source import Expert, Layer, Source

Row = Literal["own", "classifier", "zero"]


@dataclass(frozen=True, slots=True)
class Slot:
    """One slot of a stock layer.

    Attributes:
        expert: whose weights fill it.
        row: its router row: the expert's own, the scaled classifier's, or zero where it does not
            matter.
        is_padding: whether the router must never take it.
    """

    expert: Expert
    row: Row = "own"
    is_padding: bool = False


@dataclass(frozen=True, slots=True)
class SlotPlan:
    """The slots of every layer.

    Attributes:
        num_slots: S.
        layers: the slots of each layer; empty for a layer that stays dense.
    """

    num_slots: int
    layers: tuple[tuple[Slot, ...], ...]

    @property
    def dense_layers(self) -> list[int]:
        """Layers that stay dense."""
        return [index for index, slots in enumerate(self.layers) if not slots]


def plan_slots(source: Source, *, selection_bias: bool, keep_dense: bool) -> SlotPlan:
    """Fill the slots of every layer.

    A layer with one expert fills every slot with it, which is exact whatever the router says. A
    layer with 1 < E < K repeats each expert K/E times. A language classifier is one more slot: a
    copy of expert 0 whose row is the classifier's vector, so large that it takes all the weight
    where the score is positive and none where it is negative. Slots that are left over need a
    selection bias that keeps the router from them.

    Args:
        source: the model.
        selection_bias: whether the target's router has one.
        keep_dense: leave layers with one expert dense.

    Raises:
        ExportError: a layer does not fit.
    """
    chosen = [_real_slots(source, layer) for layer in source.layers]
    num_slots = max(len(slots) for slots in chosen)
    layers = []
    for layer, slots in zip(source.layers, chosen, strict=True):
        if len(layer.experts) == 1:
            filled = (Slot(layer.experts[0], "zero"),) * num_slots
            layers.append(() if keep_dense else filled)
            continue
        missing = num_slots - len(slots)
        if missing and not selection_bias:
            raise ExportError(_uneven(layer, len(slots), num_slots))
        # A real expert's row, not zeros: where all real logits are very negative, padding at
        # logit 0 would take the whole softmax and leave the real experts less than its clamp.
        padding = (Slot(layer.experts[0], is_padding=True),) * missing
        layers.append((*slots, *padding))
    return SlotPlan(num_slots, tuple(layers))


def _real_slots(source: Source, layer: Layer) -> tuple[Slot, ...]:
    experts, top_k = layer.experts, source.top_k
    if len(experts) == 1:
        return ()
    repeats = 1
    if len(experts) < top_k:
        repeats, rest = divmod(top_k, len(experts))
        if rest:
            raise ExportError(
                f"layer {layer.index} has {len(experts)} experts and uses them all; the stock "
                f"router always takes {top_k}, which is no multiple of that"
            )
    slots = tuple(Slot(expert) for expert in experts for _ in range(repeats))
    return (*slots, Slot(experts[0], "classifier")) if layer.has_classifier else slots


def _uneven(layer: Layer, found: int, num_slots: int) -> str:
    what = f"layer {layer.index} needs {found} slots ({len(layer.experts)} experts"
    what += " and the language classifier)" if layer.has_classifier else ")"
    return (
        f"{what}, the largest layer {num_slots}, and the router has no bias that could keep it "
        "from empty slots"
    )
