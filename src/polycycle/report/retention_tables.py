"""Tables of the retention gate: how often it fires, what that trades, what a kept text gains."""

import math
from collections.abc import Sequence

from polycycle.report.tables import Section, Table, language_cell
from polycycle.report.wording import MISSING, count, decimal, percent
from polycycle.results import RetentionPoint, RunResult, average, groups_of


def gate_table(result: RunResult) -> Table | None:
    """How often the final model's retention gate fires, per language; None without a gate."""
    trade = result.final.retention
    if trade is None:
        return None
    rates = trade.set_point.text_rate
    sections = []
    for group in groups_of(result):
        known = [tag for tag in group.languages if tag in rates]
        right = [1 - rates[tag] if result.languages.group_of(tag) else rates[tag] for tag in known]
        rows = tuple(
            (
                language_cell(tag),
                percent(rates[tag]),
                percent(trade.token_rate[tag]),
                percent(share),
                count(trade.texts[tag]),
            )
            for tag, share in zip(known, right, strict=True)
        )
        if rows:
            sections.append(Section(title=group.title, rows=rows))
    return Table(
        headings=(
            ("Language", ""),
            ("Texts judged original", "%"),
            ("Tokens", "%"),
            ("Texts judged rightly", "%"),
            ("Texts", ""),
        ),
        sections=tuple(sections),
    )


def trade_table(result: RunResult) -> Table | None:
    """What moving the gate's threshold trades: retention against gain; None without a gate."""
    trade, base = result.final.retention, result.model(result.final.reference)
    if trade is None:
        return None

    def kept(point: RetentionPoint, tags: Sequence[str]) -> str:
        return percent(average(point.text_rate[tag] for tag in tags))

    def change(point: RetentionPoint, tags: Sequence[str]) -> str:
        ratios = (point.bits_per_byte[tag] / base.scores[tag].bits_per_byte for tag in tags)
        mean = average(ratios)
        return MISSING if mean is None else percent(mean - 1, sign=True)

    languages = result.languages
    kinds = {
        "original": languages.original,
        "unseen": languages.unseen_original,
        "expanded": languages.all_expanded,
    }
    measured = {
        kind: [tag for tag in tags if tag in trade.texts and tag in base.scores]
        for kind, tags in kinds.items()
        if tags
    }
    rows = tuple(
        (
            f"{decimal(point.threshold)}{' (set)' if point.threshold == trade.threshold else ''}",
            *(kept(point, tags) for tags in measured.values()),
            *(change(point, tags) for tags in measured.values()),
        )
        for point in trade.points
    )
    return Table(
        headings=(
            ("Threshold", ""),
            *((f"Kept exactly, {kind}", "% of texts") for kind in measured),
            *((f"Bits per byte, {kind}", "against base") for kind in measured),
        ),
        sections=(Section(title="", rows=rows),),
    )


def threshold_advice(result: RunResult) -> str:
    """The lowest measured threshold that gives no expanded text away; empty if it is set."""
    trade, languages = result.final.retention, result.languages
    if trade is None:
        return ""
    expanded = [tag for tag in languages.all_expanded if tag in trade.texts]
    originals = (*languages.original, *languages.unseen_original)
    kept = [tag for tag in originals if tag in trade.texts]
    safe = [
        point
        for point in trade.points
        if math.isfinite(point.threshold) and not any(point.text_rate[tag] for tag in expanded)
    ]
    if not (safe and expanded and kept):
        return ""
    best = min(safe, key=lambda point: point.threshold)
    rounded_up = math.ceil(round(100 * best.threshold, 6)) / 100
    if rounded_up == round(trade.threshold, 2):
        return ""
    then, now = (average(p.text_rate[tag] for tag in kept) for p in (best, trade.set_point))
    return (
        f"On this text {decimal(rounded_up)} is the lowest measured threshold at which no text "
        f"of an expanded language is judged original; it would keep {percent(then)} of original "
        f"texts, {decimal(trade.threshold)} keeps {percent(now)}. To move it in a finished model, "
        "give retention_threshold to from_pretrained, or change it in config.json."
    )


def mixed_table(result: RunResult) -> Table | None:
    """What the gate makes of texts that are half original, half expanded; None if not measured."""
    trade = result.final.retention
    if trade is None or not trade.mixed:
        return None
    found = {(one.language, one.begins): one for one in trade.mixed}
    sections = []
    for group in groups_of(result):
        rows = []
        for tag in group.languages:
            first, last = (found.get((tag, begins)) for begins in ("original", "expanded"))
            if first is not None and last is not None:
                rates = (first.text_rate, first.token_rate, last.text_rate, last.token_rate)
                texts = count(first.texts + last.texts)
                rows.append((language_cell(tag), *map(percent, rates), texts))
        if rows:
            sections.append(Section(title=group.title, rows=tuple(rows)))
    return Table(
        headings=(
            ("The expanded half", ""),
            ("Original half first", "% of texts judged original"),
            ("Its tokens", "% judged original"),
            ("Expanded half first", "% of texts judged original"),
            ("Its tokens", "% judged original"),
            ("Texts", ""),
        ),
        sections=tuple(sections),
    )


def speed_table(result: RunResult) -> Table | None:
    """What a kept text gains in speed; None where it was not measured."""
    speed = result.final.retention and result.final.retention.speed
    if not speed:
        return None
    kinds = (
        ("Kept, so by the base", speed.kept),
        ("Not kept, so by the mixture", speed.mixture),
        ("The base without a gate", speed.base),
    )
    rows = tuple(
        (name, decimal(value, 0), decimal(value / speed.mixture) + " ×") for name, value in kinds
    )
    return Table(
        headings=(("Original text", ""), ("Prefill", "tokens/s"), ("Against the mixture", "")),
        sections=(Section(title="", rows=rows),),
    )
