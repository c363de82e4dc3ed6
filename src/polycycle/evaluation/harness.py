"""Benchmarks through lm-eval: its tasks or ours, one at a time, on a model that is loaded already.

lm-eval is an optional package, imported in `_lm_eval` alone.
"""

import logging
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from polycycle.data import (
    TaskData,
    TaskRows,
    find_task_data,
    read_benchmark,
    translation_rows,
)
from polycycle.errors import ConfigError, DataError, PolycycleError
from polycycle.evaluation.suites import (
    FLORES,
    FLORES_SHOTS,
    SUITES,
    Benchmark,
    find_task,
    flores_code,
    why_missing,
)
from polycycle.files import hash_file, hash_json
from polycycle.results import BenchmarkScore, Unmeasured

INSTALL = "pip install 'polycycle[eval]'"
_SHOTS = {"choices": 5, "answers": FLORES_SHOTS}
_METRICS = {"choices": ("acc",), "answers": ("chrf",)}
_LONGEST_ANSWER = 128
_FLORES_DATASET = "openlanguagedata/flores_plus"


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedTask:
    """One benchmark in one language, its data at hand.

    Attributes:
        benchmark: its name.
        language: BCP-47 tag.
        task: lm-eval's name of it.
        shots: solved examples in front.
        metrics: the first that the task measures counts.
        loaded: lm-eval's task or group.
        source: the dataset, for people.
        data_hash: over local files; None for hub data.
    """

    benchmark: str
    language: str
    task: str
    shots: int
    metrics: tuple[str, ...]
    loaded: Any
    source: str
    data_hash: str | None

    @property
    def is_written(self) -> bool:
        """Whether the model writes answers, rather than choosing among given ones."""
        return "chrf" in self.metrics


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a model wrote for one example of a task: for metrics that lm-eval does not have."""

    source: str
    written: str
    right: str


def _lm_eval(*, quiet: bool = True) -> ModuleType:
    """lm-eval.

    Args:
        quiet: whether its notes are left out: one line per task on what it does anyway. What is
            wrong it raises.

    Raises:
        PolycycleError: it is not installed.
    """
    try:
        import lm_eval
        import lm_eval.models.huggingface
        import lm_eval.tasks
    except ImportError as error:
        raise PolycycleError(
            f"benchmarks run through lm-eval, which cannot be imported ({error}); type: {INSTALL}"
        ) from error
    if quiet:
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
    module: ModuleType = lm_eval
    return module


def lm_eval_version() -> str:
    """The version of lm-eval.

    Raises:
        PolycycleError: it is not installed.
    """
    _lm_eval()
    return version("lm_eval")


class TaskCatalogue:
    """lm-eval's tasks, with local datasets in place of the hub's where there are any.

    Args:
        with_lm_eval_tasks: whether to index lm-eval's own tasks, which takes some seconds.
    """

    def __init__(self, *, with_lm_eval_tasks: bool = True) -> None:
        self._manager = _lm_eval().tasks.TaskManager(include_defaults=with_lm_eval_tasks)
        self._hashes: dict[str, str] = {}

    @property
    def names(self) -> Collection[str]:
        """Names of tasks and groups."""
        return frozenset(self._manager.all_tasks)

    @contextmanager
    def reading(self, datasets: Mapping[str, Mapping[str, Path]]) -> Iterator[None]:
        """Within the block, tasks that are loaded read these files instead of the hub's.

        Args:
            datasets: by task and split, the file; as `TaskData.datasets`.
        """
        index = self._manager.task_index
        with tempfile.TemporaryDirectory() as folder:
            for task, files in datasets.items():
                settings = Path(folder) / f"{task}.yaml"
                settings.write_text(_with_files(index[task].yaml_path, task, files), "utf-8")
                index[task].yaml_path = settings
                self._hashes[task] = hash_json([hash_file(file) for file in files.values()])
            yield

    def hash_of(self, loaded: Any) -> str | None:
        """Hash of the local files that a task or group reads; None if any part is the hub's."""
        hashes = [self._hashes.get(one.task_name) for one in _leaves(loaded)]
        return None if None in hashes else hash_json(hashes)

    def load(self, task: str | Mapping[str, Any], *, source: str) -> Any:
        """A task or group with its data.

        Args:
            task: a name, or the settings of a new task.
            source: where its data lies, for the error.

        Raises:
            DataError: the data cannot be had.
        """
        try:
            loaded = self._manager.load([task])
        except Exception as error:  # datasets, hub and network each raise their own
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise DataError(f"{source}: {reason}") from error
        return next(iter((loaded.get("groups") or loaded["tasks"]).values()))


def _with_files(path: Path, task: str, files: Mapping[str, Path]) -> str:
    """Settings, as YAML, of a task of lm-eval that reads local files."""
    kinds = {"parquet" if file.suffix == ".parquet" else "json" for file in files.values()}
    if len(kinds) > 1:
        raise DataError(f"{task}: files of two kinds; write all splits as .jsonl or as .parquet")
    data_files = {split: str(file.absolute()) for split, file in files.items()}
    return yaml.safe_dump(
        {
            "include": str(path),
            "task": task,
            "dataset_path": kinds.pop(),
            "dataset_name": None,
            "dataset_kwargs": {"data_files": data_files},
        }
    )


def _leaves(loaded: Any) -> list[Any]:
    """The tasks of a group, or the task itself."""
    return list(loaded.get_all_tasks()) if hasattr(loaded, "get_all_tasks") else [loaded]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is to be measured, with its data, and what cannot be."""

    tasks: tuple[PlannedTask, ...]
    unmeasured: tuple[Unmeasured, ...]


def plan_benchmarks(
    languages: Sequence[str],
    *,
    suite: str | None,
    task_data: Path | None = None,
    only: Collection[str] = (),
    shots: int | None = None,
) -> Plan:
    """Everything that a suite and a folder of task data ask for in some languages.

    Local benchmarks stand in for the suite's where they have the same name and the language.

    Args:
        languages: BCP-47 tags.
        suite: key of `SUITES`; None for local task data alone.
        task_data: folder; its layout is that of `data.find_task_data`.
        only: names of benchmarks; all where empty. A translation may be named with or without its
            direction.
        shots: solved examples in front of each, instead of the benchmarks' own numbers.

    Raises:
        ConfigError: an unknown suite or benchmark, or nothing at all is asked for.
        DataError: data is missing or bad; all that cannot be had is listed.
    """
    if suite is not None and suite not in SUITES:
        raise ConfigError(f"--suite {suite}: no such suite; there are {', '.join(SUITES)}")
    catalogue = TaskCatalogue(with_lm_eval_tasks=suite is not None)
    data = _task_data(task_data, catalogue)
    local = [
        rows for one in data.benchmarks.values() for rows in read_benchmark(one, tuple(languages))
    ]
    benchmarks = SUITES[suite] if suite else ()
    known = [*dict.fromkeys([rows.benchmark for rows in local] + [b.name for b in benchmarks])]
    known += [FLORES] if suite else []
    for name in only:
        if not any(_is_named(one, name) for one in known):
            raise ConfigError(f"--benchmarks {name}: there are {', '.join(known)}")

    def is_wanted(benchmark: str) -> bool:
        return not only or any(_is_named(benchmark, name) for name in only)

    tasks = [_local_task(catalogue, rows, shots) for rows in local if is_wanted(rows.benchmark)]
    there = {(one.benchmark, one.language) for one in tasks}
    unmeasured: list[Unmeasured] = []
    problems: list[str] = []
    with catalogue.reading(data.datasets):
        for benchmark in benchmarks:
            for language in languages:
                if not is_wanted(benchmark.name) or (benchmark.name, language) in there:
                    continue
                task = find_task(benchmark, language, catalogue.names)
                if task is None:
                    reason = why_missing(benchmark, language, lm_eval_version())
                    unmeasured.append(_unmeasured(benchmark.name, language, reason))
                    continue
                try:
                    tasks.append(_hub_task(catalogue, benchmark, language, task, shots))
                except DataError as error:
                    problems.append(str(error))
    if suite and is_wanted(FLORES):
        found, missing, bad = _flores(catalogue, languages, there, shots)
        tasks, unmeasured, problems = tasks + found, unmeasured + missing, problems + bad
    if problems:
        raise DataError(_cannot_be_had(problems))
    if not tasks:
        raise ConfigError(
            "nothing to measure: give --suite moe-lpr, or --task-data with files in one of "
            f"{', '.join(languages)}"
        )
    return Plan(tasks=tuple(tasks), unmeasured=tuple(unmeasured))


def _task_data(folder: Path | None, catalogue: TaskCatalogue) -> TaskData:
    if folder is None:
        return TaskData(benchmarks={}, datasets={})
    return find_task_data(folder, catalogue.names)


def _is_named(benchmark: str, name: str) -> bool:
    return name in (benchmark, benchmark.removesuffix("-from-en").removesuffix("-to-en"))


def _unmeasured(benchmark: str, language: str, reason: str) -> Unmeasured:
    return Unmeasured(benchmark=benchmark, language=language, reason=reason)


def _cannot_be_had(problems: Sequence[str]) -> str:
    listed = "\n  ".join(problems)
    return (
        f"{len(problems)} dataset(s) cannot be loaded; is the hub reachable, and are you logged in "
        "(hf auth login)? Put their files under --task-data DIR/TASK/SPLIT.jsonl, or leave the "
        f"benchmark out with --benchmarks:\n  {listed}"
    )


def _hub_task(
    catalogue: TaskCatalogue, benchmark: Benchmark, language: str, name: str, shots: int | None
) -> PlannedTask:
    loaded = catalogue.load(name, source=name)
    first = _leaves(loaded)[0]
    data_hash = catalogue.hash_of(loaded)
    return PlannedTask(
        benchmark=benchmark.name,
        language=language,
        task=name,
        shots=benchmark.shots if shots is None else shots,
        metrics=benchmark.metrics,
        loaded=loaded,
        source=name if data_hash else str(first.DATASET_PATH),
        data_hash=data_hash,
    )


def _local_task(catalogue: TaskCatalogue, rows: TaskRows, shots: int | None) -> PlannedTask:
    """A task of ours around rows that are at hand."""
    count = _SHOTS[rows.form] if shots is None else shots
    measured, examples = rows.measured, rows.shots
    if not examples and count:
        measured, examples = measured[count:], measured[:count]
    if len(examples) < count or not measured:
        raise DataError(
            f"{rows.benchmark} ({rows.language}): {len(rows.shots) or len(rows.measured)} rows are "
            f"too few for {count} solved examples in front; say --shots 0, or add rows"
        )
    name = f"{rows.benchmark}_{rows.language}"
    settings = _settings(name, rows.form, measured, examples or measured[:1])
    return PlannedTask(
        benchmark=rows.benchmark,
        language=rows.language,
        task=name,
        shots=count,
        metrics=_METRICS[rows.form],
        loaded=catalogue.load(settings, source=name),
        source=rows.source,
        data_hash=rows.data_hash,
    )


def _settings(
    name: str, form: str, measured: Sequence[Mapping[str, Any]], shots: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """lm-eval's settings of a task around rows."""
    from datasets import Dataset

    tables = {
        "test": Dataset.from_list([dict(row) for row in measured]),
        "shots": Dataset.from_list([dict(row) for row in shots]),
    }
    settings: dict[str, Any] = {
        "task": name,
        "custom_dataset": lambda **_: tables,
        "test_split": "test",
        "fewshot_split": "shots",
        "doc_to_text": "prompt",
        "metadata": {"version": 1.0},
    }
    if form == "choices":  # `prompt + choice` is natural text: the space belongs to the choice
        return settings | {
            "output_type": "multiple_choice",
            "doc_to_choice": "choices",
            "doc_to_target": "answer",
            "target_delimiter": "",
            "metric_list": [_metric("acc"), _metric("acc_norm")],
        }
    strip = [{"function": "remove_whitespace"}, {"function": "take_first"}]
    return settings | {
        "output_type": "generate_until",
        "doc_to_target": "response",
        "generation_kwargs": {
            "until": ["\n"],
            "do_sample": False,
            "max_gen_toks": _LONGEST_ANSWER,
        },
        "filter_list": [{"name": "none", "filter": strip}],
        "metric_list": [_metric("chrf", "chrf"), _metric("exact_match")],
    }


def _metric(name: str, aggregation: str = "mean") -> dict[str, Any]:
    return {"metric": name, "aggregation": aggregation, "higher_is_better": True}


def _flores(
    catalogue: TaskCatalogue,
    languages: Sequence[str],
    there: Collection[tuple[str, str]],
    shots: int | None,
) -> tuple[list[PlannedTask], list[Unmeasured], list[str]]:
    """FLORES from the hub, from English and into it, where there is no local one."""
    tasks: list[PlannedTask] = []
    unmeasured: list[Unmeasured] = []
    problems: list[str] = []
    for language in languages:
        if language.split("-")[0] == "en" or (f"{FLORES}-to-en", language) in there:
            continue
        code = flores_code(language)
        if code is None:
            reason = f"no FLORES code is known for {language!r}; give it as files: DIR/flores.jsonl"
            unmeasured.append(_unmeasured(FLORES, language, reason))
            continue
        try:
            tables = {split: _flores_rows(code, language, split) for split in ("devtest", "dev")}
        except Exception as error:  # datasets, hub and network each raise their own
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            problems.append(f"{_FLORES_DATASET} {code}: {reason}")
            continue
        for way, source, target in (("from-en", "en", language), ("to-en", language, "en")):
            parts = {name: translation_rows(rows, source, target) for name, rows in tables.items()}
            rows = TaskRows(
                benchmark=f"{FLORES}-{way}",
                language=language,
                form="answers",
                measured=parts["devtest"],
                shots=parts["dev"],
                source=_FLORES_DATASET,
                data_hash=hash_json(parts),
            )
            tasks.append(_local_task(catalogue, rows, shots))
    return tasks, unmeasured, problems


def _flores_rows(code: str, language: str, split: str) -> list[dict[str, Any]]:
    """English and one language of FLORES+, sentence by sentence.

    FLORES+ is what became of FLORES-101 and -200: the same sentences, corrected. The older ones are
    loading scripts, which `datasets` no longer runs; it is gated, so one has to be logged in.
    """
    from datasets import load_dataset

    # FLORES+ says `cmn` where FLORES-200 and Belebele say `zho`.
    codes = {"en": "eng_Latn", language: code.replace("zho_", "cmn_")}
    texts = {
        tag: {row["id"]: row["text"] for row in load_dataset(_FLORES_DATASET, name, split=split)}
        for tag, name in codes.items()
    }
    ids = [one for one in texts["en"] if one in texts[language]]
    return [{"en": texts["en"][one], language: texts[language][one]} for one in ids]


def load_language_model(model: Any, tokenizer: Any, *, batch_size: int) -> Any:
    """A model that is loaded already, as lm-eval's `hf` model."""
    return _lm_eval().models.huggingface.HFLM(
        pretrained=model, tokenizer=tokenizer, batch_size=batch_size
    )


def measure_task(
    language_model: Any, task: PlannedTask, *, limit: int | None, seed: int
) -> tuple[BenchmarkScore, list[Answer]]:
    """One benchmark's score, and what the model wrote where it had to write.

    Args:
        language_model: what `load_language_model` gave.
        task: what to measure.
        limit: the first so many examples; None for all.
        seed: of the draw of solved examples.

    Raises:
        PolycycleError: lm-eval measured none of the metrics that count.
    """
    found = _evaluate(language_model, task, limit=limit, seed=seed)
    samples = [row for name in sorted(found["samples"]) for row in found["samples"][name]]
    scored = (found.get("groups") or {}).get(task.task) or found["results"][task.task]
    metrics = {
        key.removesuffix(",none"): float(value)
        for key, value in scored.items()
        if key.endswith(",none") and isinstance(value, int | float) and "stderr" not in key
    }
    counts = next((metric for metric in task.metrics if metric in metrics), None)
    if counts is None:
        raise PolycycleError(
            f"{task.task}: lm-eval measured {', '.join(metrics) or 'nothing'}, expected "
            f"{' or '.join(task.metrics)}"
        )
    score = BenchmarkScore(
        benchmark=task.benchmark,
        language=task.language,
        task=task.task,
        metric=counts,
        metrics=metrics,
        stderr=_stderr(metrics[counts], len(samples)) if counts.startswith("acc") else None,
        shots=task.shots,
        examples=len(samples),
        source=task.source,
        data_hash=task.data_hash,
        prompts_hash=hash_json(
            [[row["doc_hash"], row["prompt_hash"], row["target_hash"]] for row in samples]
        ),
    )
    return score, _answers(samples)


def _evaluate(
    language_model: Any, task: PlannedTask, *, limit: int | None, seed: int
) -> dict[str, Any]:
    """What lm-eval finds in one task.

    As its `simple_evaluate`, which indexes all of lm-eval's tasks and asks pip and git for the
    environment each time.
    """
    from transformers import set_seed

    lm_eval = _lm_eval()
    set_seed(seed)
    loaded = lm_eval.tasks.TaskManager(include_defaults=False).load([task.loaded])
    for one in loaded["tasks"].values():
        if one.get_config("num_fewshot") != 0:  # what its settings forbid
            one.set_config(key="num_fewshot", value=task.shots)
        one.set_fewshot_seed(seed=seed)
    found: dict[str, Any] = lm_eval.evaluate(
        lm=language_model, task_dict=loaded, limit=limit, bootstrap_iters=0
    )
    return found


def _stderr(share: float, examples: int) -> float | None:
    """Standard error of a share."""
    return float((share * (1 - share) / (examples - 1)) ** 0.5) if examples > 1 else None


def _answers(samples: Sequence[Mapping[str, Any]]) -> list[Answer]:
    return [
        Answer(source=row["doc"]["source"], written=row["filtered_resps"][0], right=row["target"])
        for row in samples
        if "source" in row["doc"] and isinstance(row["target"], str)
    ]


def run_lm_eval(arguments: Sequence[str]) -> None:
    """lm-eval's own command, in this process, where our model classes are registered."""
    _lm_eval(quiet=False)
    from lm_eval.__main__ import cli_evaluate

    before = sys.argv
    sys.argv = ["lm-eval", *arguments]
    try:
        cli_evaluate()
    finally:
        sys.argv = before
