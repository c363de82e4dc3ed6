"""Measuring one model in every language of a run."""

from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from polycycle.checkpoint import (
    Checkpoint,
    content_hash,
    folder_hash,
    open_checkpoint,
    own_tokenizer,
)
from polycycle.config import EvaluationConfig, Recipe
from polycycle.data import (
    DocumentPolicy,
    Question,
    TaskExample,
    TokenizedCorpus,
    WindowBatch,
    document_policy,
    evaluation_windows,
    mixed_windows,
)
from polycycle.evaluation import (
    GatedTexts,
    answer_questions,
    complete_prompts,
    has_retention_gate,
    judge_mixed,
    judges_whole_rows,
    language_scores,
    measure_gate,
    measure_text,
    prefill_speed,
    retention_trade,
    routing_table,
    score_completions,
)
from polycycle.families import is_upcycled
from polycycle.languages import LanguageGroups
from polycycle.modeling import why_no_dense_reference
from polycycle.results import MixedText, ModelScores, RetentionTrade, TaskScore
from polycycle.stages.questions import load_questions, load_tasks
from polycycle.stages.run import Run
from polycycle.stages.siblings import sibling_name
from polycycle.stages.stage import Stage
from polycycle.surgery import inspect_checkpoint, tensor_bytes

_SCORES = "scores.json"
_LONGEST_WINDOW = 2048
_MIXED_TEXTS = 60
"""Per expanded language and order of the halves."""


def evaluate(
    run: Run, name: str, model_path: str | Path, *, reference: str = "base"
) -> ModelScores:
    """Scores of one model, to be compared with `reference`."""
    stage = Stage(
        name=f"evaluate-{name}",
        result_version=3 if run.recipe.data.tasks else 2,  # 3 has answers by the own tokenizer
        inputs={
            "model": [name, run.keys.get(name) or run.base_key],
            "text": run.held_out_inputs(),
            "questions": run.question_inputs(),
            "tasks": run.task_inputs(),
            **run.chat_inputs(),
            "languages": run.language_inputs(),
            "settings": run.recipe.evaluation.model_dump(mode="json"),
        },
        make=partial(_evaluate, run, name, model_path),
    )
    folder = run.do(stage)
    text = (folder / _SCORES).read_text(encoding="utf-8")
    scores = ModelScores.model_validate_json(text)
    # An adopted stage moved.
    return scores.model_copy(update={"folder": str(model_path), "reference": reference})


def _evaluate(run: Run, name: str, model_path: str | Path, folder: Path) -> dict[str, Any]:
    valid, tokenizer = run.corpora.valid, run.tokenizer
    scores = evaluate_recipe_model(run.recipe, name, model_path, valid, tokenizer)
    (folder / _SCORES).write_text(scores.model_dump_json(indent=2), encoding="utf-8")
    return {}


def evaluate_siblings(run: Run) -> list[ModelScores]:
    """Scores of the post-trained models that are grafted: `post`, `post-2`, …"""
    scores = []
    for number, post in enumerate(run.siblings, start=1):
        name = sibling_name(number)
        run.keys[name] = folder_hash(post)
        scores.append(evaluate(run, name, post.folder))
    return scores


def evaluate_recipe_model(
    recipe: Recipe,
    name: str,
    model_path: str | Path,
    valid: Mapping[str, TokenizedCorpus],
    tokenizer: Any,
) -> ModelScores:
    """Scores of one model on what a recipe measures: held-out text, questions and tasks."""
    return evaluate_model(
        name,
        model_path,
        valid,
        tokenizer,
        groups=recipe.languages.groups(),
        settings=recipe.evaluation,
        questions=load_questions(recipe),
        tasks=load_tasks(recipe),
        chats=recipe.data.chats,
        revision=revision_of(recipe, model_path),
    )


def revision_of(recipe: Recipe, model_path: str | Path) -> str | None:
    """The revision of a recipe's model: `base_revision` is the base's alone."""
    return recipe.base_revision if str(model_path) == recipe.base else None


def load_model(checkpoint: Checkpoint) -> Any:
    """A model to measure, on the GPU where there is one."""
    from transformers import AutoModelForCausalLM

    # float32 on the CPU whatever the weights' dtype: many processors emulate bfloat16.
    dtype: Any = "auto" if torch.cuda.is_available() else torch.float32
    model = AutoModelForCausalLM.from_pretrained(checkpoint.folder, dtype=dtype)
    if torch.cuda.is_available():
        model.cuda()
    return model


def evaluate_model(
    name: str,
    model_path: str | Path,
    valid: Mapping[str, TokenizedCorpus],
    tokenizer: Any,
    *,
    groups: LanguageGroups,
    settings: EvaluationConfig,
    questions: Mapping[str, list[Question]],
    tasks: Mapping[str, Mapping[str, list[TaskExample]]],
    chats: Collection[str] = (),
    revision: str | None = None,
) -> ModelScores:
    """Scores of one model: held-out text, questions, tasks, divergence from the base, routing.

    Args:
        name: `base`, `post-pretrain` or `review`.
        model_path: folder or hub id.
        valid: held-out text by language.
        tokenizer: of the text in `valid`. Tasks are asked by the model's own, if its tokens mean
            the same: a grafted model's may end answers otherwise, and have a chat template.
        groups: who is original and who is expanded; the languages of `valid` are among them.
        settings: how much to measure.
        questions: by language.
        tasks: examples of generation tasks, by task and language.
        chats: which of them to ask in the model's chat template, if it has one.
        revision: of a hub id.
    """
    checkpoint = open_checkpoint(model_path, revision=revision)
    model = load_model(checkpoint)
    # Without a dense model inside there is nothing to be at a distance from, or to keep exactly.
    has_base = is_upcycled(checkpoint.config) and not why_no_dense_reference(checkpoint.config)
    policy = document_policy(tokenizer)
    speaks = own_tokenizer(checkpoint, tokenizer) if tasks else tokenizer
    context_length = settings.context_length or checkpoint.longest_context(_LONGEST_WINDOW)
    tallies, scores, gated = {}, {}, {}
    threshold = float(getattr(model.config, "retention_threshold", 0.0))
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"evaluating {name}", total=len(valid))
        for language, corpus in valid.items():
            windows = partial(
                evaluation_windows,
                corpus,
                context_length=context_length,
                batch_tokens=1 if judges_whole_rows(model) else settings.batch_tokens,
            )
            tallies[language] = measure_text(model, windows(), with_kl=has_base)
            if has_base and has_retention_gate(model):
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
            examples = {n: found[language] for n, found in tasks.items() if language in found}
            written = _do_tasks(
                model, speaks, examples, chats=chats, policy=policy, settings=settings
            )
            scores[language] = language_scores(
                language, groups, tallies[language], corpus, answers, written
            )
            bar.advance(task)
        retention = None
        if gated and groups.original:
            retention = _retention(
                model, gated, groups, valid, threshold, context_length, settings.batch_tokens
            )
    seen = inspect_checkpoint(checkpoint, with_hash=True)
    return ModelScores(
        name=name,
        folder=str(model_path),
        content_hash=content_hash(checkpoint),
        base_hash=seen.base_hash,
        parameters_total=seen.parameters_total,
        parameters_active=seen.parameters_active,
        scores=scores,
        routing=routing_table(tallies, groups, checkpoint.config.get("expert_languages")),
        retention=retention,
        tensor_bytes=tensor_bytes(checkpoint) if has_base else None,
    )


def _retention(
    model: Any,
    gated: Mapping[str, GatedTexts],
    groups: LanguageGroups,
    valid: Mapping[str, TokenizedCorpus],
    threshold: float,
    context_length: int,
    batch_tokens: int,
) -> RetentionTrade:
    """Rates and trade of the gate, on text of two languages too, and what a kept text gains."""
    mixed: list[MixedText] = []
    for language in groups.all_expanded:
        for begins in ("original", "expanded"):
            batches: list[WindowBatch] = []
            for original in groups.original:
                halves = [valid[original], valid[language]]
                batches += mixed_windows(
                    *(halves if begins == "original" else reversed(halves)),
                    context_length=context_length,
                    num_texts=max(_MIXED_TEXTS // len(groups.original), 1),
                    batch_tokens=batch_tokens,
                )
            mixed.append(
                judge_mixed(model, batches, language=language, begins=begins, threshold=threshold)
            )
    text = np.concatenate([valid[tag].tokens[:1024] for tag in groups.original])
    speed = prefill_speed(model, torch.from_numpy(text), context_length=context_length)
    return retention_trade(gated, threshold, mixed=mixed, speed=speed)


def _do_tasks(
    model: Any,
    tokenizer: Any,
    tasks: Mapping[str, list[TaskExample]],
    *,
    chats: Collection[str],
    policy: DocumentPolicy,
    settings: EvaluationConfig,
) -> dict[str, TaskScore]:
    """The model's scores in one language's tasks."""
    scores = {}
    for name, examples in tasks.items():
        completions = complete_prompts(
            model,
            tokenizer,
            [example.prompt for example in examples],
            policy=policy,
            with_template=name in chats and bool(tokenizer.chat_template),
            max_new_tokens=settings.max_new_tokens,
            batch_tokens=settings.batch_tokens,
        )
        scores[name] = score_completions(
            completions,
            [example.response for example in examples],
            forms=[example.form for example in examples],
        )
    return scores
