"""The recipe: what a run is told. No torch here."""

from polycycle.config.baseline import (
    BASELINES,
    AnyBaseline,
    FullConfig,
    LlamaProConfig,
    LoraConfig,
)
from polycycle.config.load import load_recipe, parse_recipe, read_settings
from polycycle.config.recipe import (
    AlarmsConfig,
    AllocationConfig,
    ClassifierConfig,
    DataConfig,
    EvaluationConfig,
    ExpertsConfig,
    GraftConfig,
    LanguagesConfig,
    PostPretrainConfig,
    Recipe,
    RetentionConfig,
    ReviewConfig,
    SiblingConfig,
    SourceConfig,
    TrainConfig,
)
from polycycle.config.study import DEMO, CellConfig, Study, cell_recipe, load_study

__all__ = [
    "BASELINES",
    "DEMO",
    "AlarmsConfig",
    "AllocationConfig",
    "AnyBaseline",
    "CellConfig",
    "ClassifierConfig",
    "DataConfig",
    "EvaluationConfig",
    "ExpertsConfig",
    "FullConfig",
    "GraftConfig",
    "LanguagesConfig",
    "LlamaProConfig",
    "LoraConfig",
    "PostPretrainConfig",
    "Recipe",
    "RetentionConfig",
    "ReviewConfig",
    "SiblingConfig",
    "SourceConfig",
    "Study",
    "TrainConfig",
    "cell_recipe",
    "load_recipe",
    "load_study",
    "parse_recipe",
    "read_settings",
]
