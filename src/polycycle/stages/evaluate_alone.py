"""One model evaluated outside a run: on what a recipe measures, or on text and questions."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polycycle.checkpoint import load_tokenizer, open_checkpoint
from polycycle.config import EvaluationConfig, Recipe
from polycycle.data import TextSource, read_questions
from polycycle.families import family_of
from polycycle.languages import LanguageGroups
from polycycle.results import ModelScores
from polycycle.stages.corpora import load_valid, tokenize_valid
from polycycle.stages.evaluate import evaluate_model, evaluate_recipe_model, revision_of


def evaluate_by_recipe(recipe: Recipe, model_path: str) -> ModelScores:
    """Scores of a model on the held-out text, questions and tasks of a recipe."""
    checkpoint = open_checkpoint(model_path, revision=revision_of(recipe, model_path))
    family_of(checkpoint.config, where=model_path)  # an unknown one is refused before the work
    tokenizer = load_tokenizer(checkpoint.folder, model_path)
    cache_dir = recipe.data.cache_dir or recipe.output / "cache"
    valid = load_valid(recipe, tokenizer, cache_dir)
    return evaluate_recipe_model(recipe, Path(model_path).name, model_path, valid, tokenizer)


def evaluate_on_text(
    model_path: str,
    languages: Sequence[str],
    data: str,
    *,
    questions: str | None = None,
    max_questions: int | None = None,
    revision: str | None = None,
) -> ModelScores:
    """Scores of a model on text and questions that lie in files by language.

    Args:
        model_path: folder or hub id.
        languages: to measure.
        data: a folder of files by language, or a pattern with `{language}`.
        questions: pattern of multiple-choice files; None asks none.
        max_questions: the first so many of each file; None asks all.
        revision: of a hub id.
    """
    checkpoint = open_checkpoint(model_path, revision=revision)
    family_of(checkpoint.config, where=model_path)  # an unknown one is refused before the work
    tokenizer = load_tokenizer(checkpoint.folder, model_path)
    settings = EvaluationConfig(max_questions=max_questions)
    sources = {tag: TextSource(path=data.replace("{language}", tag)) for tag in languages}
    asked = {
        tag: read_questions(Path(questions.replace("{language}", tag)), max_questions=max_questions)
        for tag in languages
        if questions is not None
    }
    with tempfile.TemporaryDirectory() as cache:
        valid = tokenize_valid(
            sources, tokenizer, Path(cache), root=Path("."), max_bytes=settings.valid_bytes
        )
        return evaluate_model(
            Path(model_path).name,
            model_path,
            valid,
            tokenizer,
            groups=groups_among(checkpoint.config, languages),
            settings=settings,
            questions=asked,
            tasks={},
            revision=revision,
        )


def groups_among(config: Mapping[str, Any], languages: Sequence[str]) -> LanguageGroups:
    """The groups that a model says some languages are in.

    A dense model says nothing: all are original. What an upcycled one does not name is original and
    unseen: no training saw it.
    """
    record = config.get("language_groups")
    said = LanguageGroups.recorded(record or {"original": languages})
    expanded = tuple(tuple(tag for tag in group if tag in languages) for group in said.expanded)
    of_groups = {tag for group in expanded for tag in group}
    original = [tag for tag in languages if tag in said.original]
    return LanguageGroups(
        original=tuple(original),
        unseen_original=tuple(t for t in languages if t not in of_groups and t not in original),
        expanded=expanded,
    )
