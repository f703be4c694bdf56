"""Losses agree with torch, stay numbers at the extremes, and refuse what makes no sense."""
import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from mlx_bert_training.core.section import TrainingSection
from mlx_bert_training.declaration.options import options
from mlx_bert_training.errors import UnknownNameError
from mlx_bert_training.models.section import ModelConfig
from mlx_bert_training.tasks.losses import LOSSES, LossError, balanced_class_weights, create_loss, focal
from mlx_bert_training.tasks.registry import TASK_ALIASES, TASKS
from mlx_bert_training.tasks.task import get_task

REFERENCE = json.loads((Path(__file__).parents[1] / "fixtures" / "losses.json").read_text())
W = REFERENCE["weights"]
MULTICLASS, MULTILABEL, REGRESSION = "multiclass_classification", "multilabel_classification", "regression"
CASES: dict[str, dict[str, Any]] = {
    "cross_entropy": dict(name="cross_entropy", task=MULTICLASS),
    "cross_entropy_smooth": dict(name="cross_entropy", task=MULTICLASS, label_smoothing=0.1),
    "cross_entropy_weighted": dict(name="cross_entropy", task=MULTICLASS, class_weights=W),
    "cross_entropy_weighted_smooth": dict(name="auto", task=MULTICLASS, class_weights=W, label_smoothing=0.2),
    "focal": dict(name="focal", task=MULTICLASS),
    "focal_weighted": dict(name="focal", task=MULTICLASS, class_weights=W, focal_gamma=1.5),
    "bce": dict(name="bce", task=MULTILABEL),
    "bce_weighted": dict(name="auto", task=MULTILABEL, class_weights=W),
    "bce_smooth": dict(name="bce", task=MULTILABEL, class_weights=W, label_smoothing=0.1),
    "mse": dict(name="auto", task=REGRESSION),
    "mae": dict(name="mae", task=REGRESSION),
    "pinball": dict(name="pinball", task=REGRESSION, options={"quantile": 0.9}),
    "cumulative": dict(name="auto", task="ordinal_regression"),
    "cumulative_weighted": dict(name="cumulative", task="ordinal_regression", class_weights=[*W, 1.0]),
    "huber": dict(name="huber", task=REGRESSION, huber_delta=0.7),
}

ELSEWHERE = {"token_cross_entropy"}     # in test_token_classification, against the reference of cross_entropy


def inputs(head_type: str) -> tuple[mx.array, mx.array]:
    if head_type == REGRESSION: return mx.array(REFERENCE["value"]), mx.array(REFERENCE["target"])
    labels = mx.array(REFERENCE["many"]) if head_type == MULTILABEL else mx.array(REFERENCE["labels"])
    return mx.array(REFERENCE["logits"]), labels


def mean(loss, logits, labels):
    value, weight = loss(logits, labels)
    return (value * weight).sum() / weight.sum()


def test_every_loss_has_a_reference():
    assert {case.split("_w")[0].split("_s")[0] for case in CASES} == set(LOSSES) - ELSEWHERE
    assert set(CASES) == set(REFERENCE["cases"])


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_equal_torch(case):
    logits, labels = inputs(CASES[case]["task"])
    loss = create_loss(**CASES[case])
    value, gradient = mx.value_and_grad(lambda x: mean(loss, x, labels))(logits)
    expected = REFERENCE["cases"][case]
    assert abs(value.item() - expected["loss"]) < 1e-5
    np.testing.assert_allclose(np.array(gradient), expected["gradient"], atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_halves_add_up_to_the_whole(case):
    logits, labels = inputs(CASES[case]["task"])
    loss = create_loss(**CASES[case])
    parts = [loss(logits[rows], labels[rows]) for rows in (slice(0, 5), slice(5, None))]
    total = sum((value * weight).sum().item() for value, weight in parts) / sum(w.sum().item() for _, w in parts)
    assert total == pytest.approx(mean(loss, logits, labels).item(), rel=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_shapes_and_float32(case):
    logits, labels = inputs(CASES[case]["task"])
    for dtype in (mx.float32, mx.bfloat16, mx.float16):
        value, weight = create_loss(**CASES[case])(logits.astype(dtype), labels)
        assert value.shape == weight.shape == labels.shape[:1]
        assert value.dtype == weight.dtype == mx.float32


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_extremes_are_numbers(case, scale):
    logits, labels = inputs(CASES[case]["task"])
    loss = create_loss(**CASES[case])
    value, gradient = mx.value_and_grad(lambda x: mean(loss, x, labels))(logits * scale)
    assert mx.isfinite(value).item() and mx.isfinite(gradient).all().item()


def test_compiled_loss_is_the_same():
    logits, labels = inputs(MULTICLASS)
    loss = create_loss(**CASES["cross_entropy_weighted_smooth"])
    assert mx.allclose(mx.compile(loss)(logits, labels)[0], loss(logits, labels)[0])


def test_smoothing_does_not_scale_the_loss():
    "An even guess costs log C whatever the smoothing; a loss that is scaled by it would not."
    for eps in (0.0, 0.3):
        loss = create_loss("auto", task="multiclass", label_smoothing=eps)
        assert loss(mx.zeros((1, 5)), mx.array([3]))[0].item() == pytest.approx(np.log(5), rel=1e-6)


def test_focal_at_gamma_zero_is_cross_entropy():
    logits, labels = inputs(MULTICLASS)
    plain = create_loss("cross_entropy", task="multiclass")(logits, labels)[0]
    assert mx.allclose(focal(logits, labels, gamma=0.0)[0], plain, atol=1e-6)


@pytest.mark.parametrize("case", REFERENCE["soft_cases"])
def test_labels_that_are_probabilities_equal_torch(case):
    logits, labels, loss = mx.array(REFERENCE["logits"]), mx.array(REFERENCE["soft"]), create_loss(**CASES[case])

    def total(x):
        value, weight = loss(x, labels)
        return (value * weight).sum()

    value, gradient = mx.value_and_grad(total)(logits)
    expected = REFERENCE["soft_cases"][case]
    assert value.item() == pytest.approx(expected["loss"], rel=1e-6)
    np.testing.assert_allclose(np.array(gradient), expected["gradient"], atol=2e-5)


@pytest.mark.parametrize("case", REFERENCE["soft_cases"])
def test_all_probability_on_one_class_is_that_class(case):
    logits, labels = inputs(MULTICLASS)
    certain = (mx.arange(4)[None] == labels[:, None]).astype(mx.float32)
    for mine, other in zip(create_loss(**CASES[case])(logits, certain), create_loss(**CASES[case])(logits, labels),
                           strict=True):
        np.testing.assert_allclose(np.array(mine), np.array(other), rtol=1e-5, atol=1e-7)


def test_focal_keeps_its_digits_near_one():
    "1 - p is e^-30 here, far below what 1 - p in float32 can tell from 0."
    value = focal(mx.array([[0.0, 30.0]]), mx.array([1]), gamma=1.0)[0].item()
    assert value == pytest.approx(np.exp(-60), rel=1e-4)
    slope = mx.grad(lambda x: focal(x, mx.array([1]), gamma=0.5)[0].sum())(mx.array([[0.0, 12.0]]))
    p, q = 1 / (1 + np.exp(-12.0)), 1 / (1 + np.exp(12.0))
    expected = -(q**0.5) * q + 0.5 * q**0.5 * p * np.log1p(-q)  # derivative by the right logit
    assert slope[0, 1].item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("options", "words"), [
    (dict(name="focal", task="regression"), "does not fit a regression head; these do: mse, mae, huber"),
    (dict(name="bce", task="binary"), "these do: cross_entropy, focal"),
    (dict(name="mse", task="multilabel"), "these do: bce"),
    (dict(name="focal", task="binary", label_smoothing=0.1), "no meaning for 'focal'"),
    (dict(name="auto", task="regression", label_smoothing=0.1), "no meaning for 'mse'"),
    (dict(name="huber", task="regression", class_weights=[1.0]), "has no classes"),
    (dict(name="auto", task="binary", label_smoothing=1.0), "below 1"),
    (dict(name="auto", task="binary", class_weights=[0.0, 1.0]), "positive"),
    (dict(name="auto", task="binary", class_weights=[]), "positive"),
    (dict(name="focal", task="binary", focal_gamma=-1), "0 or more"),
    (dict(name="huber", task="regression", huber_delta=0), "above 0"),
])
def test_incompatible_options_are_refused(options, words):
    with pytest.raises(LossError, match=words): create_loss(**options)


def test_a_declaration_accepts_the_names_that_exist():
    assert set(options(TrainingSection)["loss"].words) == {"auto", *LOSSES}
    assert set(options(ModelConfig)["head_type"].words) == set(TASKS)
    assert {get_task(short).name for short in TASK_ALIASES} == set(TASK_ALIASES.values())


def test_names_near_misses_are_answered():
    with pytest.raises(UnknownNameError, match="Did you mean 'cross_entropy'"):
        create_loss("cross-entropy", task="binary")
    with pytest.raises(UnknownNameError, match="Did you mean 'regression'"): get_task("regresion")
    short = ("binary", "multiclass", "multilabel", "regression", "ordinal", "multi_regression", "token")
    assert [get_task(n).name for n in short] == list(TASKS)


@pytest.mark.parametrize(("name", "head", "logits", "labels", "words"), [
    ("mse", "regression", (4, 1), (4, 1), r"labels of shape \(4,\)"),
    ("mae", "regression", (4, 2), (4,), r"\(B, 1\)"),
    ("bce", "multilabel", (4, 3), (4,), r"labels of shape \(4, 3\)"),
    ("cross_entropy", "multiclass", (4, 3), (4, 3), r"labels of shape \(4,\)"),
    ("focal", "multiclass", (4, 3), (3,), r"labels of shape \(4,\)"),
])
def test_shapes_that_would_broadcast_are_refused(name, head, logits, labels, words):
    loss = create_loss(name, task=head)
    with pytest.raises(LossError, match=words): loss(mx.zeros(logits), mx.zeros(labels, mx.int32))


@pytest.mark.parametrize(("name", "head", "shape"), [("auto", "multiclass", (4,)), ("focal", "multiclass", (4,)),
                                                     ("auto", "multilabel", (4, 3))])
def test_one_weight_a_class(name, head, shape):
    loss = create_loss(name, task=head, class_weights=[1.0, 2.0])
    with pytest.raises(LossError, match="2 class_weights for 3 classes"):
        loss(mx.zeros((4, 3)), mx.zeros(shape, mx.int32))


def test_balanced_is_scikit_learns_formula():
    labels = np.random.default_rng(0).choice(4, 200, p=[0.6, 0.25, 0.1, 0.05])
    assert balanced_class_weights(labels, 4) == pytest.approx(
        compute_class_weight("balanced", classes=np.arange(4), y=labels))


def test_balanced_with_a_class_that_does_not_occur():
    weights = balanced_class_weights(np.array([0, 0, 0, 2]), 3)
    assert weights == pytest.approx([4 / 6, 1.0, 2.0])  # scikit-learn's numbers for classes 0 and 2


def test_balanced_columns():
    labels = np.array([[1, 0, 1], [0, 0, 1], [0, 0, 1], [0, 1, 1]], np.float32)
    assert balanced_class_weights(labels, 3) == [3.0, 3.0, 1.0]  # a column of ones alone has nothing to balance


def test_balanced_refuses_labels_outside():
    with pytest.raises(LossError, match="outside 0 to 2"): balanced_class_weights(np.array([0, 3]), 3)
    with pytest.raises(LossError, match="not 2"): balanced_class_weights(np.zeros((3, 4)), 2)
