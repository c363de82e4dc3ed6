"""The recipe: what a run is told. No torch here."""

from polycycle.config.load import load_recipe, parse_recipe
from polycycle.config.recipe import (
    AlarmsConfig,
    AllocationConfig,
    ClassifierConfig,
    DataConfig,
    EvaluationConfig,
    ExpertsConfig,
    LanguagesConfig,
    PostPretrainConfig,
    Recipe,
    RetentionConfig,
    ReviewConfig,
    SourceConfig,
    TrainConfig,
)

__all__ = [
    "AlarmsConfig",
    "AllocationConfig",
    "ClassifierConfig",
    "DataConfig",
    "EvaluationConfig",
    "ExpertsConfig",
    "LanguagesConfig",
    "PostPretrainConfig",
    "Recipe",
    "RetentionConfig",
    "ReviewConfig",
    "SourceConfig",
    "TrainConfig",
    "load_recipe",
    "parse_recipe",
]
