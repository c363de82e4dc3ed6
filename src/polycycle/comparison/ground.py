"""What was compared: what all runs of a study have in common, and what they have not."""

import json
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from polycycle.config import Recipe, leaves
from polycycle.report.wording import bytes_size, count, names, short_count
from polycycle.results import RunResult, groups_of, tasks_of

Results = Mapping[tuple[str, int], RunResult]
_SAME_TOKENS = 0.02
_FEW = 3
# Of each run alone: where it looks for stages that others made changes nothing in its numbers.
_OWN = frozenset({"reuse"})


@dataclass(frozen=True, kw_only=True, slots=True)
class CommonGround:
    """What stands at the head of a comparison.

    Attributes:
        facts: (name, words) of what was compared.
        differences: what runs of one seed do not share though a fair comparison would, if anything.
        changed_defaults: settings left to a default that was another when some run was made.
        is_one_task: whether they share base and languages; where not, no variant beats another.
    """

    facts: tuple[tuple[str, str], ...] = ()
    differences: tuple[str, ...] = ()
    changed_defaults: tuple[str, ...] = ()
    is_one_task: bool = True


def common_ground(
    results: Results,
    asked: Mapping[tuple[str, int], Recipe] | None = None,
    tokens_by_title: Mapping[str, Sequence[int]] | None = None,
) -> CommonGround:
    """What the runs say themselves of base, text and machine.

    Args:
        results: by variant and seed, each run once.
        asked: what each of them would be told today, to find defaults that changed since.
        tokens_by_title: what led to the model that each variant shows, seed by seed.
    """
    if not results:
        return CommonGround()
    one = next(iter(results.values()))
    tokens = [_tokens(result) for result in results.values()]
    held_out = [_held_out(result) for result in results.values()]
    facts = [
        ("Base", _all(Path(result.base).name for result in results.values())),
        *((group.title, names(group.languages)) for group in groups_of(one)),
        ("Variants × seeds", f"{_count(results, 0)} × {_count(results, 1)}, {len(results)} runs"),
        ("Tokens trained on", _range(tokens, short_count) + " in each run"),
        ("Held-out text", _range(held_out, bytes_size)),
    ]
    if questions := _questions(one):
        facts.append(("Questions", f"{count(questions)}, multiple choice"))
    if tasks := tasks_of(one):
        facts.append(("Written answers", ", ".join(tasks)))
    machines = (result.environment for result in results.values())
    facts.append(("Machine", _all(one.gpu or one.processor for one in machines)))
    versions = (f"polycycle {result.environment.polycycle}" for result in results.values())
    facts.append(("Made by", _all(versions)))
    task = [_values_by_seed(results, _SHARED[what]) for what in ("base", "languages")]
    return CommonGround(
        facts=tuple(facts),
        differences=(*_differences(results), *_unlike_tokens(tokens_by_title or {})),
        changed_defaults=tuple(_changed_defaults(results, asked or {})),
        is_one_task=all(_is_same(values) for values in task),
    )


def _differences(results: Results) -> Iterable[str]:
    """What cannot be told apart from what variants do on purpose."""
    for what, value_of in _SHARED.items():
        if not _is_same(_values_by_seed(results, value_of)):
            yield f"Not all runs of one seed have the same {what}."
    machines = {(r.environment.processor, r.environment.gpu) for r in results.values()}
    if len(machines) > 1:
        yield "Not all runs were made on the same machine, so times do not compare."
    elif max(together := [r.environment.runs_at_once for r in results.values()]) > 1:
        yield (
            f"{_range(together, count)} runs were made at once, so times say little: what one took "
            "depends on its neighbours."
        )


def _unlike_tokens(by_title: Mapping[str, Sequence[int]]) -> Iterable[str]:
    """Few that differ from the rest are named. A base and its siblings were trained elsewhere."""
    trained = {title: max(tokens) for title, tokens in by_title.items() if any(tokens)}
    if not trained or _is_close(min(trained.values()), max(trained.values())):
        return
    usual = statistics.median_high(trained.values())
    others = {title: one for title, one in trained.items() if not _is_close(one, usual)}
    if len(others) <= min(_FEW, len(trained) // 2):
        words = "; ".join(f"{short_count(one)} for {title}" for title, one in others.items())
        words = f"{short_count(usual)}, but {words}"
    else:
        words = _range(list(trained.values()), short_count)
    yield f"Not all variants were trained on equally many tokens: {words}."


def _is_close(one: int, other: int) -> bool:
    return max(one, other) <= (1 + _SAME_TOKENS) * min(one, other)


def _changed_defaults(results: Results, asked: Mapping[tuple[str, int], Recipe]) -> Iterable[str]:
    """Settings that a study leaves to their defaults, of runs from when those were others.

    A finished run is never made again by itself, and a setting that is new changes no old run.
    """
    found: Counter[tuple[str, str, str]] = Counter()
    for at, recipe in asked.items():
        then, now = (leaves(one) for one in (results[at].recipe, recipe.model_dump(mode="json")))
        chosen = leaves(recipe.model_dump(mode="json", exclude_unset=True)).keys()
        found.update(
            (key, json.dumps(then[key]), json.dumps(now[key]))
            for key in then.keys() & now.keys() - chosen - _OWN
            if then[key] != now[key]
        )
    for (key, before, today), runs in sorted(found.items()):
        yield (
            f"{key} was {before} when {count(runs)} of {count(len(results))} runs were made; its "
            f"default is {today} now. Delete a run's folder to make it anew."
        )


def _tokens(result: RunResult) -> int:
    return sum(cost.tokens for cost in result.costs)


def _languages(result: RunResult) -> object:
    """Whether those to learn come at once or in groups is a variant's own business."""
    groups = result.languages
    return tuple(map(frozenset, (groups.original, groups.unseen_original, groups.all_expanded)))


def _held_out(result: RunResult) -> int:
    return sum(data.bytes for data in result.data if data.part == "valid")


def _questions(result: RunResult) -> int:
    return sum(scores.questions or 0 for scores in result.models[0].scores.values())


def _benchmarks(result: RunResult) -> object:
    """What was asked, and what counts: chrF in one run and COMET in another do not compare."""
    found = result.final.benchmarks
    scores = found.scores if found else ()
    return {(one.benchmark, one.language): (one.prompts_hash, one.metric) for one in scores}


_SHARED: dict[str, Callable[[RunResult], object]] = {
    "base": lambda result: result.models[0].content_hash,
    "languages": _languages,
    "held-out text": _held_out,
    "questions": _questions,
    "benchmarks, with the same prompts and metrics": _benchmarks,
}


def _values_by_seed(
    results: Results, value_of: Callable[[RunResult], object]
) -> dict[int, list[object]]:
    seeds = dict.fromkeys(seed for _, seed in results)
    return {seed: [value_of(r) for (_, s), r in results.items() if s == seed] for seed in seeds}


def _is_same(values: Mapping[int, list[object]]) -> bool:
    return all(value == of_seed[0] for of_seed in values.values() for value in of_seed)


def _count(results: Results, place: int) -> int:
    return len({at[place] for at in results})


def _all(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values))


def _range(values: list[int], write: Callable[[int], str]) -> str:
    words = dict.fromkeys((write(min(values)), write(max(values))))
    return " to ".join(words)
