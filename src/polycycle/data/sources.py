"""Where text lies: a file, a folder, a glob or a dataset on the hub, and which files that means."""

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from polycycle.errors import DataError, did_you_mean

Format = Literal["jsonl", "parquet", "text"]

FORMATS: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".txt": "text",
    ".text": "text",
}
COMPRESSIONS = (".gz", ".zst")


@dataclass(frozen=True, kw_only=True, slots=True)
class TextSource:
    """Where the text of one language lies. Exactly one of `path` and `hub` is given.

    Attributes:
        path: a file, a folder or a glob. A folder without `language_field` means its file
            `<language>.jsonl`, `.txt` or `.parquet`, plain or `.gz`/`.zst`; with `language_field`
            it means all its files.
        hub: a dataset id on the Hugging Face hub, streamed.
        subset: the configuration name of a hub dataset.
        split: the split of a hub dataset.
        revision: commit, branch or tag of a hub dataset.
        format: how to read the files; `auto` goes by the file name. Text means one document per
            line; lines that are blank are no documents (in jsonl neither).
        text_field: the column that holds a document's text.
        language_field: a column that holds each document's language; rows of other languages are
            passed over. Without it every row is of the language asked for.
    """

    path: str | None = None
    hub: str | None = None
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    format: Literal["auto", "jsonl", "parquet", "text"] = "auto"
    text_field: str = "text"
    language_field: str | None = None

    def __post_init__(self) -> None:
        if (self.path is None) == (self.hub is None):
            raise DataError("a text source is exactly one of `path` (local) and `hub` (a dataset)")

    @property
    def name(self) -> str:
        """What errors call this source."""
        if self.hub is None:
            return str(self.path)
        parts = [part for part in (self.subset, self.split, self.revision) if part]
        return f"{self.hub} ({', '.join(parts)})"


def format_of(file: Path, source: TextSource) -> Format:
    """How to read `file`: what the source says, else what the file name says.

    Raises:
        DataError: the name says nothing, or a compressed parquet file is asked for.
    """
    plain = file.with_suffix("") if file.suffix in COMPRESSIONS else file
    chosen = FORMATS.get(plain.suffix) if source.format == "auto" else source.format
    if chosen is None:
        raise DataError(
            f"{file}: the name does not say what the file is. Name it {', '.join(FORMATS)} "
            f"(or one of these with {' or '.join(COMPRESSIONS)}), or set `format`"
        )
    if chosen == "parquet" and file.suffix in COMPRESSIONS:
        raise DataError(f"{file}: parquet is compressed inside; unpack it: gunzip {file}")
    if chosen == "text" and source.language_field is not None:
        raise DataError(
            f"{file}: text files have no column {source.language_field!r}; remove `language_field`"
        )
    return chosen


def source_files(source: TextSource, language: str, root: Path) -> list[Path]:
    """The files a local source means for one language, sorted by name; never empty.

    Raises:
        DataError: nothing is there, or a folder has no file or two files of this language.
    """
    path = root / str(source.path)
    if path.is_file():
        return [path]
    if path.is_dir():
        return _files_of_folder(path, source, language)
    if glob.has_magic(str(source.path)):
        # Escaped, so that a root called `runs[1]` is a folder and not a pattern.
        pattern = Path(glob.escape(str(root))) / str(source.path)
        files = sorted(Path(name) for name in glob.glob(str(pattern), recursive=True))
        files = [file for file in files if file.is_file()]
        if not files:
            raise DataError(f"{path}: no file matches this pattern")
        return files
    near = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    raise DataError(
        f"{path}: no such file or folder for language {language!r}.{did_you_mean(path.name, near)}"
        " Relative paths start from `data.root`"
    )


def _files_of_folder(folder: Path, source: TextSource, language: str) -> list[Path]:
    known = [file for file in sorted(folder.iterdir()) if file.is_file() and _is_readable(file)]
    if source.language_field is not None:
        if not known:
            raise DataError(f"{folder}: no file here ends in {', '.join(FORMATS)}")
        return known
    files = [file for file in known if file.name.split(".")[0] == language]
    if len(files) > 1:
        raise DataError(
            f"{folder}: both {files[0].name} and {files[1].name} are of language {language!r}; "
            "remove one, or name the one you mean"
        )
    if not files:
        names = ", ".join(file.name for file in known[:5]) or "none that is jsonl, parquet or text"
        raise DataError(
            f"{folder}: no file of language {language!r} (such as {language}.jsonl.gz); files "
            f"here: {names}. To read all files as this language, write the glob {folder}/*"
        )
    return files


def _is_readable(file: Path) -> bool:
    plain = file.with_suffix("") if file.suffix in COMPRESSIONS else file
    return plain.suffix in FORMATS and not file.name.startswith(".")
