"""Benchmarks from local files: questions, answers, labelled text, translations, per language.

A folder holds one entry per benchmark:

    NAME/SPLIT/LANGUAGE.jsonl   `prompt, choices, answer`, or `prompt, response`, or `text, label`
    NAME/SPLIT.jsonl            one text per language in each row: `{"en": …, "el": …}`
    NAME.jsonl                  the same, in one split
    LM_EVAL_TASK/SPLIT.parquet  the dataset of one of lm-eval's own tasks as on the hub, or .jsonl

SPLIT is `test`, `devtest`, `validation`, `valid` or `dev`, whichever comes first, to measure on,
and `train`, or another of these, for the solved examples in front (shots). Without a second split,
the first rows are the shots and the rest is measured. Datasets of lm-eval's tasks keep their own
splits.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from polycycle.data.lines import json_type, parsed_lines
from polycycle.data.questions import read_questions
from polycycle.data.tasks import read_task
from polycycle.errors import ConfigError, DataError
from polycycle.files import hash_file, hash_json
from polycycle.languages import check_tag, language_name

MEASURED_SPLITS = ("test", "devtest", "validation", "valid", "dev")
SHOTS_SPLITS = ("train", "dev", "valid", "validation", "test")
_ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.zst")
PIVOT = "en"
"""Translations are measured from it and into it."""

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskRows:
    """One benchmark in one language, ready to ask.

    Attributes:
        benchmark: its name.
        language: BCP-47 tag.
        form: `choices` rows have `prompt`, `choices` and `answer` (an index); `answers` rows have
            `prompt` and `response`.
        measured: the rows to measure on.
        shots: rows to draw solved examples from; empty where the first of `measured` must serve.
        source: folder or file, for people.
        data_hash: SHA-256 over the files.
    """

    benchmark: str
    language: str
    form: Literal["choices", "answers"]
    measured: tuple[Row, ...]
    shots: tuple[Row, ...]
    source: str
    data_hash: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalBenchmark:
    """Where the files of one benchmark lie.

    Attributes:
        name: of the folder or file.
        splits: by split, the files by language; `None` for a file that holds all languages.
        place: folder or file.
    """

    name: str
    splits: Mapping[str, Mapping[str | None, Path]]
    place: Path

    @property
    def is_parallel(self) -> bool:
        """Whether every row holds a text per language."""
        return any(None in files for files in self.splits.values())

    @property
    def measured_split(self) -> str:
        """The split to measure on."""
        return next(split for split in MEASURED_SPLITS if split in self.splits)

    @property
    def shots_split(self) -> str | None:
        """The split that solved examples come from, or None."""
        others = (split for split in SHOTS_SPLITS if split != self.measured_split)
        return next((split for split in others if split in self.splits), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskData:
    """What a folder of task data holds.

    Attributes:
        benchmarks: in forms of ours, by name.
        datasets: for lm-eval's own tasks: by task and split, the file.
    """

    benchmarks: Mapping[str, LocalBenchmark]
    datasets: Mapping[str, Mapping[str, Path]]


def find_task_data(folder: Path, lm_eval_tasks: Collection[str] = ()) -> TaskData:
    """The benchmarks and datasets in a folder; entries without a split by name are passed over.

    Args:
        folder: of task data.
        lm_eval_tasks: names of lm-eval's tasks; a folder so named that holds files, not folders, is
            the dataset of that task.

    Raises:
        DataError: there is no such folder, or nothing of use in it.
    """
    if not folder.is_dir():
        raise DataError(f"no task data at {folder}; expected a folder")
    benchmarks: dict[str, LocalBenchmark] = {}
    datasets: dict[str, Mapping[str, Path]] = {}
    for entry in sorted(folder.iterdir()):
        name = _stem(entry)
        if name in lm_eval_tasks and entry.is_dir() and (files := _dataset(entry)):
            datasets[name] = files
            continue
        if entry.is_dir():
            splits = _splits(entry)
        else:
            splits = {"test": {None: entry}} if name else {}
        if name and any(split in splits for split in MEASURED_SPLITS):
            benchmarks[name] = LocalBenchmark(name=name, splits=splits, place=entry)
    if not benchmarks and not datasets:
        raise DataError(
            f"{folder}: no benchmark in it. Expected NAME/test/el.jsonl, or NAME.jsonl with one "
            "text per language in each row; see docs/how_to/benchmarks.md"
        )
    return TaskData(benchmarks=benchmarks, datasets=datasets)


def _dataset(folder: Path) -> dict[str, Path]:
    """By split, the file of rows that stands directly in a folder."""
    files = (file for file in sorted(folder.iterdir()) if file.is_file())
    return {split: file for file in files if (split := _stem(file, (*_ENDINGS, ".parquet")))}


def _stem(path: Path, endings: tuple[str, ...] = _ENDINGS) -> str:
    """The name without the ending of a file of rows; empty for any other file."""
    if path.is_dir():
        return "" if path.name.startswith(".") else path.name
    for ending in endings:
        if path.name.endswith(ending):
            return path.name.removesuffix(ending)
    return ""


def _splits(folder: Path) -> dict[str, Mapping[str | None, Path]]:
    splits: dict[str, Mapping[str | None, Path]] = {}
    for entry in sorted(folder.iterdir()):
        split = _stem(entry)
        if split not in {*MEASURED_SPLITS, *SHOTS_SPLITS}:
            continue
        if entry.is_dir():
            splits[split] = {_tag(file): file for file in sorted(entry.iterdir()) if _stem(file)}
        else:
            splits[split] = {None: entry}
    return {split: files for split, files in splits.items() if files}


def _tag(file: Path) -> str:
    try:
        return check_tag(_stem(file))
    except ConfigError as error:
        raise DataError(f"{file}: {error}; files are named by language: el.jsonl") from error


def read_benchmark(local: LocalBenchmark, languages: tuple[str, ...]) -> list[TaskRows]:
    """A benchmark in those of some languages that it has files or texts for.

    A translation benchmark gives two for each language but English: `NAME-from-en`, `NAME-to-en`.

    Raises:
        DataError: naming file, line and field.
    """
    if local.is_parallel:
        return _translations(local, languages)
    found = []
    for language in languages:
        file = local.splits[local.measured_split].get(language)
        if file is not None:
            found.append(_in_one_language(local, language, file))
    return found


def _in_one_language(local: LocalBenchmark, language: str, file: Path) -> TaskRows:
    shots_split = local.shots_split
    shots_file = local.splits[shots_split].get(language) if shots_split else None
    files = [file, *([shots_file] if shots_file else [])]
    form = _form(file)
    if form == "labels":
        labelled = [_labelled(one) for one in files]
        labels = sorted({row["label"] for rows in labelled for row in rows})
        tables = [[_classify(row, labels) for row in rows] for rows in labelled]
        form = "choices"
    elif form == "choices":
        tables = [
            [
                {"prompt": q.prompt, "choices": list(q.choices), "answer": q.answer}
                for q in read_questions(one)
            ]
            for one in files
        ]
    else:
        tables = [
            [{"prompt": e.prompt, "response": e.response.strip()} for e in read_task(one)]
            for one in files
        ]
    return TaskRows(
        benchmark=local.name,
        language=language,
        form=form,
        measured=tuple(tables[0]),
        shots=tuple(tables[1]) if len(tables) > 1 else (),
        source=local.name,
        data_hash=hash_json([hash_file(one) for one in files]),
    )


def _form(file: Path) -> Literal["choices", "answers", "labels"]:
    """What the first row holds decides how the file is read."""
    for _, row in parsed_lines(file, dict):
        if {"prompt", "choices"} <= row.keys():
            return "choices"
        if {"prompt", "response"} <= row.keys():
            return "answers"
        if {"text", "label"} <= row.keys():
            return "labels"
        raise DataError(
            f"{file}:1: a row with {', '.join(row) or 'no field'}; expected prompt, choices and "
            "answer (questions), or prompt and response (answers to write), or text and label"
        )
    raise DataError(f"{file}: no rows in it")


def _labelled(file: Path) -> list[dict[str, str]]:
    rows = []
    for number, row in parsed_lines(file, dict):
        for field in ("text", "label"):
            if not isinstance(row.get(field), str) or not row[field].strip():
                raise DataError(f"{file}:{number}: {field} is {json_type(row.get(field))}")
        rows.append({"text": row["text"].strip(), "label": row["label"].strip()})
    return rows


def _classify(row: Mapping[str, str], labels: list[str]) -> Row:
    """A labelled text as a question whose choices are all labels that occur."""
    return {
        "prompt": f"Text: {row['text']}\nTopic:",
        "choices": [f" {label}" for label in labels],
        "answer": labels.index(row["label"]),
    }


def translation_rows(rows: list[Row], source: str, target: str) -> tuple[Row, ...]:
    """Prompts that ask for the translation of each row that has both languages.

    The prompt is the one of lm-eval's own FLORES tasks.
    """
    return tuple(
        {
            "prompt": f"{language_name(source)} sentence: {row[source]}\n"
            f"{language_name(target)} sentence:",
            "response": row[target].strip(),
            "source": row[source],
        }
        for row in rows
        if row.get(source) and row.get(target)
    )


def _translations(local: LocalBenchmark, languages: tuple[str, ...]) -> list[TaskRows]:
    splits = [local.measured_split, *([local.shots_split] if local.shots_split else [])]
    files = [local.splits[split][None] for split in splits if None in local.splits[split]]
    tables = [
        [_parallel(file, number, row) for number, row in parsed_lines(file, dict)] for file in files
    ]
    data_hash = hash_json([hash_file(file) for file in files])
    found = []
    for language in languages:
        if language == PIVOT:
            continue
        for way, source, target in (
            (f"from-{PIVOT}", PIVOT, language),
            (f"to-{PIVOT}", language, PIVOT),
        ):
            parts = [translation_rows(rows, source, target) for rows in tables]
            if parts[0]:
                found.append(
                    TaskRows(
                        benchmark=f"{local.name}-{way}",
                        language=language,
                        form="answers",
                        measured=parts[0],
                        shots=parts[1] if len(parts) > 1 else (),
                        source=local.place.name,
                        data_hash=data_hash,
                    )
                )
    return found


def _parallel(file: Path, number: int, row: Row) -> Row:
    if not isinstance(row.get(PIVOT), str):
        raise DataError(
            f"{file}:{number}: no text in {language_name(PIVOT)}. A file that is not named by "
            f'language holds one text per language in each row: {{"{PIVOT}": …, "el": …}}'
        )
    return row
