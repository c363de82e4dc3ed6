"""The run's result as a table for a terminal of 80 columns."""

from rich.box import SIMPLE_HEAVY
from rich.console import Group as Stack
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from polycycle.languages import language_name
from polycycle.report.benchmark_tables import benchmark_means, benchmark_title, hundredths
from polycycle.report.export_tables import export_row
from polycycle.report.score_tables import answers_cell
from polycycle.report.verdict import verdict_of
from polycycle.report.wording import MISSING, count, decimal, model_title, percent
from polycycle.results import (
    BenchmarkResult,
    ExportResult,
    Group,
    Measure,
    ModelScores,
    RunResult,
    average,
    average_answers,
    benchmarks_of,
    gain,
    groups_of,
    measure_of_run,
    retention,
    tasks_of,
    value_of,
)

_MOST_MODELS = 4
"""More columns do not fit 80 characters."""
STYLES = {"good": "bold green", "mixed": "bold yellow", "bad": "bold red"}


def terminal_table(result: RunResult) -> Stack:
    """Languages by group against models, what was gained or kept, and the verdict below."""
    by = measure_of_run(result)
    what = "questions answered correctly" if by == "accuracy" else "bits per byte, lower is better"
    table = Table(title=Text(f"{result.name}: {what}"), title_style="bold", box=SIMPLE_HEAVY)
    table.add_column("Language", no_wrap=True, overflow="ellipsis", max_width=18)
    for name in _shown(result):
        table.add_column(model_title(name), justify="right", no_wrap=True)
    table.add_column("Gained", justify="right", no_wrap=True)
    table.add_column("Kept", justify="right", no_wrap=True)
    for group in groups_of(result):
        _add_group(table, result, group, by)
    tasks = [_tasks_table(result)] if tasks_of(result) else []
    tasks += [terminal_benchmarks(result)] if benchmarks_of(result) else []
    verdict = verdict_of(result)
    sentence = Text.assemble((f"{verdict.title}. ", STYLES[verdict.level]), verdict.sentence)
    alarms = len(result.alarms)
    told = f"{alarms} alarm{'s' if alarms > 1 else ''} during training, see the report."
    return Stack(
        table,
        *tasks,
        Padding(sentence, (1, 0, 0, 0)),
        *([Text(told, style="yellow")] if alarms else []),
    )


def export_table(export: ExportResult) -> Stack:
    """How an export compares with its model, and which engines compute it right."""
    table = Table(title=Text(f"{export.target} against {export.source}"), box=SIMPLE_HEAVY)
    table.add_column("Text", no_wrap=True, overflow="ellipsis", max_width=18)
    for heading in ("Tokens", "Largest Δ", "Mean KL", "Same token", "Greedy"):
        table.add_column(heading, justify="right", no_wrap=True)
    for label, found in export.languages.items():
        table.add_row(*map(Text, export_row(label, found)))
    level = "good" if export.passed else "bad"
    verdict = "It computes the same. " if export.passed else "It does not compute the same. "
    words = f"Compared in {export.dtype} on {export.compared_on}."
    if export.settled_in_float32:
        words += f" {export.dtype} rounds too coarsely to tell, so float32 decided."
    engines = [Text(f"{engine}: {known}") for engine, known in export.engines.items()]
    told = Text.assemble((verdict, STYLES[level]), words)
    return Stack(table, Padding(told, (1, 0, 0, 0)), *engines)


def _shown(result: RunResult) -> list[str]:
    """The models that have a column: all, or of many the base and each group's last one."""
    models = [model.name for model in result.models]
    if len(models) <= _MOST_MODELS:
        return models
    reviewed = {name.replace("review", "post-pretrain") for name in models if "review" in name}
    kept = [name for name in models[1:] if name not in reviewed]
    return [models[0], *kept[1 - _MOST_MODELS :]]


def _add_group(table: Table, result: RunResult, group: Group, by: Measure) -> None:
    models = _shown(result)
    table.add_section()
    columns: list[list[float | None]] = [
        [value_of(result, model, tag, by=by) for tag in group.languages] for model in models
    ]
    columns.append([gain(result, models[-1], tag, by=by) for tag in group.languages])
    columns.append([retention(result, models[-1], tag, by=by) for tag in group.languages])
    for place, tag in enumerate(group.languages):
        cells = [column[place] for column in columns]
        table.add_row(Text(language_name(tag)), *_cells(cells, group, by))
    if len(group.languages) > 1:
        means = [average(column) for column in columns]
        table.add_row(Text(group.title), *_cells(means, group, by), style="bold")


def _tasks_table(result: RunResult) -> Table:
    """Each generation task, by group: every model's exact answers, and the final one's chrF."""
    models = _shown(result)
    title = Text("answers written: % exact (% in the form asked for), and chrF of the last")
    table = Table(title=title, title_style="bold", box=SIMPLE_HEAVY)
    table.add_column("Task", no_wrap=True, overflow="ellipsis", max_width=18)
    for model in models:
        table.add_column(model_title(model), justify="right", no_wrap=True)
    table.add_column("chrF", justify="right", no_wrap=True)
    for task in tasks_of(result):
        table.add_section()
        table.add_row(Text(task), style="bold")
        for group in groups_of(result):
            scores = [average_answers(result, model, group.languages, task) for model in models]
            if scores[-1].chrf is not None:
                shares = [answers_cell(one) for one in scores]
                table.add_row(Text(f"  {group.title}"), *shares, decimal(scores[-1].chrf, 1))
    return table


def terminal_benchmarks(result: RunResult) -> Table:
    """Each benchmark by group of languages: base and final model, what was gained or kept."""
    models = [result.final.reference, result.final.name]
    table = Table(title=Text("benchmarks, of 100"), title_style="bold", box=SIMPLE_HEAVY)
    table.add_column("Benchmark", no_wrap=True, overflow="ellipsis", max_width=30)
    for heading in (*map(model_title, models), "Gained", "Kept"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name in benchmarks_of(result):
        table.add_section()
        table.add_row(Text(benchmark_title(result, name)), style="bold")
        for group in groups_of(result):
            columns = benchmark_means(result, name, group.languages, models)
            if columns is not None:
                *values, gained, kept = columns
                shown = [decimal(value, 1) for value in values]
                shown.append(decimal(gained, 1, sign=True))
                shown.append(MISSING if group.is_expanded else percent(kept))
                table.add_row(Text(f"  {group.title}"), *shown)
    return table


def scores_tables(scores: ModelScores | None, benchmarks: BenchmarkResult | None) -> Stack:
    """One model's scores by language, and its benchmarks by language."""
    parts: list[Table] = []
    if scores is not None:
        table = Table(title=Text(scores.name), title_style="bold", box=SIMPLE_HEAVY)
        for heading in ("Language", "Bits per byte", "Perplexity", "Correct", "On expert 0"):
            table.add_column(heading, justify="left" if heading == "Language" else "right")
        for tag, one in scores.scores.items():
            table.add_row(
                Text(language_name(tag)),
                decimal(one.bits_per_byte, 3),
                decimal(one.perplexity),
                percent(one.accuracy),
                percent(one.expert0_share),
            )
        parts.append(table)
    if benchmarks is not None:
        table = Table(title=Text("benchmarks, of 100"), title_style="bold", box=SIMPLE_HEAVY)
        for heading in ("Benchmark", "Language", "Score", "± error", "Metric", "Shots", "Examples"):
            is_word = heading in ("Benchmark", "Language", "Metric")
            table.add_column(heading, justify="left" if is_word else "right")
        for score in benchmarks.scores:
            error = None if score.stderr is None else 100 * score.stderr
            table.add_row(
                Text(score.benchmark),
                Text(language_name(score.language)),
                decimal(hundredths(score), 1),
                decimal(error, 1),
                score.metric,
                str(score.shots),
                count(score.examples),
            )
        parts.append(table)
    return Stack(*parts)


def _cells(values: list[float | None], group: Group, by: Measure) -> list[str]:
    *scores, gained, kept = values
    shown = [percent(score) if by == "accuracy" else decimal(score, 3) for score in scores]
    points = decimal(gained, 1, sign=True) + " pts" if by == "accuracy" else _bits(gained)
    if group.is_expanded:
        return [*shown, points, MISSING]
    return [*shown, MISSING, percent(kept)]


def _bits(gained: float | None) -> str:
    return MISSING if gained is None else decimal(gained, 3, sign=True)
