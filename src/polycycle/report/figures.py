"""The report's plots: which numbers of a result go into which chart."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from markupsafe import Markup

from polycycle.languages import language_name
from polycycle.report.layers import layer_chart
from polycycle.report.lines import Line, line_chart
from polycycle.report.marks import Block, Row, dumbbells, heat_map, stacked_shares
from polycycle.report.wording import MISSING, decimal, model_title, names, percent
from polycycle.results import (
    CurvePoint,
    Group,
    Measure,
    ModelScores,
    RunResult,
    StageCurves,
    average,
    gain,
    groups_of,
    retention,
    value_of,
)

COLORS = {"original": "original", "unseen_original": "unseen"}
"""Colour class of a group; all others are `expanded`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A plot with its words."""

    title: str
    """What is shown, with its unit."""
    note: str
    """How to read it."""
    plot: Markup


def before_and_after(result: RunResult) -> list[Figure]:
    """Accuracy where there are questions, and bits per byte: base to final, per language."""
    titles: dict[Measure, tuple[str, str]] = {
        "accuracy": ("Questions answered correctly, %", "Further right is better."),
        "bits_per_byte": ("Bits per byte of held-out text", "Further left is better."),
    }
    figures = []
    for by, (title, note) in titles.items():
        values = [
            value
            for model in result.models
            for scores in model.scores.values()
            if (value := getattr(scores, by)) is not None and isfinite(value)
        ]
        if values:
            note += " At the right: gain of expanded languages, share kept of original ones."
            plot = _dumbbells(result, by, max(values), title)
            figures.append(Figure(title=title, note=note, plot=plot))
    return figures


def _dumbbells(result: RunResult, by: Measure, highest: float, label: str) -> Markup:
    factor = 100.0 if by == "accuracy" else 1.0
    models = [model.name for model in result.models]

    def row(language: str, group: Group) -> Row:
        values = [value_of(result, model, language, by=by) for model in models]
        if group.is_expanded:
            change = gain(result, models[-1], language, by=by)
            note = decimal(change, 1, sign=True) + " pts" if by == "accuracy" else _saved(change)
        else:
            note = percent(retention(result, models[-1], language, by=by))
        return Row(
            label=language_name(language),
            values=tuple(
                None if value is None or not isfinite(value) else factor * value for value in values
            ),
            note=note,
        )

    blocks = [
        Block(
            title=group.title,
            css=COLORS.get(group.key, "expanded"),
            rows=tuple(row(language, group) for language in group.languages),
        )
        for group in groups_of(result)
    ]
    return dumbbells(
        blocks,
        models=[model_title(model) for model in models],
        highest=100.0 if by == "accuracy" else highest * 1.04,
        unit="%" if by == "accuracy" else "bits per byte",
        label=label,
    )


def _saved(bits: float | None) -> str:
    return MISSING if bits is None else decimal(bits) + " saved"


def curves(result: RunResult) -> list[Figure]:
    """Losses, held-out text, auxiliary losses and routing over the steps of all stages."""
    expanded, original = result.languages.all_expanded, result.languages.all_original
    measured = result.models[0].scores
    drawn = [
        _curve(
            result,
            "Training loss, expanded languages, nats per token",
            "Language-modelling loss of each language's own tokens.",
            _per_language(expanded, _losses),
        ),
        _curve(
            result,
            "Training loss, original languages, nats per token",
            "Only stages that replay original text have any.",
            _per_language(original, _losses),
        ),
        _curve(
            result,
            "Held-out text, expanded languages, bits per byte",
            "Measured on text that no training sees; lower is better.",
            _per_language(expanded, _validation),
        ),
        _curve(
            result,
            "Held-out text, original languages, change against base in %",
            "Bits per byte against the dense model: above the line is forgetting.",
            _per_language([tag for tag in original if tag in measured], _forgetting(result)),
            zero="base",
        ),
        _curve(
            result,
            "Auxiliary losses, unweighted",
            "Balance is 1 when all experts are used alike; prior falls as expert 0 takes over "
            "the original languages.",
            {
                "Balance": lambda one: _logged(one, lambda point: point.balance_loss),
                "Prior": lambda one: _logged(one, lambda point: point.prior_loss),
                "Assignment": lambda one: _logged(one, lambda point: point.assignment_loss),
                "Router z": lambda one: _logged(one, lambda point: point.z_loss),
            },
        ),
        _curve(
            result,
            "Weight on the frozen expert 0, %",
            "Review is to raise it for original languages and to leave expanded ones alone.",
            {_words(name): _share_of(name) for name in _routing_groups(result)},
            y_range=(0.0, 100.0),
        ),
        _curve(
            result,
            "Tokens that reach an expert of their own language, %",
            "Mean over the layers with dedicated experts; 100% while tokens are routed by label.",
            _per_language(expanded, _own_share),
            y_range=(0.0, 100.0),
        ),
        _curve(
            result,
            "Evenness of expert usage, %",
            "Entropy of usage against its maximum: 100% when all experts work alike, 0% when one "
            "does everything.",
            {
                "Mean": lambda one: [(p.step, 100 * p.usage_entropy_mean) for p in one.routing],
                "Worst layer": lambda one: [
                    (p.step, 100 * p.usage_entropy_min) for p in one.routing
                ],
            },
            y_range=(0.0, 100.0),
        ),
    ]
    return [figure for figure in drawn if figure]


Points = list[tuple[float, float]]
Reader = Callable[[StageCurves], Points]


def _curve(
    result: RunResult,
    title: str,
    note: str,
    readers: dict[str, Reader],
    *,
    y_range: tuple[float, float] | None = None,
    zero: str | None = None,
) -> Figure | None:
    """A line chart of everything that was logged, or None when nothing was."""
    lines = [
        Line(label=label, stages=tuple(read(one) for one in result.curves))
        for label, read in readers.items()
    ]
    lines = [one for one in lines if any(one.stages)]
    if not lines:
        return None
    stages = [(one.stage, _last_step(one)) for one in result.curves]
    plot = line_chart(lines, stages=stages, label=title, y_range=y_range, zero=zero)
    return Figure(title=title, note=note, plot=plot)


def _last_step(one: StageCurves) -> int:
    steps = [point.step for point in one.training]
    steps += [point.step for point in one.validations]
    steps += [point.step for point in one.routing]
    return max(steps, default=1)


def _per_language(
    languages: Sequence[str], read: Callable[[StageCurves, str], Points]
) -> dict[str, Reader]:
    def reader(language: str) -> Reader:
        return lambda one: read(one, language)

    return {language_name(language): reader(language) for language in languages}


def _losses(one: StageCurves, language: str) -> Points:
    return _logged(one, lambda point: point.lm_loss.get(language))


def _validation(one: StageCurves, language: str) -> Points:
    return [
        (point.step, point.bits_per_byte[language])
        for point in one.validations
        if language in point.bits_per_byte
    ]


def _forgetting(result: RunResult) -> Callable[[StageCurves, str], Points]:
    references = {model.name: model.reference for model in result.models}

    def read(one: StageCurves, language: str) -> Points:
        dense = result.model(references.get(one.stage, "base")).scores[language].bits_per_byte
        return [(step, 100 * (bits / dense - 1)) for step, bits in _validation(one, language)]

    return read


def _logged(one: StageCurves, read: Callable[[CurvePoint], float | None]) -> Points:
    return [(point.step, value) for point in one.training if (value := read(point)) is not None]


def _routing_groups(result: RunResult) -> list[str]:
    found = [name for one in result.curves for point in one.routing for name in point.expert0_share]
    return list(dict.fromkeys(found))


def _words(group: str) -> str:
    return model_title(group.replace("_", " "))


def _share_of(group: str) -> Reader:
    return lambda one: [
        (point.step, 100 * point.expert0_share[group])
        for point in one.routing
        if group in point.expert0_share
    ]


def _own_share(one: StageCurves, language: str) -> Points:
    return [
        (point.step, 100 * point.own_experts_share[language])
        for point in one.routing
        if language in point.own_experts_share
    ]


def expert0_maps(result: RunResult) -> list[Figure]:
    """Weight on the frozen expert per layer and language, one map per model with experts."""
    figures = []
    for model in result.models:
        if model.routing is None:
            continue
        shares = model.routing.expert0_share
        blocks = [
            (group.title, {language_name(tag): shares[tag] for tag in known})
            for group in groups_of(result)
            if (known := [tag for tag in group.languages if tag in shares])
        ]
        title = f"Weight on the frozen expert 0 after {model.name}, %"
        plot = heat_map(blocks, columns=model.routing.moe_layers, label=title)
        note = "Right is near 100 for original languages, far below it for expanded ones."
        figures.append(Figure(title=title, note=note, plot=plot))
    return figures


def routing_maps(result: RunResult) -> list[Figure]:
    """How differently, how evenly, and how rightly the final model routes each language."""
    routing = result.final.routing
    if routing is None:
        return []
    drawn = [
        _map(
            result,
            routing.divergence_from_original,
            "Routing unlike the original languages, % of a bit",
            "Jensen–Shannon divergence of expert usage from the mean of the other original "
            "languages: 0 is alike, 100 is without a common expert. Right is low for original "
            "languages and higher for expanded ones.",
        ),
        _map(
            result,
            routing.usage_entropy,
            "Evenness of expert usage, %",
            "Entropy against its maximum: 100 when all experts work alike, 0 when one does "
            "everything, as expert 0 should for original languages.",
        ),
        _map(
            result,
            routing.classifier_accuracy,
            "Tokens that the language classifiers judged rightly, %",
            "A classifier sends what it judges original to expert 0 alone in its layer. Right is "
            "100 in every row; 0 means that it takes the language for the other kind.",
        ),
    ]
    return [figure for figure in drawn if figure]


def _map(
    result: RunResult,
    table: Mapping[str, Sequence[float | None]],
    title: str,
    note: str,
) -> Figure | None:
    """A heat map of the layers that have values; None without any."""
    routing = result.final.routing
    if routing is None or not table:
        return None
    some = next(iter(table.values()))
    places = [place for place, value in enumerate(some) if value is not None]
    blocks = [
        (
            group.title,
            {language_name(tag): [table[tag][place] or 0.0 for place in places] for tag in known},
        )
        for group in groups_of(result)
        if (known := [tag for tag in group.languages if tag in table])
    ]
    layers = [routing.moe_layers[place] for place in places]
    return Figure(title=title, note=note, plot=heat_map(blocks, columns=layers, label=title))


def similarities(result: RunResult) -> list[Figure]:
    """Similarity of languages per layer, and the experts that each group brought; one per group."""
    figures = []
    for one in result.similarities:
        tags = result.languages.expanded[one.group - 1]
        lines = [("new–original", one.expanded_original)]
        if one.expanded_expanded is not None:
            lines += [("new–new", one.expanded_expanded), ("S, the mean", one.per_layer)]
        title = f"{names(tags)}: similarity (mean cosine) and new experts, per layer"
        shared = (
            "Experts are shared out as 1/S: fewer where the languages are alike already."
            if one.is_allocated
            else "The recipe gave the number of experts; only the classifiers' places follow."
        )
        note = f"Measured on {one.model}. New: this group's languages; original: all before it."
        plot = layer_chart(
            lines,
            one.new_experts,
            counts_label=f"{sum(one.new_experts)} new experts",
            marked=one.classifier_layers,
            marked_label="classifiers",
            label=title,
        )
        figures.append(Figure(title=title, note=f"{note} {shared}", plot=plot))
    return figures


def expert_usage(result: RunResult) -> list[Figure]:
    """How the final model's assignments divide over experts, per layer and language group."""
    model = result.final
    if model.routing is None:
        return []
    figures = []
    for group in groups_of(result):
        usage = _mean_usage(model, group.languages)
        if usage:
            title = f"{group.title}: expert usage, % of assignments"
            plot = stacked_shares(usage, columns=model.routing.moe_layers, label=title)
            note = "The frozen expert 0 stands at the bottom, the new experts above it."
            figures.append(Figure(title=title, note=note, plot=plot))
    return figures


def _mean_usage(model: ModelScores, languages: Sequence[str]) -> list[list[float]]:
    """Plain mean over languages: one list of shares per layer."""
    routing = model.routing
    known = [routing.usage[tag] for tag in languages if tag in routing.usage] if routing else []
    if not known:
        return []
    return [
        [average(shares) or 0.0 for shares in zip(*layer, strict=True)]
        for layer in zip(*known, strict=True)
    ]
