"""What the documentation says is so."""

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import polycycle
from polycycle.cli import app
from polycycle.config import parse_recipe

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
ROOMS = [module.name for module in pkgutil.iter_modules(polycycle.__path__) if module.ispkg]


@pytest.mark.parametrize("room", [room for room in ROOMS if room != "cli"])
def test_every_public_name_has_a_docstring(room):
    module = importlib.import_module(f"polycycle.{room}")
    assert module.__doc__
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), name


def test_the_readme_is_short_and_finished():
    assert len(README.splitlines()) < 200
    assert "@@" not in README


def test_the_readmes_recipe_is_complete():
    (recipe,) = re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
    assert parse_recipe(yaml.safe_load(recipe)).languages.groups().all_expanded == (
        "el",
        "hu",
        "tr",
    )


def test_the_readmes_commands_exist():
    verbs = set(re.findall(r"\.venv/bin/polycycle ([a-z-]+)", README))
    assert verbs >= {"plan", "run", "report"}
    for verb in verbs:
        assert CliRunner().invoke(app, [verb, "--help"]).exit_code == 0
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert set(re.findall(r"make ([a-z]+)", README)) <= set(targets)


@pytest.mark.parametrize("page", [*sorted(ROOT.glob("docs/*.md")), ROOT / "README.md"], ids=str)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
        if not target.startswith(("http:", "https:")):
            assert (page.parent / target).exists(), target


def test_the_annotated_tree_names_every_room():
    for room in ROOMS:
        assert f"{room}/" in README
