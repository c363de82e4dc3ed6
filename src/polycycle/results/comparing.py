"""What was kept and what was gained, read off a result.

A model is compared with its reference: the base, or after a graft the post-trained sibling; pass
`against` to name another model of the run.

A language is measured by its questions where base and model both have an accuracy, else by bits
per byte; pass `by` to choose. Both numbers grow when the model gets better.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from polycycle.results.benchmarks import BenchmarkScore
from polycycle.results.run import RunResult
from polycycle.results.scores import LanguageScores

Measure = Literal["accuracy", "bits_per_byte"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Languages that belong together in tables and averages."""

    key: str
    """`original`, `unseen_original`, `expanded`, or `g1`, `g2`, … where there are several."""
    title: str
    languages: tuple[str, ...]

    @property
    def is_expanded(self) -> bool:
        """Whether these languages were to be learned, not kept."""
        return self.key not in ("original", "unseen_original")


def groups_of(result: RunResult) -> tuple[Group, ...]:
    """The run's language groups in the order of its report; empty ones are left out."""
    languages = result.languages
    several = len(languages.expanded) > 1
    found = [
        Group(key="original", title="Original", languages=languages.original),
        Group(key="unseen_original", title="Unseen original", languages=languages.unseen_original),
    ]
    for number, tags in enumerate(languages.expanded, start=1):
        found.append(
            Group(
                key=f"g{number}" if several else "expanded",
                title=f"Expanded, group {number}" if several else "Expanded",
                languages=tags,
            )
        )
    return tuple(group for group in found if group.languages)


def scores_of(result: RunResult, model: str, language: str) -> LanguageScores | None:
    """The scores of one model in one language, or None when it was not measured."""
    return result.model(model).scores.get(language)


def value_of(result: RunResult, model: str, language: str, *, by: Measure) -> float | None:
    """One model's accuracy (0 to 1) or bits per byte in one language, or None."""
    found = scores_of(result, model, language)
    return None if found is None else getattr(found, by)


def measure_of(result: RunResult, model: str, language: str) -> Measure:
    """`accuracy` when reference and model both answered questions in this language."""
    names = (result.model(model).reference, model)
    both = (value_of(result, name, language, by="accuracy") for name in names)
    return "bits_per_byte" if None in both else "accuracy"


def measure_of_run(result: RunResult) -> Measure:
    """`accuracy` when every model answered questions in every language it was measured in."""
    accuracies = [found.accuracy for model in result.models for found in model.scores.values()]
    return "accuracy" if accuracies and None not in accuracies else "bits_per_byte"


def retention(
    result: RunResult,
    model: str,
    language: str,
    *,
    by: Measure | None = None,
    against: str | None = None,
) -> float | None:
    """What the model kept of its reference's ability in a language: 1.0 is all of it.

    Accuracy ÷ its accuracy, or its bits per byte ÷ bits per byte. None when the language was not
    measured, or when the divisor is zero.
    """
    by = by or measure_of(result, model, language)
    before = value_of(result, against or result.model(model).reference, language, by=by)
    after = value_of(result, model, language, by=by)
    if before is None or after is None:
        return None
    kept, of = (after, before) if by == "accuracy" else (before, after)
    return kept / of if of else None


def gain(
    result: RunResult,
    model: str,
    language: str,
    *,
    by: Measure | None = None,
    against: str | None = None,
) -> float | None:
    """How much better than its reference the model is: percentage points, or bits per byte saved.

    Above zero is better for both measures. None when the language was not measured.
    """
    by = by or measure_of(result, model, language)
    before = value_of(result, against or result.model(model).reference, language, by=by)
    after = value_of(result, model, language, by=by)
    if before is None or after is None:
        return None
    return 100 * (after - before) if by == "accuracy" else before - after


def average(values: Iterable[float | None]) -> float | None:
    """The plain mean of the values that exist, every language counting the same; None of none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def average_value(
    result: RunResult, model: str, languages: Iterable[str], *, by: Measure
) -> float | None:
    """Mean accuracy (0 to 1) or bits per byte over some languages."""
    return average(value_of(result, model, language, by=by) for language in languages)


def average_retention(
    result: RunResult,
    model: str,
    languages: Iterable[str],
    *,
    by: Measure | None = None,
    against: str | None = None,
) -> float | None:
    """Mean of the languages' retentions."""
    return average(retention(result, model, tag, by=by, against=against) for tag in languages)


def average_gain(
    result: RunResult,
    model: str,
    languages: Iterable[str],
    *,
    by: Measure,
    against: str | None = None,
) -> float | None:
    """Mean of the languages' gains, in the unit of `by`."""
    return average(gain(result, model, tag, by=by, against=against) for tag in languages)


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerScores:
    """Means over languages of one generation task; None where no language has any answers."""

    exact_match: float | None
    chrf: float | None
    in_form: float | None


def tasks_of(result: RunResult) -> tuple[str, ...]:
    """Names of the generation tasks that the final model did, in the order of the recipe."""
    found = (name for one in result.final.scores.values() for name in one.tasks)
    return tuple(dict.fromkeys(found))


def average_answers(
    result: RunResult, model: str, languages: Iterable[str], task: str
) -> AnswerScores:
    """Mean scores of one model in a generation task, over those languages that have it."""
    measured = (scores_of(result, model, language) for language in languages)
    found = [one.tasks[task] for one in measured if one is not None and task in one.tasks]
    return AnswerScores(
        exact_match=average(one.exact_match for one in found),
        chrf=average(one.chrf for one in found),
        in_form=average(one.in_form for one in found if one.in_form is not None),
    )


def benchmarks_of(result: RunResult) -> tuple[str, ...]:
    """Names of the benchmarks that the final model was measured on, in that order."""
    found = result.final.benchmarks
    return tuple(dict.fromkeys(one.benchmark for one in found.scores)) if found else ()


def benchmark_of(
    result: RunResult, model: str, benchmark: str, language: str
) -> BenchmarkScore | None:
    """One model's score in a benchmark and language, or None."""
    found = result.model(model).benchmarks
    return found.score(benchmark, language) if found else None


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkChange:
    """A model against its reference, on one benchmark: both answered the same prompts."""

    gain: float
    """Points of 100 that were won."""
    retention: float | None
    """Score ÷ the reference's; None where that is zero."""


def benchmark_change(
    result: RunResult, model: str, benchmark: str, language: str
) -> BenchmarkChange | None:
    """How a model's score compares with its reference's.

    None where one of the two was not measured, or was asked something else: other examples, other
    prompts, another number of shots.
    """
    before = benchmark_of(result, result.model(model).reference, benchmark, language)
    after = benchmark_of(result, model, benchmark, language)
    if before is None or after is None:
        return None
    if (before.prompts_hash, before.metric) != (after.prompts_hash, after.metric):
        return None
    points = 100 if after.is_share else 1
    return BenchmarkChange(
        gain=points * (after.value - before.value),
        retention=after.value / before.value if before.value else None,
    )
