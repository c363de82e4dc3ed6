"""Files that are made from others: written, or held against what is committed."""

from collections.abc import Mapping
from pathlib import Path


def write_or_check(
    files: Mapping[Path, str], root: Path, *, is_check: bool, made_from: str, command: str
) -> int:
    """Write what differs, or only say it; 1 if a check found something, else 0.

    Args:
        files: what each is to hold, by path below `root`.
        root: of the repository.
        is_check: write nothing.
        made_from: what the files are made from, in words.
        command: what writes them.
    """
    differing = [
        place
        for place, text in files.items()
        if not (root / place).is_file() or (root / place).read_text(encoding="utf-8") != text
    ]
    for place in differing:
        if is_check:
            print(f"{place} differs from {made_from}")
            continue
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_text(files[place], encoding="utf-8")
        print(f"wrote {place}")
    if differing and is_check:
        print(f"run `{command}` and commit what it writes")
        return 1
    return 0
