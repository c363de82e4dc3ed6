"""The report's tables: every cell a string with its unit in the heading or in itself."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from polycycle.languages import is_right_to_left, language_name
from polycycle.report.wording import (
    MISSING,
    bytes_size,
    count,
    decimal,
    duration,
    flops,
    model_title,
    names,
    own_name,
    percent,
)
from polycycle.results import (
    AnswerScores,
    BenchmarkScore,
    ExportedLanguage,
    ExportResult,
    Group,
    LanguageData,
    LanguageScores,
    Measure,
    RetentionPoint,
    RunResult,
    average,
    average_answers,
    average_gain,
    average_retention,
    average_value,
    benchmark_change,
    benchmark_of,
    benchmarks_of,
    gain,
    groups_of,
    retention,
    scores_of,
    tasks_of,
    value_of,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """Rows under one heading, and perhaps their average."""

    title: str
    rows: tuple[tuple[str, ...], ...]
    average: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Headings as (name, unit), and the rows; the first column names the row."""

    headings: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]


def language_cell(tag: str) -> Markup:
    """English name, then the language's own name in its own direction, then the tag."""
    direction = "rtl" if is_right_to_left(tag) else "ltr"
    own = own_name(tag)
    name = Markup("<b>{}</b>").format(language_name(tag))
    if own:
        name += Markup(' <span class="own" lang="{}" dir="{}">{}</span>').format(
            tag, direction, own
        )
    return name + Markup(" <code>{}</code>").format(tag)


def export_row(label: str, found: ExportedLanguage) -> tuple[str, ...]:
    """How an export compares on one language's text: six cells."""
    is_text = label.isascii() and " " not in label
    return (
        f"{language_name(label)} ({label})" if is_text else label,
        count(found.tokens),
        "none" if found.is_bit_equal else f"{found.largest_difference:.1e}",
        "0" if found.is_bit_equal else f"{found.mean_kl:.1e}",
        percent(found.argmax_agreement),
        f"{found.same_greedy} of {found.texts}",
    )


def export_languages_table(export: ExportResult) -> Table:
    """How an export's logits and text compare with the model's, by language."""
    headings = (
        ("Text", ""),
        ("Tokens", ""),
        ("Largest difference", "of the largest logit"),
        ("Mean KL", "nats"),
        ("Same best token", "%"),
        ("Same greedy text", ""),
    )
    rows = tuple(export_row(label, found) for label, found in export.languages.items())
    return Table(headings=headings, sections=(Section(title="", rows=rows),))


def scores_table(result: RunResult, by: Measure) -> Table:
    """One measure: every model, then what the final one gained and kept; averages per group."""
    models = [model.name for model in result.models]
    unit = "%" if by == "accuracy" else "bits/byte"
    change = ("Change", "points") if by == "accuracy" else ("Saved", "bits/byte")
    headings = (
        ("Language", ""),
        *((model_title(model), unit) for model in models),
        change,
        ("Kept", "% of base"),
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
        ("Kept", f"% of {result.final.reference}"),
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


def packs_table(result: RunResult) -> Table | None:
    """What a language pack of the final model holds, against the base; None for a dense model."""
    sizes = result.final.tensor_bytes
    if sizes is None:
        return None

    def row(name: str, languages: str, size: int) -> tuple[str, ...]:
        share = percent(size / sizes.base) if sizes and sizes.base else MISSING
        return (name, languages, bytes_size(size), share)

    rows = [
        row(f"Group {number}", names(tags), size)
        for number, (tags, size) in enumerate(
            zip(result.languages.expanded, sizes.groups, strict=False), start=1
        )
    ]
    if sizes.shared:
        rows.append(row("Classifiers and gate", "all", sizes.shared))
    rows.append(row("Pack, all together", "", sum(sizes.groups) + sizes.shared))
    rows.append(row("Base, left out of it", "", sizes.base))
    return Table(
        headings=(("Part", ""), ("Languages", ""), ("Size", ""), ("Size", "% of base")),
        sections=(Section(title="", rows=tuple(rows)),),
    )


def data_table(result: RunResult) -> Table:
    """What text went in, and how the tokenizer cuts it."""
    titles = {"train": "To learn from", "replay": "To review", "valid": "To measure on"}
    headings = (
        ("Language", ""),
        ("Documents", ""),
        ("Skipped", "documents"),
        ("Tokens", ""),
        ("Text", ""),
        ("Tokens per word", ""),
        ("Tokens per byte", ""),
        ("Unknown", "% of tokens"),
        ("Single bytes", "% of tokens"),
    )
    sections = [
        Section(title=title, rows=tuple(_data_row(one) for one in result.data if one.part == part))
        for part, title in titles.items()
    ]
    return Table(headings=headings, sections=tuple(one for one in sections if one.rows))


def _data_row(one: LanguageData) -> tuple[str, ...]:
    return (
        language_cell(one.language),
        count(one.documents),
        count(one.skipped),
        count(one.tokens),
        bytes_size(one.bytes),
        decimal(one.tokens_per_word),
        decimal(one.tokens_per_byte, 3),
        percent(one.unknown_share, 2),
        percent(one.byte_fallback_share, 2),
    )


def costs_table(result: RunResult) -> Table:
    """Time, speed and memory of each stage."""
    headings = (
        ("Stage", ""),
        ("Time", ""),
        ("Tokens", "trained on"),
        ("Steps", ""),
        ("Speed", "tokens/s"),
        ("Peak memory", ""),
        ("Trainable", "parameters"),
        ("Computation", "FLOPs, estimate"),
        ("Resumed", ""),
    )
    rows = [
        (
            cost.stage,
            duration(cost.seconds),
            count(cost.tokens),
            count(cost.steps),
            decimal(cost.tokens_per_second, 0) if cost.tokens else MISSING,
            bytes_size(cost.peak_memory_bytes),
            count(cost.parameters_trainable),
            flops(cost.training_flops),
            "yes" if cost.was_resumed else "no",
        )
        for cost in result.costs
    ]
    return Table(headings=headings, sections=(Section(title="", rows=tuple(rows)),))


def models_table(result: RunResult) -> Table:
    """What each model is: its size, its place and its hash."""
    headings = (
        ("Model", ""),
        ("Parameters", "in all"),
        ("Parameters", "active per token"),
        ("Experts per layer", "average"),
        ("Content hash", ""),
        ("Place", ""),
    )
    rows = [
        (
            model_title(model.name),
            count(model.parameters_total),
            count(model.parameters_active),
            decimal(average(model.routing.num_experts), 1) if model.routing else MISSING,
            Markup("<code>{}</code>").format(model.content_hash[:12]),
            Markup("<code>{}</code>").format(model.folder),
        )
        for model in result.models
    ]
    return Table(headings=headings, sections=(Section(title="", rows=tuple(rows)),))
