"""Parts that stand in no registry, each in one file outside the package, are declared in YAML and train.

A case is one line: the name of the part's file, what the declaration says of it, and the module of the package that
must be there before it can be tried. A file has a list `USED`, into which the part writes when it is at work.
"""
import importlib
import importlib.util
import sys
from pathlib import Path

import pytest

from mlx_bert_training import create_kaggle_trainer, create_trainer
from mlx_bert_training.declaration.load import load_config
from mlx_bert_training.declaration.schema import json_schema
from mlx_bert_training.errors import MLXBertError
from mlx_bert_training.registry import RegistryError
from mlx_bert_training.widgets.form import Form

GROUND = """\
model: {config: {hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}}
data: {train_path: "demo:german_credit/train.csv", target_column: risk, id_column: id, max_train_rows: 60,
       max_length: 16, template: "{purpose} of {credit_amount}"}
optimizer: {learning_rate: 1e-3}
training: {num_epochs: 1, save_strategy: no}
environment: {device: cpu, compile: false}
"""
CASES = [   # (file, declaration, module it waits for, whether it is about cross-validation)
    ("optimizer", "optimizer: {type: own_parts.optimizer:SignDescent, options: {scale: 0.5}}", "", False),
    ("schedule", "scheduler: {type: own_parts.schedule:Blink, options: {part: 0.1}}", "", False),
    ("callback", "callbacks: [{type: own_parts.callback:Counter, options: {by: 2}}]", "", False),
    ("trainer", "environment: {trainer: own_parts.trainer:Quiet}", "", False),
    ("loss", "training: {loss: own_parts.loss:Doubt}", "tasks.task", False),
    ("metric", "training: {metrics: [own_parts.metric:POSITIVE_SHARE]}", "tasks.task", False),
]
NAMES = [case[0] for case in CASES]


@pytest.fixture
def declare(tmp_path):
    "Writes a declaration of the ground and of what a case adds to it; gives the file's path."
    def write(text: str) -> Path:
        (tmp_path / "ground.yaml").write_text(GROUND)
        (tmp_path / "run.yaml").write_text(f"extends: ground.yaml\n{text}\n")
        return tmp_path / "run.yaml"
    return write


@pytest.mark.parametrize(("name", "text", "needs", "folds"), CASES, ids=NAMES)
def test_a_part_of_ones_own_is_added_by_yaml_alone(name, text, needs, folds, declare, tmp_path, monkeypatch):
    if needs and importlib.util.find_spec(f"mlx_bert_training.{needs}") is None: pytest.skip(f"there is no {needs} yet")
    module, path = f"own_parts.{name}", declare(text)
    monkeypatch.delitem(sys.modules, module, raising=False)
    config = load_config(path, output_dir=str(tmp_path))
    assert module in config.to_yaml() and config.diff(load_config(tmp_path / "ground.yaml")) and json_schema()
    assert not Form(path).problems and not Form(path).difference()
    assert load_config(config.save(tmp_path / "saved.yaml")) == config
    assert module not in sys.modules        # to read, show, compare, edit and save imports nothing
    if folds: create_kaggle_trainer(config=config).train_with_cv()
    else: create_trainer(config=config).train()
    assert importlib.import_module(module).USED


@pytest.mark.parametrize("text", [
    "optimizer: {type: os:system, options: {command: touch TRACE}}",
    "scheduler: {type: os:system, options: {command: touch TRACE}}",
    "callbacks: [{type: os:system, command: touch TRACE}]",
    "environment: {trainer: os:system}",
    "optimizer: {type: own_parts.schedule:Blink}",
])
def test_what_is_of_another_kind_is_refused_and_not_called(text, declare, tmp_path):
    config = load_config(declare(text.replace("TRACE", str(tmp_path / "trace"))), output_dir=str(tmp_path))
    with pytest.raises(RegistryError, match="is not a"): create_trainer(config=config).train()
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(("text", "words"), [
    ("optimizer: {type: own_parts.optimizer:SignDescend}", "Did you mean 'SignDescent'"),
    ("optimizer: {type: own_parts.nowhere:SignDescent}", "no module 'own_parts.nowhere'"),
    ("optimizer: {type: own_parts.optimizer:SignDescent, options: {scael: 1}}", "Did you mean 'scale'"),
    ("scheduler: {type: own_parts.schedule:Blink, warmup_ratio: 0.1}", "has no warm-up"),
])
def test_a_mistake_in_the_name_of_a_part_is_answered(text, words, declare, tmp_path):
    config = load_config(declare(text), output_dir=str(tmp_path))
    with pytest.raises(MLXBertError, match=words): create_trainer(config=config).train()
