"""A text whose colours say which experts its tokens used, for a terminal. No torch here."""

from collections.abc import Iterator, Sequence

from rich.console import Group
from rich.text import Text

from polycycle.inference.trace import ExpertName, RoutingTrace, TracedToken, main_group

# Pale and strong of each group, the original first; readable on light and dark terminals. Pairs of
# ColorBrewer's Paired, whose neighbours also differ for colour-blind eyes.
_COLOURS = (
    ("black on #a6cee3", "white on #1f78b4"),
    ("black on #fdbf6f", "black on #ff7f00"),
    ("black on #cab2d6", "white on #6a3d9a"),
    ("black on #b2df8a", "white on #33a02c"),
    ("black on #fb9a99", "white on #e31a1c"),
)
AGREEMENT = 0.75
"""Share of layers from which on a token has its group's strong colour."""


def paint_routing(
    trace: RoutingTrace,
    languages: Sequence[Sequence[str]],
    *,
    layer: int | None = None,
    with_colour: bool = True,
) -> Group:
    """The text of a trace, each token in the colour of the experts it used, and what they mean.

    Over all layers a token has the colour of the group that most of them chose first, pale where
    fewer than three in four agree. In one layer it has the colour of its expert.

    Args:
        trace: of an answer.
        languages: of each group, the original first; empty where nobody knows.
        layer: look at this layer alone.
        with_colour: otherwise `⟨0⟩`, `⟨G1⟩` … stand where the group changes, and `⟨G1.2⟩` for the
            second expert of the first group.

    Raises:
        ConfigError: there is no such layer.
    """
    seen = trace if layer is None else trace.of_layer(layer)
    text = Text()
    before = None
    for token in seen.tokens:
        mark, style = _look(token, one_layer=layer is not None)
        if not with_colour and token.text and mark not in ("", before):
            text.append(f"⟨{mark}⟩")
            before = mark
        text.append(token.text, style if with_colour else "")
    return Group(text, *_legend(seen, languages, layer=layer, with_colour=with_colour))


def _look(token: TracedToken, *, one_layer: bool) -> tuple[str, str]:
    """Mark and style of a token."""
    if token.experts is None:
        return "", "dim"
    if one_layer:
        return _mark(token.experts[0]), _style_of_expert(token.experts[0])
    found = main_group(token)
    assert found is not None
    group, share = found
    return _mark(ExpertName(group, 0)), _style(group, is_strong=share >= AGREEMENT)


def _mark(name: ExpertName) -> str:
    if name.group == 0:
        return "0"
    return f"G{name.group}.{name.place}" if name.place else f"G{name.group}"


def _style(group: int, *, is_strong: bool) -> str:
    return _COLOURS[group % len(_COLOURS)][is_strong]


def _style_of_expert(name: ExpertName) -> str:
    """Experts of one group take turns with its two colours."""
    return _style(name.group, is_strong=name.place % 2 == 0)


def _legend(
    trace: RoutingTrace,
    languages: Sequence[Sequence[str]],
    *,
    layer: int | None,
    with_colour: bool,
) -> Iterator[Text]:
    """Shares of first choices, and what they are shares of."""
    shares: dict[ExpertName, float] = {}
    for name, share in trace.shares().items():
        key = name if layer is not None else ExpertName(name.group, 0)
        shares[key] = shares.get(key, 0.0) + share
    line = Text()
    for name, share in shares.items():
        style = _style(name.group, is_strong=True) if layer is None else _style_of_expert(name)
        line.append("   " if line else "")
        line.append(*((f" {_mark(name)} ", style) if with_colour else (f"⟨{_mark(name)}⟩", "")))
        line.append(f" {_meaning(name, languages)} {share:.0%}")
    read = sum(token.experts is not None for token in trace.tokens)
    yield line
    if layer is not None:
        yield Text(f"first choices of layer {layer} for {read} tokens", "dim")
        return
    words = f"first choices of {len(trace.layers)} layers for {read} tokens"
    if with_colour:
        words += "; pale where fewer than three layers in four agree"
    yield Text(words, "dim")


def _meaning(name: ExpertName, languages: Sequence[Sequence[str]]) -> str:
    what = "the original" if name.group == 0 else "new experts"
    if name.place:
        what = f"expert {name.place} of group {name.group}"
    known = languages[name.group] if name.group < len(languages) else ()
    return f"{what} ({', '.join(known)})" if known else what
