"""Baselines: right on data where the right answer is known, for every task and every kind of column."""
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from mlx_bert_training.core.config import BaseTrainerConfig, DataConfig, ModelConfig
from mlx_bert_training.data.baselines import LinearFit, baseline_scores, constant_predictions
from mlx_bert_training.data.prepare import prepare
from mlx_bert_training.errors import DataError, UnknownNameError
from mlx_bert_training.tasks.metrics import default_metrics


@pytest.fixture
def prepared(tmp_path):
    "A function that prepares a frame."
    def make(frame, head_type="binary_classification", target="y", **data):
        pd.DataFrame(frame).to_csv(tmp_path / "train.csv", index=False)
        config = BaseTrainerConfig(
            model=ModelConfig(head_type=head_type),
            data=DataConfig(**{"train_path": str(tmp_path / "train.csv"), "target_column": "y", **data}))
        config.data.target_column = target
        return prepare(config)
    return make


RNG = np.random.default_rng(0)
N = 200
AGE = RNG.integers(20, 60, N)
NOISE = RNG.normal(size=N).round(3)


def test_table_with_numbers_words_and_holes(prepared):
    town = np.where(AGE > 40, "Ulm", "Bonn").astype(object)
    town[::7] = None
    frame = {"noise": np.where(NOISE > 1, None, NOISE), "town": town, "y": (AGE > 40).astype(int)}
    data = prepared(frame, template="{noise} {town}", template_defaults={"*": "unknown"})
    scores = baseline_scores(data, ["accuracy", "auc"])
    assert list(scores.index) == ["majority class", "logistic regression"]
    judged = data.validation.labels
    assert scores.loc["majority class", "accuracy"] == max(judged.mean(), 1 - judged.mean())
    assert scores.loc["majority class", "auc"] == 0.5
    assert scores.loc["logistic regression", "auc"] > 0.9


def test_only_the_columns_of_the_template_are_used(prepared):
    frame = {"noise": NOISE, "answer": (AGE > 40).astype(int), "y": (AGE > 40).astype(int)}
    assert baseline_scores(prepared(frame, template="{noise}"), ["auc"]).loc["logistic regression", "auc"] < 0.75
    assert baseline_scores(prepared(frame, template="{answer}"), ["auc"]).loc["logistic regression", "auc"] == 1


def test_text_and_pairs(prepared):
    words = np.array(["good", "bad", "so-so"])[AGE % 3]
    first = [f"a {word} film, number {i}" for i, word in enumerate(words)]
    scores = baseline_scores(prepared({"text": first, "y": words}, "multiclass_classification", text_column="text"))
    assert list(scores) == default_metrics("multiclass_classification")
    assert scores.loc["logistic regression", "accuracy"] > 0.95 > 0.6 > scores.loc["majority class", "accuracy"]
    pair = prepared({"a": [f"film {i}" for i in range(N)], "b": words, "y": words}, "multiclass_classification",
                    text_column="a", text_pair_column="b")
    assert baseline_scores(pair, ["accuracy"]).loc["logistic regression", "accuracy"] > 0.95


def test_long_text_inside_a_template(prepared):
    text = [f"number {i} is {'even' if i % 2 == 0 else 'odd'}" for i in range(N)]
    data = prepared({"text": text, "y": np.arange(N) % 2}, template="It says: {text}")
    assert baseline_scores(data, ["accuracy"]).loc["logistic regression", "accuracy"] > 0.95


def test_classes_in_an_order(prepared):
    stars = np.digitize(AGE, [30, 40, 50]) + 1
    scores = baseline_scores(prepared({"age": AGE, "y": stars}, "ordinal", template="{age}"))
    assert list(scores) == default_metrics("ordinal")
    assert scores.loc["logistic regression", "accuracy"] > 0.8 > 0.4 > scores.loc["majority class", "accuracy"]


def test_regression(prepared):
    data = prepared({"age": AGE, "y": 3.0 * AGE + 5}, "regression", template="{age}")
    scores = baseline_scores(data)
    assert list(scores.index) == ["mean", "ridge regression"] and list(scores) == default_metrics("regression")
    expected = np.sqrt(np.mean((data.validation.labels - data.train.labels.mean()) ** 2))
    assert scores.loc["mean", "rmse"] == pytest.approx(expected, rel=1e-5)
    assert scores.loc["ridge regression", "r2"] > 0.99


def test_multilabel_with_a_label_nobody_has(prepared):
    frame = {"age": AGE, "a": (AGE > 40).astype(int), "b": (AGE < 30).astype(int), "c": np.zeros(N, int)}
    data = prepared(frame, "multilabel_classification", ["a", "b", "c"], template="{age}")
    scores = baseline_scores(data, ["accuracy"])["accuracy"]
    assert scores["logistic regression"] > 0.8 > 0.6 > scores["majority class"]


def test_baselines_judge_the_same_rows_as_the_model(prepared):
    data = prepared({"age": AGE, "y": AGE > 40}, template="{age}")
    train, validation = (data.frames[part] for part in ("train", "validation"))
    assert len(train) + len(validation) == N
    data.validation.dataset.labels[:] = 1 - data.validation.dataset.labels  # turned round, for the judge only
    assert baseline_scores(data, ["accuracy"]).loc["logistic regression", "accuracy"] < 0.1


def test_class_without_training_rows_is_next_to_impossible():
    fit = LinearFit.fit(np.arange(4.0)[:, None], np.array([0, 0, 2, 2]), "multiclass_classification", 3)
    predictions = fit.predictions(np.array([[0.0], [3.0]]))
    assert predictions.argmax(axis=1).tolist() == [0, 2] and (predictions[:, 1] < np.exp(-10)).all()
    same = constant_predictions(np.array([0, 0, 2]), "multiclass_classification", 3, 2)
    assert same.argmax(axis=1).tolist() == [0, 0] and np.allclose(same.sum(axis=1), 1)


def test_errors(prepared):
    data = prepared({"age": AGE, "y": AGE > 40}, template="{age}")
    with pytest.raises(UnknownNameError, match="auc"): baseline_scores(data, ["aucc"])
    data.validation = None
    with pytest.raises(DataError, match="training and a validation part"): baseline_scores(data)


@pytest.mark.parametrize(("head", "classes"), [("binary_classification", 2), ("multiclass_classification", 4)])
def test_two_arrays_say_what_scikit_learn_says(head, classes):
    features, labels = RNG.normal(size=(N, 3)), RNG.integers(0, classes, N)
    expected = LogisticRegression(max_iter=2000).fit(features, labels).predict_proba(features)
    assert np.allclose(LinearFit.fit(features, labels, head, classes).predictions(features), expected, atol=1e-6)


def test_labels_that_are_all_the_same_are_sure():
    features = RNG.normal(size=(N, 2))
    same = LinearFit.fit(features, np.zeros(N, int), "binary_classification", 2).predictions(features)
    assert np.allclose(same, [1, 0], atol=1e-5)
    labels = np.stack([np.zeros(N, int), np.ones(N, int), RNG.integers(0, 2, N)], axis=1)
    many = LinearFit.fit(features, labels, "multilabel_classification", 3).predictions(features)
    odds = np.log(many / (1 - many))
    assert (odds[:, 0] < -10).all() and (odds[:, 1] > 10).all() and (np.abs(odds[:, 2]) < 10).all()
