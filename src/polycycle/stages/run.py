"""What the stages of one run share: recipe, base, texts, keys; and the doing of a stage."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import polycycle
from polycycle.checkpoint import Checkpoint, folder_hash, load_tokenizer, open_checkpoint
from polycycle.config import Recipe
from polycycle.data import TaskExample, pad_token, tokenizer_hash
from polycycle.files import hash_json
from polycycle.ranks import first_rank_first
from polycycle.results import GroupSimilarity
from polycycle.stages.corpora import (
    Corpora,
    RunCorpora,
    describe_corpora,
    fewer_documents,
    load_corpora,
    load_post_training,
)
from polycycle.stages.questions import load_questions, load_tasks
from polycycle.stages.siblings import open_siblings
from polycycle.stages.stage import Stage, adopt_stage, is_done, run_stage

Tell = Callable[[str], None]


class Run:
    """One recipe carried out in its run folder.

    Each stage's inputs contain the keys of the stages before it, so a change anywhere makes all
    that follows anew, and nothing else.

    Args:
        recipe: what to do.
        tell: where notes for the user go, one line each.

    Attributes:
        output: the run folder.
        base: the dense model.
        tokenizer: its tokenizer.
        keys: of the stages so far, and of grafted siblings, by name.
        similarities: what was measured before each group, for the report.
    """

    def __init__(self, recipe: Recipe, tell: Tell) -> None:
        self.recipe = recipe
        self.tell = tell
        self.output = recipe.output
        self.base = open_checkpoint(recipe.base, revision=recipe.base_revision)
        self.tokenizer = load_tokenizer(self.base.folder, recipe.base)
        self.keys: dict[str, str] = {}
        self.similarities: list[GroupSimilarity] = []

    def do(self, stage: Stage) -> Path:
        """The stage's folder: found, taken over from another run, or made now."""
        self.keys[stage.name] = stage.key
        if is_done(self.output, stage):
            self.tell(f"{stage.name}: done before, unchanged")
        elif donor := adopt_stage(self.output, stage, self.recipe.reuse):
            self.tell(f"{stage.name}: taken over from {donor}")
        return run_stage(self.output, stage, version=polycycle.__version__)

    @cached_property
    def corpora(self) -> RunCorpora:
        """The run's texts, tokenized on first use."""
        with first_rank_first():
            corpora = load_corpora(self.recipe, self.tokenizer, self.cache_dir)
        for note in fewer_documents(corpora, self.recipe):
            self.tell(f"data: {note}")
        for data in describe_corpora(corpora, self.recipe):
            if data.warning and data.part == "valid":
                self.tell(f"tokenizer: {data.warning}")
            if data.skipped:
                self.tell(
                    f"data: {data.skipped} bad documents of {data.language} ({data.part}) "
                    f"skipped, the first at {data.skipped_examples[0][0]}"
                )
        return corpora

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

    @cached_property
    def siblings(self) -> list[Checkpoint]:
        """The post-trained models to graft, checked to be siblings of the base."""
        config = self.recipe.graft
        return [] if config is None else open_siblings(config, self.base)

    @property
    def cache_dir(self) -> Path:
        """Where tokenized text is kept."""
        return self.recipe.data.cache_dir or self.output / "cache"

    @property
    def pad_token(self) -> int:
        """Fills the tail of a last sequence."""
        return pad_token(self.tokenizer)

    # What identifies the things that stages start from.

    @cached_property
    def base_key(self) -> str:
        """Changes when anything does that stages take from the base, its chat template included."""
        return folder_hash(self.base)

    def language_inputs(self, group: int | None = None) -> dict[str, Any]:
        """The languages up to an expanded group, of which a stage knows; all without one.

        A later group can be added to the recipe of a finished run: what is done stays as it is.
        """
        languages = self.recipe.languages.model_dump(mode="json")
        return {**languages, "expanded": languages["expanded"][:group]}

    def data_inputs(self, group: int | None = None) -> dict[str, Any]:
        """What identifies the texts up to a group: the cache folders' names are content hashes."""
        return {
            **self.held_out_inputs(group),
            "packing": self.recipe.data.packing,
            "repeat": self.recipe.data.repeat,
            "train": self._text_inputs(self.corpora.post_pretrain, group),
            "review": self._text_inputs(self.corpora.review, group),
        }

    def held_out_inputs(self, group: int | None = None) -> dict[str, Any]:
        """What identifies the text that models are measured on."""
        return {
            "tokenizer": tokenizer_hash(self.tokenizer),
            "valid": self._text_inputs(self.corpora.valid, group),
        }

    def _text_inputs(self, corpora: Corpora, group: int | None) -> dict[str, str]:
        known = self.known_languages(group)
        return {tag: corpus.folder.name for tag, corpus in corpora.items() if tag in known}

    def known_languages(self, group: int | None = None) -> tuple[str, ...]:
        """Every language of the run up to an expanded group; all without one."""
        groups = self.recipe.languages.groups()
        return (groups if group is None else groups.first(group)).all

    def question_inputs(self) -> dict[str, Any]:
        """What identifies the multiple-choice questions: themselves."""
        return {
            language: repr(questions) for language, questions in load_questions(self.recipe).items()
        }

    def chat_inputs(self) -> dict[str, Any]:
        """What identifies how tasks are asked in chat templates; nothing where none is.

        A sibling's template is part of its own key.
        """
        chats = self.recipe.data.chats
        return {"chats": [*chats, self.tokenizer.chat_template]} if chats else {}

    def task_inputs(self) -> dict[str, Any]:
        """What identifies the generation tasks: hashes of their examples."""
        return {
            name: {
                language: hash_json(repr(examples)) for language, examples in by_language.items()
            }
            for name, by_language in self.tasks.items()
        }
