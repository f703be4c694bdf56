"""An ensemble method of one's own: what the members say at one quantile."""
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mlx_bert_training.ensemble.base import Fit

USED = []


@dataclass(frozen=True)
class Quantile:
    "0 is the most doubtful member, 1 the surest, of every column."
    at: float = 0.5
    learns: ClassVar[bool] = False
    weighted: ClassVar[bool] = False

    def fit(self, predictions, targets, task, metric):
        USED.append(self.at)
        return Fit(lambda p: task.from_columns(np.quantile(task.columns(p), self.at, axis=0)), None)
