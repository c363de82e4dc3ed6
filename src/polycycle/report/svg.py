"""The few pieces that all plots are drawn from: elements, scales, ticks.

Plots are SVG inside the page: text is text in the reader's own fonts (no empty boxes for scripts
that a plotting library does not ship), colours are style.css classes, so they follow dark mode,
and the browser shows each `<title>` as a tooltip without any JavaScript.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH = 440.0
"""Of every plot, in its own units: near a phone's width, so text stays readable there."""


@dataclass(frozen=True, slots=True)
class Scale:
    """A straight line from a range of values to a range of pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low or 1.0
        return self.start + (value - self.low) / span * (self.end - self.start)


def element(name: str, *children: str, **attributes: str | float | None) -> Markup:
    """One SVG element; plain text is escaped, `class_` is `class`, `_` in a name is `-`."""
    written = [
        f' {key.rstrip("_").replace("_", "-")}="{escape(_short(value))}"'
        for key, value in attributes.items()
        if value is not None
    ]
    inside = "".join(escape(child) for child in children)
    return Markup(f"<{name}{''.join(written)}>{inside}</{name}>")


def text(x: float, y: float, words: str, *, class_: str = "", anchor: str = "start") -> Markup:
    """Text whose baseline starts (or is centred, or ends) at a point."""
    return element("text", words, x=x, y=y, class_=class_ or None, text_anchor=anchor)


def line(x1: float, y1: float, x2: float, y2: float, *, class_: str) -> Markup:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def drawing(height: float, *children: str, label: str) -> Markup:
    """A whole plot; `label` is what a screen reader says."""
    return element(
        "svg",
        *children,
        viewBox=f"0 0 {WIDTH:g} {_short(height)}",
        role="img",
        aria_label=label,
        class_="plot",
    )


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 × 10ⁿ apart) between two values, roughly `about` of them."""
    span = high - low
    if not span > 0:
        return [low]
    rough = span / about
    size = 10 ** math.floor(math.log10(rough))
    step = next(m * size for m in (1, 2, 5, 10) if m * size >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def tick_label(value: float) -> str:
    """`1.5k` for 1500, `0.02` for 0.02; a true minus sign."""
    words = f"{value / 1000:g}k" if abs(value) >= 1000 else f"{round(value, 6):g}"
    return words.replace("-", "−")


def apart(places: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """The places moved as little as need be so that each two are `gap` apart, in their order."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    moved = list(places)
    above = low - gap
    for index in order:
        moved[index] = above = max(places[index], above + gap)
    below = high + gap
    for index in reversed(order):
        moved[index] = below = min(moved[index], below - gap)
    return moved


def _short(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
