"""The run in one sentence: what was gained, what was kept, with the numbers."""

from dataclasses import dataclass
from typing import Literal

from polycycle.report.wording import decimal, names, percent
from polycycle.results import (
    Group,
    Measure,
    RunResult,
    average_gain,
    average_retention,
    average_value,
    groups_of,
    measure_of_run,
)

KEPT = 0.98
"""Retention that counts as kept; the forgetting alarm's threshold, read the other way round."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What a reader in a hurry takes away."""

    level: Literal["good", "mixed", "bad"]
    """Learned and kept; learned but forgot; did not learn."""
    title: str
    """Two to four words."""
    sentence: str
    """One sentence with the numbers."""


def verdict_of(result: RunResult) -> Verdict:
    """Judges the final model against its reference, by questions when all languages have them."""
    by = measure_of_run(result)
    model = result.final.name
    kept = average_retention(result, model, result.languages.all_original, by=by)
    gained = average_gain(result, model, result.languages.all_expanded, by=by)
    sentence = f"{_gained(result, by)}; {_kept(result, by)}."
    if gained is None or kept is None:
        return Verdict(level="mixed", title="Not all measured", sentence=sentence)
    if gained <= 0:
        return Verdict(level="bad", title="Nothing learned", sentence=sentence)
    if kept < KEPT:
        return Verdict(level="mixed", title="Learned, but forgot", sentence=sentence)
    return Verdict(level="good", title="Learned and kept", sentence=sentence)


def _gained(result: RunResult, by: Measure) -> str:
    tags = result.languages.all_expanded
    before = average_value(result, result.final.reference, tags, by=by)
    after = average_value(result, result.final.name, tags, by=by)
    gained = average_gain(result, result.final.name, tags, by=by)
    if before is None or after is None or gained is None:
        return f"{names(tags)} were not measured"
    mean = " on average" if len(tags) > 1 else ""
    if by == "accuracy":
        change = decimal(gained, 1, sign=True)
        return (
            f"{names(tags)} went from {percent(before)} to {percent(after)} of questions "
            f"answered correctly{mean} ({change} points)"
        )
    return (
        f"{names(tags)} went from {decimal(before)} to {decimal(after)} bits per byte{mean} "
        f"({decimal(100 * (after / before - 1), 0, sign=True)}%, lower is better)"
    )


def _kept(result: RunResult, by: Measure) -> str:
    parts = [_kept_by(result, group, by) for group in groups_of(result) if not group.is_expanded]
    return "; ".join(parts)


def _kept_by(result: RunResult, group: Group, by: Measure) -> str:
    kept = average_retention(result, result.final.name, group.languages, by=by)
    who = names(group.languages)
    if group.key == "unseen_original":
        who += ", which no training replayed,"
    if kept is None:
        return f"{who} were not measured"
    return f"{who} kept {percent(kept)} of what they had"
