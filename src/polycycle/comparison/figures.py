"""What one run comes to, against the base: the numbers that comparisons take means of."""

from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields
from typing import Literal

from polycycle.results import (
    Measure,
    ModelSpeed,
    RunResult,
    StageCost,
    average,
    average_answers,
    average_gain,
    average_retention,
    benchmark_of,
    benchmarks_of,
    gain,
    groups_of,
    retention,
    tasks_of,
)

_Kind = Literal["exact_match", "in_form", "chrf", "score"]
_POINTS = 100.0


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerColumn:
    """One number of a generation task or a benchmark, over a group of languages or of one.

    Attributes:
        task: its name.
        group: title of the languages, or the tag of one.
        what: share of answers that are right letter for letter, or in the form asked for; chrF of
            a task that asks for no form; or what a benchmark counts. All of 0 to 1: chrF and COMET
            are divided by 100.
    """

    task: str
    group: str
    what: _Kind

    @property
    def key(self) -> str:
        """Its name among figures."""
        return f"{self.task}/{self.group}/{self.what}"

    @property
    def is_of_one_language(self) -> bool:
        """Titles of groups begin with a capital, tags of languages do not."""
        return self.group[:1].islower()


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """What one run comes to, against the base. None where a run has no such number.

    Attributes:
        gain: mean over expanded languages; percentage points or bits per byte saved.
        kept: mean retention of the replayed original languages, 1.0 is all.
        kept_unseen: the same of the unseen original languages.
        parameters_total: of the final model.
        parameters_active: that one of its tokens passes through.
        parameters_trainable: the most that any stage trained.
        training_flops: of all stages.
        seconds: of all training stages.
        peak_memory_bytes: the most of any stage.
        prefill_tokens_per_second: reading several texts whole.
        prefill_of_base: how many times as fast as the base, which took turns with it.
        decode_tokens_per_second: writing one text.
        decode_of_base: likewise.
        decode_batch_tokens_per_second: writing several texts at once, of all together.
        decode_batch_of_base: likewise.
        answers: of generation tasks and benchmarks, shares by key of `AnswerColumn`.
        languages: gain or retention of each language: `gain/el`, `kept/en`.
        saved: share of the base's bits per byte that the model saves, whatever the measure:
            `saved/Expanded` (the mean over those languages), `saved/el`. Below zero it needs more.
    """

    gain: float | None
    kept: float | None
    kept_unseen: float | None
    parameters_total: float | None
    parameters_active: float | None
    parameters_trainable: float | None
    training_flops: float | None
    seconds: float | None
    peak_memory_bytes: float | None
    prefill_tokens_per_second: float | None = None
    prefill_of_base: float | None = None
    decode_tokens_per_second: float | None = None
    decode_of_base: float | None = None
    decode_batch_tokens_per_second: float | None = None
    decode_batch_of_base: float | None = None
    answers: dict[str, float] = field(default_factory=dict)
    languages: dict[str, float] = field(default_factory=dict)
    saved: dict[str, float] = field(default_factory=dict)

    @property
    def by_key(self) -> dict[str, float]:
        """Those that not every run has: of answers, languages, and groups of languages."""
        return self.answers | self.languages | self.saved

    def get(self, key: str) -> float | None:
        """A figure by its name, an answer by its column's key, or a language's."""
        several = self.by_key
        value: float | None = several[key] if key in several else getattr(self, key, None)
        return value

    def names(self) -> list[str]:
        """Names of all figures."""
        single = [one.name for one in fields(self) if one.default_factory is MISSING]
        return [*single, *self.by_key]


def language_keys(result: RunResult) -> list[str]:
    """Every language's figure: what was gained of those to learn, what was kept of the others."""
    return [
        f"{'gain' if group.is_expanded else 'kept'}/{tag}"
        for group in groups_of(result)
        for tag in group.languages
    ]


def answer_columns(
    result: RunResult, *, by_language: bool = False
) -> dict[AnswerColumn, tuple[str, ...]]:
    """What a run may say of tasks and benchmarks, and of which languages each is the mean."""
    groups = {group.title: tuple(group.languages) for group in groups_of(result)}
    if by_language:
        groups = {tag: (tag,) for languages in groups.values() for tag in languages}
    return {
        AnswerColumn(task=task, group=group, what=what): languages
        for task, kinds in _kinds(result)
        for group, languages in groups.items()
        for what in kinds
    }


def _kinds(result: RunResult) -> Iterable[tuple[str, tuple[_Kind, ...]]]:
    """Nearness in letters says something of translations, nothing of answers in a form."""
    written = [scores.tasks for scores in result.final.scores.values()]
    for task in tasks_of(result):
        has_form = any(one[task].in_form is not None for one in written if task in one)
        yield task, ("exact_match", "in_form" if has_form else "chrf")
    yield from ((benchmark, ("score",)) for benchmark in benchmarks_of(result))


def figures_of(
    result: RunResult,
    measure: Measure,
    *,
    model: str | None = None,
    speed: ModelSpeed | None = None,
) -> Figures:
    """What a run comes to, by its last model or another one.

    All is measured against the base, a whole graft too, whose own report measures it against the
    sibling: variants are to be compared.
    """
    shown = result.final if model is None else result.model(model)
    groups = groups_of(result)
    expanded = [tag for group in groups if group.is_expanded for tag in group.languages]
    kept = {
        group.key: average_retention(
            result, shown.name, group.languages, by=measure, against="base"
        )
        for group in groups
        if not group.is_expanded
    }
    costs = costs_of(result, shown.name)
    flops = [cost.training_flops for cost in costs]
    known = [value for value in flops if value is not None]
    return Figures(
        gain=average_gain(result, shown.name, expanded, by=measure, against="base"),
        kept=kept.get("original"),
        kept_unseen=kept.get("unseen_original"),
        parameters_total=shown.parameters_total,
        parameters_active=shown.parameters_active,
        parameters_trainable=max((c.parameters_trainable for c in costs), default=None),
        training_flops=sum(known) if known and len(known) == len(flops) else None,
        seconds=sum(cost.seconds for cost in costs) if costs else None,
        peak_memory_bytes=max((cost.peak_memory_bytes for cost in costs), default=None),
        **({} if speed is None else _speeds(speed)),
        answers=_answers(result, shown.name),
        languages=_languages(result, shown.name, measure),
        saved=_saved(result, shown.name),
    )


def _speeds(speed: ModelSpeed) -> dict[str, float]:
    found = {}
    for key, pace in speed.by_use.items():
        found[f"{key}_tokens_per_second"] = pace.tokens_per_second
        found[f"{key}_of_base"] = pace.of_base
    return found


def _languages(result: RunResult, model: str, measure: Measure) -> dict[str, float]:
    found = {}
    for key in language_keys(result):
        kind, tag = key.split("/", 1)
        value = (gain if kind == "gain" else retention)(
            result, model, tag, by=measure, against="base"
        )
        if value is not None:
            found[key] = value
    return found


def _saved(result: RunResult, model: str) -> dict[str, float]:
    """Against the base, by group and by language."""
    groups = {group.title: group.languages for group in groups_of(result)}
    groups.setdefault("Expanded", result.languages.all_expanded)  # of several groups, all
    found: dict[str, float] = {}
    for title, languages in groups.items():
        shares = {}
        for tag in languages:
            kept = retention(result, model, tag, by="bits_per_byte", against="base")
            if kept:
                shares[f"saved/{tag}"] = 1 - 1 / kept
        mean = average(shares.values())
        if mean is not None:
            found |= {f"saved/{title}": mean, **shares}
    return found


def costs_of(result: RunResult, model: str) -> list[StageCost]:
    """What the stages took that lead to a model; none made the base and its siblings."""
    if model == result.final.name:
        return list(result.costs)
    names, stages = [one.name for one in result.models], [cost.stage for cost in result.costs]
    if model not in stages and model != "graft":
        return []
    before = names[: names.index(model) + 1]
    last = max((stages.index(name) for name in before if name in stages), default=-1)
    return list(result.costs[: last + 1])


def _answers(result: RunResult, model: str) -> dict[str, float]:
    columns = answer_columns(result) | answer_columns(result, by_language=True)
    found = {}
    for column, languages in columns.items():
        if column.what == "score":
            value = average(_score(result, model, column.task, tag) for tag in languages)
        else:
            scores = average_answers(result, model, languages, column.task)
            value = getattr(scores, column.what)
            if value is not None and column.what == "chrf":
                value /= _POINTS
        if value is not None:
            found[column.key] = value
    return found


def _score(result: RunResult, model: str, benchmark: str, language: str) -> float | None:
    score = benchmark_of(result, model, benchmark, language)
    if score is None:
        return None
    return score.value if score.is_share else score.value / _POINTS
