"""The protocols, at the path they had; they live on the ground floor."""
from ..protocols import *  # noqa: F403
from ..protocols import __all__  # noqa: F401
