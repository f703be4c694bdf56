"""Competitions: leak check, folds, cross-validation, ensembles, thresholds and submissions."""
from ..core.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, {
    "adversarial": ["adversarial_validation"],
    "client": ["KaggleClient"],
    "ensemble": ["create_ensemble"],
    "folds": ["Folds", "make_folds"],
    "leaks": ["check_leaks"],
    "ledger": ["Ledger"],
    "oof": ["OOF", "import_predictions", "load_oof"],
    "results": ["CVResult"],
    "submission": ["build_submission", "check_submission", "write_submission"],
    "thresholds": ["search_threshold"],
    "trainer": ["KaggleTrainer"],
})
