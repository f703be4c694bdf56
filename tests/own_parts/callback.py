"""A callback of one's own: counts updates."""
from mlx_bert_training import Callback

USED = []


class Counter(Callback):
    "Counts by so many at a time."

    def __init__(self, by: int = 1): self.by = by

    def on_step_end(self, trainer, state):
        "Count."
        USED.append(self.by)
