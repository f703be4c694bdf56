"""Live plots and controls, and tables and pictures to look at before and after training."""
from importlib import import_module
from typing import Any

_HOMES = {
    "config_editor": ["ConfigEditor"],
    "controls": ["ControlPanel"],
    "dashboard": ["DashboardCallback"],
    "error_report": ["ErrorReport"],
    "explorer": ["CompetitionExplorer"],
    "form": ["Form"],
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
