"""Several predictions become one: ensembles, partners, thresholds, test-time augmentation, pseudo-labels."""
from ..lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, {
    "create": ["create_ensemble"],
    "thresholds": ["search_threshold"],
})
