"""Words of a declaration that YAML reads as something else, paths of other systems, and variables that nobody reads."""
from __future__ import annotations

import os

import pytest

from mlx_bert_training.declaration.load import load_config
from mlx_bert_training.declaration.problems import ConfigError


def refusal(tmp_path, text, name="run.yaml"):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as refused: load_config(tmp_path / name)
    return str(refused.value)


@pytest.mark.parametrize(("text", "said"), [
    ("environment: {run_name: on}", "Did you mean 'on', in quotes?"),
    ("data: {text_column: Yes}", "Did you mean 'Yes', in quotes?"),
    ("data:\n  text_column: t\n  target_column: no", "Did you mean 'no', in quotes?"),
    ("data: {text_column: 1.10}", "Did you mean '1.10', in quotes?"),
    ("data: {id_column: 1_000}", "Did you mean '1_000', in quotes?"),
    ("data: {target_column: [a, no]}", "item 2: expected text, not false. Did you mean the word in quotes?"),
    ("environment: {seed: 010}", "Did you mean 10, without the zero before it?"),
    ("optimizer:\n  learning_rate: 1,5", "Did you mean 1.5, with a point?"),
    ("optimizer: {learning_rate: '1e-4'}", "Did you mean 0.0001, without quotes?"),
    ("training:\n  num_epochs:1", "Did you mean num_epochs: 1, with a blank after the colon?"),
    ("training:\n  num_epochs = 1", "Did you mean num_epochs: 1, with a blank after the colon?"),
    ("training:\n\u00a0 num_epochs: 1", "\\xa0 num_epochs = 1: there is no such key"),
    ('data: {train_path: "C:\\data\\x.csv"}', "in double quotes a backslash begins an escape"),
    ("data: {template_defaults: {a: off}, template: '{a}'}", "a: is read as true or false; a word stands in quotes")])
def test_the_word_that_was_meant(tmp_path, text, said):
    assert said in refusal(tmp_path, text + "\n")


@pytest.mark.parametrize("key", ["data.train_path", "data.test_path", "environment.output_dir", "model.pretrained"])
@pytest.mark.parametrize(("value", "said"), [
    ("'C:\\data\\x'", "a path has / between folders, not \\. Did you mean C:/data/x"),
    ('"data\\new\\table"', "holds a control character"), ("$HOME/x", "$HOME is not read as a variable"),
    ("'${DATA}/x'", "${DATA} is not read as a variable"), ("'%USERPROFILE%/x'", "%USERPROFILE% is not read")])
def test_paths_that_would_be_other_places(tmp_path, key, value, said):
    section, name = key.split(".")
    assert said in refusal(tmp_path, f"{section}: {{{name}: {value}}}\n")


@pytest.mark.parametrize("name", ["$HOME", "${USER}-1", " a", "a ", "%TEMP%"])
def test_names_that_would_be_odd_folders(name):
    with pytest.raises(ConfigError, match="blank|variable"): load_config({"environment": {"run_name": name}})


@pytest.mark.parametrize(("path", "kept"), [
    ("~/x", os.path.expanduser("~/x")), ("a$b/100%.csv", "a$b/100%.csv"), ("~x/y", "~x/y"),
    ("costs$.csv", "costs$.csv")])
def test_paths_that_are_meant(path, kept):
    assert load_config({"data": {"train_path": path}}).data.train_path == kept


def test_a_number_of_thousands_of_digits(tmp_path):
    assert "thousands of digits" in refusal(tmp_path, '{"environment": {"seed": ' + "9" * 5000 + "}}", "run.json")
