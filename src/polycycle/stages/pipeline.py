"""A whole run: every stage in order, each made once."""

import json
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import polycycle
from polycycle.allocation import SimilarityTable, read_table
from polycycle.baselines import fill_merged
from polycycle.checkpoint import Checkpoint, load_tokenizer, open_checkpoint
from polycycle.config import (
    BASELINES,
    MERGES,
    GraftConfig,
    LlamaProConfig,
    LoraMoeConfig,
    Recipe,
    TrainConfig,
)
from polycycle.data import TaskExample, document_policy, tokenizer_hash
from polycycle.export import ExportPlan, plan_export
from polycycle.files import hash_file, hash_json, write_json
from polycycle.modeling import why_no_dense_reference
from polycycle.ranks import first_rank_first, is_first_rank, join_ranks
from polycycle.results import (
    Alarm,
    Environment,
    ExportResult,
    GroupSimilarity,
    ModelScores,
    RunResult,
    StageCost,
    StageCurves,
)
from polycycle.stages.baseline import fill_expanded, fill_with_lora_experts, train_baseline
from polycycle.stages.corpora import (
    Corpora,
    RunCorpora,
    describe_corpora,
    fewer_documents,
    load_corpora,
    load_post_training,
)
from polycycle.stages.evaluate import evaluate_recipe_model, load_questions, load_tasks
from polycycle.stages.export import export_result, fill_proved_export
from polycycle.stages.graft import (
    merge_settings,
    open_siblings,
    plan_recipe_graft,
    plan_recipe_merge,
    sibling_key,
)
from polycycle.stages.post_train import POST_TRAIN, post_train
from polycycle.stages.similarity import measure_recipe
from polycycle.stages.stage import Stage, adopt_stage, is_done, read_manifest, run_stage
from polycycle.stages.train import REVIEW_GRAFTED, TRAINING, stage_name, train_and_write
from polycycle.stages.upcycle import most_used_experts, plan_group, plan_recipe
from polycycle.surgery import TrainingStage, fill_grafted, fill_grown, fill_upcycled
from polycycle.training import uses_bfloat16

Tell = Callable[[str], None]
LastStage = Literal["post_pretrain", "review", "end"]
_SCORES = "scores.json"
SIMILARITY = "similarity.json"


class Run:
    """One recipe carried out in its run folder.

    Each stage's inputs contain the keys of the stages before it, so a change anywhere makes all
    that follows anew, and nothing else.

    Args:
        recipe: what to do.
        tell: where notes for the user go, one line each.
    """

    def __init__(self, recipe: Recipe, tell: Tell) -> None:
        self.recipe = recipe
        self.tell = tell
        self.output = recipe.output
        self.base = open_checkpoint(recipe.base, revision=recipe.base_revision)
        self.tokenizer = load_tokenizer(self.base.folder, recipe.base)
        self.similarities: list[GroupSimilarity] = []
        self._corpora: RunCorpora | None = None
        self._keys: dict[str, str] = {}

    def similarity(self, group: int, model: str | Path) -> SimilarityTable | None:
        """How alike `model` finds the languages up to a group; None where nothing depends on it."""
        num_tokens = self.recipe.experts.similarity_tokens
        if num_tokens is None:
            return None
        name = "similarity" + (f"-g{group}" if group > 1 else "")
        stage = Stage(
            name=name,
            result_version=1,
            inputs={
                "model": self._base_inputs() if group == 1 else self._keys[Path(model).name],
                "data": self._data_inputs(),
                "languages": self.recipe.languages.model_dump(mode="json"),
                "tokens_per_language": num_tokens,
                "context_length": self.recipe.evaluation.context_length,
            },
            make=partial(self._similarity, num_tokens, group, model),
        )
        return read_table(self._do(stage) / SIMILARITY)

    def _similarity(
        self, num_tokens: int, group: int, model: str | Path, folder: Path
    ) -> dict[str, Any]:
        measured = measure_recipe(self.recipe, num_tokens, model_path=model, group=group)
        write_json(folder / SIMILARITY, measured.to_json())
        return {}

    def upcycle(self) -> Path:
        """The freshly upcycled model."""
        similarity = self.similarity(1, self.recipe.base)
        experts = self.recipe.experts
        stage = Stage(
            name="upcycle",
            result_version=1,
            inputs={
                "base": self._base_inputs(),
                "similarity": self._keys.get("similarity"),
                "config": dict(self.base.config),
                "experts": experts.model_dump(mode="json", exclude={"growth", "assignment"}),
                **self._assignment_inputs(1),
                "languages": self.recipe.languages.model_dump(mode="json"),
                "seed": self.recipe.seed,
            },
            make=partial(self._upcycle, similarity),
        )
        folder = self._do(stage)
        self._note(1, "base", similarity, folder)
        return folder

    def _upcycle(self, similarity: SimilarityTable | None, folder: Path) -> dict[str, Any]:
        plan = plan_recipe(self.recipe, self.base, similarity)
        fill_upcycled(plan, folder)
        return {"bytes": plan.num_bytes}

    def grow(self, group: int, source: Path, scores: ModelScores) -> Path:
        """The finished model `source` with the experts of one more group, still masked."""
        similarity = self.similarity(group, source)
        most_used = None
        if self.recipe.experts.growth.copy_from == "most_used":
            assert scores.routing is not None  # it is a mixture
            languages = self.recipe.languages.expanded[group - 1]
            num_layers = int(self.base.config["num_hidden_layers"])
            most_used = most_used_experts(scores.routing, languages, num_layers)
        stage = Stage(
            name=f"grow-g{group}",
            result_version=1,
            inputs={
                "source": self._keys[source.name],
                "similarity": self._keys.get(f"similarity-g{group}"),
                "most_used": most_used,
                "experts": self.recipe.experts.model_dump(mode="json", exclude={"assignment"}),
                **self._assignment_inputs(group),
                "languages": self.recipe.languages.model_dump(mode="json"),
                "seed": self.recipe.seed,
            },
            make=partial(self._grow, group, source, similarity, most_used),
        )
        folder = self._do(stage)
        self._note(group, source.name, similarity, folder)
        return folder

    def _assignment_inputs(self, group: int) -> dict[str, Any]:
        """What identifies whose a group's experts are: in order, which decides. Empty if shared."""
        shares = self.recipe.experts.shares_of(self.recipe.languages.expanded[group - 1])
        return {"assignment": [[*pair] for pair in shares.items()]} if shares else {}

    def _note(
        self, group: int, model: str, similarity: SimilarityTable | None, folder: Path
    ) -> None:
        """Keep for the report what was measured before a group, and what followed from it."""
        if similarity is None:
            return
        config = open_checkpoint(folder).config
        self.similarities.append(
            GroupSimilarity(
                group=group,
                model=model,
                expanded_original=similarity.expanded_original,
                expanded_expanded=similarity.expanded_expanded,
                per_layer=similarity.per_layer,
                new_experts=tuple(config["new_experts_by_group"][group - 1]),
                is_allocated=self.recipe.experts.allocation is not None,
                classifier_layers=tuple(config.get("classifier_layers") or ()),
            )
        )

    def _grow(
        self,
        group: int,
        source: Path,
        similarity: SimilarityTable | None,
        most_used: tuple[int, ...] | None,
        folder: Path,
    ) -> dict[str, Any]:
        plan = plan_group(self.recipe, open_checkpoint(source), group, similarity, most_used)
        fill_grown(plan, folder)
        return {"bytes": plan.num_bytes}

    def graft(self, source: Path) -> Path:
        """The finished model `source` with the siblings' post-training in every expert.

        A dense baseline has it merged into its weights.
        """
        config = self.recipe.graft
        assert config is not None
        is_dense = self.recipe.baseline is not None
        merge = {"merge": merge_settings(config, self.recipe.seed)} if is_dense else {}
        stage = Stage(
            name="graft",
            result_version=1,
            inputs={
                "source": self._keys[source.name],
                "base": self._base_key(),
                "post": [
                    [sibling_key(post), one.scale]
                    for one, post in zip(config.post, self.siblings, strict=True)
                ],
                "settings": config.model_dump(mode="json", include={"target", "keep_ungrafted"}),
                **merge,
            },
            make=partial(self._merge if is_dense else self._graft, config, source),
        )
        folder = self._do(stage)
        reason = why_no_dense_reference(open_checkpoint(folder).config)
        if reason is not None:
            self.tell(
                f"graft: {reason}, so no dense model is the base any more: retention is shown "
                "against the base that was, nothing is kept exactly, and there is no pack"
            )
        return folder

    def _graft(self, config: GraftConfig, source: Path, folder: Path) -> dict[str, Any]:
        plan = plan_recipe_graft(config, open_checkpoint(source), self.base, self.siblings)
        for warning in plan.warnings:
            self.tell(f"graft: {warning}")
        fill_grafted(plan, folder)
        return {"bytes": plan.num_bytes}

    def _merge(self, config: GraftConfig, source: Path, folder: Path) -> dict[str, Any]:
        assert self.recipe.baseline is not None
        plan = plan_recipe_merge(
            config,
            self.recipe.baseline,
            open_checkpoint(source),
            self.base,
            self.siblings,
            seed=self.recipe.seed,
        )
        for warning in plan.warnings:
            self.tell(f"graft: {warning}")
        fill_merged(plan, folder)
        return {"bytes": plan.num_bytes}

    def post_train(self, source: Path) -> Path:
        """The finished model `source`, post-trained itself on the recipe's instructions."""
        config = self.recipe.post_train
        assert config is not None
        texts = self.post_training
        inputs = {
            "source": self._keys[source.name],
            "texts": {tag: [corpus.folder.name, texts[1][tag]] for tag, corpus in texts[0].items()},
            **self._training_inputs(config),
        }

        def make(work: Path, folder: Path) -> dict[str, Any]:
            return post_train(
                self.recipe,
                self.corpora,
                texts,
                source=source,
                folder=folder,
                work=work,
                pad_token=self._pad_token,
                tell=self.tell,
            )

        return self._do_training(POST_TRAIN, inputs, make)

    def plan_export(self, model: Path) -> ExportPlan:
        """What exporting a model of this run would write.

        Raises:
            ExportError: no target is exact.
        """
        config = self.recipe.export
        assert config is not None
        return plan_export(
            model,
            target=config.target,
            engine=config.engine,
            without_exact_retention=config.without_exact_retention,
        )

    def export(self, source: Path) -> ExportResult:
        """The finished model `source` as a stock checkpoint, proved on held-out text."""
        config = self.recipe.export
        assert config is not None
        stage = Stage(
            name="export",
            result_version=1,
            inputs={
                "source": self._keys[source.name],
                "settings": config.model_dump(mode="json"),
                "text": self._data_inputs()["valid"],
            },
            make=partial(self._export, config.engine, source),
        )
        return export_result(self._do(stage))

    def _export(self, engine: str, source: Path, folder: Path) -> dict[str, Any]:
        plan = self.plan_export(source)
        fill_proved_export(plan, folder, engine=engine, recipe=self.recipe)
        return {"bytes": sum(job.num_bytes for job in plan.jobs)}

    @cached_property
    def siblings(self) -> list[Checkpoint]:
        """The post-trained models to graft, checked to be siblings of the base."""
        config = self.recipe.graft
        return [] if config is None else open_siblings(config, self.base)

    def train(
        self,
        stage: TrainingStage,
        source: Path,
        group: int = 1,
        finished: Path | None = None,
        name: str | None = None,
    ) -> Path:
        """The model after a training stage of a language group, from the model in `source`.

        `finished` is the model of the groups before, whose languages alarms hold it to; `name` is
        the stage's, by default after what it does.
        """
        name = name or stage_name(stage, group)
        inputs = {
            "source": self._keys[source.name],
            **self._training_inputs(getattr(self.recipe, stage)),
        }
        return self._do_training(
            name, inputs, partial(self._train, stage, name, group, source, finished)
        )

    def _training_inputs(self, config: TrainConfig) -> dict[str, Any]:
        return {
            "data": self._data_inputs(),
            "languages": self.recipe.languages.model_dump(mode="json"),
            "settings": _without_defaults_added_later(
                config.model_dump(mode="json", exclude={"report_to"})
            ),
            "seed": self.recipe.seed,
            "bfloat16": uses_bfloat16(config.precision),
        }

    def _do_training(
        self, name: str, inputs: dict[str, Any], make: Callable[[Path, Path], dict[str, Any]]
    ) -> Path:
        """The folder of a training stage; `make` gets where checkpoints live, and the folder."""
        doing = Stage(name=name, result_version=1, inputs=inputs, make=lambda folder: {})
        work = self.output / ".work" / f"{name}-{doing.key[:16]}"
        self._tell_of_other_work(name, work, doing.key)
        path = self._do(
            Stage(
                name=doing.name,
                result_version=doing.result_version,
                inputs=doing.inputs,
                make=partial(make, work),
                on_every_rank=True,
            )
        )
        if is_first_rank():
            shutil.rmtree(work, ignore_errors=True)
        return path

    def _tell_of_other_work(self, name: str, work: Path, key: str) -> None:
        """A training begun with other inputs is not gone on with; that must not go unnoticed."""
        manifest = read_manifest(self.output / name)
        is_done = manifest is not None and manifest["key"] == key
        if not is_first_rank() or is_done or work.exists() or not work.parent.is_dir():
            return
        for other in work.parent.iterdir():
            is_same_stage = re.fullmatch(rf"{name}-[0-9a-f]{{16}}", other.name)
            if is_same_stage and any(other.glob("checkpoint-*")):
                self.tell(
                    f"{name}: settings or text are not those of the training begun in {other}, so "
                    "it begins anew; go back to them to go on there, or delete that folder"
                )

    def _train(
        self,
        stage: TrainingStage,
        name: str,
        group: int,
        source: Path,
        finished: Path | None,
        work: Path,
        folder: Path,
    ) -> dict[str, Any]:
        return train_and_write(
            self.recipe,
            stage,
            self.corpora,
            group=group,
            name=name,
            source=source,
            folder=folder,
            work=work,
            pad_token=self._pad_token,
            tell=self.tell,
            finished=finished,
        )

    @property
    def _pad_token(self) -> int:
        pad = self.tokenizer.pad_token_id
        return document_policy(self.tokenizer).eos if pad is None else pad

    def train_baseline(self) -> Path:
        """The model after the recipe's baseline; new blocks or LoRA experts are put in before."""
        config, review = self.recipe.baseline, self.recipe.review
        assert config is not None
        name, _ = BASELINES[config.method]
        inputs = {
            "base": self._base_key(),
            "method": config.model_dump(mode="json"),
            "review": review
            and review.model_dump(
                mode="json", include={"replay_documents", "expanded_documents", "tokens"}
            ),
        }
        source = self.base.folder
        if isinstance(config, LlamaProConfig):
            stage = Stage(
                name="expand-blocks",
                result_version=1,
                inputs={"base": self._base_key(), "every": config.every},
                make=partial(fill_expanded, config, self.base),
            )
            source = self._do(stage)
        elif isinstance(config, LoraMoeConfig):
            stage = Stage(
                name="add-lora-experts",
                result_version=1,
                inputs={
                    "base": self._base_key(),
                    "method": config.model_dump(
                        mode="json", exclude={"balance_coef", "balance_delta"}
                    ),
                    "seed": self.recipe.seed,
                },
                make=partial(fill_with_lora_experts, config, self.base, self.recipe.seed),
            )
            source = self._do(stage)
        make = partial(self._train_baseline, name, source)
        return self._do_training(
            name, {**inputs, **self._training_inputs(self.recipe.post_pretrain)}, make
        )

    def _train_baseline(self, name: str, source: Path, work: Path, folder: Path) -> dict[str, Any]:
        return train_baseline(
            self.recipe,
            self.corpora,
            name=name,
            base=self.base,
            source=source,
            folder=folder,
            work=work,
            pad_token=self._pad_token,
            tell=self.tell,
        )

    def evaluate_siblings(self) -> list[ModelScores]:
        """Scores of the post-trained models that are grafted: `post`, `post-2`, …"""
        scores = []
        for number, post in enumerate(self.siblings, start=1):
            name = "post" if number == 1 else f"post-{number}"
            self._keys[name] = sibling_key(post)
            scores.append(self.evaluate(name, post.folder, reference="base"))
        return scores

    def evaluate(
        self, name: str, model_path: str | Path, *, reference: str = "base"
    ) -> ModelScores:
        """Scores of one model, to be compared with `reference`."""
        stage = Stage(
            name=f"evaluate-{name}",
            result_version=2,
            inputs={
                "model": [name, self._keys.get(name) or self._base_key()],
                "data": self._data_inputs(),
                "questions": self._question_inputs(),
                "tasks": self._task_inputs(),
                "languages": self.recipe.languages.model_dump(mode="json"),
                "settings": self.recipe.evaluation.model_dump(mode="json"),
            },
            make=partial(self._evaluate, name, model_path),
        )
        folder = self._do(stage)
        text = (folder / _SCORES).read_text(encoding="utf-8")
        scores = ModelScores.model_validate_json(text)
        # An adopted stage moved.
        return scores.model_copy(update={"folder": str(model_path), "reference": reference})

    def _evaluate(self, name: str, model_path: str | Path, folder: Path) -> dict[str, Any]:
        scores = evaluate_recipe_model(
            self.recipe, name, model_path, self.corpora.valid, self.tokenizer
        )
        (folder / _SCORES).write_text(scores.model_dump_json(indent=2), encoding="utf-8")
        return {}

    def result(
        self, models: list[ModelScores], stages: list[Path], export: ExportResult | None = None
    ) -> RunResult:
        """Everything that the run found."""
        records = [json.loads((path / TRAINING).read_text(encoding="utf-8")) for path in stages]
        recipe = self.recipe
        return RunResult(
            name=recipe.name,
            method=_method_of(recipe),
            recipe=recipe.model_dump(mode="json"),
            languages=recipe.languages.groups(),
            seed=recipe.seed,
            base=recipe.base,
            models=tuple(models),
            similarities=tuple(self.similarities),
            curves=tuple(StageCurves.model_validate(record["curves"]) for record in records),
            alarms=tuple(Alarm(**alarm) for record in records for alarm in record["alarms"]),
            data=tuple(describe_corpora(self.corpora, recipe)),
            costs=tuple(StageCost(**record["cost"]) for record in records),
            export=export,
            environment=describe_environment(recipe),
        )

    @property
    def corpora(self) -> RunCorpora:
        """The run's texts, tokenized on first use."""
        if self._corpora is None:
            with first_rank_first():
                self._corpora = load_corpora(self.recipe, self.tokenizer, self.cache_dir)
            for note in fewer_documents(self._corpora, self.recipe):
                self.tell(f"data: {note}")
            for data in describe_corpora(self._corpora, self.recipe):
                if data.warning and data.part == "valid":
                    self.tell(f"tokenizer: {data.warning}")
                if data.skipped:
                    self.tell(
                        f"data: {data.skipped} bad documents of {data.language} ({data.part}) "
                        f"skipped, the first at {data.skipped_examples[0][0]}"
                    )
        return self._corpora

    @cached_property
    def post_training(self) -> tuple[Corpora, dict[str, int]]:
        """Texts that the finished model is post-trained on, and the tokens of each language."""
        valid = self.corpora.valid
        with first_rank_first():
            return load_post_training(self.recipe, self.tokenizer, self.cache_dir, valid)

    @cached_property
    def tasks(self) -> dict[str, dict[str, list[TaskExample]]]:
        """The examples of each generation task by language, read on first use."""
        tasks = load_tasks(self.recipe)
        for name, by_language in tasks.items():
            without = [one for one in self.recipe.languages.groups().all if one not in by_language]
            if without:
                self.tell(f"tasks: no file of {name} for {', '.join(without)}; passed over there")
        return tasks

    @property
    def cache_dir(self) -> Path:
        """Where tokenized text is kept."""
        return self.recipe.data.cache_dir or self.output / "cache"

    def _do(self, stage: Stage) -> Path:
        self._keys[stage.name] = stage.key
        if is_done(self.output, stage):
            self.tell(f"{stage.name}: done before, unchanged")
        elif donor := adopt_stage(self.output, stage, self.recipe.reuse):
            self.tell(f"{stage.name}: taken over from {donor}")
        return run_stage(self.output, stage, version=polycycle.__version__)

    def _base_key(self) -> str:
        return hash_json([self._base_inputs(), dict(self.base.config)])

    def _base_inputs(self) -> dict[str, str]:
        files = sorted({info.file for info in self.base.tensors.values()})
        return {file.name: hash_file(file) for file in files}

    def _data_inputs(self) -> dict[str, Any]:
        """What identifies the texts: the cache folders' names are content hashes."""
        corpora = self.corpora
        parts = {"train": corpora.post_pretrain, "review": corpora.review, "valid": corpora.valid}
        return {
            "tokenizer": tokenizer_hash(self.tokenizer),
            "packing": self.recipe.data.packing,
            "repeat": self.recipe.data.repeat,
            **{
                part: {language: corpus.folder.name for language, corpus in of_part.items()}
                for part, of_part in parts.items()
            },
        }

    def _question_inputs(self) -> dict[str, Any]:
        return {
            language: repr(questions) for language, questions in load_questions(self.recipe).items()
        }

    def _task_inputs(self) -> dict[str, Any]:
        return {
            name: {
                language: hash_json(repr(examples)) for language, examples in by_language.items()
            }
            for name, by_language in self.tasks.items()
        }


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
    join_ranks()
    recipe.output.mkdir(parents=True, exist_ok=True)
    with first_rank_first():  # it may have to download the base
        run = Run(recipe, tell)
        if until == "end":
            _ = run.siblings  # found missing or unfit now, not after the training
    _ = run.corpora  # what is wrong with a text, likewise
    if recipe.post_train is not None and until == "end":
        _ = run.post_training
    if is_first_rank():
        write_json(recipe.output / "recipe.json", recipe.model_dump(mode="json"))
    is_whole_run = until == "end"
    if recipe.baseline is not None:
        models = [run.evaluate("base", recipe.base)]
        trained = [run.train_baseline()]
        models.append(run.evaluate(trained[-1].name, trained[-1]))
        if is_whole_run:
            _end(run, trained[-1], models, trained)
        return run.result(models, trained)
    model = run.upcycle()
    if recipe.export is not None:
        run.plan_export(model)  # what cannot be exact is refused now, not after the training
    models = [run.evaluate("base", recipe.base)]
    trained = []
    with_review = recipe.review is not None and until != "post_pretrain"
    last = len(recipe.languages.expanded)
    finished = None
    for group in range(1, last + 1):
        if group > 1:
            finished = model
            model = run.grow(group, finished, models[-1])
        stages: tuple[TrainingStage, ...] = ("post_pretrain", "review")
        if not with_review or (is_whole_run and group == last and _grafts_before_review(recipe)):
            stages = stages[:1]
        for stage in stages:
            model = run.train(stage, model, group, finished)
            trained.append(model)
            models.append(run.evaluate(model.name, model))
        if until == "post_pretrain":
            break
    if is_whole_run:
        model = _end(run, model, models, trained, finished)
    export = run.export(model) if recipe.export is not None and is_whole_run else None
    return run.result(models, trained, export)


def _grafts_before_review(recipe: Recipe) -> bool:
    return recipe.graft is not None and recipe.graft.is_before_review


def _end(
    run: Run,
    model: Path,
    models: list[ModelScores],
    trained: list[Path],
    finished: Path | None = None,
) -> Path:
    """The last steps of a run: the graft and a review of it, or post-training, if any.

    Scores and trained folders are added to `models` and `trained`. A whole graft is measured
    against the sibling that is inside it, everything else against the base.
    """
    recipe = run.recipe
    if recipe.post_train is not None:
        model = run.post_train(model)
        trained.append(model)
        models.append(run.evaluate(model.name, model))
    if recipe.graft is None:
        return model
    models += run.evaluate_siblings()
    model = run.graft(model)
    is_post = recipe.baseline is None and not why_no_dense_reference(open_checkpoint(model).config)
    reference = "post" if is_post else "base"
    models.append(run.evaluate(model.name, model, reference=reference))
    if recipe.graft.is_reviewed:
        group = len(recipe.languages.expanded)
        model = run.train("review", model, group, finished, name=REVIEW_GRAFTED)
        trained.append(model)
        models.append(run.evaluate(model.name, model, reference=reference))
    return model


_ADDED_LATER = {
    "trains": "new_experts",
    "wrong_labels": 0.0,
    "assignment_coef": 0.1,
    "assignment_hard_steps": 0,
}
"""Settings that stages finished before did not have, and what they would have been."""


def _without_defaults_added_later(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a training stage as its inputs: stages made before stay as they are."""
    return {
        key: value
        for key, value in settings.items()
        if key not in _ADDED_LATER or value != _ADDED_LATER[key]
    }


def _method_of(recipe: Recipe) -> str:
    if recipe.baseline is not None:
        method = BASELINES[recipe.baseline.method][1]
        if recipe.graft is not None:
            method += f", {MERGES[recipe.graft.merge]}"
    elif recipe.post_pretrain.trains == "everything":
        method = "MoE, everything trained"
        if recipe.graft is not None:
            method += ", grafted"
    elif recipe.graft is not None:
        method = "DeltaMoE"
    else:
        experts = recipe.experts
        is_layerwise = experts.allocation is not None or experts.classifier is not None
        method = "LayerMoE" if is_layerwise else "MoE-LPR"
    return method if recipe.post_train is None else f"{method}, post-trained"


def describe_environment(recipe: Recipe) -> Environment:
    """Versions and machine."""
    import os

    import torch
    import transformers

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    pages, page_size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    bfloat16 = uses_bfloat16(recipe.post_pretrain.precision)
    return Environment(
        polycycle=polycycle.__version__,
        commit=_commit(),
        torch=torch.__version__,
        transformers=transformers.__version__,
        python=sys.version.split()[0],
        platform=platform.platform(terse=True),
        processor=_processor(),
        cpu_cores=len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        gpu=f"{gpus} × {torch.cuda.get_device_name()}" if gpus else None,
        memory_bytes=pages * page_size,
        dtype="bfloat16 autocast" if bfloat16 else "float32",
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _commit() -> str | None:
    """The git commit of a checkout that polycycle runs from, `-dirty` where it was changed."""
    checkout = Path(polycycle.__file__).parents[2]
    if not (checkout / ".git").exists():
        return None
    try:
        asked = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--exclude=*"]
        done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):  # no git here
        return None
    return done.stdout.strip() or None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def stage_folders(output: Path) -> dict[str, dict[str, Any]]:
    """The manifests of the stages done so far, by stage."""
    found = {path.name: read_manifest(path) for path in sorted(output.iterdir()) if path.is_dir()}
    return {name: manifest for name, manifest in found.items() if manifest is not None}
