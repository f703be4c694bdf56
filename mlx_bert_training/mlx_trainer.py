"""The former trainer, at the path it had."""
from .compat.mlx_trainer import MLXTrainer

__all__ = ["MLXTrainer"]
