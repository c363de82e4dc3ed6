"""The recipe: what a run is told. No torch here."""

from polycycle.config.baseline import (
    BASELINES,
    AnyBaseline,
    FullConfig,
    HalfConfig,
    LlamaProConfig,
    LoraConfig,
    LoraMoeConfig,
    ShieldedConfig,
)
from polycycle.config.data import DataConfig, SourceConfig
from polycycle.config.evaluation import EvaluationConfig
from polycycle.config.experts import (
    AllocationConfig,
    ClassifierConfig,
    ExpertsConfig,
    RetentionConfig,
)
from polycycle.config.graft import MERGES, GraftConfig, SiblingConfig
from polycycle.config.languages import LanguagesConfig
from polycycle.config.load import leaves, load_recipe, parse_recipe, parse_yaml, read_settings
from polycycle.config.recipe import Recipe
from polycycle.config.study import DEMO, CellConfig, Study, cell_recipe, load_study
from polycycle.config.training import (
    AlarmsConfig,
    PostPretrainConfig,
    PostTrainConfig,
    ReviewConfig,
    TrainConfig,
)

__all__ = [
    "BASELINES",
    "DEMO",
    "MERGES",
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
    "HalfConfig",
    "LanguagesConfig",
    "LlamaProConfig",
    "LoraConfig",
    "LoraMoeConfig",
    "PostPretrainConfig",
    "PostTrainConfig",
    "Recipe",
    "RetentionConfig",
    "ReviewConfig",
    "ShieldedConfig",
    "SiblingConfig",
    "SourceConfig",
    "Study",
    "TrainConfig",
    "cell_recipe",
    "leaves",
    "load_recipe",
    "load_study",
    "parse_recipe",
    "parse_yaml",
    "read_settings",
]
