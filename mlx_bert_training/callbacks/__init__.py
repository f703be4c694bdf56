"""Everything that listens to a run: what to save, when to stop, what to show."""
from importlib import import_module
from typing import Any

from .base import Callback, create_callback, register_callback
from .checkpoint import ModelCheckpoint
from .early_stopping import EarlyStopping
from .learning_curve import LearningCurve
from .lr_scheduler import LearningRateScheduler
from .metrics_logger import MetricsLogger, read_metrics
from .progress import ProgressBar

_ABOVE = {"DashboardCallback": "widgets", "MLflowCallback": "integrations"}    # on higher floors, imported when asked for

__all__ = [
    "Callback", "DashboardCallback", "EarlyStopping", "LearningCurve", "LearningRateScheduler", "MLflowCallback",
    "MetricsLogger", "ModelCheckpoint", "ProgressBar", "create_callback", "read_metrics", "register_callback",
]


def __getattr__(name: str) -> Any:
    if name not in _ABOVE: raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"mlx_bert_training.{_ABOVE[name]}"), name)
