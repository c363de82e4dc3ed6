"""What mkdocs has to be told so that pages written for the repository also make a site.

Pages link to files beside docs/: recipes, benchmarks, the README. Those that are linked are put
into the site under `project/`, and links to them follow. A link to a folder, which a site cannot
show, becomes its text.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
LINK = re.compile(r"(!?\[[^\]]*\])\(([^()\s#]+)(#[^()\s]*)?\)")
PROJECT = "project"


def on_files(files: Files, config: Any) -> Files:
    """Add every file of the repository that a page links to, and what those link to."""
    found: set[Path] = set()
    to_read = list(DOCS.rglob("*.md"))
    while to_read:
        page = to_read.pop()
        for target in targets(page):
            if target.is_file() and target not in found and not target.is_relative_to(DOCS):
                found.add(target)
                to_read += [target] if target.suffix == ".md" else []
    for path in sorted(found):
        files.append(File.generated(config, address(path), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Point links at where the site has what they mean."""
    here = Path(page.file.src_path)
    inside = here.is_relative_to(PROJECT)
    folder = (ROOT / here.relative_to(PROJECT) if inside else DOCS / here).parent

    def follow(match: re.Match[str]) -> str:
        text, target, part = match.group(1), match.group(2), match.group(3) or ""
        if "://" in target or target.startswith("mailto:"):
            return match.group()
        path = (folder / target).resolve()
        if path.is_dir():
            return text.strip("[]")
        return f"{text}({os.path.relpath(address(path), here.parent)}{part})"

    return LINK.sub(follow, markdown)


def targets(page: Path) -> Iterator[Path]:
    """The files and folders that a page links to."""
    for match in LINK.finditer(page.read_text(encoding="utf-8")):
        if "://" not in match.group(2):
            yield (page.parent / match.group(2)).resolve()


def address(path: Path) -> str:
    """Where in the site a file of the repository is."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    return f"{PROJECT}/{path.relative_to(ROOT).as_posix()}"
