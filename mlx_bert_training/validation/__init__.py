"""A score to believe: folds, leaks, shift between training and test rows, out-of-fold predictions, nested choices."""
from ..lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, {
    "adversarial": ["adversarial_validation"],
    "folds": ["Folds", "make_folds"],
    "leaks": ["check_leaks"],
    "oof": ["OOF", "load_oof"],
    "oof_import": ["import_predictions"],
})
