"""A scatter plot of numbered points, with whiskers for what they vary by."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from polycycle.report.svg import WIDTH, Scale, drawing, element, line, text, tick_label, ticks

LEFT, RIGHT, TOP, HEIGHT = 52.0, 16.0, 14.0, 250.0
_RADIUS = 9.0
_ROUNDS = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One thing on the plane.

    Attributes:
        number: written on the point; a table says what it is.
        title: shown as a tooltip.
        x, y: where it lies.
        x_deviation, y_deviation: half the length of its whiskers; 0 draws none.
        is_reference: whether the others are measured against it.
    """

    number: int
    title: str
    x: float
    y: float
    x_deviation: float = 0.0
    y_deviation: float = 0.0
    is_reference: bool = False


def scatter(points: Sequence[Point], *, x_title: str, y_title: str, label: str) -> Markup:
    """Draws the points; both axes cover what the points and their whiskers need.

    Numbers that would cover each other are moved apart, each with a line to a dot at its point.

    Args:
        points: at least one.
        x_title: of the horizontal axis, with its unit.
        y_title: of the vertical axis, with its unit.
        label: what a screen reader says.
    """
    x = _scale([(p.x, p.x_deviation) for p in points], LEFT, WIDTH - RIGHT)
    y = _scale([(p.y, p.y_deviation) for p in points], HEIGHT, TOP + 14)
    parts = [text(0, TOP - 3, y_title, class_="tick")]
    for value in ticks(y.low, y.high):
        parts.append(line(LEFT, y(value), WIDTH - RIGHT, y(value), class_="grid"))
        parts.append(text(LEFT - 6, y(value) + 4, tick_label(value), class_="tick", anchor="end"))
    for value in ticks(x.low, x.high):
        parts.append(line(x(value), TOP + 14, x(value), HEIGHT, class_="grid"))
        parts.append(text(x(value), HEIGHT + 15, tick_label(value), class_="tick", anchor="middle"))
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(text(middle, HEIGHT + 32, x_title, class_="tick", anchor="middle"))
    parts += [_whiskers(point, x, y) for point in points]
    places = [(x(point.x), y(point.y)) for point in points]
    box = (LEFT + _RADIUS, WIDTH - RIGHT - _RADIUS, TOP + 14 + _RADIUS, HEIGHT - _RADIUS)
    badges = spread(places, apart=2 * _RADIUS + 1, box=box)
    moved = [pair for pair in zip(places, badges, strict=True) if math.dist(*pair) >= 1]
    parts += [line(*place, *badge, class_="leader") for place, badge in moved]
    parts += [_mark(point, *badge) for point, badge in zip(points, badges, strict=True)]
    parts += [element("circle", cx=x, cy=y, r=2.5, class_="place") for (x, y), _ in moved]
    numbers = (
        text(x, y + 3.5, str(point.number), anchor="middle")
        for point, (x, y) in zip(points, badges, strict=True)
    )
    parts.append(element("g", *numbers, class_="point"))
    return drawing(HEIGHT + 38, *parts, label=label)


def _scale(values: Sequence[tuple[float, float]], start: float, end: float) -> Scale:
    low = min(value - deviation for value, deviation in values)
    high = max(value + deviation for value, deviation in values)
    pad = 0.08 * (high - low) or 0.05 * abs(high) or 0.5
    return Scale(low - pad, high + pad, start, end)


def _whiskers(point: Point, x: Scale, y: Scale) -> Markup:
    parts = []
    if point.x_deviation:
        ends = (x(point.x - point.x_deviation), x(point.x + point.x_deviation))
        parts.append(line(ends[0], y(point.y), ends[1], y(point.y), class_="whisker"))
    if point.y_deviation:
        ends = (y(point.y - point.y_deviation), y(point.y + point.y_deviation))
        parts.append(line(x(point.x), ends[0], x(point.x), ends[1], class_="whisker"))
    return Markup("").join(parts)


def spread(
    places: Sequence[tuple[float, float]], *, apart: float, box: tuple[float, float, float, float]
) -> list[tuple[float, float]]:
    """Places of the same number, near the given ones, that do not cover each other.

    Args:
        places: x and y.
        apart: how far any two should be from each other; a crowd that the box cannot hold is less.
        box: left, right, top and bottom, which are kept to.
    """
    left, right, top, bottom = box
    moved = [list(place) for place in places]
    for _ in range(_ROUNDS):
        is_free = True
        for i, a in enumerate(moved):
            for j, b in enumerate(moved[:i]):
                dx, dy = a[0] - b[0], a[1] - b[1]
                distance = math.hypot(dx, dy)
                if distance >= apart:
                    continue
                is_free = False
                if distance < 1e-6:  # in the very same place: each pair in a direction of its own
                    dx, dy, distance = math.cos(i + 3 * j), math.sin(i + 3 * j), 1.0
                push = 0.5 * (apart - min(distance, apart)) / distance + 0.01
                for one, sign in ((a, 1), (b, -1)):
                    one[0] = min(max(one[0] + sign * push * dx, left), right)
                    one[1] = min(max(one[1] + sign * push * dy, top), bottom)
        if is_free:
            break
    return [(x, y) for x, y in moved]


def _mark(point: Point, x: float, y: float) -> Markup:
    return element(
        "g",
        element("title", f"{point.title}: {tick_label(point.x)}, {tick_label(point.y)}"),
        element("circle", cx=x, cy=y, r=_RADIUS, class_="reference" if point.is_reference else ""),
        class_="point",
    )
