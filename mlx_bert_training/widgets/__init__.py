"""Live plots and controls, and tables and pictures to look at before and after training."""
from ..lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, {
    "config_editor": ["ConfigEditor"],
    "controls": ["ControlPanel"],
    "dashboard": ["DashboardCallback"],
    "error_report": ["ErrorReport"],
    "explorer": ["CompetitionExplorer"],
    "form": ["Form"],
})
