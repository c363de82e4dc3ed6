"""A chart over the model's layers: similarities as lines, the experts that follow below them."""

import math
from collections.abc import Collection, Sequence

from markupsafe import Markup

from polycycle.report.marks import mark
from polycycle.report.svg import (
    WIDTH,
    Scale,
    apart,
    drawing,
    element,
    line,
    text,
    tick_label,
    ticks,
)

LEFT, RIGHT = 46.0, 116.0
TOP, MIDDLE = 8.0, 150.0
BARS_TOP, BOTTOM = 184.0, 236.0


def layer_chart(
    lines: Sequence[tuple[str, Sequence[float]]],
    counts: Sequence[int],
    *,
    counts_label: str,
    marked: Collection[int] = (),
    marked_label: str = "",
    label: str,
) -> Markup:
    """Lines above, a bar per layer with its number below, and a diamond under marked layers.

    Args:
        lines: name and a value per layer; at most eight.
        counts: per layer.
        counts_label: written at the right of the bars.
        marked: layers that get a diamond.
        marked_label: written at the right of the diamonds.
        label: what a screen reader says.
    """
    width = (WIDTH - LEFT - RIGHT) / max(len(counts), 1)
    values = [value for _, of_layers in lines for value in of_layers if math.isfinite(value)]
    low, high = min(values, default=0.0), max(values, default=1.0)
    pad = (high - low) * 0.08 or 0.05
    y = Scale(low - pad, high + pad, MIDDLE, TOP)
    parts = [_grid(y)]
    parts += [
        _line(name, of_layers, number, y, width) for number, (name, of_layers) in enumerate(lines)
    ]
    parts.append(_names(lines, y))
    parts += [_bar(layer, count, max(counts), width) for layer, count in enumerate(counts)]
    parts.append(text(WIDTH - RIGHT + 10, BOTTOM - 4, counts_label))
    axis = BOTTOM + 16
    if marked:
        parts += [mark("diamond", _x(layer, width), BOTTOM + 10) for layer in sorted(marked)]
        parts.append(text(WIDTH - RIGHT + 10, BOTTOM + 14, marked_label))
        axis += 16
    every = math.ceil(22 / width)
    parts += [
        text(_x(layer, width), axis, str(layer), class_="tick", anchor="middle")
        for layer in range(0, len(counts), every)
    ]
    parts.append(text(LEFT - 8, axis, "layer", class_="tick", anchor="end"))
    return drawing(axis + 6, *parts, label=label)


def _x(layer: int, width: float) -> float:
    """The middle of a layer's column."""
    return LEFT + (layer + 0.5) * width


def _grid(y: Scale) -> Markup:
    parts = []
    for value in ticks(y.low, y.high, about=4):
        parts.append(line(LEFT, y(value), WIDTH - RIGHT, y(value), class_="grid"))
        parts.append(text(LEFT - 6, y(value) + 4, tick_label(value), class_="tick", anchor="end"))
    return Markup("").join(parts)


def _line(name: str, values: Sequence[float], number: int, y: Scale, width: float) -> Markup:
    known = [(layer, value) for layer, value in enumerate(values) if math.isfinite(value)]
    places = " ".join(f"{_x(layer, width):.1f},{y(value):.1f}" for layer, value in known)
    dots = [
        element(
            "circle",
            element("title", f"layer {layer}, {name}: {value:.3f}"),
            cx=_x(layer, width),
            cy=y(value),
            r=2.6,
            class_="dot",
        )
        for layer, value in known
    ]
    drawn = element("polyline", points=places, class_=f"line c{number}")
    return element("g", drawn, *dots, class_=f"c{number}")


def _names(lines: Sequence[tuple[str, Sequence[float]]], y: Scale) -> Markup:
    ends = [next((v for v in reversed(values) if math.isfinite(v)), y.low) for _, values in lines]
    places = apart([y(end) for end in ends], gap=15, low=TOP, high=MIDDLE)
    x = WIDTH - RIGHT + 10
    return Markup("").join(
        element("circle", cx=x, cy=place, r=3.5, class_=f"dot c{number}")
        + text(x + 8, place + 4, name)
        for number, ((name, _), place) in enumerate(zip(lines, places, strict=True))
    )


def _bar(layer: int, count: int, most: int, width: float) -> Markup:
    height = (BOTTOM - BARS_TOP) * count / max(most, 1)
    box = element(
        "rect",
        element("title", f"layer {layer}: {count}"),
        x=LEFT + layer * width + 1,
        y=BOTTOM - height,
        width=max(width - 2, 1),
        height=height,
        class_="new",
    )
    number = text(_x(layer, width), BOTTOM - height - 4, str(count), class_="tick", anchor="middle")
    return box + (number if width >= 11 else Markup(""))
