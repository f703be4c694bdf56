"""Connections to other systems."""
from ..core.config import MLflowConfig
from .mlflow import MLflowCallback

__all__ = ["MLflowCallback", "MLflowConfig"]
