"""Connections to other systems."""
from ..lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, {"mlflow": ["MLflowCallback"], "section": ["MLflowConfig"]})
