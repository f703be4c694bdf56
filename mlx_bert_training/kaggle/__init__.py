"""Competitions: leak check, folds, cross-validation, ensembles, thresholds and submissions."""
from importlib import import_module
from typing import Any

_HOMES = {
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
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF: raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
