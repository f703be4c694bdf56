"""Cross-validation, from the plan to the result."""
from ..lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, {"results": ["CVResult"]})
