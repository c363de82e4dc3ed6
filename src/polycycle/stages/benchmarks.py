"""Benchmarks of one model, or of a run's reference and final model."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polycycle
from polycycle.checkpoint import Checkpoint, content_hash, load_tokenizer, open_checkpoint
from polycycle.errors import ConfigError
from polycycle.evaluation import (
    Plan,
    PlannedTask,
    comet_score,
    has_retention_gate,
    judges_whole_rows,
    lm_eval_version,
    load_language_model,
    measure_task,
)
from polycycle.results import (
    BENCHMARKS,
    BenchmarkResult,
    BenchmarkScore,
    RunResult,
    Unmeasured,
    load_benchmarks,
    save_benchmarks,
    with_benchmarks,
)
from polycycle.stages.evaluate import load_model

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class HowToMeasure:
    """What does not depend on the model.

    Attributes:
        suite: its name, for the record.
        limit: the first so many examples of each task; None for all.
        seed: of the draw of solved examples.
        batch_size: requests computed together.
        comet: how to call `comet-score`; None leaves COMET out.
    """

    suite: str | None
    limit: int | None = None
    seed: int = 1234
    batch_size: int = 8
    comet: str | None = None


def benchmark_model(
    model_path: str | Path,
    plan: Plan,
    how: HowToMeasure,
    tell: Tell,
    *,
    file: Path | None = None,
    revision: str | None = None,
) -> BenchmarkResult:
    """Every planned benchmark of one model.

    What `file` holds of the same model, data and settings is taken over, and each score is written
    there as soon as it is there, so an interrupted measurement goes on. Other benchmarks and
    languages that it holds stay in it.

    Args:
        model_path: folder or hub id; dense, upcycled or exported.
        plan: what to measure.
        how: settings.
        tell: where notes for the user go.
        file: where scores are kept.
        revision: of a hub id.

    Raises:
        ConfigError: `file` holds scores of this model that were measured otherwise.
    """
    checkpoint = open_checkpoint(model_path, revision=revision)
    tokenizer = load_tokenizer(checkpoint.folder, str(model_path))
    model = load_model(checkpoint)
    batch_size = _batch_size(model, how.batch_size, tell)
    language_model = load_language_model(model, tokenizer, batch_size=batch_size)
    result = _empty(str(model_path), checkpoint, model, plan, how, batch_size)
    done = _without_other_ways(_done_before(file, result), plan, how)
    for task in plan.tasks:
        score = done.pop(_key(task, how), None)
        if score is None and task.is_written and (reason := _why_no_cache(model)):
            left_out = Unmeasured(benchmark=task.benchmark, language=task.language, reason=reason)
            result = result.model_copy(update={"unmeasured": (*result.unmeasured, left_out)})
            continue
        if score is None:
            tell(f"{task.benchmark} ({task.language}): {task.task}, {task.shots} shots")
            score = _measure(language_model, task, how)
        result = result.model_copy(update={"scores": (*result.scores, score)})
        if file is not None:
            kept = (*done.values(), *result.scores)
            save_benchmarks(result.model_copy(update={"scores": kept}), file)
    return result


def benchmark_run(
    run_folder: Path, result: RunResult, plan: Plan, how: HowToMeasure, tell: Tell
) -> RunResult:
    """The run's result with benchmarks of its final model and of what that is compared with.

    The scores lie in `benchmarks/` of the run folder, where a repeated run finds them, too.
    """
    final = result.final
    for model in dict.fromkeys((final.reference, final.name)):
        scores = result.model(model)
        tell(f"benchmarks of {model} ({scores.folder})")
        benchmark_model(
            scores.folder,
            plan,
            how,
            tell,
            file=run_folder / BENCHMARKS / f"{model}.json",
            revision=result.recipe.get("base_revision") if model == "base" else None,
        )
    return with_benchmarks(result, run_folder)


def _measure(language_model: Any, task: PlannedTask, how: HowToMeasure) -> BenchmarkScore:
    score, answers = measure_task(language_model, task, limit=how.limit, seed=how.seed)
    if how.comet is None or not answers:
        return score
    # The papers' tables are in COMET, so it counts where it was measured.
    metrics = {**score.metrics, "comet": comet_score(answers, how.comet)}
    return score.model_copy(update={"metrics": metrics, "metric": "comet"})


def _batch_size(model: Any, asked: int, tell: Tell) -> int:
    """One where padding would be judged: lm-eval pads likelihood requests without a mask."""
    if asked > 1 and (has_retention_gate(model) or judges_whole_rows(model)):
        tell(
            "batch size 1: this model judges whole texts, and lm-eval does not say what is padding"
        )
        return 1
    return asked


def _why_no_cache(model: Any) -> str | None:
    """Why a model cannot write with a key-value cache, as lm-eval has it write; None if it can."""
    if not judges_whole_rows(model):
        return None
    return "its classifiers judge whole sequences and allow no key-value cache, which lm-eval uses"


def _empty(
    name: str, checkpoint: Checkpoint, model: Any, plan: Plan, how: HowToMeasure, batch_size: int
) -> BenchmarkResult:
    import torch
    import transformers

    return BenchmarkResult(
        model=name,
        content_hash=content_hash(checkpoint),
        suite=how.suite,
        limit=how.limit,
        seed=how.seed,
        batch_size=batch_size,
        device=model.device.type,
        dtype=str(model.dtype).removeprefix("torch."),
        versions={
            "polycycle": polycycle.__version__,
            "lm_eval": lm_eval_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": sys.version.split()[0],
        },
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        scores=(),
        unmeasured=plan.unmeasured,
    )


_Key = tuple[str, str, str, int, str | None, bool]


def _done_before(file: Path | None, wanted: BenchmarkResult) -> dict[_Key, BenchmarkScore]:
    """Scores of the same model with the same settings, by what they measure.

    Raises:
        ConfigError: the file holds scores of this model that were measured otherwise.
    """
    if file is None or not file.exists():
        return {}
    found = load_benchmarks(file)
    if found.content_hash != wanted.content_hash:
        return {}  # of weights that are no more
    then, now = (
        {key: getattr(one, key) for key in ("limit", "seed", "device", "dtype")}
        | {"lm-eval": one.versions["lm_eval"]}
        for one in (found, wanted)
    )
    others = [f"{key} {then[key]}, now {now[key]}" for key in then if then[key] != now[key]]
    if others and found.scores:
        raise ConfigError(
            f"{file} holds {len(found.scores)} scores of this model, measured with "
            f"{'; '.join(others)}: they would be lost, and do not compare. Measure as then, or "
            "keep others elsewhere (`polycycle evaluate MODEL --out FILE`), or remove that file"
        )
    return {
        (
            score.benchmark,
            score.language,
            score.task,
            score.shots,
            score.data_hash,
            "comet" in score.metrics,
        ): score
        for score in found.scores
    }


def _without_other_ways(
    done: Mapping[_Key, BenchmarkScore], plan: Plan, how: HowToMeasure
) -> dict[_Key, BenchmarkScore]:
    """Scores less those of planned benchmarks that were measured otherwise, with other shots, say.

    A result has one score for each benchmark and language.
    """
    wanted = {_key(task, how) for task in plan.tasks}
    planned = {(task.benchmark, task.language) for task in plan.tasks}
    return {
        key: score
        for key, score in done.items()
        if key in wanted or (score.benchmark, score.language) not in planned
    }


def _key(task: PlannedTask, how: HowToMeasure) -> _Key:
    with_comet = how.comet is not None and task.is_written
    return (
        task.benchmark,
        task.language,
        task.task,
        task.shots,
        task.data_hash,
        with_comet,
    )
