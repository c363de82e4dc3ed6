"""Charts made of marks: before and after per language, heat maps, stacked shares."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from markupsafe import Markup

from polycycle.report.svg import WIDTH, Scale, drawing, element, line, text, tick_label, ticks

LEFT = 92.0
ROW = 23.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One language: a value per model, in order, and the words at its right end."""

    label: str
    values: tuple[float | None, ...]
    note: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Rows under one heading."""

    title: str
    css: str
    """Colour class: `original`, `unseen` or `expanded`."""
    rows: tuple[Row, ...]


def dumbbells(
    blocks: Sequence[Block], *, models: Sequence[str], highest: float, unit: str, label: str
) -> Markup:
    """One line per language from the base (ring) over the middle (diamond) to the end (disc).

    Args:
        blocks: rows by group.
        models: what each row's values belong to, for the tooltips; the first is the base.
        highest: right end of the x axis, which starts at 0.
        unit: written after the ticks (`%`) and in the tooltips.
        label: what a screen reader says.
    """
    right = 74.0
    height = sum(22 + ROW * len(block.rows) for block in blocks) + 30
    x = Scale(0, highest, LEFT, WIDTH - right)
    bottom = height - 24
    parts = []
    for value in ticks(0, highest):
        parts.append(line(x(value), 6, x(value), bottom, class_="grid"))
        words = tick_label(value) + (unit if unit == "%" else "")
        parts.append(text(x(value), bottom + 16, words, class_="tick", anchor="middle"))
    y = 0.0
    for block in blocks:
        y += 22
        parts.append(text(0, y - 5, block.title, class_="heading"))
        for row in block.rows:
            parts.append(_dumbbell(row, models, x, y + ROW / 2, css=block.css, unit=unit))
            y += ROW
    return drawing(height, *parts, label=label)


def _dumbbell(
    row: Row, models: Sequence[str], x: Scale, y: float, *, css: str, unit: str
) -> Markup:
    known = [
        (name, value) for name, value in zip(models, row.values, strict=True) if value is not None
    ]
    tip = row.label + "".join(f"\n{name}: {value:.3g} {unit}" for name, value in known)
    parts = [
        element("title", tip),
        text(LEFT - 10, y + 4, row.label, anchor="end"),
        text(WIDTH, y + 4, row.note, class_="outcome", anchor="end"),
    ]
    if known:
        parts.append(line(x(known[0][1]), y, x(known[-1][1]), y, class_="stem"))
    for name, value in known:
        kind = "ring" if name == models[0] else "disc" if name == models[-1] else "diamond"
        parts.append(mark(kind, x(value), y))
    return element("g", *parts, class_=f"row {css}")


def mark(kind: str, x: float, y: float) -> Markup:
    """A `ring`, `diamond` or `disc` centred on a point; a disc fits into a ring."""
    if kind == "diamond":
        points = f"{x - 4.5:.1f},{y:.1f} {x:.1f},{y - 4.5:.1f} {x + 4.5:.1f},{y:.1f}"
        return element("polygon", points=f"{points} {x:.1f},{y + 4.5:.1f}", class_="diamond")
    return element("circle", cx=x, cy=y, r=3.6 if kind == "disc" else 5.6, class_=kind)


def heat_map(
    blocks: Sequence[tuple[str, Mapping[str, Sequence[float]]]],
    *,
    columns: Sequence[int],
    label: str,
) -> Markup:
    """Shares of 0 to 1 as the strength of one colour: rows under headings, one column per layer.

    Cells wide enough carry their number, in percent.
    """
    width = (WIDTH - LEFT) / max(len(columns), 1)
    height = sum(20 + 21 * len(rows) for _, rows in blocks) + 34
    parts, y = [], 0.0
    for title, rows in blocks:
        y += 20
        parts.append(text(0, y - 5, title, class_="heading"))
        for name, shares in rows.items():
            parts.append(text(LEFT - 10, y + 14, name, anchor="end"))
            for column, share in enumerate(shares):
                tip = f"{name}, layer {columns[column]}: {100 * share:.1f}%"
                words = f"{100 * share:.0f}"
                x = LEFT + column * width
                parts.append(heat_cell(x, y, width, share, tip, words=words, room=26))
            y += 21
    parts.append(_layer_axis(columns, y + 15, width))
    return drawing(height, *parts, label=label)


def heat_cell(
    x: float, y: float, width: float, strength: float, tip: str, *, words: str, room: float
) -> Markup:
    """A cell of a heat map, in a grid of rows 21 high.

    Args:
        x: of its left.
        y: of its top.
        width: of its column.
        strength: of the colour, 0 to 1.
        tip: said where the pointer rests on it.
        words: written into it.
        room: the width that they need; without it they are left out.
    """
    box = {"x": x, "y": y, "width": width - 1.5, "height": 19.5}
    parts = [
        element("title", tip),
        element("rect", **box, class_="empty"),
        element("rect", **box, class_="filled", fill_opacity=max(0.0, min(1.0, strength))),
    ]
    if width >= room:
        class_ = "on" if strength > 0.65 else "off"
        parts.append(text(x + width / 2 - 0.75, y + 14, words, class_=class_, anchor="middle"))
    return element("g", *parts, class_="cell")


def stacked_shares(
    usage: Sequence[Sequence[float]], *, columns: Sequence[int], label: str
) -> Markup:
    """One bar per layer, cut into its experts' shares; the frozen expert stands at the bottom."""
    width = (WIDTH - LEFT) / max(len(columns), 1)
    top, bottom = 8.0, 178.0
    y = Scale(0, 1, bottom, top)
    parts = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        parts.append(line(LEFT, y(share), WIDTH, y(share), class_="grid"))
        words = f"{100 * share:.0f}%"
        parts.append(text(LEFT - 8, y(share) + 4, words, class_="tick", anchor="end"))
    for column, shares in enumerate(usage):
        below = 0.0
        for expert, share in enumerate(shares):
            tip = f"layer {columns[column]}, expert {expert}: {100 * share:.1f}%"
            parts.append(
                element(
                    "rect",
                    element("title", tip),
                    x=LEFT + column * width + 1,
                    y=y(below + share) + 0.5,
                    width=width - 2,
                    height=max(0.0, y(below) - y(below + share) - 1),
                    class_="frozen" if expert == 0 else f"new n{expert % 2}",
                )
            )
            below += share
    parts.append(_layer_axis(columns, bottom + 22, width))
    return drawing(bottom + 36, *parts, label=label)


def _layer_axis(columns: Sequence[int], y: float, width: float) -> Markup:
    """Numbers of the layers, as many as fit, and the word."""
    every = ceil(26 / width)
    numbers = [
        text(LEFT + (place + 0.5) * width, y, str(layer), class_="tick", anchor="middle")
        for place, layer in enumerate(columns)
        if place % every == 0
    ]
    return Markup("").join(numbers) + text(LEFT - 10, y, "layer", class_="tick", anchor="end")
