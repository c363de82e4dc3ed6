"""Writes docs/reference: every setting of recipe and study, and every verb, from the code itself;
and the JSON schema of recipes, by which editors check and complete them.

python -m tools.reference            # write the pages (= make docs-reference)
python -m tools.reference --check    # say which would change, and end with code 1 if any would
"""

import inspect
import json
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer.main
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from polycycle.cli import app
from polycycle.config import BASELINES, CellConfig, Recipe, Study, TrainConfig
from polycycle.config.section import Section
from tools.generated import write_or_check

SCHEMA = "recipe.schema.json"
FOLDER = Path(__file__).parents[1] / "docs" / "reference"
GENERATED = "<!-- Written by tools/reference.py from the code; change the docstrings there. -->"
WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path"}
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}

RECIPE_INTRO = """\
# Settings of a recipe

A recipe is a YAML file; `polycycle run` carries it out, `polycycle plan` says what it will take.
What is **required** has to be in it, everything else has a default. A setting that does not exist
is an error, and so is one that would silently do nothing. On the command line,
`--set review.prior_coef=0.2` changes any of them; values are YAML.

An editor that knows YAML checks and completes a recipe whose first line is
`# yaml-language-server: $schema=PATH`, with the path or address of
[recipe.schema.json](recipe.schema.json).

Defaults are the papers' where they give one; [From paper to code](../papers.md) says which, and
where we differ. Whole recipes to start from stand in [Getting started](../getting_started.md).
"""
STUDY_INTRO = """\
# Settings of a study

A study is a YAML file, too: one recipe in several variants, each run with every seed, for
`polycycle compare`. Here is [one to read](../../recipes/studies/allocations.yaml).
"""
CLI_INTRO = """\
# Commands

`polycycle VERB --help` says the same in the terminal. A model is a folder or a Hugging Face hub id
wherever one is asked for. The exit code is 0 when all is done, 1 after an error of ours (one
message, no traceback: see [troubleshooting](../troubleshooting.md)), 2 for wrong usage, and 130
after an interruption.
"""


def pages() -> dict[str, str]:
    """What every page holds, by file name."""
    return {"recipe.md": recipe_page(), "study.md": study_page(), "cli.md": cli_page()}


def schema() -> str:
    """The JSON schema of a recipe as people write it, short forms included."""
    found = Recipe.model_json_schema(mode="validation")
    address = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps({"$schema": address, **found}, indent=2, ensure_ascii=False) + "\n"


# Recipe and study


def recipe_page() -> str:
    """All settings of a recipe, section by section."""
    parts = [RECIPE_INTRO, GENERATED, "", "## At the top level", "", settings_table(Recipe)]
    for key, section in sections(Recipe):
        parts += ["", "#" * (2 + key.count(".")) + f" {heading(key)}", "", doc(section)]
        if issubclass(section, TrainConfig):
            parts += ["", "Beside these, all settings of [training stages](#training-stages)."]
        parts += ["", settings_table(section, prefix=key, without=TrainConfig)]
    parts += ["", "## Training stages", ""]
    parts += ["Settings of `post_pretrain`, `review` and `post_train` alike.", ""]
    parts += [settings_table(TrainConfig)]
    alarms = TrainConfig.model_fields["alarms"].annotation
    parts += ["", "### `alarms`", "", doc(alarms), "", settings_table(alarms)]
    parts += ["", "## Baselines", "", "What `baseline` may be; `baseline: lora` is short for"]
    parts += ["`baseline: {method: lora}`."]
    for method, section in baselines():
        table = settings_table(section, without_names=("method",))
        parts += ["", f"### `method: {method}`", "", doc(section), "", table]
    return finish(parts)


def study_page() -> str:
    """All settings of a study."""
    parts = [STUDY_INTRO, GENERATED, "", "## At the top level", "", settings_table(Study)]
    parts += ["", "## A cell", "", doc(CellConfig), "", settings_table(CellConfig)]
    return finish(parts)


def sections(model: type[Section], prefix: str = "") -> Iterator[tuple[str, type[Section]]]:
    """Every section below `model` with its dotted key; what stands elsewhere is left out."""
    for name, field in model.model_fields.items():
        if name in ("alarms", "baseline", "valid") or prefix + name == "post_train.data":
            continue
        for section in sections_in(field.annotation):
            yield prefix + name, section
            yield from sections(section, f"{prefix}{name}.")


def heading(key: str) -> str:
    """Of a section; the two places for text share one."""
    return "A source of text" if key == "data.train" else f"`{key}`"


def sections_in(annotation: Any) -> list[type[Section]]:
    """The sections that a type mentions."""
    if inspect.isclass(annotation) and issubclass(annotation, Section):
        return [annotation]
    found = [one for part in get_args(annotation) for one in sections_in(part)]
    return list(dict.fromkeys(found))


def baselines() -> Iterator[tuple[str, type[Section]]]:
    """Every baseline's settings, by its method."""
    by_method = {
        section.model_fields["method"].default: section
        for section in sections_in(Recipe.model_fields["baseline"].annotation)
    }
    for method in BASELINES:
        yield method, by_method[method]


def settings_table(
    section: type[Section],
    *,
    prefix: str = "",
    without: type[Section] | None = None,
    without_names: tuple[str, ...] = (),
) -> str:
    """One row for each setting of a section; those it shares with `without` are left out."""
    shared = () if without is None or not issubclass(section, without) else without.model_fields
    rows = []
    for name, field in section.model_fields.items():
        own = name not in shared or name in section.__annotations__
        if own and name not in without_names:
            means = field.description or " ".join(map(doc, sections_in(field.annotation)))
            meaning = one_line(means)
            rows.append([f"`{name}`", kind(field, name, prefix), default(field), meaning])
    if not rows:
        return "No settings."
    return table(["setting", "is", "default", "means"], rows)


def kind(field: FieldInfo, name: str, prefix: str) -> str:
    """What a setting may be, in words."""
    if name == "baseline":
        return "[a method](#baselines), or null"
    return in_words(field.annotation, field.metadata, f"{prefix}.{name}" if prefix else name)


def in_words(annotation: Any, bounds: Any = (), key: str = "") -> str:
    """A type in words: what to write in YAML."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return in_words(arguments[0], arguments[1:], key)
    if origin in (Union, types.UnionType):
        words = [in_words(one, bounds, key) for one in arguments if one is not type(None)]
        words += ["null"] if type(None) in arguments else []
        return ", or ".join(dict.fromkeys(words))
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin is tuple:
        return f"list of {plural(in_words(arguments[0], (), key))}"
    if origin is dict:
        return f"mapping of names to {in_words(arguments[1], (), key)}"
    if annotation is Any:
        return "a value"
    if inspect.isclass(annotation) and issubclass(annotation, Section):
        return f"[settings](#{anchor(key)})"
    limits = [
        f"{sign} {number(getattr(bound, attribute))}"
        for bound in flat(bounds)
        for attribute, sign in BOUNDS.items()
        if getattr(bound, attribute, None) is not None
    ]
    return " ".join([WORDS[annotation], " and ".join(limits)]).strip()


def plural(words: str) -> str:
    """Of a type in words: `whole numbers ≥ 0`."""
    return re.sub(r"^(whole number|list|text|path)\b", r"\1s", words)


def flat(bounds: Any) -> Iterator[Any]:
    """Constraints, whether they stand alone or in a pydantic field."""
    for bound in bounds:
        yield from flat(bound.metadata) if isinstance(bound, FieldInfo) else (bound,)


def anchor(key: str) -> str:
    """Of the heading that explains a section; alarms, cells and texts have one for all."""
    if key == "post_train.data":
        return "a-source-of-text"
    last = key.rsplit(".", 1)[-1]
    shared = {"alarms": "alarms", "cells": "a-cell"} | dict.fromkeys(
        ("train", "valid"), "a-source-of-text"
    )
    return shared.get(last, key.replace(".", ""))


def default(field: FieldInfo) -> str:
    """What a setting is when nobody says it."""
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Section):
        changed = value.model_dump(exclude_defaults=True)
        text = ", ".join(f"{key}: {in_yaml(one)}" for key, one in changed.items())
        return f"`{text}`" if text else "its defaults"
    return "" if value is PydanticUndefined else f"`{in_yaml(value)}`"


def in_yaml(value: Any) -> str:
    """A default as one would write it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(in_yaml, value)) + "]"
    if isinstance(value, int | float):
        return number(value)
    return '""' if value == "" else str(value) if str(value) else "{}"


def number(value: float) -> str:
    """5.0e-5 rather than 5e-05, which YAML would take for text."""
    if isinstance(value, int):
        return f"{value:_}" if abs(value) >= 100_000 else str(value)
    text = f"{value:g}"
    if "e" not in text:
        return text
    mantissa, exponent = text.split("e")
    return f"{mantissa}{'' if '.' in mantissa else '.0'}e{int(exponent)}"


def doc(thing: Any) -> str:
    """Its docstring."""
    return inspect.getdoc(thing) or ""


# Commands


def cli_page() -> str:
    """Every verb with its arguments and options, in the panels of `polycycle --help`."""
    group: Any = typer.main.get_command(app)
    panels: dict[str, list[str]] = {}
    for name, command in group.commands.items():
        panels.setdefault(command.rich_help_panel, []).append(name)
    parts = [CLI_INTRO, GENERATED]
    for panel, names in panels.items():
        parts += ["", f"## {panel}"]
        for name in names:
            parts += ["", *verb(name, group.commands[name])]
    return finish(parts)


def verb(name: str, command: Any) -> list[str]:
    """One verb: usage, what it does, arguments, options."""
    hints = get_type_hints(command.callback)
    given = [one for one in command.params if one.name != "help"]
    arguments = [one for one in given if one.param_type_name == "argument"]
    options = [one for one in given if one.param_type_name == "option"]
    usage = " ".join(
        [
            f"polycycle {name}",
            *(argument_name(one) for one in arguments),
            *(f"{one.opts[0]} …" for one in options if one.required),
            *(["[OPTIONS]"] if any(not one.required for one in options) else []),
        ]
    )
    parts = [f"### `{name}`", "", "```text", usage, "```", "", prose(doc(command.callback))]
    if arguments:
        rows = [[f"`{argument_name(one)}`", one_line(one.help or "")] for one in arguments]
        parts += ["", table(["argument", "means"], rows)]
    if options:
        rows = [[option_name(one, hints), option_default(one), one_line(one.help or "")]
                for one in options]  # fmt: skip
        parts += ["", table(["option", "default", "means"], rows)]
    return parts


def argument_name(argument: Any) -> str:
    """As in the usage line: `OUT`, or `[MODEL]` where it may be left out."""
    name = argument.metavar or argument.name.upper()
    return name if argument.required else f"[{name}]"


def option_name(option: Any, hints: dict[str, Any]) -> str:
    """`--seed N`, `--force`, `--a / --no-a`; what may be said more than once is marked."""
    names = " / ".join(f"`{one}`" for one in [*option.opts, *option.secondary_opts])
    if option.is_flag:
        return names
    hint = hints[option.name]
    value = option.metavar or next(
        (
            word
            for kind_of, word in ((int, "N"), (float, "X"), (Path, "PATH"))
            if hint is kind_of or kind_of in get_args(hint)
        ),
        "TEXT",
    )
    again = ", again and again" if option.multiple else ""
    return f"`{option.opts[0]} {value}`{again}"


def option_default(option: Any) -> str:
    """What an option is when nobody says it."""
    if option.required:
        return "**required**"
    if option.default is None or option.default is False or option.default == "":
        return ""
    if option.default is True:
        return f"`{option.opts[0]}`"
    return f"`{option.default}`"


def prose(text: str) -> str:
    """A help text as Markdown: indented lines are commands or YAML, and become blocks of it."""
    blocks: list[str] = []
    for paragraph in text.split("\n\n"):
        if not paragraph.startswith("  "):
            blocks.append(paragraph)
            continue
        code = inspect.cleandoc(paragraph)
        language = "bash" if code.startswith("polycycle") else "yaml"
        if blocks and blocks[-1].startswith(f"```{language}"):
            blocks[-1] = blocks[-1].removesuffix("```") + f"{code}\n```"
        else:
            blocks.append(f"```{language}\n{code}\n```")
    return "\n\n".join(blocks)


# Markdown


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table; bars inside cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(escape, line)) + " |" for line in lines)


def escape(cell: str) -> str:
    """A cell without what would end it, or be taken for HTML."""
    return re.sub(r"<(?=[a-z])", "&lt;", cell.replace("|", "\\|"))


def one_line(text: str) -> str:
    """Text without line breaks."""
    return " ".join(text.split())


def finish(parts: list[str]) -> str:
    """A whole page."""
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).rstrip() + "\n"


def main(arguments: list[str]) -> int:
    """Write, or check, and say what happened."""
    root = FOLDER.parents[1]
    made = {**pages(), SCHEMA: schema()}
    return write_or_check(
        {(FOLDER / name).relative_to(root): text for name, text in made.items()},
        root,
        is_check="--check" in arguments,
        made_from="the code",
        command="make docs-reference",
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
