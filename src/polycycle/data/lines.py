"""Numbered lines of a file, plain, gz or zst, with an error that says where the file breaks."""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

import zstandard

from polycycle.errors import DataError

_CHUNK_BYTES = 1 << 20
Parsed = TypeVar("Parsed")


def numbered_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Number (from 1) and bytes of each line, without its end.

    Raises:
        DataError: the file cannot be opened, or is truncated or damaged.
    """
    number = 0
    try:
        with file.open("rb") as raw:
            for number, line in enumerate(_lines(raw, file.suffix), start=1):
                yield number, line
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        test = {".gz": "gzip -t", ".zst": "zstd -t"}.get(file.suffix, "ls -l")
        raise DataError(
            f"{file}:{number + 1}: cannot be read from here on ({error}). The file is missing, "
            f"truncated or damaged; look with `{test} {file}` and fetch it again"
        ) from error


def decode_line(number: int, line: bytes) -> str:
    """A line as text; a byte-order mark at the start of the file is dropped.

    Raises:
        ValueError: it is not UTF-8; the message says at which byte and what to do.
    """
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"byte {error.start + 1} of the line (0x{line[error.start]:02x}) is not UTF-8. "
            "Convert the file, for example with `iconv -f latin1 -t utf-8`"
        ) from error


def parse_object(text: str) -> dict[str, Any]:
    """The JSON object that one line holds.

    Raises:
        ValueError: the line is not JSON, or not an object.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"not JSON: {error.msg} at column {error.colno}. "
            "Write one JSON object per line, or set `format: text`"
        ) from error
    except RecursionError as error:
        raise ValueError("JSON nested too deeply to read") from error
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {json_type(value)}")
    return value


def parsed_lines(
    file: Path, parse: Callable[[dict[str, Any]], Parsed], *, expected: str = ""
) -> Iterator[tuple[int, Parsed]]:
    """Number (from 1) of each line that is not blank, and what `parse` makes of its JSON object.

    Args:
        file: jsonl, plain, gz or zst.
        parse: raises ValueError where the object is not as it should be.
        expected: what a line should be, for the error.

    Raises:
        DataError: naming file, line and what is wrong.
    """
    for number, line in numbered_lines(file):
        try:
            text = decode_line(number, line)
            if not text.strip():
                continue
            parsed = parse(parse_object(text))
        except ValueError as error:
            hint = f"; expected {expected}" if expected else ""
            raise DataError(f"{file}:{number}: {error}{hint}") from error
        yield number, parsed


def json_type(value: Any) -> str:
    """What JSON calls the type of `value`."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number"}
    return "null" if value is None else names.get(type(value), "a number")


def _lines(raw: IO[bytes], suffix: str) -> Iterator[bytes]:
    if suffix == ".zst":
        yield from _split(_unzstd(raw))
    elif suffix == ".gz":
        with gzip.open(raw, "rb") as plain:
            yield from (line.rstrip(b"\r\n") for line in plain)
    else:
        yield from (line.rstrip(b"\r\n") for line in raw)


def _unzstd(raw: IO[bytes]) -> Iterator[bytes]:
    """Decompressed chunks. zstandard's own reader takes a truncated file for its end; this does
    not, and reads several frames after each other, and windows of `zstd --long`."""
    unzip = zstandard.ZstdDecompressor(max_window_size=1 << 31)
    frame = None
    while chunk := raw.read(_CHUNK_BYTES):
        while chunk:
            frame = frame or unzip.decompressobj()
            yield frame.decompress(chunk)
            chunk = frame.unused_data
            if frame.eof:
                frame = None
            else:
                break
    if frame is not None:
        raise EOFError("zst stream ended before its end marker")


def _split(chunks: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line.rstrip(b"\r") for line in lines)
    if rest:
        yield rest.rstrip(b"\r")
