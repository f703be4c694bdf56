"""A task of one's own: classes in an order, with a logit for each step up (McCullagh, 1980)."""
from dataclasses import dataclass
from typing import ClassVar

import mlx.core as mx
import numpy as np

from mlx_bert_training.tasks.multiclass import Multiclass

USED = []


@dataclass(frozen=True)
class Ordinal(Multiclass):
    "One of K classes in an order; logit k says whether the answer is above class k. `at` is where a step counts."
    name: ClassVar[str] = "ordinal"
    judged_as: ClassVar[str] = "multiclass_classification"
    default_loss: ClassVar[str] = f"{__name__}:steps"
    default_metrics: ClassVar[tuple[str, ...]] = ("qwk", "accuracy")
    at: float = 0.5

    def num_outputs(self, asked): return super().num_outputs(asked) - 1

    def predictions(self, logits):
        above = np.minimum.accumulate(1 / (1 + np.exp(-np.asarray(logits, np.float64))), axis=1)
        USED.append(above.shape[1])
        return -np.diff(np.pad(above, ((0, 0), (1, 1)), constant_values=((0, 0), (1, 0))), axis=1)

    def decide(self, predictions, rule=None):
        if rule is not None: return rule.apply(predictions)
        return (1 - np.cumsum(predictions, axis=1)[:, :-1] > self.at).sum(axis=1)


def steps():
    "Binary cross-entropy of every step."
    def loss(logits, labels):
        taken = (labels[:, None] > mx.arange(logits.shape[1])).astype(mx.float32)
        return (mx.logaddexp(0, logits) - taken * logits).sum(-1), mx.ones(labels.shape)
    return loss
