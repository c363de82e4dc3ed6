"""How a comparison words its figures, the same in terminal, page and log."""

from collections.abc import Sequence

from polycycle.comparison.comparing import QUALITIES, Comparison, Row, paired
from polycycle.comparison.figures import AnswerColumn
from polycycle.comparison.noise import Spread, Verdict, spread_of, verdict_on
from polycycle.report.wording import MISSING, bytes_size, decimal, duration, flops, short_count
from polycycle.results import Measure, ModelSpeed

SPEED_ENDINGS = ("_tokens_per_second", "_of_base")
HEADINGS = {"gain": "Gained", "kept": "Kept", "kept_unseen": "Kept, unseen"}
ANSWER_KINDS = {"exact_match": "Exact", "in_form": "In form", "chrf": "chrF", "score": "Score"}
_BEST_AT = {
    "exact_match": "is right most often",
    "chrf": "comes nearest to what was asked for (chrF)",
    "score": "scores best",
}
_BASE = "base"
_VERDICTS: dict[Verdict, str] = {"better": "▲", "worse": "▼", "within noise": "≈"}
LEGEND = (
    "▲ better, ▼ worse than the reference in a paired t-test over seeds at 95 %; ≈ not "
    "distinguishable from noise; no mark: one seed."
)
MANY = (
    "Of a hundred comparisons of equals, five get a ▲ or ▼: with many languages and variants, "
    "single marks say little."
)
COST_HEADINGS = (
    ("Parameters", "total"),
    ("Active", "per token"),
    ("Trained", "at most"),
    ("Operations", "FLOPs"),
    ("Time", "training"),
    ("Memory", "peak"),
)


def numbered(comparison: Comparison) -> list[tuple[str, Row]]:
    """Rows with the numbers that plots show them by."""
    reference = comparison.reference
    return [
        (f"{number} {row.title}" + (" (reference)" if row.cell == reference else ""), row)
        for number, row in enumerate(comparison.rows, start=1)
    ]


def answer_heading(column: AnswerColumn) -> str:
    """`Exact, expanded`, `In form, original`, `chrF, expanded`, or a benchmark's `Score, …`."""
    return f"{ANSWER_KINDS[column.what]}, {column.group.lower()}"


def unit_of_gain(measure: Measure) -> str:
    """What gains are counted in."""
    return "points" if measure == "accuracy" else "bits per byte saved"


def quality(row: Row, key: str, measure: Measure) -> str:
    """`+71.9 ± 1.2 ▲`, or `99.6 ± 0.2 % ▼`; a share of answers as what was kept; `+7.9 ± 0.1 %`."""
    spread = row.figures.get(key)
    if spread is None:
        return MISSING
    words = in_its_unit(spread, key, measure, sign=_is_gain(key) or key.startswith("saved/"))
    mark = _VERDICTS.get(row.against_reference.get(key, "one seed"), "")
    return f"{words} {mark}".rstrip()


def in_its_unit(spread: Spread, key: str, measure: Measure, *, sign: bool) -> str:
    """`+71.9 ± 1.2` of a gain, `99.6 ± 0.2 %` of what was kept, `23.8 ± 0.4` of chrF."""
    if _is_gain(key):
        return spread_words(spread, digits=1 if measure == "accuracy" else 3, sign=sign)
    deviation = None if spread.deviation is None else 100 * spread.deviation
    percents = Spread(mean=100 * spread.mean, deviation=deviation, seeds=spread.seeds)
    words = spread_words(percents, digits=1, sign=sign)
    return words if key.endswith("/chrf") else f"{words} %"


def _is_gain(key: str) -> bool:
    return key == "gain" or key.startswith("gain/")


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
        _seconds_words(row.figures["seconds"]) if "seconds" in found else MISSING,
        bytes_size(int(found["peak_memory_bytes"])) if "peak_memory_bytes" in found else MISSING,
    )


def _seconds_words(spread: Spread) -> str:
    words = duration(spread.mean)
    return words if spread.deviation is None else f"{words} ± {duration(spread.deviation)}"


def speed_headings(speed: ModelSpeed) -> tuple[tuple[str, str], ...]:
    """Two columns for each kind of work: tokens per second, and how many times the base's."""
    headings = []
    for pace in speed.by_use.values():
        does = "Reads" if pace.work == "prefill" else "Writes"
        texts = "1 text" if pace.batch == 1 else f"{pace.batch} texts"
        headings += [(f"{does} {texts}", "tokens/s"), ("", "× the base")]
    return tuple(headings)


def speeds(row: Row, speed: ModelSpeed) -> tuple[str, ...]:
    """The columns of `speed_headings`."""
    words = []
    for key in speed.by_use:
        rate, ratio = (row.figures.get(f"{key}{end}") for end in SPEED_ENDINGS)
        words.append(MISSING if rate is None else short_count(round(rate.mean)))
        words.append(MISSING if ratio is None else spread_words(ratio, digits=2))
    return tuple(words)


def speed_note(measured: Sequence[ModelSpeed]) -> str:
    """How it was measured; and where not all of it on one machine's terms, that too."""
    speed = measured[0]
    works = []
    for pace in speed.by_use.values():
        does = "read whole" if pace.work == "prefill" else "written greedily, with a cache"
        works.append(f"{pace.batch} × {pace.length} tokens {does}")
    places = list(dict.fromkeys(map(_place_words, measured)))
    note = (
        "Each model and its base took turns, so the ratio within a round says most: it is the "
        f"median over rounds. Held-out text: {'; '.join(works)}. On {'; or '.join(places)}."
    )
    return note if len(places) == 1 else f"{note} So only ratios compare, and those with care."


def _place_words(speed: ModelSpeed) -> str:
    threads = f", {speed.threads} threads" if speed.device == "cpu" else ""
    return f"{speed.device}{threads}, in {speed.dtype}"


def seeds_words(row: Row) -> str:
    """`3 of 3`, or `1 of 3, 1 failed`: what is neither done nor failed was not run."""
    done = max((spread.seeds for spread in row.figures.values()), default=0)
    words = f"{done} of {done + len(row.failed) + len(row.missing)}"
    return f"{words}, {len(row.failed)} failed" if row.failed else words


def sentences(comparison: Comparison) -> list[str]:
    """Who wins where, by how much, and whether that is more than noise."""
    if not any("gain" in row.figures for row in comparison.rows):
        return ["Nothing has been run yet."]
    if not comparison.ground.is_one_task:
        return ["Variants differ in base or languages, so none of them wins: read each by itself."]
    rows = _competing(comparison)
    said = []
    asked = {
        "gain": "gains most on the languages to learn",
        "kept": "keeps most of the replayed original languages",
        "kept_unseen": "keeps most of the original languages that no training showed",
    }
    for column in comparison.answers:
        if does := _BEST_AT.get(column.what):
            asked[column.key] = f"{does} in {column.task}, {column.group.lower()}"
    for key in asked:
        having = [row for row in rows if key in row.figures]
        if not having:
            continue
        best = max(having, key=lambda row: row.figures[key].mean)
        if key not in QUALITIES and not best.figures[key].mean:
            continue  # nobody is right even once
        shown = in_its_unit(best.figures[key], key, comparison.measure, sign=key == "gain")
        unit = f" {unit_of_gain(comparison.measure)}" if key == "gain" else ""
        words = f"{best.title} {asked[key]}: {shown}{unit}"
        said.append(f"{words}{_margins(comparison, best, having, key)}.")
    front = pareto_front(rows)
    if len(rows) > 1 and front:
        titles_there = "; ".join(row.title for row in front)
        said.append(f"By means, no variant both gains and keeps more than these: {titles_there}.")
    return said


def _competing(comparison: Comparison) -> list[Row]:
    """The rows with results but the base's own, which keeps everything and gains nothing."""
    cells = comparison.study.cells
    rows = [row for row in comparison.rows if "gain" in row.figures]
    return [row for row in rows if cells[row.cell].model != _BASE]


def pareto_front(rows: Sequence[Row]) -> list[Row]:
    """The rows of which no other one is at least as good in gain and in what is kept, and better
    in one of them, by means alone."""
    having = [row for row in rows if {"gain", "kept"} <= set(row.figures)]
    places = [(row.figures["gain"].mean, row.figures["kept"].mean) for row in having]
    return [
        row
        for row, (gain, kept) in zip(having, places, strict=True)
        if not any(
            other_gain >= gain and other_kept >= kept and (other_gain, other_kept) != (gain, kept)
            for other_gain, other_kept in places
        )
    ]


def _margins(comparison: Comparison, best: Row, having: Sequence[Row], key: str) -> str:
    """`, +3.1 ± 0.4 against Uniform (more than the noise between seeds)`.

    Against the reference, and against the next best where that is another.
    """
    reference = comparison.reference
    is_reference = best.cell == reference
    rivals = {} if is_reference else {reference: comparison.study.title_of(reference)}
    others = [row for row in having if row is not best]
    if others:
        second = max(others, key=lambda row: row.figures[key].mean)
        rivals.setdefault(second.cell, f"the next best, {second.title}")
    mine = comparison.figures_of(best.cell)
    margins = [
        _margin(paired(mine, comparison.figures_of(cell), key), title, key, comparison.measure)
        for cell, title in rivals.items()
    ]
    if len({verdict for _, verdict in margins}) == 1:  # said once, of both
        margins[:-1] = [(words, "") for words, _ in margins[:-1]]
    said = [f"{words}{verdict}" for words, verdict in margins]
    return ", ".join([" (the reference)" if is_reference else "", *said])


def _margin(
    differences: Sequence[float], rival: str, key: str, measure: Measure
) -> tuple[str, str]:
    """What somebody is ahead by, and whether that is noise."""
    endings: dict[Verdict, str] = {
        "better": "more than the noise between seeds",
        "worse": "and that is no noise",
        "within noise": "not distinguishable by these seeds",
        "one seed": "one seed: noise unknown",
    }
    if not differences:
        return f"no seed in common with {rival}", ""
    by = in_its_unit(spread_of(differences), key, measure, sign=True).replace(" %", " points")
    return f"{by} against {rival}", f" ({endings[verdict_on(differences)]})"
