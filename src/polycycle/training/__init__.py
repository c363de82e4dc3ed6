"""Training a stage: losses, monitoring, alarms, and checkpoints that resume exactly."""

from polycycle.training.alarms import Alarms, RaisedAlarm
from polycycle.training.checkpoints import read_metrics
from polycycle.training.progress import show_progress
from polycycle.training.run import StageKind, TrainedStage, train_stage, use_one_gpu
from polycycle.training.settings import AlarmSettings, TrainSettings, fast_bfloat16, uses_bfloat16
from polycycle.training.sharding import is_sharded

__all__ = [
    "AlarmSettings",
    "Alarms",
    "RaisedAlarm",
    "StageKind",
    "TrainSettings",
    "TrainedStage",
    "fast_bfloat16",
    "is_sharded",
    "read_metrics",
    "show_progress",
    "train_stage",
    "use_one_gpu",
    "uses_bfloat16",
]
