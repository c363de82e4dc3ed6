"""A result to JSON and back."""

import json
from pathlib import Path

from pydantic import ValidationError

from polycycle.errors import PolycycleError
from polycycle.files import write_text
from polycycle.results.benchmarks import load_benchmarks
from polycycle.results.run import SCHEMA_VERSION, RunResult

BENCHMARKS = "benchmarks"
"""The folder in a run that holds one file of benchmark scores per model."""


def save_result(result: RunResult, path: Path) -> Path:
    """Write the result as indented UTF-8 JSON; the file appears only when it is whole."""
    write_text(path, result.model_dump_json(indent=2) + "\n")
    return path


def load_result(path: Path) -> RunResult:
    """Read a result that `save_result` wrote.

    Raises:
        PolycycleError: the file is missing, not JSON, of another schema version, or has unknown,
            missing or ill-typed keys (all of them are listed).
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PolycycleError(
            f"{path}: no such file. A finished run writes it; type: polycycle run RECIPE.yaml"
        ) from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise PolycycleError(f"{path}: not JSON ({error}). Was it cut short or edited?") from error
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if version != SCHEMA_VERSION:
        raise PolycycleError(
            f"{path}: schema_version is {version!r}, this polycycle reads {SCHEMA_VERSION}. "
            "Read it with the version that wrote it (environment.polycycle in the file), "
            "or run the recipe again: finished stages are skipped"
        )
    try:
        return RunResult.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        raise PolycycleError(f"{path}: not a polycycle result.\n{_problems(error)}") from error


def with_benchmarks(result: RunResult, run_folder: Path) -> RunResult:
    """The result with the benchmark scores that lie in `benchmarks/` of the run folder.

    Scores belong to a model when the hash of its tensors is theirs; others are left out, so that a
    model that was trained anew does not show the scores of its predecessor.
    """
    files = sorted((run_folder / BENCHMARKS).glob("*.json"))
    found = {scores.content_hash: scores for scores in map(load_benchmarks, files)}
    models = tuple(
        model.model_copy(update={"benchmarks": found.get(model.content_hash, model.benchmarks)})
        for model in result.models
    )
    return result.model_copy(update={"models": models})


def _problems(error: ValidationError) -> str:
    """One line per problem: the key, what is wrong with it, and what stands there."""
    lines = []
    for problem in error.errors(include_url=False):
        key = ".".join(str(part) for part in problem["loc"]) or "(the whole file)"
        got = repr(problem["input"])
        lines.append(f"  {key}: {problem['msg']}, got {got if len(got) <= 60 else got[:57] + '…'}")
    return "\n".join(lines)
