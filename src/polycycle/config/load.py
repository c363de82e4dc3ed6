"""Reading recipes: YAML plus `--set` overrides in, a frozen Recipe or one ConfigError out."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from polycycle.config.recipe import Recipe
from polycycle.errors import ConfigError, did_you_mean


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in `path`, with `key.sub=value` overrides applied (values are YAML).

    Raises:
        ConfigError: the file is missing, is not YAML, or one or more settings are wrong; all
            problems are reported together, each with its key.
    """
    settings = read_settings(path, what="recipe")
    for override in overrides:
        key, value = parse_override(override)
        change_setting(settings, key, value, where=f"--set {override!r}")
    return parse_recipe(settings, where=str(path))


def read_settings(path: Path, *, what: str) -> dict[str, Any]:
    """A YAML file as plain settings, unchecked.

    Args:
        path: of the file.
        what: what it should be, for the error: `recipe`, `study`.

    Raises:
        ConfigError: the file is missing, is not YAML, says a key twice, or is no mapping.
    """
    if not path.is_file():
        raise ConfigError(f"no {what} at {path}; expected a YAML file")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    settings = parse_yaml(text, where=str(path))
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, got {type(settings).__name__}")
    return settings


def parse_yaml(text: str, *, where: str) -> Any:
    """What a YAML text says.

    Raises:
        ConfigError: it is not YAML, or keys stand twice in one mapping, with their lines.
    """
    try:
        loader = _Loader(text)
        value = loader.get_single_data()
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {error}") from error
    if loader.repeated:
        wrong = "keys stand twice, and only the last of each would count"
        raise ConfigError("\n  ".join([f"{where}: {wrong}", *loader.repeated]))
    return value


class _Loader(yaml.SafeLoader):
    """Notes keys that stand twice in one mapping, of which YAML silently takes the last."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.repeated: list[str] = []

    def compose_mapping_node(self, anchor: Any) -> Any:
        """The mapping as it is written: what `<<` brings in may be overridden in it."""
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            line, name = key.start_mark.line + 1, (key.tag, str(key.value))
            if name in lines:
                self.repeated.append(f"line {line}: {key.value} stands in line {lines[name]} too")
            lines.setdefault(name, line)
        return node


def problems_of(error: ValidationError, model: type[BaseModel] = Recipe) -> list[str]:
    """One line for each setting of `model` that is wrong."""
    by_key: dict[str, str] = {}
    for problem in error.errors():
        # A setting that may be of several types fails once for each; the first says enough.
        by_key.setdefault(_key_of(problem), _explain(problem, model))
    return list(by_key.values())


def parse_recipe(settings: Mapping[str, Any], *, where: str = "recipe") -> Recipe:
    """A recipe from plain settings.

    Raises:
        ConfigError: with every problem found, each on its own line.
    """
    try:
        return Recipe.model_validate(settings)
    except ValidationError as error:
        lines = problems_of(error)
        raise ConfigError("\n  ".join([f"{where}: {len(lines)} problem(s)", *lines])) from error


def parse_override(override: str) -> tuple[str, Any]:
    """Key and value of `key.sub=value`; the value is YAML.

    Raises:
        ConfigError: it is not written like that.
    """
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {override!r}: write key.sub=value, e.g. --set data.root=/text")
    return key, parse_yaml(text, where=f"--set {override!r}: the value")


def change_setting(settings: dict[str, Any], key: str, value: Any, *, where: str) -> None:
    """Change one setting in place.

    Args:
        settings: of a recipe, nested.
        key: dotted, `review.tokens`.
        value: what it becomes.
        where: for the error.

    Raises:
        ConfigError: the key leads through a single value.
    """
    *parents, last = key.split(".")
    place = settings
    for parent in parents:
        section = {} if place.get(parent) is None else place[parent]
        if not isinstance(section, dict):
            raise ConfigError(f"{where}: {parent} is a single value, not a section")
        # A copy: another section may be the same object, by an alias of YAML.
        place[parent] = dict(section)
        place = place[parent]
    place[last] = value


def leaves(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Settings by their dotted keys: what `change_setting` takes."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            found |= leaves(value, f"{above}{key}.")
        else:
            found[f"{above}{key}"] = value
    return found


def _explain(problem: Any, model: type[BaseModel]) -> str:
    """One line for one pydantic problem: key, what is wrong, what is known."""
    key = _key_of(problem)
    if not key:  # of several settings, which the message names
        return str(problem["msg"]).removeprefix("Value error, ")
    parts = key.split(".")
    if problem["type"] == "extra_forbidden":
        # Another branch of a union may know the setting.
        known = [name for name in _fields_at(model, parts[:-1]) if name != parts[-1]]
        return f"{key}: unknown setting.{did_you_mean(parts[-1], known)} " + (
            f"Known: {', '.join(sorted(known))}" if known else ""
        )
    if problem["type"] == "missing":
        return f"{key}: required, but not given"
    if problem["type"] == "too_short":
        least, got = problem["ctx"]["min_length"], problem["ctx"]["actual_length"]
        return f"{key}: needs at least {least}, got {got or 'none'}"
    message = str(problem["msg"]).removeprefix("Value error, ")
    given = problem.get("input")
    shown = "" if isinstance(given, (dict, BaseModel)) else f" (got {given!r})"
    return f"{key}: {message}{shown}"


def _key_of(problem: Any) -> str:
    """The setting that a problem is about, dotted; empty where it is about several."""
    return ".".join(str(p) for p in problem["loc"] if not _is_type_tag(p))


# `constrained-int`, `dict[str,…]`, `method(lora)`; not `zh-Hant`, which is somebody's key.
_TYPE_TAG = re.compile(r"str|int|constrained-\w+|.*[\[(].*", re.DOTALL)


def _is_type_tag(part: object) -> bool:
    """Pydantic names the branch of a union in the location; readers do not need it."""
    return isinstance(part, str) and _TYPE_TAG.fullmatch(part) is not None


def _fields_at(model: type[BaseModel], parts: Sequence[str]) -> list[str]:
    """Names of the settings in the section of `model` that `parts` leads to."""
    models = [model]
    for part in parts:
        fields = [one.model_fields[part] for one in models if part in one.model_fields]
        if not fields:  # what an entry is called, or its place in a list
            continue
        models = [section for field in fields for section in _sections_in(field.annotation)]
    return list(dict.fromkeys(name for one in models for name in one.model_fields))


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a setting of this type may be; several for a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in _sections_in(part)]
