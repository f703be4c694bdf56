"""A schedule of one's own: full rate and a part of it in turns."""
from collections.abc import Mapping
from typing import Any

USED = []


class Blink:
    "Every second update has a part of the rate. It needs no class of the package."

    def __init__(self, learning_rate: float, total_steps: int, part: float = 0.5):
        self.learning_rate, self.part = learning_rate, part
        USED.append((total_steps, part))

    def __call__(self, step: int) -> float: return self.learning_rate * (self.part if step % 2 else 1.0)

    def observe(self, metric: float) -> None: "Evaluations change nothing."

    def state_dict(self) -> dict[str, Any]: return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None: "Nothing to restore."
