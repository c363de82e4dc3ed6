"""Questions and generation tasks of a recipe, read from their files, and who can be asked them."""

from collections.abc import Sequence
from typing import Any

from polycycle.config import Recipe
from polycycle.data import Question, TaskExample, read_questions, read_task
from polycycle.errors import ConfigError, DataError
from polycycle.evaluation import as_message


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


def load_tasks(recipe: Recipe) -> dict[str, dict[str, list[TaskExample]]]:
    """The examples of every generation task, by task and language; none where it has no file.

    Raises:
        DataError: a task has no file in any language, or a bad one.
    """
    tasks = {}
    for name in recipe.data.tasks:
        pattern = recipe.data.task(name).path
        files = {
            language: recipe.data.root / pattern.replace("{language}", language)
            for language in recipe.languages.groups().all
        }
        tasks[name] = {
            language: read_task(file, max_examples=recipe.evaluation.max_task_examples)
            for language, file in files.items()
            if file.exists()
        }
        if not tasks[name]:
            raise DataError(
                f"data.tasks.{name}: no file {recipe.data.root / pattern} for any of "
                f"{', '.join(files)}; correct the pattern, or leave the task out"
            )
    return tasks


def check_chat_templates(recipe: Recipe, tokenizers: Sequence[Any]) -> None:
    """Refuse tasks that are to be asked in a chat template, where no model has one that can.

    Raises:
        ConfigError: nobody has a template, naming the first such task.
        DataError: a template refuses a user's message.
    """
    chats = recipe.data.chats
    if not chats:
        return
    with_template = [tokenizer for tokenizer in tokenizers if tokenizer.chat_template]
    if not with_template:
        raise ConfigError(
            f"data.tasks.{chats[0]}.chat: neither {recipe.base} nor a model of graft.post has a "
            "tokenizer with a chat template, so nobody can be asked in it; leave `chat` out"
        )
    for tokenizer in with_template:
        as_message(tokenizer, "?")
