"""A partner of one's own: how often each class occurs among the rows of the other folds."""
from dataclasses import replace

import numpy as np

USED = []


class Prior:
    "The same prediction for every row of a fold, `count` imagined rows of each class added."

    def __init__(self, count: float = 1.0): self.count = count

    def shares(self, targets, classes):
        counts = np.bincount(targets, minlength=classes) + self.count
        return counts / counts.sum()

    def member(self, like, data, folds, transform, folder=None):
        USED.append(self.count)
        predictions = np.zeros_like(like.predictions)
        for number in range(folds.n_folds):
            rows, held = folds[number]
            predictions[held] = self.shares(like.targets[rows], predictions.shape[1])
        test = like.test_predictions
        if test is not None: test = np.tile(self.shares(like.targets, test.shape[1]), (len(test), 1))
        return replace(like, name="prior", predictions=predictions, test_predictions=test)
