"""Measuring one model in every language of a run."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from polycycle.checkpoint import content_hash, open_checkpoint
from polycycle.config import Recipe
from polycycle.data import (
    Question,
    TokenizedCorpus,
    document_policy,
    evaluation_windows,
    read_questions,
)
from polycycle.evaluation import (
    answer_questions,
    has_retention_gate,
    language_scores,
    measure_gate,
    measure_text,
    retention_trade,
    routing_table,
)
from polycycle.results import ModelScores
from polycycle.surgery import inspect_checkpoint

_LONGEST_WINDOW = 2048


def evaluate_model(
    recipe: Recipe,
    name: str,
    model_path: str | Path,
    valid: Mapping[str, TokenizedCorpus],
    tokenizer: Any,
) -> ModelScores:
    """Scores of one model: held-out text, questions, divergence from the base, routing.

    Args:
        recipe: languages, questions, and how much to measure.
        name: `base`, `post-pretrain` or `review`.
        model_path: folder or hub id.
        valid: held-out text by language.
        tokenizer: the model's.
    """
    from transformers import AutoModelForCausalLM

    checkpoint = open_checkpoint(model_path, revision=recipe.base_revision)
    # float32 on the CPU whatever the weights' dtype: many processors emulate bfloat16.
    dtype: Any = "auto" if torch.cuda.is_available() else torch.float32
    model = AutoModelForCausalLM.from_pretrained(checkpoint.folder, dtype=dtype)
    if torch.cuda.is_available():
        model.cuda()
    settings = recipe.evaluation
    longest = min(
        getattr(model.config, "max_position_embeddings", _LONGEST_WINDOW), _LONGEST_WINDOW
    )
    policy = document_policy(tokenizer)
    questions = load_questions(recipe)
    groups = recipe.languages.groups()
    tallies, scores, gated = {}, {}, {}
    threshold = float(getattr(model.config, "retention_threshold", 0.0))
    with Progress(transient=True) as bar:
        task = bar.add_task(f"evaluating {name}", total=len(valid))
        for language, corpus in valid.items():
            windows = partial(
                evaluation_windows,
                corpus,
                context_length=settings.context_length or longest,
                batch_tokens=settings.batch_tokens,
            )
            tallies[language] = measure_text(model, windows(), with_kl=name != "base")
            if has_retention_gate(model):
                gated[language] = measure_gate(
                    model,
                    windows(),
                    num_bytes=corpus.statistics.bytes,
                    threshold=threshold,
                )
            answers = None
            if language in questions:
                answers = answer_questions(
                    model,
                    tokenizer,
                    questions[language],
                    policy=policy,
                    batch_tokens=settings.batch_tokens,
                )
            scores[language] = language_scores(language, groups, tallies[language], corpus, answers)
            bar.advance(task)
    seen = inspect_checkpoint(checkpoint, with_hash=True)
    assert seen.base_hash is not None
    return ModelScores(
        name=name,
        folder=str(model_path),
        content_hash=content_hash(checkpoint),
        base_hash=seen.base_hash,
        parameters_total=seen.parameters_total,
        parameters_active=seen.parameters_active,
        scores=scores,
        routing=routing_table(tallies),
        retention=retention_trade(gated, threshold) if gated else None,
    )


def load_questions(recipe: Recipe) -> dict[str, list[Question]]:
    """The questions of every language that the recipe gives any for."""
    pattern = recipe.data.questions
    if pattern is None:
        return {}
    return {
        language: read_questions(
            recipe.data.root / pattern.replace("{language}", language),
            max_questions=recipe.evaluation.max_questions,
        )
        for language in recipe.languages.groups().all
    }
