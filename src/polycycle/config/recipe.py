"""The recipe: everything a run is told, as frozen pydantic models, one file per section.

Modules below take flat arguments and never see these objects; the stages unpack them. Defaults are
the papers' where the papers give one (the line says so) and ours otherwise.
"""

from pathlib import Path
from typing import Self

from pydantic import NonNegativeInt, model_validator

from polycycle.config.baseline import BaselineConfig
from polycycle.config.data import DataConfig
from polycycle.config.evaluation import EvaluationConfig
from polycycle.config.experts import ExpertsConfig
from polycycle.config.export import ExportConfig
from polycycle.config.graft import GraftConfig
from polycycle.config.languages import LanguagesConfig
from polycycle.config.problems import (
    assignment_problems,
    baseline_problems,
    data_problems,
    expert_problems,
    frozen_base_problems,
    graft_problems,
    post_train_problems,
    replay_problems,
)
from polycycle.config.section import Section
from polycycle.config.training import PostPretrainConfig, PostTrainConfig, ReviewConfig


class Recipe(Section):
    """One run: from a dense checkpoint and text to a model that speaks more languages."""

    name: str = "polycycle"
    """Name in reports and model cards."""
    base: str
    """The dense model: a folder or a Hugging Face hub id."""
    base_revision: str | None = None
    """Commit, branch or tag of a hub base."""
    output: Path
    """The run folder; every stage writes one folder in it."""
    reuse: tuple[Path, ...] = ()
    """Other run folders: a stage that one of them has made from the same inputs is taken over."""
    seed: NonNegativeInt = 0
    """Seed of data order and initialisation."""
    languages: LanguagesConfig
    data: DataConfig
    baseline: BaselineConfig | None = None
    """A method to compare with, by name (`full`, `half`, `shielded`, `lora`, `llama_pro`,
    `loramoe`) or with settings; null upcycles. It trains in one stage, as `post_pretrain` says, on
    what post-pretraining and review would read, shuffled together, with the language-modelling loss
    alone (LoRAMoE adds its balancing constraint); `experts`, all other `_coef`s and the rest of
    `review` are passed over."""
    experts: ExpertsConfig = ExpertsConfig()
    post_pretrain: PostPretrainConfig
    review: ReviewConfig | None = ReviewConfig()
    """null leaves review out (the paper's ablation)."""
    graft: GraftConfig | None = None
    """The last step: post-training added to every expert; null leaves it out. After a dense
    `baseline` it is merged in, as `graft.merge` says."""
    post_train: PostTrainConfig | None = None
    """Instead of a graft, the costly way: post-train the finished model itself; null leaves it
    out."""
    export: ExportConfig | None = None
    """Write the finished model as a stock checkpoint too, and prove it; null leaves it out."""
    evaluation: EvaluationConfig = EvaluationConfig()
    license: str = "other"
    """Licence id of the weights, for the model card; the base's licence binds them, so `other`
    asks the reader to look there."""

    @model_validator(mode="after")
    def _settings_do_something(self) -> Self:
        """What no section can see alone; all problems are told together."""
        problems = [
            *data_problems(self.data, self.languages, self.post_pretrain, self.review),
            *([] if self.baseline else replay_problems(self.review, self.experts, self.languages)),
            *assignment_problems(self.experts, self.languages, self.post_pretrain),
            *baseline_problems(
                self.baseline, self.languages, self.post_pretrain, self.review, self.export
            ),
            *frozen_base_problems(self.post_pretrain, self.baseline, self.experts),
            *graft_problems(self.graft, self.baseline, self.review),
            *post_train_problems(
                self.post_train, self.graft, self.baseline, self.experts, self.languages
            ),
            *expert_problems(self.experts, self.data),
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self
