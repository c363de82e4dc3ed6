"""Files and folders that appear only when they are whole, and hashes of what is in them."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from polycycle.errors import ConfigError


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON, beside and then renamed."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file beside its place, flush it to disk, then rename it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as beside:
        try:
            beside.write(text)
            beside.flush()
            os.fsync(beside.fileno())
        except BaseException:  # a full disk, text that is no Unicode
            os.unlink(beside.name)
            raise
    os.chmod(beside.name, 0o644)
    os.replace(beside.name, path)


def make_folder(path: Path) -> None:
    """Make an output folder, with those above it, and try that files can be written in it.

    Raises:
        ConfigError: they cannot, or something else stands in its place.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ConfigError(
            f"output: {path} cannot be a folder to write in ({error.strerror}); name another place"
        ) from error


@contextmanager
def folder_when_whole(path: Path) -> Iterator[Path]:
    """A folder beside `path` to write into; renamed to `path` when the block ends well.

    An existing `path` is replaced only then. If the block fails, the partial folder is removed and
    `path` stays as it was. A partial folder that a killed run left behind is removed first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.parent / f".{path.name}.partial"
    if beside.exists():
        shutil.rmtree(beside)
    beside.mkdir()
    try:
        yield beside
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    replace_folder(beside, path)


def replace_folder(new: Path, path: Path) -> None:
    """Put the folder `new` in the place of `path`, flushing both to disk."""
    sync_folder(new)
    if path.exists():
        old = path.parent / f".{path.name}.old"
        if old.exists():
            shutil.rmtree(old)
        os.replace(path, old)
        os.replace(new, path)
        shutil.rmtree(old)
    else:
        os.replace(new, path)
    _fsync(path.parent)


def sync_folder(path: Path) -> None:
    """Flush every file under `path` to disk."""
    for file in path.rglob("*"):
        if file.is_file() and not file.is_symlink():
            _fsync(file)
    _fsync(path)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def hash_json(value: Any) -> str:
    """SHA-256 of a JSON-able value in canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
