"""Questions and generation tasks of a recipe, read from their files."""

from polycycle.config import Recipe
from polycycle.data import Question, TaskExample, read_questions, read_task
from polycycle.errors import DataError


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
    for name, pattern in recipe.data.tasks.items():
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
