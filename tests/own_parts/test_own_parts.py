"""Parts that stand in no registry, each in one file outside the package, are declared in YAML and train.

A case is one line: the name of the part's file, what the declaration says of it, whether it is about cross-validation,
and what shows that the part did its work. A file has a list `USED`, into which the part writes when it is at work.
"""
import importlib
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlx_bert_training import create_kaggle_trainer, create_trainer
from mlx_bert_training.data.labels import LabelMap
from mlx_bert_training.declaration.load import load_config
from mlx_bert_training.declaration.problems import ConfigError
from mlx_bert_training.declaration.schema import json_schema
from mlx_bert_training.errors import MLXBertError
from mlx_bert_training.models import create_model
from mlx_bert_training.registry import RegistryError
from mlx_bert_training.run import load, run_competition, run_training
from mlx_bert_training.tasks.task import TaskError
from mlx_bert_training.validation.folds import load_folds
from mlx_bert_training.validation.oof import load_oof
from mlx_bert_training.widgets.form import Form

GROUND = """\
model: {config: {hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}}
data: {train_path: "demo:german_credit/train.csv", target_column: risk, id_column: id, max_train_rows: 60,
       max_length: 16, template: "{purpose} of {credit_amount}"}
optimizer: {learning_rate: 1e-3}
training: {num_epochs: 1, save_strategy: no, mixed_precision: false}
environment: {device: cpu, compile: false}
"""
FOLDS = "kaggle: {cv_folds: 2, competition_metric: auc, submission_dir: submissions%s}"
MEMBERS = FOLDS % ", enable_ensemble: true, ensemble_keep: always, ensemble_members: [%s]%s"
STARS = """\
model: {head_type: {type: own_parts.task:Ordinal, options: {at: 0.5}}, pooling: mean, dropout_rate: 0.0}
data: {train_path: stars.csv, test_path: new.csv, target_column: stars, template: "{text}", max_train_rows: null,
       batch_size: 8}
optimizer: {learning_rate: 0.02}
training: {num_epochs: 8, metrics: [qwk], best_metric: eval_qwk, early_stopping: false}
"""


def the_median(run):
    "Three members, and each prediction is between the others'."
    members = np.stack([member.predictions for member in run.result.combined.members])
    return len(members) == 3 and np.allclose(np.median(members, axis=0), run.result.combined.ensemble.oof.predictions)


CASES = [   # (file, declaration, whether it is about cross-validation, what shows that it worked)
    ("architecture", "model: {type: own_parts.architecture:BAG}", False,
     lambda run: type(run.trainer.model.encoder).__name__ == "Bag"),
    ("pooling", "model: {pooling: {type: own_parts.pooling:mean_and_max, options: {share: 0.25}}}", False,
     lambda run: run.trainer.model.classifier.weight.shape == (2, 32)),
    ("task", STARS, False, lambda run: run.result.metrics["eval_qwk"] > 0.8),
    ("loss", "training: {loss: {type: own_parts.loss:Doubt, options: {times: 3.0}}}", False,
     lambda run: 1 < run.result.metrics["eval_loss"] < 2),      # three times a doubt of a half or so
    ("metric", "training: {metrics: [own_parts.metric:POSITIVE_SHARE],"
     " best_metric: own_parts.metric:POSITIVE_SHARE}", False,
     lambda run: run.result.best_metric_name == "eval_positive_share"
     and run.result.metrics["eval_positive_share"] == run.result.best_metric),
    ("optimizer", "optimizer: {type: own_parts.optimizer:SignDescent, options: {scale: 0.5}}", False,
     lambda run: type(run.trainer.optimizer).__name__ == "SignDescent"),
    ("schedule", "scheduler: {type: own_parts.schedule:Blink, options: {part: 0.1}}", False,
     lambda run: run.trainer.schedule(1) == pytest.approx(1e-4)),
    ("callback", "callbacks: [{type: own_parts.callback:Counter, options: {by: 2}}]", False,
     lambda run: sum(importlib.import_module("own_parts.callback").USED) == 2 * run.result.steps),
    ("trainer", "environment: {trainer: own_parts.trainer:Quiet}", False,
     lambda run: type(run.trainer).__name__ == "Quiet"),
    ("task", STARS + "kaggle: {cv_folds: 2, competition_metric: qwk}", True, lambda run: run.result.mean > 0.8),
    ("pooling", "model: {pooling: own_parts.pooling:mean_and_max}\n" + FOLDS % "", True, lambda run: True),
    ("architecture", "model: {type: own_parts.architecture:BAG}\n" + FOLDS % "", True, lambda run: True),
    ("splitter", FOLDS % ", cv_strategy: {type: own_parts.splitter:Remainder, options: {shift: 1}}", True,
     lambda run: (np.diff(load_folds(run.result.output_dir / "folds.csv").assignment[0]) != 0).all()),
    ("method", MEMBERS % ("linear, own_parts.partner:Prior", ", ensemble_method: own_parts.method:Quantile"), True,
     the_median),
    ("partner", MEMBERS % ("{type: own_parts.partner:Prior, options: {count: 5}}", ""), True,
     lambda run: len(np.unique(run.result.combined.members[1].predictions, axis=0)) <= 2),
    ("executor", "parallel: {executor: own_parts.executor:Backwards}\n" + FOLDS % "", True,
     lambda run: importlib.import_module("own_parts.executor").USED == [1, 0]),
]
NAMES = [f"{case[0]}{'-folds' * case[2]}" for case in CASES]


@pytest.fixture
def declare(tmp_path):
    "Writes a declaration of the ground and of what a case adds to it, and texts with stars; gives the file's path."
    rng, words = np.random.default_rng(0), ["awful", "poor", "fair", "good", "superb"]
    stars = np.arange(100) % 5 + 1
    fill = rng.choice(["film", "food", "room", "staff"], len(stars))
    frame = pd.DataFrame({"id": np.arange(100), "text": [f"{f} {i} was {words[s - 1]}" for i, (f, s) in
                                                         enumerate(zip(fill, stars, strict=True))], "stars": stars})
    frame.to_csv(tmp_path / "stars.csv", index=False)
    new = frame[:10].assign(id=np.arange(500, 510), text=[f"garden {i} was {words[i % 5]}" for i in range(10)])
    new.drop(columns="stars").to_csv(tmp_path / "new.csv", index=False)

    def write(text: str) -> Path:
        (tmp_path / "ground.yaml").write_text(GROUND)
        (tmp_path / "run.yaml").write_text(f"extends: ground.yaml\n{text}\n")
        return tmp_path / "run.yaml"
    return write


def forget(monkeypatch, name):
    "As in a new process, in which nobody has imported the part."
    monkeypatch.delitem(sys.modules, f"own_parts.{name}", raising=False)


@pytest.mark.parametrize(("name", "text", "folds", "works"), CASES, ids=NAMES)
def test_a_part_of_ones_own_is_added_by_yaml_alone(name, text, folds, works, declare, tmp_path, monkeypatch):
    module, path = f"own_parts.{name}", declare(text)
    monkeypatch.chdir(tmp_path)
    forget(monkeypatch, name)
    config = load_config(path, output_dir=str(tmp_path), run_name="first")
    assert module in config.to_yaml() and config.diff(load_config(tmp_path / "ground.yaml")) and json_schema()
    assert not Form(path).problems and not Form(path).difference()
    assert load_config(config.save(tmp_path / "saved.yaml")) == config
    assert module not in sys.modules        # to read, show, compare, edit and save imports nothing
    first = (run_competition if folds else run_training)(config)
    assert importlib.import_module(module).USED and works(first)

    forget(monkeypatch, name)               # what the run has kept of its declaration does the same once more
    again = (run_competition if folds else run_training)(first.result.output_dir / "config.yaml", run_name="again")
    assert importlib.import_module(module).USED and works(again)
    if folds: assert again.result.mean == first.result.mean
    else: assert again.result.metrics == first.result.metrics


@pytest.mark.parametrize(("name", "text"), [case[:2] for case in CASES if case[0] in ("architecture", "pooling", "task")
                                            and not case[2]])
def test_a_saved_model_with_a_part_of_ones_own_predicts(name, text, declare, tmp_path, monkeypatch):
    run = run_training(declare(text), output_dir=str(tmp_path), run_name="first")
    rows = pd.DataFrame({"id": [1, 2], "purpose": ["car", "radio"], "credit_amount": [100, 900],
                         "text": ["a garden was awful", "a garden was superb"]})
    forget(monkeypatch, name)
    with pytest.raises(MLXBertError, match="code outside this package|not supported"):
        create_model(pretrained=run.model_folder)
    assert f"own_parts.{name}" not in sys.modules       # a file cannot name code
    predictions = load(run.result.output_dir).predict(rows)
    assert np.allclose(predictions.values, run.trainer.predict(rows).values, atol=1e-6)
    assert importlib.import_module(f"own_parts.{name}").USED


def test_an_ordinal_task_has_a_logit_less_than_classes_and_keeps_them_in_order(declare, tmp_path, monkeypatch):
    run = run_training(declare(STARS), output_dir=str(tmp_path), run_name="first")
    model = run.trainer.model
    assert (model.num_labels, model.classifier.weight.shape[0], model.head_type) == (5, 4, "ordinal")
    test = pd.read_csv(run.predictions)
    assert np.abs(test["stars"].to_numpy() - (np.arange(10) % 5 + 1)).mean() < 0.5
    forget(monkeypatch, "task")
    with pytest.raises(TaskError, match="code outside this package"): LabelMap.load(run.model_folder)
    assert "own_parts.task" not in sys.modules
    named = {"type": "own_parts.task:Ordinal", "options": {"at": 0.5}}
    assert LabelMap.load(run.model_folder, named).classes == (1, 2, 3, 4, 5)
    again = create_model(pretrained=run.model_folder, head_type=named)
    assert again.head_spec == model.head_spec and again.label_names == ["1", "2", "3", "4", "5"]


def test_out_of_fold_predictions_of_a_task_of_ones_own(declare, tmp_path, monkeypatch):
    run = run_competition(declare(STARS + "kaggle: {cv_folds: 2, submission_dir: submissions}"),
                          output_dir=str(tmp_path), run_name="first", submission_dir=str(tmp_path / "submissions"))
    file = next((run.result.output_dir / "oof").glob("*.npz"))
    with pytest.raises(TaskError, match="code outside this package"): load_oof(file)
    oof = load_oof(file, "own_parts.task:Ordinal")
    assert oof.head_type == "ordinal" and oof.predictions.shape == (100, 5) and run.result.metric == "qwk"
    sent = pd.read_csv(run.submission.path)
    assert len(sent) == 10 and set(sent.columns) == {"id", "stars"} and sent["stars"].isin(range(1, 6)).all()
    assert (run.result.output_dir / "folds" / "fold-0-0" / "model" / "config.json").is_file()


@pytest.mark.parametrize(("key", "value", "words"), [
    ("training.loss", "mse", "which has auto, cross_entropy, focal"),
    ("training.target_transform", "log1p", "classes have none"),
    ("kaggle.target_transform", "log1p", "classes have none"),
])
def test_what_does_not_suit_a_task_of_ones_own_is_said_when_the_run_is_built(key, value, words, declare, tmp_path):
    config = load_config(declare(STARS), output_dir=str(tmp_path), **{key: value})
    make = create_kaggle_trainer if key.startswith("kaggle") else create_trainer
    with pytest.raises(ConfigError, match=words): make(config=config)


@pytest.mark.parametrize("text", [
    "optimizer: {type: os:system, options: {command: touch TRACE}}",
    "scheduler: {type: os:system, options: {command: touch TRACE}}",
    "callbacks: [{type: os:system, command: touch TRACE}]",
    "environment: {trainer: os:system}",
    "optimizer: {type: own_parts.schedule:Blink}",
])
def test_what_is_of_another_kind_is_refused_and_not_called(text, declare, tmp_path):
    path = declare(text.replace("TRACE", str(tmp_path / "trace")))
    with pytest.raises((RegistryError, ConfigError), match="is not a|standard library"):
        create_trainer(config=load_config(path, output_dir=str(tmp_path))).train()
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(("text", "words"), [
    ("optimizer: {type: own_parts.optimizer:SignDescend}", "Did you mean 'SignDescent'"),
    ("optimizer: {type: own_parts.nowhere:SignDescent}", "no module 'own_parts.nowhere'"),
    ("optimizer: {type: own_parts.optimizer:SignDescent, options: {scael: 1}}", "Did you mean 'scale'"),
    ("scheduler: {type: own_parts.schedule:Blink, warmup_ratio: 0.1}", "has no warm-up"),
    ("model: {head_type: own_parts.pooling:mean_and_max}", "is not a task"),
    ("model: {head_type: {type: own_parts.task:Ordinal, options: {a: 0.4}}}", "argument of task"),
])
def test_a_mistake_in_the_name_of_a_part_is_answered(text, words, declare, tmp_path):
    config = load_config(declare(text), output_dir=str(tmp_path))
    with pytest.raises(MLXBertError, match=words): create_trainer(config=config).train()
