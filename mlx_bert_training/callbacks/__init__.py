"""Everything that listens to a run: what to save, when to stop, what to show."""
from .base import Callback, create_callback, register_callback
from .checkpoint import ModelCheckpoint
from .early_stopping import EarlyStopping
from .learning_curve import LearningCurve
from .lr_scheduler import LearningRateScheduler
from .metrics_logger import MetricsLogger, read_metrics
from .progress import ProgressBar

__all__ = [
    "Callback", "EarlyStopping", "LearningCurve", "LearningRateScheduler", "MetricsLogger", "ModelCheckpoint", "ProgressBar",
    "create_callback", "read_metrics", "register_callback",
]
