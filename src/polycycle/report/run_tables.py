"""Tables of what went into the run, what it took and what it made: text, time, models, packs."""

from markupsafe import Markup

from polycycle.report.tables import Section, Table, language_cell
from polycycle.report.wording import (
    MISSING,
    bytes_size,
    count,
    decimal,
    duration,
    flops,
    model_title,
    names,
    percent,
)
from polycycle.results import LanguageData, RunResult, average


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
