"""Which expert each token of a text used, and what that comes to over the layers.

A layer's *first choice* for a token is the expert with the largest weight. No torch here: this is
read by what paints it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from polycycle.errors import ConfigError


@dataclass(frozen=True, order=True, slots=True)
class ExpertName:
    """An expert of a layer.

    Attributes:
        group: number of the language group that brought it; 0 is the frozen original.
        place: which one of the group's, from 1; 0 for the original.
    """

    group: int
    place: int


ORIGINAL = ExpertName(0, 0)


@dataclass(frozen=True, slots=True)
class LayerChoices:
    """The first choices of one mixture layer.

    Attributes:
        layer_index: position of the decoder layer in the model.
        experts: whose index is what.
        chosen: index of the first choice for each token that the model read.
    """

    layer_index: int
    experts: tuple[ExpertName, ...]
    chosen: Sequence[int]


@dataclass(frozen=True, slots=True)
class TracedToken:
    """One token of the text.

    Attributes:
        text: what it adds to the text; empty for a part of a character that a later one completes.
        experts: first choice of each mixture layer; None for the last token, which was written and
            never read.
    """

    text: str
    experts: tuple[ExpertName, ...] | None


@dataclass(frozen=True, slots=True)
class RoutingTrace:
    """A text, token by token, with the experts that its tokens used.

    Attributes:
        tokens: in order; special tokens are left out.
        layers: index of each mixture layer.
    """

    tokens: tuple[TracedToken, ...]
    layers: tuple[int, ...]

    def of_layer(self, layer: int) -> "RoutingTrace":
        """What one layer did.

        Raises:
            ConfigError: it is no mixture layer.
        """
        if layer not in self.layers:
            raise ConfigError(
                f"layer {layer} has no experts to choose from; choose one of "
                f"{', '.join(map(str, self.layers))}"
            )
        place = self.layers.index(layer)
        tokens = (
            TracedToken(token.text, None if token.experts is None else (token.experts[place],))
            for token in self.tokens
        )
        return RoutingTrace(tuple(tokens), (layer,))

    def shares(self) -> dict[ExpertName, float]:
        """Of all first choices of all layers, the share that fell on each expert, in order."""
        counts = Counter(name for token in self.tokens for name in token.experts or ())
        return {name: count / counts.total() for name, count in sorted(counts.items())}


def main_group(token: TracedToken) -> tuple[int, float] | None:
    """The group that most layers chose first, and their share; the lowest number of equals."""
    if token.experts is None:
        return None
    counts = Counter(name.group for name in token.experts)
    group, count = min(counts.items(), key=lambda item: (-item[1], item[0]))
    return group, count / len(token.experts)


def trace_tokens(
    tokenizer: Any,
    ids: Sequence[int],
    layers: Sequence[LayerChoices],
    *,
    first: int,
    num_cached: int,
) -> RoutingTrace:
    """The trace of a text's end.

    Args:
        tokenizer: the model's.
        ids: the whole text.
        layers: first choices; their last `len(ids) − 1 − num_cached` tokens are those of `ids`
            after the cached ones, without the last.
        first: where in `ids` the trace begins; not among the cached ones.
        num_cached: how many of `ids` were read in an earlier turn.
    """
    num_read = len(ids) - 1 - num_cached
    names = [[layer.experts[i] for i in layer.chosen[-num_read:]] for layer in layers]
    by_token = [*zip(*names, strict=True), None]
    special = set(tokenizer.all_special_ids)
    pieces = text_pieces(tokenizer, ids)
    tokens = (
        TracedToken(pieces[i], by_token[i - num_cached])
        for i in range(first, len(ids))
        if ids[i] not in special
    )
    return RoutingTrace(tuple(tokens), tuple(layer.layer_index for layer in layers))


def text_pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text; a character of several tokens stands at its last.

    A token is decoded with the finished one before it, because some tokenizers drop the space in
    front of whatever they decode first.
    """
    pieces: list[str] = []
    before: list[int] = []
    pending: list[int] = []
    for token in ids:
        pending.append(token)
        known = _decode(tokenizer, before)
        text = _decode(tokenizer, [*before, *pending])
        if text.endswith("\ufffd") and len(pending) < _LONGEST_CHARACTER:
            pieces.append("")
            continue
        pieces.append(text[len(known) :])
        before, pending = pending, []
    if pending:  # broken off within a character
        pieces[-1] = text[len(known) :]
    return pieces


_LONGEST_CHARACTER = 4
"""Bytes, so tokens at most: what is no character by then is broken."""


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(
        tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    )
