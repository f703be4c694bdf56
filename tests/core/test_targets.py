"""Targets of a regression: trained on at a scale of one, reported in the unit of the file."""
import numpy as np
import pandas as pd
import pytest

from mlx_bert_training.core.results import Predictions
from mlx_bert_training.declaration.problems import ConfigError
from mlx_bert_training.errors import DataError, UnknownNameError
from mlx_bert_training.factory import create_trainer
from mlx_bert_training.models.layers import ModelError
from mlx_bert_training.run import load, run_training
from mlx_bert_training.tasks.task import get_task

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def prices(folder, rows=40, sign=1):
    "Good things cost 220 000, bad ones 140 000."
    words = ["good", "bad"]
    table = pd.DataFrame({"text": [f"{words[i % 2]} thing" for i in range(rows)],
                          "price": [sign * (220_000.0 if i % 2 == 0 else 140_000.0) + i for i in range(rows)]})
    path = folder / "prices.csv"
    table.to_csv(path, index=False)
    return path


def declaration(folder, **changes):
    return {"train_path": str(prices(folder, sign=changes.pop("sign", 1))), "text_column": "text",
            "target_column": "price", "head_type": "regression", "model.config": TINY, "num_workers": 0,
            "max_length": 16, "num_epochs": 8, "learning_rate": 1e-2, "pooling": "mean", "save_strategy": "no",
            "output_dir": str(folder / "runs"), "device": "cpu", "batch_size": 8, **changes}


@pytest.mark.parametrize("setting", ["auto", "log1p"])
def test_prices_are_learnt_and_come_back_in_their_unit(tmp_path, setting):
    run = run_training(None, **declaration(tmp_path, target_transform=setting))
    assert run.result.metrics["eval_r2"] > 0.9
    assert run.result.metrics["eval_rmse"] < 15_000
    assert (run.model_folder / "targets.json").exists()
    given = load(run.result.output_dir).predict(["good thing", "bad thing"]).values
    assert given[0] > 200_000 and given[1] < 160_000
    np.testing.assert_allclose(given, run.trainer.predict(["good thing", "bad thing"]).values, rtol=1e-4)


def test_none_trains_on_the_values_as_they_are(tmp_path):
    trainer = create_trainer(config=None, **declaration(tmp_path, target_transform="none", num_epochs=1))
    trainer.train()
    assert trainer.evaluator.transform.kind == "none"


def test_a_logarithm_of_a_negative_value_is_refused(tmp_path):
    trainer = create_trainer(config=None, **declaration(tmp_path, target_transform="log1p", sign=-1))
    with pytest.raises(DataError, match="negative"): trainer.train()


def test_classes_have_no_transform(tmp_path):
    with pytest.raises(ConfigError, match="transforms values"):
        create_trainer(config=None, **declaration(tmp_path, head_type="multiclass", target_transform="log1p"))


def test_a_text_beyond_the_positions_is_refused_before_training(tmp_path):
    changes = {"model.config": {**TINY, "max_position_embeddings": 8}, "data.test_path": str(tmp_path / "test.csv")}
    pd.DataFrame({"text": ["good " * 12]}).to_csv(tmp_path / "test.csv", index=False)
    with pytest.raises(ModelError, match="test part.*max_length"):
        create_trainer(config=None, **declaration(tmp_path, **changes))


def test_the_best_metric_has_two_spellings_and_must_be_reported(tmp_path):
    settings = declaration(tmp_path, num_epochs=1)
    for name in ("mae", "eval_mae"):
        assert create_trainer(config=None, **settings, best_metric=name).train().best_metric_name == "eval_mae"
    with pytest.raises(ConfigError, match=r"training\.metrics: \[mae, pearson\]"):
        create_trainer(config=None, **settings, best_metric="pearson", metrics=["mae"]).train()
    with pytest.raises(UnknownNameError, match="pearson"):
        create_trainer(config=None, **settings, best_metric="pearsn").train()


def test_predictions_hold_a_task_and_take_its_name():
    predictions = Predictions(np.array([[.2, .8], [.7, .3]]), "binary_classification", np.arange(2), ["no", "yes"])
    assert predictions.task is get_task("binary") or predictions.task == get_task("binary")
    assert predictions.head_type == "binary_classification"
    assert list(predictions.labels(0.75)) == ["yes", "no"]
    assert list(predictions.labels(0.85)) == ["no", "no"]


def test_an_architecture_and_a_loss_with_options_are_declared(tmp_path):
    settings = declaration(tmp_path, num_epochs=1)
    changes = {"model.type": "distilbert", "model.config": {},
               "training.loss": {"type": "huber", "options": {"huber_delta": 0.5}}}
    changes["model.config"] = {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}
    trainer = create_trainer(config=None, **{**settings, **changes})
    assert trainer.model.architecture.name == "distilbert"
    assert np.isfinite(trainer.train().metrics["eval_loss"])
