"""Every page of docs/: links lead somewhere, commands and settings exist, messages are ours."""

import ast
import copy
import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
import yaml

from polycycle.cli import app
from polycycle.config import Study, parse_recipe

ROOT = Path(__file__).parents[1]
PAGES = sorted(ROOT.glob("docs/**/*.md"))
# History: commands of the past stay as they were typed.
CURRENT = [page for page in PAGES if page.name != "lab_log.md"]
COMMANDS = typer.main.get_command(app).commands
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
MINIMAL = {
    "base": "base",
    "output": "runs/x",
    "languages": {"original": ["en", "zh", "es"], "expanded": ["el", "hu", "tr"]},
    "data": {"train": "train/{language}.jsonl", "valid": "valid/{language}.jsonl"},
    "post_pretrain": {"tokens": 1000},
}


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


def commands(page: Path) -> list[list[str]]:
    """Verb and arguments of every polycycle command of a page, however it is started."""
    return whole_commands(page) + [
        words
        for line in re.findall(r"`(polycycle [^`\n]+)`", page.read_text("utf-8"))
        for words in [after_polycycle(line)]
        if words and words[0] != "VERB"
    ]


def whole_commands(page: Path) -> list[list[str]]:
    """Those that stand in a block, so that readers will copy them."""
    text = page.read_text("utf-8")
    lines = "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    lines += re.findall(r"^ {4}((?:\S+/)?polycycle .*)$", text, re.MULTILINE)
    return [words for line in lines if (words := after_polycycle(line))]


def after_polycycle(line: str) -> list[str]:
    """The words of a shell line from the verb to where redirection begins."""
    words = shlex.split(line, comments=True)
    for i, word in enumerate(words):
        if word.split("/")[-1] == "polycycle" and (i == 0 or words[i - 1] in ("-m", "nohup")):
            after = words[i + 1 :]
            ends = [j for j, one in enumerate(after) if one in (">", "|", "&", "2>&1")]
            return after[: min(ends, default=len(after))]
    return []


@pytest.mark.parametrize("page", CURRENT, ids=lambda page: page.stem)
def test_every_command_parses(page):
    for verb, *arguments in whole_commands(page):
        assert verb in COMMANDS, f"{page}: there is no `polycycle {verb}`"
        COMMANDS[verb].make_context(verb, list(arguments))


@pytest.mark.parametrize("page", CURRENT, ids=lambda page: page.stem)
def test_every_verb_and_option_that_a_sentence_names_exists(page):
    for verb, *arguments in commands(page):
        assert verb in COMMANDS, f"{page}: there is no `polycycle {verb}`"
        if COMMANDS[verb].context_settings.get("ignore_unknown_options"):
            continue  # they are another program's
        options = {name for one in COMMANDS[verb].params for name in one.opts + one.secondary_opts}
        named = {argument for argument in arguments if argument.startswith("--")}
        assert named <= options | {"--help"}, f"{page}: polycycle {verb} has no {named - options}"


def test_the_commands_are_found():
    found = [verb for page in CURRENT for verb, *_ in commands(page)]
    assert len(found) > 60
    assert {"run", "plan", "graft", "ungraft", "export", "grow", "similarity"} <= set(found)


@pytest.mark.parametrize("page", CURRENT, ids=lambda page: page.stem)
def test_every_make_target_exists(page):
    code = re.findall(r"`make ([a-z-]+)`|^ {4}make ([a-z-]+)", page.read_text("utf-8"), re.M)
    assert {one or other for one, other in code} <= TARGETS


@pytest.mark.parametrize("page", CURRENT, ids=lambda page: page.stem)
def test_every_recipe_and_every_piece_of_one_is_accepted(page):
    for block in blocks(page, "yaml"):
        settings = yaml.safe_load(block)
        if "cells" in settings:
            Study.model_validate(settings)
            continue
        whole = copy.deepcopy(MINIMAL)
        for key, value in settings.items():
            both = isinstance(value, dict) and isinstance(whole.get(key), dict)
            whole[key] = {**whole[key], **value} if both else value
        parse_recipe(whole, where=f"{page}:\n{block}")


def test_whole_recipes_need_nothing_that_they_do_not_say():
    for page in ("getting_started.md", "how_to/add_a_language.md"):
        found = [yaml.safe_load(block) for block in blocks(ROOT / "docs" / page, "yaml")]
        assert [parse_recipe(one) for one in found if "name" in one]


@pytest.mark.parametrize("page", CURRENT, ids=lambda page: page.stem)
def test_every_setting_that_is_changed_on_a_command_line_exists(page):
    for line in commands(page):
        changes = [line[i + 1] for i, word in enumerate(line[:-1]) if word == "--set"]
        settings = copy.deepcopy(MINIMAL)
        for change in changes:
            key, _, value = change.partition("=")
            place = settings
            *parents, last = key.split(".")
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = yaml.safe_load(value) if "…" not in value else place.get(last, "x")
        parse_recipe(settings, where=f"{page}: {' '.join(line)}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_leads_somewhere(page):
    for target, part in re.findall(r"\]\(([^()\s#]*)#?([^()\s]*)\)", page.read_text("utf-8")):
        if "://" in target:
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{page}: {target}"
        assert path.is_relative_to(ROOT), f"{page}: {target} leaves the repository"
        if part:
            assert part in anchors(path), f"{page}: {target}#{part}"


def anchors(page: Path) -> set[str]:
    """Names of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_in_the_sites_menu_and_nothing_else_is():
    text = (ROOT / "mkdocs.yml").read_text("utf-8")
    listed = set(re.findall(r": ([\w/]+\.md)$", text, re.MULTILINE))
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in PAGES}
    assert {one for one in listed if not one.startswith("project/")} == pages
    assert all((ROOT / one.removeprefix("project/")).is_file() for one in listed - pages)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_lists_and_tables_begin_after_an_empty_line(page):
    """GitHub does not need it, mkdocs does."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    lines = text.splitlines()
    for before, line in itertools.pairwise(lines):
        if re.match(r"(- |1\. |\|)", line):
            assert not before or re.match(r"(- |\d+\. |\|| |#)", before), f"{page}: {line}"


def _templates() -> str:
    """Every string of the source, with `…` for what is filled in."""
    found = []
    for path in ROOT.glob("src/polycycle/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (
                    part.value if isinstance(part, ast.Constant) else "…" for part in node.values
                )
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(" ".join(text.split()) for text in found)


def test_troubleshooting_quotes_messages_that_the_code_really_has():
    templates = _templates()
    quoted = blocks(ROOT / "docs" / "troubleshooting.md", "text")
    assert len(quoted) >= 25
    for message in quoted:
        text = re.sub(r"^[A-Z]\w+Error: ", "", " ".join(message.split()))
        assert text in templates, text


def test_every_troubleshooting_entry_says_cause_and_what_to_type():
    text = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    entries = text.partition("## Alarms")[0].split("\n### ")[1:]
    assert len(entries) >= 20
    for entry in entries:
        if "```text" in entry:
            assert "**Cause.**" in entry, entry
            assert "**Type**" in entry, entry


def test_the_site_builds_strictly(tmp_path):
    pytest.importorskip("mkdocs", reason="make docs installs it")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    home = (tmp_path / "index.html").read_text("utf-8")
    assert "Getting started" in home
    for page in tmp_path.glob("**/*.html"):
        fetched = re.findall(r'(?:src|rel="stylesheet" href)="(https?://[^"]+)"', page.read_text())
        assert fetched == [], f"{page} fetches {fetched}"
