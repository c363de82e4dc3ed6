"""What benchmarks found about one model: per benchmark and language, with all that pins it down."""

import json
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from polycycle.errors import PolycycleError
from polycycle.files import write_text
from polycycle.results.part import Count, Part

SHARES = ("acc", "acc_norm", "exact_match")
"""Metrics from 0 to 1; the others (chrF, BLEU, COMET) run to 100."""


class BenchmarkScore(Part):
    """One benchmark in one language."""

    benchmark: str
    """`arc_challenge`, `belebele`, …, or the name of local task data."""
    language: str
    """BCP-47 tag."""
    task: str
    """The lm-eval task that measured it."""
    metric: str
    """The one of `metrics` that counts."""
    metrics: dict[str, float]
    """Everything measured, by lm-eval's names; shares from 0 to 1, chrF and COMET to 100."""
    stderr: float | None = None
    """Standard error of `metric` over the examples, where it is a share."""
    shots: Count
    """Solved examples in front of each."""
    examples: Count
    """How many were measured."""
    source: str
    """The dataset: its hub id, or its local folder's name."""
    data_hash: str | None = None
    """SHA-256 over the local files; None for hub data, which `prompts_hash` covers."""
    prompts_hash: str
    """SHA-256 over documents, prompts and right answers: two models with the same were asked the
    same."""

    @property
    def value(self) -> float:
        """The score: a share of 0 to 1, or a chrF of 0 to 100."""
        return self.metrics[self.metric]

    @property
    def is_share(self) -> bool:
        """Whether `value` runs from 0 to 1."""
        return self.metric in SHARES


class Unmeasured(Part):
    """A benchmark that could not be measured in a language, and why."""

    benchmark: str
    """Its name."""
    language: str
    """BCP-47 tag."""
    reason: str
    """Why not, and what would help."""


class BenchmarkResult(Part):
    """All benchmarks of one model."""

    schema_version: Literal[1] = 1
    """Version of this layout."""
    model: str
    """Folder or hub id."""
    content_hash: str
    """Hash over all of the model's tensors."""
    suite: str | None
    """What was asked for; None for local task data alone."""
    limit: Count | None
    """Examples per task at most; None for all of them."""
    seed: int
    """Of the draw of few-shot examples."""
    batch_size: Count
    """Requests computed together."""
    device: str
    """`cpu`, `cuda`."""
    dtype: str
    """Of the weights while measured."""
    versions: dict[str, str]
    """Of what measured."""
    date: str
    """When it was written, ISO 8601."""
    scores: tuple[BenchmarkScore, ...]
    """In the order they were measured."""
    unmeasured: tuple[Unmeasured, ...] = ()
    """What was asked for and could not be measured."""

    def score(self, benchmark: str, language: str) -> BenchmarkScore | None:
        """The score of one benchmark in one language, or None."""
        for one in self.scores:
            if (one.benchmark, one.language) == (benchmark, language):
                return one
        return None


def save_benchmarks(result: BenchmarkResult, path: Path) -> Path:
    """Write it as indented UTF-8 JSON; the file appears only when it is whole."""
    write_text(path, result.model_dump_json(indent=2) + "\n")
    return path


def load_benchmarks(path: Path) -> BenchmarkResult:
    """Read what `save_benchmarks` wrote.

    Raises:
        PolycycleError: the file is missing, cut short, or of another layout.
    """
    try:
        return BenchmarkResult.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, ValidationError) as error:
        raise PolycycleError(
            f"{path}: not a polycycle benchmark result ({error}). Move it away and measure again"
        ) from error
