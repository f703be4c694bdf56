"""Thresholds equal an exhaustive search, are nested, and their optimism is shown."""
from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mlx_bert_training.ensemble.thresholds import search_threshold
from mlx_bert_training.errors import UnknownNameError
from mlx_bert_training.tasks.decisions import OrdinalCuts, Threshold, ThresholdError
from mlx_bert_training.tasks.metrics import MetricError, get_metric, register_metric
from mlx_bert_training.tasks.rule_search import (
    FROM_COUNTS,
    _fast_qwk,
    best_threshold,
    fit_cuts,
    score_decisions,
    threshold_curve,
)
from mlx_bert_training.validation.oof import OOF

rng = np.random.default_rng(5)


def make(targets: np.ndarray, predictions: np.ndarray, head: str = "binary", k: int = 4, **changes: Any) -> OOF:
    n = len(targets)
    return OOF(**{**dict(name="m", task=head, row_ids=np.arange(n), predictions=predictions, targets=targets,
                         folds=np.arange(n) % k, folds_hash="h"), **changes})


def binary(n: int = 200, share: float = 0.3, offset: float = 1.5, seed: int = 0) -> OOF:
    r = np.random.default_rng(seed)
    y = (r.random(n) < share) * 1
    return make(y, 1 / (1 + np.exp(-(2 * y - offset + r.normal(0, 1, n)))))


# one threshold

@pytest.mark.long
@pytest.mark.parametrize("metric", FROM_COUNTS)
def test_the_sweep_is_an_exhaustive_search_with_the_registered_metric(metric: str):
    for seed in range(6):
        r = np.random.default_rng(seed)
        p, y = r.random(40).round(1 if seed % 2 else 3), r.integers(0, 2, 40)       # with and without ties
        thresholds, scores = threshold_curve(p, y, metric)
        function = get_metric(metric).function
        for t, score in zip(thresholds, scores, strict=True):
            assert score == pytest.approx(function(y, (p >= t) * 1), abs=1e-12), (t, seed)
        every = max(function(y, (p >= t) * 1) for t in np.r_[0, np.unique(p), 1.1])
        assert function(y, (p >= best_threshold(p, y, metric)) * 1) == pytest.approx(every)
        assert len(thresholds) == len(np.unique(p)) + 1 and (np.diff(thresholds) < 0).all()


def test_by_hand():
    p, y = np.array([0.9, 0.6, 0.4, 0.2, 0.1]), np.array([1, 0, 1, 0, 0])
    assert threshold_curve(p, y, "f1")[1].tolist() == pytest.approx([0, 2 / 3, 1 / 2, 4 / 5, 2 / 3, 4 / 7])
    assert best_threshold(p, y, "f1") == pytest.approx(0.3)
    assert best_threshold(p, y, "precision") == pytest.approx(0.75)
    assert best_threshold(p, y, "recall") == pytest.approx(0.3)    # the highest that finds all


def test_ties_go_to_one_half():
    assert best_threshold(np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 0, 1, 1])) == 0.5
    assert best_threshold(np.array([0.5, 0.49]), np.array([1, 0])) == 0.5
    assert best_threshold(np.full(6, 0.7), np.array([1, 0, 1, 0, 1, 0]), "accuracy") == 0.5     # nothing to separate


@pytest.mark.parametrize("p", [[0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [0.3, np.nextafter(0.3, 1)], [0.0, 5e-324]])
@pytest.mark.parametrize("y", [[0, 1], [1, 0], [0, 0], [1, 1]])
def test_edges_of_the_interval(p: list[float], y: list[int]):
    values, truth = np.array(p), np.array(y)
    thresholds, scores = threshold_curve(values, truth, "accuracy")
    assert thresholds.min() >= 0
    for t, score in zip(thresholds, scores, strict=True): assert ((values >= t) == truth).mean() == score


def test_half_of_the_best_f1_where_probabilities_are_true():
    p = rng.beta(1, 3, 300_000)
    y = (rng.random(len(p)) < p) * 1
    t, f = threshold_curve(p, y, "f1")
    assert best_threshold(p, y, "f1") == pytest.approx(f.max() / 2, abs=0.03)
    assert f.max() - f[np.abs(t - f.max() / 2).argmin()] < 1e-3


# the nested search

def test_a_fold_has_no_part_in_its_own_threshold():
    oof = binary()
    held = oof.folds == 1
    changed = replace(oof, targets=np.where(held, 1 - oof.targets, oof.targets))
    before, after = search_threshold(oof, "mcc"), search_threshold(changed, "mcc")
    assert before.fold_rules[1].value == after.fold_rules[1].value      # type: ignore[union-attr]
    assert np.array_equal(before.decisions[held], after.decisions[held])
    assert before.value != after.value      # while the one for the test rows has seen all


def test_nested_decisions_by_hand():
    oof = binary()
    result = search_threshold(oof, "f1")
    for k in range(4):
        held = oof.folds == k
        t = best_threshold(oof.predictions[~held, 1], oof.targets[~held], "f1")
        assert np.array_equal(result.decisions[held], oof.predictions[held, 1] >= t)
    assert result.value == best_threshold(oof.predictions[:, 1], oof.targets, "f1")
    assert np.array_equal(result.apply(oof.predictions), oof.predictions[:, 1] >= result.value)


@pytest.mark.long
def test_a_threshold_that_is_needed_helps_and_noise_is_optimism():
    needed = search_threshold(binary(1000, offset=3), "f1")
    assert needed.gain.mean > 0.1 and needed.gain.clear
    flattery, gains = [], []
    for seed in range(12):
        r = np.random.default_rng(seed)
        coin = search_threshold(make(r.integers(0, 2, 100), r.random(100)), "mcc")
        flattery.append(coin.naive.mean - coin.score.mean)      # its optimism, without the error that takes long
        gains.append(coin.score.mean)
        assert coin.naive.pooled >= coin.default.pooled - 1e-12     # the best of all is no worse than one half
    assert np.mean(flattery) > 0.1 and abs(np.mean(gains)) < 0.08


def test_rows_never_validated_stay_out():
    oof = binary()
    folds = np.where(np.arange(200) < 50, -1, oof.folds)
    p = np.where((folds < 0)[:, None], np.nan, oof.predictions)
    result = search_threshold(replace(oof, folds=folds, predictions=p), "f1")
    assert (result.decisions[:50] == -1).all() and sum(result.score.rows) == 150
    assert result.value == best_threshold(oof.predictions[50:, 1], oof.targets[50:], "f1")


# many labels

def labels(n: int = 200) -> OOF:
    y = (rng.random((n, 3)) < [0.5, 0.25, 0.1]) * 1
    return make(y, 1 / (1 + np.exp(-(2 * y - 2 + rng.normal(0, 1.2, y.shape)))), "multilabel")


@pytest.mark.long
def test_each_column_is_best_by_itself_for_a_mean_over_columns():
    oof = labels()
    result = search_threshold(oof)
    assert result.metric == "macro_f1" and np.shape(result.value) == (3,)
    assert result.value == pytest.approx([best_threshold(oof.predictions[:, c], oof.targets[:, c]) for c in range(3)])
    assert result.naive.pooled >= search_threshold(oof, per_class=False).naive.pooled
    assert np.array_equal(result.apply(oof.predictions), oof.predictions >= result.value)


def test_micro_f1_cannot_be_improved_by_one_column():
    oof = labels(60)
    result = search_threshold(oof, "micro_f1")
    best = result.naive.pooled
    assert best >= search_threshold(oof, "micro_f1", per_class=False).naive.pooled - 1e-12
    for c in range(3):
        for t in np.r_[0, np.unique(oof.predictions[:, c]), 1.1]:
            value = np.array(result.value)
            value[c] = t
            assert score_decisions("micro_f1", oof.predictions >= value, oof.targets) <= best + 1e-12


@pytest.mark.long
def test_one_threshold_for_all_columns():
    oof = labels()
    for metric in ("micro_f1", "macro_f1", "accuracy"):
        result = search_threshold(oof, metric, per_class=False)
        assert len(set(np.asarray(result.value).tolist())) == 1
        assert result.naive.pooled >= result.default.pooled
    with pytest.raises(ThresholdError, match="use per_class=False"): search_threshold(oof, "accuracy")


@pytest.mark.long
def test_two_labels_are_not_two_classes():
    oof = labels()
    two = make(oof.targets[:, :2], oof.predictions[:, :2], "multilabel")
    for per_class in (True, False):
        result = search_threshold(two, per_class=per_class)
        assert result.apply(two.predictions).shape == (200, 2) and result.default.mean > 0


# ratings

def ratings(low: int = 1, n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    y = np.clip(np.round(rng.normal(2, 1.2, n)), 0, 4).astype(int) + low
    return y, low + 2 + 0.4 * (y - low - 2) + rng.normal(0, 0.3, n)


@pytest.mark.long
@pytest.mark.parametrize("low", [0, 1, -2])
def test_cuts_beat_rounding_of_a_timid_regression(low: int):
    y, values = ratings(low)
    oof = make(y, values, "regression", test_ids=np.arange(3), test_predictions=[low - 9.0, low + 2.0, low + 9.0])
    result = search_threshold(oof)
    assert result.metric == "qwk" and isinstance(result.rule, OrdinalCuts) and result.gain.mean > 0.05
    assert oof.test_predictions is not None
    assert result.apply(oof.test_predictions).tolist() == [low, low + 2, low + 4]
    assert (np.diff(result.rule.cuts) >= 0).all() and set(result.decisions) <= set(range(low, low + 5))
    assert result.naive.pooled >= result.default.pooled


def test_right_cuts_are_left_where_they_are():
    y = np.repeat([0, 1, 2], 20)
    assert fit_cuts(y + rng.uniform(-0.4, 0.4, 60), y).cuts.tolist() == [0.5, 1.5]


def test_cuts_find_the_best_of_a_grid():
    y, values = ratings(0, 150)
    y, grid = np.minimum(y, 2), np.linspace(values.min(), values.max(), 80)
    best = max(_fast_qwk(np.searchsorted([a, b], values, side="right"), y, 3) for a in grid for b in grid[grid > a])
    assert _fast_qwk(fit_cuts(values, y).apply(values), y, 3) > best - 0.01


def test_other_metrics_of_ratings_and_other_levels():
    y, values = ratings()
    rounded = OrdinalCuts(np.arange(1, 5) + 0.5, 1)
    for metric in ("accuracy", "macro_f1"):
        found = fit_cuts(values, y, metric).apply(values)
        plain = rounded.apply(values)
        assert score_decisions(metric, found, y) > score_decisions(metric, plain, y)
    assert len(fit_cuts(values, y, levels=(0, 9)).cuts) == 9
    assert fit_cuts(values, np.full(400, 3)).apply(values).tolist() == [3] * 400


def test_fast_kappa_is_kappa():
    a, b = rng.integers(0, 4, 100), rng.integers(0, 4, 100)
    assert _fast_qwk(a, b, 4) == pytest.approx(get_metric("qwk").function(b, a))


@pytest.mark.long
def test_classes_in_an_order_are_cut_by_their_expected_number():
    y, values = ratings(0)
    p = np.exp(-((values[:, None] - np.arange(5)) ** 2))
    p /= p.sum(1, keepdims=True)
    result = search_threshold(make(y, p, "multiclass"), "qwk")
    assert result.gain.mean > 0 and result.score.mean > 0.5
    assert np.array_equal(result.apply(p), np.searchsorted(result.value, p @ np.arange(5), side="right"))
    with pytest.raises(ThresholdError, match="likeliest class needs no threshold"):
        search_threshold(make(y, p, "multiclass"), "accuracy")


# what cannot be searched, and what is shown

def test_refusals():
    with pytest.raises(ThresholdError, match="metric of probabilities: no threshold"): search_threshold(binary(), "auc")
    with pytest.raises(ThresholdError, match="two folds or more"):
        search_threshold(replace(binary(), folds=np.zeros(200, int)))
    with pytest.raises(UnknownNameError, match="Did you mean 'accuracy'"): search_threshold(binary(), "acuracy")
    with pytest.raises(MetricError, match="does not fit"): search_threshold(labels(), "mcc")
    with pytest.raises(MetricError, match="does not fit"): search_threshold(make(*ratings(), "regression"), "f1")
    y, values = ratings()
    with pytest.raises(ThresholdError, match=r"row 3 \(id 3\) is 2.5"):
        search_threshold(make(np.where(np.arange(400) == 3, 2.5, y), values, "regression"))
    with pytest.raises(ThresholdError, match="not made of counts"):
        threshold_curve(np.array([0.5]), np.array([1]), "auc")


def test_a_metric_of_ones_own_is_searched_for_many_labels(monkeypatch: pytest.MonkeyPatch):
    from mlx_bert_training.tasks import metrics
    monkeypatch.setattr(metrics, "METRICS", metrics.METRICS.copy())
    register_metric("missed", lambda y, d: float((y > d).mean()), maximize=False)
    assert search_threshold(labels(), "missed", per_class=False).naive.pooled == 0      # yes to all misses nothing
    with pytest.raises(ThresholdError, match="no search for 'missed'"): search_threshold(binary(), "missed")


def test_what_is_shown():
    result = search_threshold(binary())
    assert list(result.to_frame().index) == ["default", "nested", "naive"]
    assert "optimism" in repr(result) and "Threshold" in result._repr_html_()
    assert len(result.plot().axes[0].lines) == 7        # the curve, four folds, all rows, one half
    assert len(search_threshold(labels()).plot().axes) == 1
    assert Threshold(0.3).apply(np.array([[0.7, 0.3], [0.8, 0.2]])).tolist() == [1, 0]
