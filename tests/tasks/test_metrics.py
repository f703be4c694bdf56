"""Metrics equal scikit-learn's and scipy's, point the right way, and say why when they have no value."""
import math
import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from mlx_bert_training.errors import UnknownNameError
from mlx_bert_training.tasks import metrics as ours
from mlx_bert_training.tasks.decisions import Threshold
from mlx_bert_training.tasks.metrics import (
    METRICS,
    MetricError,
    check_metrics,
    compute_metrics,
    default_metrics,
    get_metric,
    metric_direction,
    register_metric,
)
from mlx_bert_training.tasks.task import TaskError, get_task

rng = np.random.default_rng(1)
N, C = 300, 4
Y2, Y4, YM = rng.integers(0, 2, N), rng.choice(C, N, p=[0.5, 0.3, 0.15, 0.05]), rng.random((N, C)) < 0.3
X2, X4 = rng.normal(size=(N, 2)) + np.eye(2)[Y2], rng.normal(size=(N, C)) + 2 * np.eye(C)[Y4]
XM, V = rng.normal(size=(N, C)) + 2 * YM - 1, rng.gamma(2, 2, N)
XV = V[:, None] + rng.normal(size=(N, 1))
DATA: dict[str, tuple[np.ndarray, np.ndarray]] = {
    "binary": (X2, Y2), "multiclass": (X4, Y4), "multilabel": (XM, YM.astype(np.float32)), "regression": (XV, V)}


def of_logits(names, head, logits, labels):
    "Metrics of what a model puts out."
    return compute_metrics(names, head, get_task(head).predictions(logits), labels)


def test_every_metric_has_a_value_on_every_task_it_claims():
    for head, (x, y) in DATA.items():
        full = get_task(head).name
        names = [name for name in METRICS if get_metric(name).fits(get_task(full))]
        values = of_logits(names, head, x, y)
        assert list(values) == names and all(type(v) is float and math.isfinite(v) for v in values.values())
        assert set(default_metrics(head)) <= set(names)


def test_binary_equals_scikit_learn():
    p, predicted = get_task("binary").predictions(X2)[:, 1], X2.argmax(1)
    got = of_logits(["f1", "precision", "recall", "auc", "average_precision", "log_loss", "mcc", "accuracy"],
                          "binary", X2, Y2)
    assert got == pytest.approx({
        "f1": sk.f1_score(Y2, predicted), "precision": sk.precision_score(Y2, predicted),
        "recall": sk.recall_score(Y2, predicted), "auc": sk.roc_auc_score(Y2, p),
        "average_precision": sk.average_precision_score(Y2, p), "log_loss": sk.log_loss(Y2, p),
        "mcc": sk.matthews_corrcoef(Y2, predicted), "accuracy": (Y2 == predicted).mean()})


def test_multiclass_equals_scikit_learn():
    p, predicted = get_task("multiclass").predictions(X4), X4.argmax(1)
    got = of_logits(["macro_f1", "weighted_f1", "balanced_accuracy", "auc", "log_loss", "qwk", "map_at_3"],
                          "multiclass", X4, Y4)
    ranks = 1 + (p > p[np.arange(N), Y4][:, None]).sum(1)
    assert got == pytest.approx({
        "macro_f1": sk.f1_score(Y4, predicted, average="macro"),
        "weighted_f1": sk.f1_score(Y4, predicted, average="weighted"),
        "balanced_accuracy": sk.balanced_accuracy_score(Y4, predicted),
        "auc": sk.roc_auc_score(Y4, p, multi_class="ovr"), "log_loss": sk.log_loss(Y4, p),
        "qwk": sk.cohen_kappa_score(Y4, predicted, weights="quadratic"),
        "map_at_3": np.where(ranks <= 3, 1 / ranks, 0).mean()})


def test_multilabel_equals_scikit_learn():
    p, predicted = 1 / (1 + np.exp(-XM)), XM > 0
    got = of_logits(["macro_f1", "micro_f1", "auc", "average_precision", "log_loss", "accuracy"],
                          "multilabel", XM, YM)
    assert got == pytest.approx({
        "macro_f1": sk.f1_score(YM, predicted, average="macro"),
        "micro_f1": sk.f1_score(YM, predicted, average="micro"), "auc": sk.roc_auc_score(YM, p),
        "average_precision": sk.average_precision_score(YM, p), "accuracy": (YM == predicted).all(1).mean(),
        "log_loss": np.mean([sk.log_loss(YM[:, c], p[:, c]) for c in range(C)])})


def test_regression_equals_scikit_learn_and_scipy():
    x = np.maximum(XV[:, 0], 0)
    got = of_logits(["rmse", "mse", "mae", "r2", "rmsle", "pearson", "spearman"], "regression", x[:, None], V)
    assert got == pytest.approx({
        "rmse": sk.root_mean_squared_error(V, x), "mse": sk.mean_squared_error(V, x),
        "mae": sk.mean_absolute_error(V, x), "r2": sk.r2_score(V, x),
        "rmsle": sk.root_mean_squared_log_error(V, x), "pearson": stats.pearsonr(V, x).statistic,
        "spearman": stats.spearmanr(V, x).statistic})


@pytest.mark.parametrize("head", ["binary", "multiclass", "multilabel"])
def test_a_perfect_classifier_has_an_auc_of_one(head):
    y = DATA[head][1]
    x = 5.0 * (y if head == "multilabel" else np.eye(2 if head == "binary" else C)[y])
    assert of_logits(["auc", "average_precision"], head, x, y) == {"auc": 1.0, "average_precision": 1.0}
    assert of_logits(["auc"], head, -x, y) == {"auc": 0.0}


@pytest.mark.parametrize("head", list(DATA))
def test_better_predictions_score_better_in_the_stated_direction(head):
    x, y = DATA[head]
    full = get_task(head).name
    names = [name for name in METRICS if get_metric(name).fits(get_task(full))]
    answer = y[:, None] if head == "regression" else y if head == "multilabel" else np.eye(x.shape[1])[y]
    good = answer * 8.0 - (0 if head == "regression" else 4)
    if head == "regression": good = answer + 0.0
    worse, better = of_logits(names, head, x, y), of_logits(names, head, good, y)
    for name in names:
        sign = 1 if metric_direction(name) == "max" else -1
        assert sign * better[name] > sign * worse[name], name


def test_qwk_keeps_distances_when_a_class_is_missing():
    labels, x = np.array([0, 0, 3, 3]), np.eye(4)[[0, 3, 3, 3]]
    expected = sk.cohen_kappa_score(labels, [0, 3, 3, 3], labels=range(4), weights="quadratic")
    assert of_logits(["qwk"], "multiclass", x, labels)["qwk"] == pytest.approx(expected)
    labels, x = np.array([0, 1, 3, 3]), np.eye(4)[[0, 3, 3, 1]]  # class 2 occurs nowhere
    expected = sk.cohen_kappa_score(labels, [0, 3, 3, 1], labels=range(4), weights="quadratic")
    assert of_logits(["qwk"], "multiclass", x, labels)["qwk"] == pytest.approx(expected)


@pytest.mark.parametrize(("name", "head", "x", "y", "why"), [
    ("auc", "binary", np.zeros((3, 2)), np.zeros(3, int), "all labels are the same"),
    ("average_precision", "multilabel", np.zeros((3, 2)), np.ones((3, 2)), "all labels are the same"),
    ("mcc", "binary", np.eye(2), np.zeros(2, int), "all labels are the same"),
    ("qwk", "multiclass", np.eye(3)[[0, 0]], np.zeros(2, int), "labels and predictions"),
    ("r2", "regression", np.zeros((3, 1)), np.ones(3), "all targets are the same"),
    ("spearman", "regression", np.zeros((3, 1)), np.arange(3), "all predictions are the same"),
    ("rmsle", "regression", np.zeros((3, 1)), np.array([-1.0, 0, 1]), "negative"),
    ("accuracy", "binary", np.zeros((0, 2)), np.zeros(0, int), "no examples"),
    ("log_loss", "binary", np.full((3, 2), np.nan), np.zeros(3, int), "not finite"),
])
def test_an_undefined_metric_is_nan_and_says_why(name, head, x, y, why):
    with pytest.warns(RuntimeWarning, match=why) as caught: value = of_logits([name], head, x, y)[name]
    assert math.isnan(value) and len(caught) == 1


def test_a_class_without_examples_is_left_out_of_the_mean():
    y = np.array([0, 0, 1, 1])
    x = np.array([[2.0, 1, 0], [0, 1, 0], [0, 2, 0], [1, 2, 3]])
    with pytest.warns(RuntimeWarning, match=r"classes \[2\] are left out of roc_auc_score"):
        value = of_logits(["auc"], "multiclass", x, y)["auc"]
    p = get_task("multiclass").predictions(x)
    assert value == pytest.approx(np.mean([sk.roc_auc_score(y == c, p[:, c]) for c in (0, 1)]))


def test_nothing_warns_when_all_is_well():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        of_logits(["macro_f1", "balanced_accuracy", "macro_precision"], "multiclass", np.eye(3)[[0, 0, 2]],
                        np.array([0, 0, 1]))  # class 2 is predicted and never right, class 1 never predicted


def test_probabilities_at_the_extremes():
    x = np.array([[1e4, -1e4], [0.0, 0.0]])
    with np.errstate(all="raise", under="ignore"):
        assert get_task("multilabel").predictions(x).tolist() == [[1, 0], [0.5, 0.5]]
        assert get_task("binary").predictions(x).tolist() == [[1, 0], [0.5, 0.5]]
    assert get_task("regression").predictions(x[:, :1]).tolist() == x[:, 0].tolist()


def test_directions_and_names():
    assert [metric_direction(n) for n in ("loss", "eval_loss", "eval_auc", "rmse")] == ["min", "min", "max", "min"]
    with pytest.raises(UnknownNameError, match="Did you mean 'accuracy'"): metric_direction("eval_accurcy")
    assert check_metrics(["eval_auc", "auc", "loss"], "binary") == ["auc"]
    with pytest.raises(MetricError, match="these do: mse, rmse, mae, rmsle"): check_metrics(["auc"], "regression")
    with pytest.raises(UnknownNameError): check_metrics(["auroc"], "binary")


@pytest.mark.parametrize(("head", "x", "y"), [("binary", (4, 2), (4, 1)), ("multilabel", (4, 3), (4,)),
                                              ("regression", (4, 2), (4,)), ("multiclass", (4,), (4,))])
def test_wrong_shapes_are_refused(head, x, y):
    with pytest.raises(MetricError, match="do not make"): compute_metrics([], head, np.zeros(x), np.zeros(y))
    with pytest.raises(TaskError, match="do not make"): get_task("regression").predictions(np.zeros((4, 2)))


def test_a_metric_of_your_own(monkeypatch):
    monkeypatch.setattr(ours, "METRICS", METRICS.copy())
    seen = {}

    def off_by_one(labels, predicted):
        seen[labels.ndim] = predicted.shape
        return float((abs(labels - predicted) <= 1).mean())

    register_metric("within_one", off_by_one, maximize=True, tasks=["multiclass"])
    assert 0.5 < of_logits(["eval_within_one"], "multiclass", X4, Y4)["within_one"] <= 1
    assert metric_direction("eval_within_one") == "max" and seen == {1: (N,)}
    register_metric("spread", lambda y, p: float(p.shape == (N,)), maximize=False, needs="probabilities")
    assert of_logits(["spread"], "binary", X2, Y2) == {"spread": 1.0}  # binary: the probability of class 1
    assert of_logits(["spread"], "multiclass", X4, Y4) == {"spread": 0.0}
    with pytest.raises(MetricError, match="cannot name"): register_metric("eval_x", off_by_one, True)
    with pytest.raises(MetricError, match="does not have"): register_metric("x", off_by_one, True, "values", ["binary"])
    with pytest.raises(UnknownNameError, match="probabilities"): register_metric("x", off_by_one, True, "probability")


def test_f_beta_jaccard_and_mean_columns_equal_scikit_learn():
    p = get_task("binary").predictions(X2)
    chosen = p.argmax(1)
    found = compute_metrics(["f2", "f05", "jaccard", "macro_jaccard"], "binary", p, Y2)
    assert found == pytest.approx({
        "f2": sk.fbeta_score(Y2, chosen, beta=2), "f05": sk.fbeta_score(Y2, chosen, beta=0.5),
        "jaccard": sk.jaccard_score(Y2, chosen), "macro_jaccard": sk.jaccard_score(Y2, chosen, average="macro")})
    columns = get_task("multilabel").predictions(XM)
    many = compute_metrics(["auc", "macro_jaccard"], "multilabel", columns, YM)
    assert many["auc"] == pytest.approx(np.mean([sk.roc_auc_score(YM[:, c], columns[:, c]) for c in range(C)]))
    assert many["macro_jaccard"] == pytest.approx(sk.jaccard_score(YM, columns > 0.5, average="macro"))


@pytest.mark.parametrize("value", [0.6, np.array([0.6, 0.6])])
def test_one_threshold_counts_for_each_of_two_labels(value):
    p = np.array([[0.7, 0.2], [0.1, 0.9], [0.65, 0.61]])
    assert get_task("multilabel").decide(p, Threshold(value)).tolist() == [[1, 0], [0, 1], [1, 1]]
    assert Threshold(0.6).apply(p).tolist() == [0, 1, 1]      # of two classes, the second
