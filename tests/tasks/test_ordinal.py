"""Classes in an order: probabilities, decisions, what is refused, and a model that learns them."""
import json

import numpy as np
import pytest

from mlx_bert_training.core.config import BaseTrainerConfig
from mlx_bert_training.declaration.load import load_config
from mlx_bert_training.ensemble.pseudo_label import select_pseudo_labels
from mlx_bert_training.ensemble.voting import HardVoting
from mlx_bert_training.models import create_model
from mlx_bert_training.tasks.losses import LossError, create_loss
from mlx_bert_training.tasks.ordinal import Ordinal

SIZES = dict(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)


def test_probabilities_and_the_median():
    logits = np.random.default_rng(0).normal(size=(200, 4)) * 3
    task = Ordinal()
    p = task.predictions(logits)
    assert p.shape == (200, 5) and (p >= 0).all() and np.allclose(p.sum(1), 1)
    below = np.cumsum(p, axis=1)
    decided = task.decide(p)
    rows = np.arange(200)
    assert (below[rows, decided] >= 0.5).all() and (below[rows, decided - 1][decided > 0] < 0.5).all()
    assert (task.check_predictions(p) == p).all() and task.row_losses(decided, p).shape == (200,)


def test_a_vote_is_for_what_is_decided():
    "The likeliest class is the lowest, and half of the probability lies above it."
    p, task = np.array([[0.4, 0.1, 0.1, 0.4], [0.4, 0.25, 0.25, 0.1], [0.1, 0.2, 0.3, 0.4]]), Ordinal()
    decided = [1, 1, 2]
    assert task.decide(p).tolist() == decided == task.votes(p).argmax(1).tolist()
    assert task.votes(np.stack([p, p])).shape == (2, 3, 4) and (task.votes(p).sum(1) == 1).all()
    assert task.confidence(p).tolist() == [0.1, 0.25, 0.3]
    fit = HardVoting().fit(np.stack([p, p, p]), np.array(decided), task, "accuracy")
    assert task.decide(fit.combine(np.stack([p, p, p]))).tolist() == decided
    sure = select_pseudo_labels(p, task, 0.2, trained_on=["a"])
    assert sure.labels.tolist() == [1, 2] and sure.confidence.tolist() == [0.25, 0.3]


def test_only_its_loss_fits_and_its_loss_fits_only_it():
    for name in ("cross_entropy", "focal", "mse"):
        with pytest.raises(LossError, match="ordinal_regression head; these do: cumulative"):
            create_loss(name, task="ordinal")
    with pytest.raises(LossError, match="does not fit"): create_loss("cumulative", task="multiclass")
    with pytest.raises(Exception, match="cumulative"):
        load_config({"model": {"head_type": "ordinal"}, "training": {"loss": "focal"}})
    config = load_config({"model": {"head_type": "ordinal"}, "training": {"class_weights": [1.0, 2.0, 3.0]}})
    assert isinstance(config, BaseTrainerConfig)


def test_a_saved_model_knows_its_classes(tmp_path):
    model = create_model(config=SIZES, head_type="ordinal", label_names=["1", "2", "3", "4"])
    assert (model.num_labels, model.classifier.weight.shape[0]) == (4, 3)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["class_names"] == ["1", "2", "3", "4"]
    again = create_model(pretrained=tmp_path)
    assert (again.head_type, again.num_labels, again.label_names) == ("ordinal_regression", 4, ["1", "2", "3", "4"])


def test_a_run_learns_an_order_and_predicts_ratings(tmp_path):
    from mlx_bert_training.run import load, run_training
    rng = np.random.default_rng(0)
    stars = rng.integers(1, 5, 240)
    lines = [f"{'good ' * s}{'bad ' * (5 - s)},{s}" for s in stars]
    (tmp_path / "train.csv").write_text("\n".join(["text,stars", *lines]) + "\n")
    run = run_training({
        "data": {"train_path": str(tmp_path / "train.csv"), "text_column": "text", "target_column": "stars",
                 "batch_size": 16},
        "model": {"head_type": "ordinal", "pooling": "mean", "dropout_rate": 0.0,
                  "config": {k: v for k, v in SIZES.items() if k != "vocab_size"} | {"hidden_size": 16}},
        "optimizer": {"learning_rate": 0.01}, "training": {"num_epochs": 6, "early_stopping": False},
        "environment": {"output_dir": str(tmp_path), "run_name": "stars"}})
    assert run.result.metrics["eval_qwk"] > 0.8
    predicted = load(tmp_path / "stars").predict(["good good good good bad", "good bad bad bad bad"])
    first, second = np.asarray(predicted.labels(), int)
    assert first > second
