"""A metric of one's own: the share of rows that are called positive."""
import numpy as np

from mlx_bert_training.tasks.metrics import Metric

USED = []


def _share(targets: np.ndarray, decided: np.ndarray) -> float:
    USED.append(len(decided))
    return float(np.mean(decided == 1))


POSITIVE_SHARE = Metric("positive_share", _share, maximize=False)
