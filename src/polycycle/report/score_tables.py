"""Tables of what the run itself measured: questions, held-out text, written answers."""

from collections.abc import Sequence

from polycycle.report.tables import Section, Table, language_cell
from polycycle.report.wording import MISSING, count, decimal, model_title, percent
from polycycle.results import (
    AnswerScores,
    Group,
    LanguageScores,
    Measure,
    RunResult,
    average_answers,
    average_gain,
    average_retention,
    average_value,
    gain,
    groups_of,
    retention,
    scores_of,
    tasks_of,
    value_of,
)


def scores_table(result: RunResult, by: Measure) -> Table:
    """One measure: every model, then what the final one gained and kept; averages per group."""
    models = [model.name for model in result.models]
    unit = "%" if by == "accuracy" else "bits/byte"
    change = ("Change", "points") if by == "accuracy" else ("Saved", "bits/byte")
    headings = (
        ("Language", ""),
        *((model_title(model), unit) for model in models),
        change,
        ("Kept", f"% of {model_title(result.final.reference).lower()}"),
    )
    return Table(
        headings=headings,
        sections=tuple(_scores_section(result, group, models, by) for group in groups_of(result)),
    )


def _scores_section(result: RunResult, group: Group, models: Sequence[str], by: Measure) -> Section:
    final, tags = models[-1], group.languages

    def row(
        name: str, values: Sequence[float | None], gained: float | None, kept: float | None
    ) -> tuple[str, ...]:
        shown = [percent(v) if by == "accuracy" else decimal(v, 3) for v in values]
        change = decimal(gained, 1 if by == "accuracy" else 3, sign=True)
        return (name, *shown, change, MISSING if group.is_expanded else percent(kept))

    rows = [
        row(
            language_cell(tag),
            [value_of(result, model, tag, by=by) for model in models],
            gain(result, final, tag, by=by),
            retention(result, final, tag, by=by),
        )
        for tag in tags
    ]
    mean = row(
        "Average",
        [average_value(result, model, tags, by=by) for model in models],
        average_gain(result, final, tags, by=by),
        average_retention(result, final, tags, by=by),
    )
    return Section(title=group.title, rows=tuple(rows), average=mean if len(rows) > 1 else ())


def task_tables(result: RunResult) -> list[tuple[str, Table]]:
    """Each generation task's name, and how well every model wrote its answers."""
    models = [model.name for model in result.models]
    tables = []
    for name in tasks_of(result):
        asks_form = any(
            one.tasks[name].in_form is not None
            for one in result.final.scores.values()
            if name in one.tasks
        )
        measure = "exact (form)" if asks_form else "% exact"
        headings = (
            ("Language", ""),
            *((model_title(model), measure) for model in models),
            *((model_title(model), "chrF") for model in models),
            ("Answers", ""),
        )
        sections = [_task_section(result, group, models, name) for group in groups_of(result)]
        filled = tuple(section for section in sections if section.rows)
        tables.append((name, Table(headings=headings, sections=filled)))
    return tables


def answers_cell(scores: AnswerScores) -> str:
    """Exact answers, and in brackets those in the form that was asked for, if one was."""
    if scores.in_form is None:
        return percent(scores.exact_match)
    return f"{percent(scores.exact_match, 0)} ({percent(scores.in_form, 0)})"


def _task_section(result: RunResult, group: Group, models: Sequence[str], name: str) -> Section:
    def row(title: str, scores: Sequence[AnswerScores], answers: str) -> tuple[str, ...]:
        chrf = (decimal(one.chrf, 1) for one in scores)
        return (title, *map(answers_cell, scores), *chrf, answers)

    def scores(tags: Sequence[str]) -> list[AnswerScores]:
        return [average_answers(result, model, tags, name) for model in models]

    measured = {tag: scores_of(result, models[-1], tag) for tag in group.languages}
    done = {tag: one.tasks[name] for tag, one in measured.items() if one and name in one.tasks}
    rows = tuple(
        row(language_cell(tag), scores([tag]), count(one.examples)) for tag, one in done.items()
    )
    mean = row("Average", scores(list(done)), "") if len(rows) > 1 else ()
    return Section(title=group.title, rows=rows, average=mean)


def details_table(result: RunResult) -> Table:
    """The final model's other numbers, and on how much text all of them were measured."""
    headings = (
        ("Language", ""),
        ("Perplexity", "per token"),
        ("Distance from base", "nats/token"),
        ("Weight on expert 0", "%"),
        ("Questions", ""),
        ("Documents", ""),
        ("Tokens", ""),
        ("Text", "bytes"),
    )
    return Table(
        headings=headings,
        sections=tuple(_details_section(result, group) for group in groups_of(result)),
    )


def _details_section(result: RunResult, group: Group) -> Section:
    def row(name: str, one: LanguageScores) -> tuple[str, ...]:
        return (
            name,
            decimal(one.perplexity),
            decimal(one.kl_from_base, 4),
            percent(one.expert0_share),
            count(one.questions),
            count(one.documents),
            count(one.tokens),
            count(one.bytes),
        )

    found = {tag: scores_of(result, result.final.name, tag) for tag in group.languages}
    measured = {tag: one for tag, one in found.items() if one is not None}
    return Section(
        title=group.title,
        rows=tuple(row(language_cell(tag), one) for tag, one in measured.items()),
    )


def unmasking_tables(result: RunResult) -> list[tuple[str, Table]]:
    """Each stage that unmasked a group, and what that alone changed in every language."""
    tables = []
    for curves in result.curves:
        seen = curves.unmasking
        if seen is None:
            continue
        sections = []
        for group in groups_of(result):
            known = [tag for tag in group.languages if tag in seen.before and tag in seen.after]
            rows = tuple(
                (
                    language_cell(tag),
                    decimal(seen.before[tag], 3),
                    decimal(seen.after[tag], 3),
                    percent(seen.after[tag] / seen.before[tag] - 1, 2, sign=True),
                )
                for tag in known
            )
            if rows:
                sections.append(Section(title=group.title, rows=rows))
        headings = (
            ("Language", ""),
            ("Before", "bits/byte"),
            ("Unmasked, untrained", "bits/byte"),
            ("Change", "%"),
        )
        tables.append((curves.stage, Table(headings=headings, sections=tuple(sections))))
    return tables
