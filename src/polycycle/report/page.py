"""The report as one HTML page that needs nothing else: no network, no script, no font file."""

from collections.abc import Iterator

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from polycycle.languages import language_name
from polycycle.report import figures
from polycycle.report.assignment import assignment_table
from polycycle.report.benchmark_tables import benchmark_tables
from polycycle.report.export_tables import export_languages_table
from polycycle.report.retention_tables import (
    gate_table,
    mixed_table,
    speed_table,
    threshold_advice,
    trade_table,
)
from polycycle.report.run_tables import costs_table, data_table, models_table, packs_table
from polycycle.report.score_tables import details_table, scores_table, task_tables, unmasking_tables
from polycycle.report.tables import language_cell
from polycycle.report.verdict import verdict_of
from polycycle.report.wording import (
    bytes_size,
    count,
    decimal,
    duration,
    model_title,
    names,
    percent,
    short_count,
)
from polycycle.results import (
    RunResult,
    average_gain,
    average_retention,
    average_value,
    groups_of,
    measure_of_run,
)

# "": the templates lie in this very package.
_TEMPLATES = Environment(
    loader=PackageLoader("polycycle.report", ""),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def page(result: RunResult) -> str:
    """The whole report as HTML. Everything that comes from the result is escaped."""
    style, _, _ = _TEMPLATES.loader.get_source(_TEMPLATES, "style.css")  # type: ignore[union-attr]
    has_questions = any(scores.accuracy is not None for scores in result.final.scores.values())
    return _TEMPLATES.get_template("page.html").render(
        result=result,
        style=Markup(style),
        verdict=verdict_of(result),
        tiles=list(_tiles(result)),
        asked=list(_asked(result)),
        model_titles=[model_title(model.name) for model in result.models],
        before_and_after=figures.before_and_after(result),
        accuracy_table=scores_table(result, "accuracy") if has_questions else None,
        chance=_chance(result),
        bits_table=scores_table(result, "bits_per_byte"),
        details_table=details_table(result),
        task_tables=task_tables(result),
        benchmark_tables=benchmark_tables(result),
        benchmark_words=_benchmark_words(result),
        curves=figures.curves(result),
        similarities=figures.similarities(result),
        expert0_maps=figures.expert0_maps(result),
        routing_maps=figures.routing_maps(result),
        gate_table=gate_table(result),
        mixed_table=mixed_table(result),
        speed_table=speed_table(result),
        speed=_speed(result),
        trade_table=trade_table(result),
        threshold_advice=threshold_advice(result),
        unmasking_tables=unmasking_tables(result),
        packs_table=packs_table(result),
        assignment_table=assignment_table(result),
        expert_usage=figures.expert_usage(result),
        data_table=data_table(result),
        language_cell=language_cell,
        costs_table=costs_table(result),
        models_table=models_table(result),
        export_table=export_languages_table(result.export) if result.export else None,
        environment=list(_environment(result)),
        recipe=yaml.safe_dump(result.recipe, sort_keys=False, allow_unicode=True),
    )


def _tiles(result: RunResult) -> Iterator[tuple[str, str, str]]:
    """The few largest numbers: (what, number, in other words)."""
    by, final = measure_of_run(result), result.final.name
    # What was to be learned stands first; the groups stay in order otherwise.
    for group in sorted(groups_of(result), key=lambda group: not group.is_expanded):
        if group.is_expanded:
            gained = average_gain(result, final, group.languages, by=by)
            before, after = (
                average_value(result, model, group.languages, by=by)
                for model in (result.final.reference, final)
            )
            if by == "accuracy":
                words = f"{percent(before)} → {percent(after)} of questions"
                yield f"{group.title}: gained", f"{decimal(gained, 1, sign=True)} points", words
            else:
                words = f"{decimal(before)} → {decimal(after)} bits per byte"
                yield f"{group.title}: saved", f"{decimal(gained)} bits/byte", words
        else:
            kept = average_retention(result, final, group.languages, by=by)
            yield f"{group.title}: kept", percent(kept), names(group.languages)
    if result.costs:
        tokens = sum(cost.tokens for cost in result.costs)
        time = duration(sum(cost.seconds for cost in result.costs))
        yield "It took", time, f"{short_count(tokens)} tokens of training"


def _asked(result: RunResult) -> Iterator[tuple[str, str]]:
    """What the run was told, in a few lines."""
    yield "Base model", result.base
    for group in groups_of(result):
        yield f"Languages, {group.title.lower()}", ", ".join(map(language_name, group.languages))
    routing = result.final.routing
    experts = result.recipe.get("experts", {})
    if routing:
        per_layer = sorted(set(routing.num_experts))
        among = "–".join(str(number) for number in dict.fromkeys((per_layer[0], per_layer[-1])))
        top_k = f", {experts['top_k']} per token" if "top_k" in experts else ""
        yield "Experts", f"{among} in each of {len(routing.moe_layers)} layers{top_k}"
    spent = [f"{count(cost.tokens)} in {cost.stage}" for cost in result.costs if cost.tokens]
    if spent:
        yield "Tokens", ", ".join(spent)
    yield "Seed", str(result.seed)


def _chance(result: RunResult) -> str:
    """How large a change in one language may be by luck alone, in points."""
    asked = [s.questions for s in result.final.scores.values() if s.questions]
    if not asked:
        return ""
    # 1.96 standard errors of a difference of two shares near one half: the widest case.
    points = 196 * (2 * 0.25 / min(asked)) ** 0.5
    return (
        f"With {count(min(asked))} questions per language, a change of up to "
        f"{decimal(points, 1)} points in one language may be luck (95%, questions drawn anew); "
        "averages are steadier."
    )


def _speed(result: RunResult) -> str:
    """What a kept text gains, in a sentence with how it was measured."""
    speed = result.final.retention and result.final.retention.speed
    if not speed:
        return ""
    texts = f"{speed.batch} text{'s' if speed.batch > 1 else ''} of {count(speed.length)} tokens"
    return (
        f"Kept text is read {decimal(speed.kept / speed.mixture)} × as fast as by the mixture of "
        f"experts (medians of {speed.repeats} readings of {texts}, taken in turns, on "
        f"{speed.device} in {speed.dtype})."
    )


def _benchmark_words(result: RunResult) -> str:
    """With what the benchmarks were measured."""
    found = result.final.benchmarks
    if found is None:
        return ""
    some = (
        f"the first {count(found.limit)} examples of each task" if found.limit else "all examples"
    )
    return (
        f"lm-eval {found.versions['lm_eval']} on {found.device} in {found.dtype}, {some}, shots "
        f"drawn with seed {found.seed}."
    )


def _environment(result: RunResult) -> Iterator[tuple[str, str]]:
    here = result.environment
    yield "polycycle", here.polycycle + (f", commit {here.commit}" if here.commit else "")
    yield "torch", here.torch
    yield "transformers", here.transformers
    yield "Python", here.python
    yield "Platform", here.platform
    yield "Processor", f"{here.processor}, {here.cpu_cores} cores, {here.threads} threads"
    yield "GPU", here.gpu or "none"
    yield "Memory", bytes_size(here.memory_bytes)
    yield "Precision", here.dtype
    yield "Written", here.date
