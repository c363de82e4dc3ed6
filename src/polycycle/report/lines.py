"""Line charts over the steps of a run: one stretch of the x axis per stage."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

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

LOWEST = 216.0
"""Height of the x axis; further down where more lines need room for their names."""
LEFT, RIGHT, TOP = 46.0, 92.0, 24.0
NARROWEST = 0.24
"""Of the plot's width, for a stage much shorter than the others: it stays readable."""
MOST_POINTS = 160
"""Per line and stage; more are averaged, for they would only fatten the page."""
NUM_COLORS = 8
LETTER = 6.2
"""Width of a letter of a stage's name, roughly."""
GAP = 14.0
"""Between the names at the right."""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One quantity over the whole run."""

    label: str
    stages: tuple[Points, ...]
    """(step, value) for each stage; a stage where it was not measured has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretch:
    """A stage's part of the x axis."""

    stage: str
    scale: Scale


def line_chart(
    lines: Sequence[Line],
    *,
    stages: Sequence[tuple[str, int]],
    label: str,
    y_range: tuple[float, float] | None = None,
    zero: str | None = None,
) -> Markup:
    """Draws the lines, each named at its right end.

    Args:
        lines: at most eight keep a colour of their own; further ones are dashed.
        stages: name and number of steps of each stage, in order.
        label: what a screen reader says.
        y_range: by default what the values need.
        zero: words for a reference line at y = 0; None draws none.
    """
    lines = [Line(label=one.label, stages=tuple(map(_finite, one.stages))) for one in lines]
    values = [y for one in lines for points in one.stages for _, y in points]
    low, high = y_range or _padded(values, with_zero=bool(zero))
    stretches = _stretches(stages)
    # Names too long for their stretch take two rows in turn.
    is_crowded = any(len(s.stage) * LETTER > s.scale.end - s.scale.start for s in stretches[:-1])
    top = TOP + (GAP if is_crowded else 0)
    bottom = max(LOWEST, top + GAP * len(lines))
    y = Scale(low, high, bottom, top)
    parts = [_grid(y)]
    for number, stretch in enumerate(stretches):
        row = number % 2 if is_crowded else 0
        parts.append(_stretch(stretch, bottom, is_first=number == 0, name_y=13 + GAP * row))
    if zero:
        parts.append(line(LEFT, y(0), WIDTH - RIGHT, y(0), class_="zero"))
        parts.append(text(LEFT + 4, y(0) + 13, zero, class_="tick"))
    parts += [_path(one, number, stretches, y) for number, one in enumerate(lines)]
    parts.append(_labels(lines, y))
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(text(middle, bottom + 31, "optimizer step", class_="tick", anchor="middle"))
    return drawing(bottom + 34, *parts, label=label)


def _finite(points: Points) -> Points:
    """Points without those that cannot be drawn, thinned by averaging neighbours."""
    points = [(x, y) for x, y in points if math.isfinite(y)]
    size = math.ceil(len(points) / MOST_POINTS)
    if size < 2:
        return points
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [
        (sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group))
        for group in groups
    ]


def _padded(values: Sequence[float], *, with_zero: bool) -> tuple[float, float]:
    """The values' range and a little more; below zero there is room for the line's name."""
    values = [*values, 0.0] if with_zero else values
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    pad = (high - low) * 0.06 or 0.5
    return low - pad * (2 if with_zero else 1), high + pad


def _stretches(stages: Sequence[tuple[str, int]]) -> list[Stretch]:
    steps = [max(count, 1) for _, count in stages]
    shares = [max(count / sum(steps), NARROWEST) for count in steps]
    width = (WIDTH - RIGHT - LEFT) / sum(shares)
    found, start = [], LEFT
    for (stage, _), count, share in zip(stages, steps, shares, strict=True):
        end = start + share * width
        found.append(Stretch(stage=stage, scale=Scale(0, count, start, end)))
        start = end
    return found


def _grid(y: Scale) -> Markup:
    parts = []
    for value in ticks(y.low, y.high):
        parts.append(line(LEFT, y(value), WIDTH - RIGHT, y(value), class_="grid"))
        parts.append(text(LEFT - 6, y(value) + 4, tick_label(value), class_="tick", anchor="end"))
    return Markup("").join(parts)


def _stretch(stretch: Stretch, bottom: float, *, is_first: bool, name_y: float) -> Markup:
    x = stretch.scale
    parts = [text(x.start + 4, name_y, stretch.stage, class_="stage")]
    if not is_first:
        parts.append(line(x.start, 3, x.start, bottom, class_="boundary"))
    places = ticks(0, x.high, about=max(2, round((x.end - x.start) / 55)))
    # A stage starts where the one before it ended: only one of the two numbers fits there.
    for value in places if is_first else places[1:]:
        parts.append(text(x(value), bottom + 15, tick_label(value), class_="tick", anchor="middle"))
    return Markup("").join(parts)


def _path(one: Line, number: int, stretches: Sequence[Stretch], y: Scale) -> Markup:
    class_ = f"line c{number % NUM_COLORS}" + (" dashed" if number >= NUM_COLORS else "")
    parts = [element("title", one.label)]
    for points, stretch in zip(one.stages, stretches, strict=True):
        if points:
            places = " ".join(f"{stretch.scale(x):.1f},{y(value):.1f}" for x, value in points)
            parts.append(element("polyline", points=places))
    return element("g", *parts, class_=class_)


def _labels(lines: Sequence[Line], y: Scale) -> Markup:
    """Each line's name, at the height where it ends, moved apart where two would touch."""
    ends = [
        (number, one.label, [points for points in one.stages if points][-1][-1][1])
        for number, one in enumerate(lines)
        if any(one.stages)
    ]
    places = apart([y(end) for _, _, end in ends], gap=GAP, low=y.end, high=y.start)
    x = WIDTH - RIGHT + 10
    return Markup("").join(
        element("circle", cx=x, cy=place, r=3.5, class_=f"dot c{number % NUM_COLORS}")
        + text(x + 8, place + 4, label)
        for (number, label, _), place in zip(ends, places, strict=True)
    )
