"""Quantiles: no crossing, the loss of scikit-learn, intervals that hold as often as they say, and a run by YAML."""
import json

import mlx.core as mx
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import mean_pinball_loss

from mlx_bert_training.core.results import Predictions
from mlx_bert_training.errors import DataError
from mlx_bert_training.models import create_model
from mlx_bert_training.run import load, run_training
from mlx_bert_training.tasks.losses import LossError, create_loss
from mlx_bert_training.tasks.metrics import MetricError, check_metrics, compute_metrics
from mlx_bert_training.tasks.quantile import Quantile
from mlx_bert_training.tasks.task import TaskError, get_task
from mlx_bert_training.widgets.error_report import ErrorReport

LEVELS = [0.05, 0.25, 0.5, 0.9]
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
rng = np.random.default_rng(0)


def test_loss_and_metric_are_scikit_learns():
    logits, targets = rng.normal(size=(40, 4)), rng.normal(size=40)
    task = Quantile(quantiles=LEVELS)
    expected = np.mean([mean_pinball_loss(targets, logits[:, i], alpha=a) for i, a in enumerate(LEVELS)])
    loss, weight = create_loss(task=task)(mx.array(logits), mx.array(targets))
    assert loss.mean().item() == pytest.approx(expected, rel=1e-5) and weight.tolist() == [1.0] * 40
    assert compute_metrics(["pinball_loss"], task, logits, targets)["pinball_loss"] == pytest.approx(expected)
    assert task.row_losses(targets, logits).mean() == pytest.approx(expected)


def test_nothing_crosses_and_sorting_is_no_loss():
    task, logits, targets = Quantile(quantiles=LEVELS), rng.normal(size=(300, 4)), rng.normal(size=300)
    p = task.predictions(logits)
    assert (np.diff(p) >= 0).all() and (task.decide(p) == p[:, 2]).all()
    before, after = (compute_metrics(["pinball_loss"], task, x, targets)["pinball_loss"] for x in (logits, p))
    assert after <= before


@pytest.mark.parametrize("levels", [[], [0.5, 0.1], [0.1, 0.1], [0, 0.5], [0.5, 1.0], [float("nan")]])
def test_levels_that_are_none_are_refused(levels):
    with pytest.raises(TaskError, match="quantiles are numbers between 0 and 1 that rise"): Quantile(quantiles=levels)


def test_only_its_loss_and_its_metrics_fit():
    with pytest.raises(LossError, match="these do: quantiles"): create_loss("mse", task="quantile")
    with pytest.raises(LossError, match="does not fit"): create_loss("quantiles", task="regression")
    with pytest.raises(MetricError): check_metrics(["coverage"], "regression")
    assert check_metrics(["rmse", "spearman", "coverage"], "quantile") == ["rmse", "spearman", "coverage"]
    with pytest.raises(LossError, match="3 quantiles need logits"):
        create_loss(task="quantile")(mx.zeros((2, 4)), mx.zeros(2))
    with pytest.raises(DataError, match="do not make 3 quantiles"): Quantile().check_predictions(np.zeros((2, 4)))
    assert get_task(json.loads(json.dumps(Quantile(quantiles=LEVELS).spec))) == Quantile(quantiles=LEVELS)


def test_a_saved_model_knows_its_levels(tmp_path):
    spec = Quantile(quantiles=LEVELS).spec
    model = create_model(config={**SMALL, "vocab_size": 30}, head_type=spec, label_names=["price"])
    assert (model.num_labels, model.classifier.weight.shape[0]) == (1, 4)
    model.save_pretrained(tmp_path)
    again = create_model(pretrained=tmp_path)
    assert again.task == Quantile(quantiles=LEVELS) and again.label_names == ["price"]


@pytest.mark.long
def test_intervals_of_a_run_hold_as_often_as_they_say(tmp_path):
    "The spread follows from a word, so that a narrow and a wide interval are right for different rows."
    wide = rng.random(900) < 0.5
    values = 100 + rng.normal(size=900) * np.where(wide, 20.0, 2.0)
    frame = pd.DataFrame({"text": np.where(wide, "a wild guess", "a sure thing"), "value": values})
    frame[:600].to_csv(tmp_path / "train.csv", index=False)
    frame[600:].to_csv(tmp_path / "valid.csv", index=False)
    (tmp_path / "run.yaml").write_text(f"""\
model: {{head_type: {{type: quantile, options: {{quantiles: [0.1, 0.5, 0.9]}}}}, pooling: mean, dropout_rate: 0.0,
         config: {json.dumps(SMALL)}}}
data: {{train_path: train.csv, validation_path: valid.csv, test_path: valid.csv, text_column: text,
        target_column: value, num_workers: 0}}
optimizer: {{learning_rate: 0.02}}
training: {{num_epochs: 8, best_metric: eval_pinball_loss, save_strategy: no, baselines: true}}
environment: {{output_dir: {tmp_path}, run_name: prices, device: cpu, compile: false}}
""")
    run = run_training(tmp_path / "run.yaml")
    assert 0.7 < run.result.metrics["eval_coverage"] < 0.9
    assert run.scores["pinball_loss"].idxmin() == "this model" and (run.scores["coverage"] > 0.7).all()
    table = pd.read_csv(run.result.output_dir / "predictions.csv")
    assert table.columns.tolist() == ["id", "value", "quantile_0.1", "quantile_0.5", "quantile_0.9"]
    assert (table["value"] == table["quantile_0.5"]).all()
    width = table["quantile_0.9"] - table["quantile_0.1"]
    assert width[wide[600:]].mean() > 5 * width[~wide[600:]].mean()
    found = load(run.result.output_dir).predict(["a sure thing"])
    assert isinstance(found, Predictions) and 90 < found.values[0, 0] < found.values[0, 2] < 110
    trainer = run.trainer
    report = ErrorReport(trainer.outputs.labels, trainer.task.predictions(trainer.outputs.logits), trainer.task)
    assert len(report.ranges) and "root mean squared error" in str(report)
