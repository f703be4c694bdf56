"""Paired comparisons: errors that are what resampling says, and no clear gains where there is no difference."""
from __future__ import annotations

import numpy as np
import pytest

from mlx_bert_training.tasks.metrics import METRICS, Metric, get_metric
from mlx_bert_training.tasks.task import get_task
from mlx_bert_training.validation.comparison import (
    INFLUENCES,
    Gain,
    Judged,
    auc_influence,
    bootstrap_variance,
    corrected_error,
    row_variances,
)
from mlx_bert_training.validation.scores import compare, score_rows


def members(task: str, rng: np.random.Generator, n: int, k: int, count: int = 2, shift: float = 0.2):
    "Targets and equally good predictions: noise of each row, some of it shared, and of each fold's training."
    folds, shared = np.arange(n) % k, rng.normal(size=n)
    y = rng.normal(size=n) if task == "regression" else rng.integers(0, 3 if task == "multiclass" else 2, n)
    if task == "multilabel": y = np.stack([y, rng.integers(0, 2, n)], 1)
    out = []
    for _ in range(count):
        noise = 0.5 * shared + 0.8 * rng.normal(size=n) + shift * rng.normal(size=k)[folds]
        if task == "regression": p = y + noise
        elif task == "multiclass":
            logits = 1.5 * np.eye(3)[y] + noise[:, None] * [1, 0, -1]
            p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        else:
            p = 1 / (1 + np.exp(-(2 * y - 1 + (noise if y.ndim == 1 else noise[:, None]))))
            if task == "binary": p = np.stack([1 - p, p], 1)
        out.append(p)
    return y, folds, out


CASES = [("auc", "binary", 300, 5), ("accuracy", "binary", 200, 5), ("accuracy", "binary", 60, 3),
         ("f1", "binary", 300, 5), ("log_loss", "binary", 300, 5), ("rmse", "regression", 200, 5),
         ("pearson", "regression", 200, 4), ("macro_f1", "multiclass", 300, 5), ("auc", "multilabel", 300, 3)]


@pytest.mark.long
@pytest.mark.parametrize("metric, task, n, k", CASES)
def test_at_most_one_gain_in_twenty_is_clear_where_there_is_none(metric, task, n, k):
    rng, clear = np.random.default_rng(7), []
    for _ in range(300):
        y, folds, (a, b) = members(task, rng, n, k)
        clear.append(compare(*(score_rows("m", metric, task, p, y, folds) for p in (a, b))).clear)
    assert np.mean(clear) <= 0.05


@pytest.mark.long
def test_the_bootstrap_is_as_careful():
    rng, clear = np.random.default_rng(7), []
    for _ in range(60):
        y, folds, (a, b) = members("regression", rng, 80, 4)
        clear.append(compare(*(score_rows("m", "r2", "regression", p, y, folds) for p in (a, b))).clear)
    assert np.mean(clear) <= 0.05


def test_a_difference_that_is_there_is_found():
    rng = np.random.default_rng(0)
    y, folds = rng.integers(0, 2, 2000), np.arange(2000) % 5
    p = [1 / (1 + np.exp(-(2 * y - 1 + s * rng.normal(size=2000)))) for s in (0.7, 1.5)]
    good, poor = (score_rows("m", "auc", "binary", np.stack([1 - q, q], 1), y, folds) for q in p)
    gain = compare(good, poor)
    assert gain.verdict == "better" and compare(poor, good).verdict == "worse"
    assert gain.interval.low < gain.mean < gain.interval.high


@pytest.mark.long
@pytest.mark.parametrize("metric", [m.name for m in INFLUENCES])
def test_influences_say_what_resampling_says(metric):
    entry, rng = get_metric(metric), np.random.default_rng(0)
    task = "regression" if entry.needs == "values" else "binary"
    y, _, (a, b) = members(task, rng, 500, 5)
    if metric == "rmsle": y, a, b = abs(y), abs(a), abs(b)
    given = [get_task(task).metric_input(entry.needs, p, None) for p in (a, b)]
    one, other = (Judged(entry, y, g, np.zeros(500, int)) for g in given)
    every = np.ones(500, bool)
    assert abs(one.influence(every).sum()) < 1e-9
    assert row_variances(one, other)[0] == pytest.approx(bootstrap_variance(one, other, every, 800), rel=0.25)


def test_delong_by_hand():
    y, p = np.array([1, 1, 0, 0, 0]), np.array([0.9, 0.4, 0.4, 0.2, 0.7])
    above = np.array([1, (0.5 + 1) / 3])        # of the positives; ties count one half
    below = np.array([1 - 0.25, 1.0, 0.5])
    assert auc_influence(y, p) == pytest.approx([*((above - above.mean()) / 2), *((below - below.mean()) / 3)])


def test_a_metric_of_ones_own_with_a_known_name_is_resampled():
    mine = Metric("auc", lambda y, p: float(p.mean()), True, "probabilities")
    assert Judged(mine, np.array([0, 1]), np.array([0.1, 0.2]), np.zeros(2, int)).influence(np.ones(2, bool)) is None
    assert "auc" in METRICS


def test_the_wider_error_counts():
    values = (0.01, 0.02, 0.03)
    assert Gain(values).standard_error == pytest.approx(0.01 * (1 / 3 + 1 / 2) ** 0.5)
    assert Gain(values, (0.01,) * 3).standard_error == pytest.approx((0.03 / 9) ** 0.5)
    assert Gain((0.1,)).interval.low != Gain((0.1,)).interval.low     # nan: neither folds nor rows
    assert Gain((0.1,), (1e-4,)).clear and not Gain((0.1,)).clear


def test_repeats_cannot_make_a_gain_as_certain_as_one_likes():
    values = np.random.default_rng(0).normal(size=5)
    many = np.tile(values, 100)
    assert corrected_error(many, 1 / 4) > 0.5 * corrected_error(values, 1 / 4)
