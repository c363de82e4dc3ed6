"""What a run found, as frozen pydantic models: the one file that reports and comparisons read.

Units are in the names; where a name has none the docstring says it. Shares and accuracies run from
0 to 1, losses are in nats per token. Not-a-number and infinity survive the trip through JSON.
"""

from typing import Any, Literal, Self

from pydantic import model_validator

from polycycle.languages import LanguageGroups
from polycycle.results.exported import ExportResult
from polycycle.results.part import Count, Part, Share
from polycycle.results.scores import ModelScores
from polycycle.results.training import Alarm, GroupSimilarity, StageCurves

SCHEMA_VERSION: Literal[1] = 1
"""Raised by hand whenever an older reader would misread a result."""


class LanguageData(Part):
    """The text of one language in one part of the run."""

    language: str
    """BCP-47 tag."""
    part: Literal["train", "valid", "replay"]
    """Text to learn from, to measure on, or to review."""
    documents: Count
    """Documents used."""
    tokens: Count
    """Tokens used."""
    bytes: Count
    """UTF-8 bytes used."""
    words: Count
    """Words as the data room counts them (characters, where a script writes no spaces)."""
    tokens_per_word: float
    """Fertility: how finely the tokenizer cuts this language."""
    tokens_per_byte: float
    """The same per UTF-8 byte, which compares across scripts."""
    unknown_share: Share
    """Share of tokens that are the unknown token."""
    byte_fallback_share: Share
    """Share of tokens that stand for a single raw byte."""
    skipped: Count = 0
    """Documents left out as bad."""
    skipped_examples: tuple[tuple[str, str], ...] = ()
    """The first of them: where it stands, and why it was left out."""
    warning: str | None = None
    """What a person should know before trusting this language's numbers."""


class StageCost(Part):
    """What one stage took."""

    stage: str
    """Its name."""
    seconds: float
    """Wall-clock time."""
    tokens: Count
    """Tokens trained on; 0 for a stage that trains nothing."""
    steps: Count
    """Optimizer steps."""
    tokens_per_second: float
    """Over the whole stage."""
    peak_memory_bytes: Count
    """Of the GPU where there is one, else of the process."""
    parameters_trainable: Count
    """Parameters that had gradients."""
    was_resumed: bool
    """Whether it was interrupted and picked up again."""
    training_flops: float | None = None
    """Estimate of the floating-point operations spent in training."""


class Environment(Part):
    """Where and with what the run was made."""

    polycycle: str
    """Version."""
    torch: str
    """Version."""
    transformers: str
    """Version."""
    python: str
    """Version."""
    platform: str
    """Operating system and architecture."""
    processor: str
    """Name of the CPU."""
    cpu_cores: Count
    """Cores that the process may use."""
    threads: Count
    """Threads that torch uses."""
    runs_at_once: Count = 1
    """How many runs of a comparison went on at a time, this one among them (`--jobs`)."""
    gpu: str | None = None
    """Name and number of the GPUs."""
    memory_bytes: Count
    """Main memory of the machine."""
    dtype: str
    """Precision of training."""
    commit: str | None = None
    """Git commit of the code, when it runs from a checkout."""
    date: str
    """When the result was written, ISO 8601."""


class RunResult(Part):
    """Everything that a run found, in one place."""

    schema_version: Literal[1] = SCHEMA_VERSION
    """Version of this layout."""
    name: str
    """The recipe's name."""
    method: str = "MoE-LPR"
    """The method that the recipe follows."""
    recipe: dict[str, Any]
    """The resolved recipe, defaults filled in."""
    languages: LanguageGroups
    """Original, unseen original and expanded languages."""
    seed: int
    """Seed of data order and initialisation."""
    base: str
    """The dense model: hub id or folder."""
    models: tuple[ModelScores, ...]
    """In the order they were made; `base` first."""
    similarities: tuple[GroupSimilarity, ...] = ()
    """One per language group before which similarity was measured."""
    curves: tuple[StageCurves, ...] = ()
    """One per training stage, in order."""
    alarms: tuple[Alarm, ...] = ()
    """In the order they were raised."""
    data: tuple[LanguageData, ...] = ()
    """One per language and part."""
    costs: tuple[StageCost, ...] = ()
    """One per stage, in order."""
    export: ExportResult | None = None
    """The stock checkpoint that the run wrote, if it was to."""
    environment: Environment
    """Versions and machine."""

    @model_validator(mode="after")
    def _begins_with_the_base(self) -> Self:
        names = [model.name for model in self.models]
        if not names or names[0] != "base":
            raise ValueError(f"models must begin with 'base', got {names}")
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"models: {', '.join(repeated)} stand here more than once")
        return self

    def model(self, name: str) -> ModelScores:
        """The model of that name.

        Raises:
            KeyError: the run has no such model.
        """
        for model in self.models:
            if model.name == name:
                return model
        raise KeyError(f"no model {name!r}; there are {', '.join(m.name for m in self.models)}")

    @property
    def needs_polycycle(self) -> bool:
        """Whether the final model's class is one of ours, not transformers' own."""
        baseline = self.recipe.get("baseline")
        method = baseline.get("method") if isinstance(baseline, dict) else baseline
        return self.final.routing is not None or method == "loramoe"

    @property
    def final(self) -> ModelScores:
        """The last model made: what the run hands over."""
        return self.models[-1]
