"""The former configuration, at the path it had."""
from .compat.training_config import TrainingConfig

__all__ = ["TrainingConfig"]
