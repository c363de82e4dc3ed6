"""Tables of the benchmarks: every measured model by language, what was gained and kept."""

from collections.abc import Sequence

from polycycle.report.tables import Section, Table, language_cell
from polycycle.report.wording import MISSING, count, decimal, model_title, percent
from polycycle.results import (
    BenchmarkScore,
    Group,
    RunResult,
    average,
    benchmark_change,
    benchmark_of,
    benchmarks_of,
    groups_of,
)


def benchmark_tables(result: RunResult) -> list[tuple[str, Table]]:
    """Each benchmark's title, and every measured model's score by language."""
    return [
        (benchmark_title(result, name), _benchmark_table(result, name))
        for name in benchmarks_of(result)
    ]


def benchmark_title(result: RunResult, name: str) -> str:
    """A benchmark's name, its metric and its number of shots."""
    found = result.final.benchmarks
    one = next(score for score in found.scores if score.benchmark == name) if found else None
    return f"{name} ({one.metric}, {one.shots} shots)" if one else name


def _benchmark_table(result: RunResult, name: str) -> Table:
    models = [model.name for model in result.models if model.benchmarks]
    headings = (
        ("Language", ""),
        *((model_title(model), "of 100") for model in models),
        ("Change", "points"),
        ("Kept", f"% of {model_title(result.final.reference).lower()}"),
        ("Standard error", "points"),
        ("Examples", ""),
    )
    sections = [_benchmark_section(result, group, models, name) for group in groups_of(result)]
    return Table(headings=headings, sections=tuple(section for section in sections if section.rows))


def _benchmark_section(
    result: RunResult, group: Group, models: Sequence[str], name: str
) -> Section:
    final = result.final.name
    rows = []
    for tag in group.languages:
        score = benchmark_of(result, final, name, tag)
        if score is None:
            continue
        values = [hundredths(benchmark_of(result, model, name, tag)) for model in models]
        change = benchmark_change(result, final, name, tag)
        numbers = [*values, *((change.gain, change.retention) if change else (None, None))]
        error = None if score.stderr is None else 100 * score.stderr
        rows.append(
            (
                language_cell(tag),
                *_benchmark_cells(numbers, group),
                decimal(error, 1),
                count(score.examples),
            )
        )
    means = benchmark_means(result, name, group.languages, models)
    mean = ("Average", *_benchmark_cells(means, group), "", "") if means and len(rows) > 1 else ()
    return Section(title=group.title, rows=tuple(rows), average=mean)


def benchmark_means(
    result: RunResult, name: str, tags: Sequence[str], models: Sequence[str]
) -> list[float | None] | None:
    """Over languages: each model's mean score, the final one's mean gain and mean retention.

    Every number is over those languages that it exists in; None where the final model has none.
    """
    final = result.final.name
    done = [tag for tag in tags if benchmark_of(result, final, name, tag)]
    if not done:
        return None
    scores = [
        average(hundredths(benchmark_of(result, model, name, tag)) for tag in done)
        for model in models
    ]
    found = (benchmark_change(result, final, name, tag) for tag in done)
    changes = [change for change in found if change is not None]
    return [
        *scores,
        average(change.gain for change in changes),
        average(change.retention for change in changes),
    ]


def hundredths(score: BenchmarkScore | None) -> float | None:
    """A score on a scale of 0 to 100."""
    return None if score is None else (100 if score.is_share else 1) * score.value


def _benchmark_cells(numbers: Sequence[float | None], group: Group) -> tuple[str, ...]:
    *values, gained, kept = numbers
    return (
        *(decimal(value, 1) for value in values),
        decimal(gained, 1, sign=True),
        MISSING if group.is_expanded else percent(kept),
    )
