"""Everything that listens to a run: what to save, when to stop, what to show."""
from importlib import import_module
from typing import Any

from ..lazy import lazy_names

_find, __dir__, __all__ = lazy_names(__name__, {
    "adversarial": ["AWP", "FGM"],
    "averages": ["ExponentialAverage", "StochasticAverage"],
    "base": ["Callback", "create_callback", "register_callback"],
    "checkpoint": ["ModelCheckpoint"],
    "contrastive": ["SupCon"],
    "early_stopping": ["EarlyStopping"],
    "learning_curve": ["LearningCurve"],
    "lr_scheduler": ["LearningRateScheduler"],
    "metrics_logger": ["MetricsLogger", "read_metrics"],
    "mixout": ["Mixout"],
    "neftune": ["NEFTune"],
    "nonfinite": ["NonFinite"],
    "progress": ["ProgressBar"],
    "rdrop": ["RDrop"],
    "soup": ["GreedySoup"],
})
_ABOVE = {"DashboardCallback": "widgets", "MLflowCallback": "integrations"}    # on higher floors
__all__ += _ABOVE


def __getattr__(name: str) -> Any:
    return getattr(import_module(f"mlx_bert_training.{_ABOVE[name]}"), name) if name in _ABOVE else _find(name)
