"""Section `data`: where text lies, and how it is read."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from polycycle.config.section import Section


class SourceConfig(Section):
    """Where the text of one language lies."""

    path: str | None = None
    """A file, folder or glob, relative to `data.root`; jsonl, parquet or text, plain or gz/zst."""
    hub: str | None = None
    """A dataset id on the Hugging Face hub, streamed."""
    subset: str | None = None
    """The configuration name of a hub dataset (`20231101.el`)."""
    split: str = "train"
    """The split of a hub dataset."""
    revision: str | None = None
    """Commit, branch or tag of a hub dataset; pin it, and the text stays what it was."""
    format: Literal["auto", "jsonl", "parquet", "text"] = "auto"
    """How to read the files; `auto` goes by the file name."""
    text_field: str = "text"
    """The column that holds a document's text (jsonl, parquet, hub)."""
    language_field: str | None = None
    """A column that holds each document's language; rows of other languages are passed over."""
    weight: Annotated[float, Field(gt=0.0)] = 1.0
    """Share of the stage's tokens relative to the other languages."""
    license: str | None = None
    """The text's licence (`CC-BY-SA-4.0`), for the model card."""

    def place(self) -> dict[str, Any]:
        """What says where the text lies and how to read it: the arguments of `TextSource`."""
        return self.model_dump(exclude={"weight", "license"})

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.path is None) == (self.hub is None):
            raise ValueError("give exactly one of `path` (local) and `hub` (a dataset id)")
        for name in ("subset", "revision"):
            if self.hub is None and getattr(self, name) is not None:
                raise ValueError(f"`{name}` belongs to `hub` datasets")
        return self


def _as_source(value: Any) -> Any:
    """`el: text/el.jsonl` is short for `el: {path: text/el.jsonl}`."""
    return {"path": value} if isinstance(value, str) else value


Source = Annotated[
    SourceConfig, BeforeValidator(_as_source, json_schema_input_type=str | SourceConfig)
]
Sources = str | dict[str, Source]


class TaskConfig(Section):
    """One generation task."""

    path: str
    """Pattern of its files."""
    chat: bool = False
    """Ask in the chat template of the model's own tokenizer; a model that has none, such as the
    base, gets the bare prompt."""


def _way_of_task(value: Any) -> str:
    """So that a mistake in settings is told of settings, and not of a pattern that they are not."""
    return "task(pattern)" if isinstance(value, str) else "task(settings)"


Task = Annotated[
    Annotated[str, Tag("task(pattern)")] | Annotated[TaskConfig, Tag("task(settings)")],
    Discriminator(_way_of_task),
]


class DataConfig(Section):
    """Text to train and to measure on."""

    root: Path = Path(".")
    """Folder that relative paths start from; set it with `--set data.root=…`."""
    train: Sources
    """A pattern with `{language}` in it, or one source per language."""
    valid: Sources
    """The same for held-out text. Must not overlap with `train`."""
    questions: str | None = None
    """Pattern of multiple-choice files, jsonl with `prompt`, `choices` and `answer` (an index)."""
    tasks: dict[str, Task] = Field(default_factory=dict)
    """Generation tasks by name: the pattern of their files, or settings. The files are jsonl with
    `prompt`, `response` (one line) and, if a form is asked for, `form` (a regular expression). A
    task is passed over in languages without a file."""
    packing: Literal["documents", "concatenate"] = "documents"
    """`documents`: no attention across documents; `concatenate`: plain, as published."""
    on_bad_document: Literal["error", "skip"] = "error"
    """Stop at a bad line, or skip it, count it and list it in the report."""
    repeat: bool = False
    """Go over a corpus more than once when it has fewer tokens than its share; else an error."""
    cache_dir: Path | None = None
    """Where tokenized data is kept; by default `cache/` beside the run's stages."""

    def source(self, language: str, part: Literal["train", "valid"]) -> SourceConfig | None:
        """Where the text of `language` lies, or None when the recipe gives none."""
        sources = self.train if part == "train" else self.valid
        if isinstance(sources, str):
            return SourceConfig(path=sources.replace("{language}", language))
        return sources.get(language)

    def task(self, name: str) -> TaskConfig:
        """The settings of a generation task."""
        given = self.tasks[name]
        return TaskConfig(path=given) if isinstance(given, str) else given

    @property
    def chats(self) -> tuple[str, ...]:
        """Names of the generation tasks that are asked in a chat template."""
        return tuple(name for name in self.tasks if self.task(name).chat)

    @model_validator(mode="after")
    def _patterns(self) -> Self:
        patterns = {key: getattr(self, key) for key in ("train", "valid", "questions")}
        patterns |= {f"tasks.{name}": self.task(name).path for name in self.tasks}
        for key, value in patterns.items():
            if isinstance(value, str) and "{language}" not in value:
                raise ValueError(f"{key}: a pattern must contain {{language}}, got {value!r}")
        return self
