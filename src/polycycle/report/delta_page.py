"""How far post-training moved each tensor, as one page that needs nothing else."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from polycycle.report.marks import heat_cell
from polycycle.report.svg import WIDTH, drawing, element, text

_LAYER = re.compile(r"^model\.layers\.(\d+)\.(.+?)(?:\.weight)?$")
_LEFT, _ROW = 168.0, 21.0
_COLUMNS = ("Tensor", "Shape", "‖Δ‖", "‖base‖", "‖Δ‖ ÷ ‖base‖", "Largest |Δ|", "Rounding error")


def delta_page(norms: Mapping[str, Any]) -> str:
    """HTML of the norms of a saved delta: a heat map over layers, and the table.

    Args:
        norms: what norms.json holds.
    """
    style = Path(__file__).with_name("style.css").read_text("utf-8")
    title = f"{norms['post']} − {norms['base']}"
    stored = "exactly"
    if norms["stored_as"] != "exact":
        stored = f"as {norms['stored_as']}, off by {100 * norms['rounding_error']:.3g}% of Δ"
    page = element(
        "main",
        element("p", "polycycle delta", class_="eyebrow"),
        element("h1", title, dir="auto"),
        element(
            "p",
            f"Post-training moved the weights by {100 * norms['relative']:.3g}% of their norm. "
            f"Stored {stored}; base + Δ differs from the post-trained model in "
            f"{100 * norms['inexact_share']:.3g}% of the elements.",
            class_="verdict",
        ),
        element("h2", "Norm of Δ in % of the base's, by layer"),
        _heat_map(norms["tensors"]),
        element("h2", "Every tensor"),
        _table(norms["tensors"]),
    )
    head = Markup(
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        '<meta name="color-scheme" content="light dark">'
    )
    head += element("title", title) + Markup(f"<style>\n{style}</style>")
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>{page}</body></html>\n'


def _heat_map(tensors: Sequence[Mapping[str, Any]]) -> Markup:
    """Kinds of tensors as rows, layers as columns; the strongest colour is the most moved."""
    values: dict[str, dict[int, float]] = {}
    for one in tensors:
        match = _LAYER.match(one["name"])
        if match and one["relative"] is not None:
            values.setdefault(match[2], {})[int(match[1])] = one["relative"]
    layers = sorted({layer for row in values.values() for layer in row})
    if not layers:
        return Markup()
    highest = max(value for row in values.values() for value in row.values()) or 1.0
    width = (WIDTH - _LEFT) / len(layers)
    parts = []
    for number, (kind, row) in enumerate(values.items()):
        y = number * _ROW
        parts.append(text(_LEFT - 8, y + 14, kind, anchor="end"))
        for column, layer in enumerate(layers):
            if layer in row:
                tip = f"{kind}, layer {layer}: {100 * row[layer]:.3g}%"
                x = _LEFT + column * width
                words = f"{100 * row[layer]:.2g}"
                parts.append(
                    heat_cell(x, y, width, row[layer] / highest, tip, words=words, room=30)
                )
    bottom = len(values) * _ROW
    every = -(-len(layers) // 12)
    for column, layer in enumerate(layers[::every]):
        x = _LEFT + (column * every + 0.5) * width
        parts.append(text(x, bottom + 15, str(layer), class_="tick", anchor="middle"))
    parts.append(text(_LEFT - 8, bottom + 15, "layer", class_="tick", anchor="end"))
    return drawing(bottom + 22, *parts, label="Relative norm of the delta by tensor and layer")


def _table(tensors: Sequence[Mapping[str, Any]]) -> Markup:
    rows = [
        [
            one["name"],
            " × ".join(map(str, one["shape"])),
            f"{one['norm']:.4g}",
            f"{one['base_norm']:.4g}",
            "" if one["relative"] is None else f"{100 * one['relative']:.3g}%",
            f"{one['largest']:.3g}",
            f"{100 * one['rounding_error']:.3g}%",
        ]
        for one in tensors
    ]
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in _COLUMNS)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in others)
        + "</tr>"
        for first, *others in rows
    )
    return Markup(
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        "</div>"
    )
