"""Documents out of a text source, each with its place, and bad ones never lost silently."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from polycycle.data.lines import decode_line, json_type, numbered_lines, parse_object
from polycycle.data.sources import TextSource, format_of, source_files
from polycycle.errors import DataError, did_you_mean

OnBadDocument = Literal["error", "skip"]

_NUM_LANGUAGES_LISTED = 20
_MAX_EXAMPLES = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """One document of one language.

    Attributes:
        text: the text as it stands in the source, neither normalised nor stripped.
        language: its tag.
        file: the file or hub dataset it comes from.
        line: its line (jsonl, text) or row (parquet, hub), counted from 1.
    """

    text: str
    language: str
    file: str
    line: int

    @property
    def where(self) -> str:
        """`file:line`."""
        return f"{self.file}:{self.line}"


@dataclass(slots=True)
class Skipped:
    """Bad documents that were passed over.

    Attributes:
        count: how many, all of them.
        examples: `file:line` and reason of the first thousand.
    """

    count: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)

    def add(self, where: str, reason: str) -> None:
        """Count one more, and list it while there is room."""
        self.count += 1
        if len(self.examples) < _MAX_EXAMPLES:
            self.examples.append((where, reason))


@dataclass(frozen=True, slots=True)
class _Row:
    """One row of a source: its fields, or what is wrong with it."""

    file: str
    line: int
    fields: dict[str, Any]
    problem: str | None = None


def read_documents(
    source: TextSource,
    language: str,
    *,
    root: Path = Path(),
    on_bad_document: OnBadDocument = "error",
    skipped: Skipped | None = None,
) -> Iterator[Document]:
    """The documents of one language, in the order of the source (files sorted by name).

    Args:
        source: where to read.
        language: the language asked for.
        root: folder that a relative `source.path` starts from.
        on_bad_document: `skip` adds bad documents to `skipped` instead of raising.
        skipped: filled while reading; needed with `skip`.

    Raises:
        DataError: nothing to read, a damaged file, a document that is not a non-empty string of
            valid Unicode (with `error`), or no document of this language at all.
    """
    if on_bad_document == "skip" and skipped is None:
        raise DataError("on_bad_document='skip' needs `skipped=Skipped()` to count them in")
    num_documents = 0
    passed_over: dict[str, None] = {}
    for row in _rows(source, language, root):
        try:
            document = _document(row, source, language)
        except ValueError as error:
            where = f"{row.file}:{row.line}"
            if on_bad_document == "error" or skipped is None:
                raise DataError(
                    f"{where}: {error}. To pass over bad documents, count and list them, "
                    "set data.on_bad_document: skip"
                ) from error
            skipped.add(where, str(error))
            continue
        if document.language == language:
            num_documents += 1
            yield document
        elif len(passed_over) < _NUM_LANGUAGES_LISTED:
            passed_over[document.language] = None
    if num_documents == 0:
        num_skipped = skipped.count if skipped else 0
        raise DataError(_nothing_found(source, language, list(passed_over), num_skipped))


def _document(row: _Row, source: TextSource, language: str) -> Document:
    """The document of a row; ValueError says what is wrong with it."""
    if row.problem is not None:
        raise ValueError(row.problem)
    if source.language_field is not None:
        language = _string(row.fields, source.language_field, setting="language_field")
    text = _string(row.fields, source.text_field, setting="text_field")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"field {source.text_field!r} has a lone surrogate (\\u{ord(text[error.start]):04x}) "
            f"at character {error.start + 1}; repair the \\u escapes of this line"
        ) from error
    return Document(text=text, language=language, file=row.file, line=row.line)


def _string(fields: dict[str, Any], name: str, *, setting: str) -> str:
    if name not in fields:
        raise ValueError(
            f"no field {name!r}; fields here are {', '.join(map(repr, fields)) or 'none'}."
            f"{did_you_mean(name, fields)} Set `{setting}` to the one that is meant"
        )
    value = fields[name]
    if not isinstance(value, str):
        raise ValueError(f"field {name!r} is {json_type(value)}, expected a string")
    if not value.strip():
        raise ValueError(f"field {name!r} is empty; remove the document")
    return value


def _nothing_found(source: TextSource, language: str, others: list[str], num_skipped: int) -> str:
    if others:
        return (
            f"{source.name}: no row has {source.language_field} = {language!r}; there are "
            f"{', '.join(sorted(others))}.{did_you_mean(language, others)}"
        )
    skipped = f" ({num_skipped} bad ones skipped)" if num_skipped else ""
    return f"{source.name}: no document of language {language!r}{skipped}; the source is empty"


def _rows(source: TextSource, language: str, root: Path) -> Iterator[_Row]:
    if source.hub is not None:
        yield from _hub_rows(source)
        return
    for file in source_files(source, language, root):
        if format_of(file, source) == "parquet":
            yield from _parquet_rows(file, source)
        else:
            yield from _line_rows(file, source)


def _line_rows(file: Path, source: TextSource) -> Iterator[_Row]:
    is_text = format_of(file, source) == "text"
    for number, line in numbered_lines(file):
        try:
            text = decode_line(number, line)
            if text.strip():
                fields = {source.text_field: text} if is_text else parse_object(text)
                yield _Row(str(file), number, fields)
        except ValueError as error:
            yield _Row(str(file), number, {}, str(error))


def _parquet_rows(file: Path, source: TextSource) -> Iterator[_Row]:
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    wanted = [name for name in (source.text_field, source.language_field) if name is not None]
    number = 0
    try:
        with parquet.ParquetFile(file) as table:
            # With one missing, read all, so that the error can name what is there.
            columns = wanted if set(wanted) <= set(table.schema_arrow.names) else None
            for batch in table.iter_batches(batch_size=1024, columns=columns):
                for fields in batch.to_pylist():
                    number += 1
                    yield _Row(str(file), number, fields)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{file}:{number + 1}: parquet cannot be read from here on ({error}); "
            "the file is truncated or damaged, fetch it again"
        ) from error


def _hub_rows(source: TextSource) -> Iterator[_Row]:
    import datasets

    number = 0
    try:
        rows = datasets.load_dataset(
            source.hub,
            name=source.subset,
            split=source.split,
            revision=source.revision,
            streaming=True,
        )
        for number, fields in enumerate(rows, start=1):
            yield _Row(source.name, number, fields)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"{source.name}:{number + 1}: the hub dataset cannot be read ({error}). Check id, "
            "subset, split and revision on huggingface.co, log in with `hf auth login` if it is "
            "gated, or download it and give `path`"
        ) from error
