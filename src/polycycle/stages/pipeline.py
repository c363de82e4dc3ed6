"""A whole run: its stages in order, each made once."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from polycycle.checkpoint import open_checkpoint, own_tokenizer
from polycycle.config import Recipe
from polycycle.files import make_folder, write_json
from polycycle.modeling import why_no_dense_reference
from polycycle.ranks import first_rank_first, is_first_rank, join_ranks
from polycycle.results import ModelScores, RunResult
from polycycle.stages.baseline import train_baseline
from polycycle.stages.evaluate import evaluate, evaluate_siblings
from polycycle.stages.export import export, plan_recipe_export
from polycycle.stages.graft import graft
from polycycle.stages.grow import grow
from polycycle.stages.post_train import post_train
from polycycle.stages.questions import check_chat_templates
from polycycle.stages.result import gather_result
from polycycle.stages.run import Run, Tell
from polycycle.stages.train import REVIEW_GRAFTED, train
from polycycle.stages.upcycle import upcycle
from polycycle.surgery import TrainingStage

LastStage = Literal["post_pretrain", "review", "end"]


def run_recipe(recipe: Recipe, tell: Tell, *, until: LastStage = "end") -> RunResult:
    """Carry out a recipe; stages that are done and unchanged are skipped.

    Args:
        recipe: what to do.
        tell: where notes for the user go.
        until: the last stage to do; `post_pretrain` is that of the first group, `review` leaves a
            graft out.

    Returns:
        Everything that was found so far.
    """
    run = _open_run(recipe, tell, until)
    found = _Found()
    if recipe.baseline is not None:
        found.score(run, "base", recipe.base)
        model = found.trained_model(run, train_baseline(run))
        if until == "end":
            _end(run, model, found)
        return gather_result(run, found.models, found.trained)
    model = upcycle(run)
    if recipe.export is not None:
        plan_recipe_export(recipe, model)  # what cannot be exact is refused before the training
    found.score(run, "base", recipe.base)
    model, finished = _train_groups(run, model, found, until)
    if until != "end":
        return gather_result(run, found.models, found.trained)
    model = _end(run, model, found, finished)
    exported = None if recipe.export is None else export(run, model)
    return gather_result(run, found.models, found.trained, exported)


@dataclass(slots=True)
class _Found:
    """Scores of the models so far, and folders of those that a stage trained, in order."""

    models: list[ModelScores] = field(default_factory=list)
    trained: list[Path] = field(default_factory=list)

    def score(self, run: Run, name: str, model: str | Path, reference: str = "base") -> None:
        """Evaluate one more model."""
        self.models.append(evaluate(run, name, model, reference=reference))

    def trained_model(self, run: Run, model: Path, reference: str = "base") -> Path:
        """The model that was just trained, evaluated."""
        self.trained.append(model)
        self.score(run, model.name, model, reference)
        return model


def _open_run(recipe: Recipe, tell: Tell, until: LastStage) -> Run:
    """The run; what it reads is found missing or unfit now, not after the training."""
    join_ranks()
    make_folder(recipe.output)
    with first_rank_first():  # it may have to download the base
        run = Run(recipe, tell)
        if until == "end":
            own = (own_tokenizer(post, run.tokenizer) for post in run.siblings)
            check_chat_templates(recipe, [run.tokenizer, *own])
    _ = run.corpora
    if recipe.post_train is not None and until == "end":
        _ = run.post_training
    if is_first_rank():
        write_json(recipe.output / "recipe.json", recipe.model_dump(mode="json"))
    return run


def _train_groups(
    run: Run, model: Path, found: _Found, until: LastStage
) -> tuple[Path, Path | None]:
    """The model after all language groups, and the finished model that the last was added to.

    The last review waits for a graft that comes before it.
    """
    recipe = run.recipe
    last = len(recipe.languages.expanded)
    finished = None
    for group in range(1, last + 1):
        if group > 1:
            finished = model
            model = grow(run, group, finished, found.models[-1])
        stages: list[TrainingStage] = ["post_pretrain"]
        waits = until == "end" and group == last and _grafts_before_review(recipe)
        if recipe.review is not None and until != "post_pretrain" and not waits:
            stages.append("review")
        for stage in stages:
            trained = train(run, stage, model, group=group, finished=finished)
            model = found.trained_model(run, trained)
        if until == "post_pretrain":
            break
    return model, finished


def _grafts_before_review(recipe: Recipe) -> bool:
    return recipe.graft is not None and recipe.graft.is_before_review


def _end(run: Run, model: Path, found: _Found, finished: Path | None = None) -> Path:
    """The model after the last steps: the graft and a review of it, or post-training, if any.

    A whole graft is measured against the sibling that is inside it, everything else against the
    base.
    """
    recipe = run.recipe
    if recipe.post_train is not None:
        model = found.trained_model(run, post_train(run, model))
    if recipe.graft is None:
        return model
    found.models += evaluate_siblings(run)
    model = graft(run, model)
    is_post = recipe.baseline is None and not why_no_dense_reference(open_checkpoint(model).config)
    reference = "post" if is_post else "base"
    found.score(run, model.name, model, reference)
    if recipe.graft.is_reviewed:
        group = len(recipe.languages.expanded)
        reviewed = train(run, "review", model, group=group, finished=finished, name=REVIEW_GRAFTED)
        model = found.trained_model(run, reviewed, reference)
    return model
