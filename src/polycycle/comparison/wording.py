"""How a comparison words its figures, the same in terminal, page and log."""

from polycycle.comparison.figures import (
    AnswerColumn,
    Comparison,
    Row,
    Spread,
    Verdict,
)
from polycycle.report.wording import MISSING, bytes_size, decimal, duration, flops, short_count
from polycycle.results import Measure

HEADINGS = {"gain": "Gained", "kept": "Kept", "kept_unseen": "Kept, unseen"}
_VERDICTS: dict[Verdict, str] = {"better": "▲", "worse": "▼", "within noise": "≈"}
LEGEND = (
    "▲ better, ▼ worse than the reference in a paired t-test over seeds at 95 %; ≈ not "
    "distinguishable from noise; no mark: one seed."
)


def answer_heading(column: AnswerColumn) -> str:
    """`Exact, expanded`, or `In form, original`."""
    kind = "Exact" if column.what == "exact_match" else "In form"
    return f"{kind}, {column.group.lower()}"


def unit_of_gain(measure: Measure) -> str:
    """What gains are counted in."""
    return "points" if measure == "accuracy" else "bits per byte saved"


def quality(row: Row, key: str, measure: Measure) -> str:
    """`+71.9 ± 1.2 ▲`, or `99.6 ± 0.2 % ▼`; a share of answers as what was kept."""
    spread = row.figures.get(key)
    if spread is None:
        return MISSING
    if key == "gain":
        words = spread_words(spread, digits=1 if measure == "accuracy" else 3, sign=True)
    else:
        factor = Spread(
            mean=100 * spread.mean,
            deviation=None if spread.deviation is None else 100 * spread.deviation,
            seeds=spread.seeds,
        )
        words = spread_words(factor, digits=1) + " %"
    mark = _VERDICTS.get(row.against_reference.get(key, "one seed"), "")
    return f"{words} {mark}".rstrip()


def spread_words(spread: Spread, *, digits: int, sign: bool = False) -> str:
    """Mean ± standard deviation; the mean alone of one seed."""
    words = decimal(spread.mean, digits, sign=sign)
    if spread.deviation is None:
        return words
    return f"{words} ± {decimal(spread.deviation, digits)}"


def costs(row: Row) -> tuple[str, ...]:
    """Parameters (total, active, trained), training operations, time, memory."""
    found = {key: spread.mean for key, spread in row.figures.items()}
    counts = [
        short_count(found[key]) if key in found else MISSING
        for key in ("parameters_total", "parameters_active", "parameters_trainable")
    ]
    return (
        *counts,
        flops(found.get("training_flops")),
        duration(found["seconds"]) if "seconds" in found else MISSING,
        bytes_size(int(found["peak_memory_bytes"])) if "peak_memory_bytes" in found else MISSING,
    )


def seeds_words(row: Row) -> str:
    """`3 of 3`, or `1 of 3, 1 failed`: what is neither done nor failed was not run."""
    done = max((spread.seeds for spread in row.figures.values()), default=0)
    words = f"{done} of {done + len(row.failed) + len(row.missing)}"
    return f"{words}, {len(row.failed)} failed" if row.failed else words


def sentences(comparison: Comparison) -> list[str]:
    """Who wins where, by how much, and whether that is more than noise."""
    rows = [row for row in comparison.rows if "gain" in row.figures]
    if not rows:
        return ["Nothing has been run yet."]
    titles = {row.cell: row.title for row in comparison.rows}
    said = []
    asked = {
        "gain": "gains most on the languages to learn",
        "kept": "keeps most of the replayed original languages",
        "kept_unseen": "keeps most of the original languages that no training showed",
    }
    for column in comparison.answers:
        if column.what == "exact_match":
            asked[column.key] = f"is right most often in {column.task}, {column.group.lower()}"
    for key in asked:
        having = [row for row in rows if key in row.figures]
        if not having:
            continue
        best = max(having, key=lambda row: row.figures[key].mean)
        shown = quality(best, key, comparison.measure).rstrip(" ▲▼≈")
        unit = f" {unit_of_gain(comparison.measure)}" if key == "gain" else ""
        words = f"{best.title} {asked[key]}: {shown}{unit}"
        said.append(f"{words}{_against(best, key, titles[comparison.reference])}.")
    return said


def _against(row: Row, key: str, reference: str) -> str:
    endings: dict[Verdict, str] = {
        "better": f", more than {reference} by more than the noise between seeds",
        "worse": f", less than {reference}",
        "within noise": f", not distinguishable from {reference} by these seeds",
        "one seed": " (one seed: noise unknown)",
        "reference": " (the reference)",
    }
    return endings[row.against_reference[key]]
