"""A declaration that is changed keeps its comments, its order and its meaning; what cannot be kept is refused."""
import json
import re
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_bert_training.core.config import KaggleTrainerConfig
from mlx_bert_training.declaration.editing import REMOVED, edit_text, find_changes, save_edited, short, write_value
from mlx_bert_training.declaration.editing import settings as read_settings
from mlx_bert_training.declaration.load import load_config, preset_paths
from mlx_bert_training.declaration.problems import ConfigError
from mlx_bert_training.declaration.yaml_io import parse_yaml
from mlx_bert_training.errors import MissingExtraError

COMMENTED = """\
# What is tried here.
extends: production   # a preset

# about the data
data: {train_path: train.csv, text_column: text,  batch_size: 32}  # in one line

optimizer:
    type: adamw          # four blanks deep
    learning_rate: 2e-5  # small
    # the last word on the optimizer

# how it goes down
scheduler:
    type: cosine      # once
training:
    metrics:      # in this order
    - auc         # the leaderboard's
    - accuracy
    eval_strategy: no
    load_best_at_end: false
    early_stopping: false
    save_strategy: epoch
tracking: none        # not yet

callbacks:
- type: learning_curve   # the first
  # between them
- type: progress_bar
# the end
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(COMMENTED)
    return path


def comments(text):
    "Every comment, in its order."
    return re.findall(r"(?:^|\s)(#.*)", text)


def other_lines(before, after):
    "The lines that are new, and those that are gone."
    old, new = before.splitlines(), after.splitlines()
    return [line for line in new if line not in old], [line for line in old if line not in new]


@pytest.mark.long
@pytest.mark.parametrize("name", preset_paths())
@pytest.mark.parametrize("key, value", [("optimizer.learning_rate", 3e-5), ("training.num_epochs", 7),
                                        ("optimizer.beta2", 0.95), ("tracking.mlflow.tags", {"why": "a try, no more"}),
                                        ("model.config", {"hidden_size": 64}), ("tracking.type", "mlflow")])
def test_a_preset_with_one_other_value_keeps_all_else(tmp_path, name, key, value):
    path = tmp_path / "mine.yaml"
    wanted = read_settings(name) | {key: value}
    before = preset_paths()[name].read_text()
    after = save_edited(wanted, path, name).read_text()
    assert comments(after) == comments(before)
    gone = other_lines(before, after)[1]
    assert len(gone) <= 1
    kept = [line for line in before.splitlines() if line.strip() and line not in gone]
    assert [line for line in after.splitlines() if line in kept] == kept, "the order has changed"
    assert read_settings(path) == wanted and load_config(path) == load_config(None, **wanted)


@pytest.mark.parametrize("name", preset_paths())
def test_a_preset_without_a_change_is_the_same_text(tmp_path, name):
    path = save_edited(read_settings(name), tmp_path / "mine.yaml", name)
    assert path.read_text() == preset_paths()[name].read_text()


@pytest.mark.parametrize("name, key, value", [("production", "data.batch_size", 3), ("titanic", "kaggle.cv_folds", 3),
                                              ("titanic", "data.template", "{Sex} of {Age}"),
                                              ("titanic", "data.template_defaults", {"*": "none", "Age": "unknown"})])
def test_every_value_of_a_preset_can_be_changed(tmp_path, name, key, value):
    wanted = read_settings(name) | {key: value}
    path = save_edited(wanted, tmp_path / "mine.yaml", name)
    assert comments(path.read_text()) == comments(preset_paths()[name].read_text()) and read_settings(path) == wanted


CHANGES = [
    ({"optimizer.learning_rate": 5e-5}, ["    learning_rate: 5e-5  # small"], 1),
    ({"optimizer.weight_decay": 0.2}, ["    weight_decay: 0.2"], 0),
    ({"data.max_length": 64},
     ["data: {train_path: train.csv, text_column: text,  batch_size: 32,  max_length: 64}  # in one line"], 1),
    ({"training.metrics": ["auc", "f1"]}, ["    - f1"], 1),
    ({"training.metrics": ["auc", "accuracy", "f1"]}, ["    - f1"], 0),
    ({"training.best_metric": "no"}, ["    best_metric: 'no'"], 0),
    ({"tracking.type": "mlflow"}, ["tracking: mlflow        # not yet"], 1),
    ({"tracking.mlflow.tags": {"what": "a test"}},
     ["tracking:        # not yet", "  type: none", "  mlflow:", "    tags:", "      what: a test"], 1),
    ({"model.pooling": "mean"}, ["model:", "  pooling: mean"], 0),
    ({"kaggle": {}}, ["kaggle: {}"], 0),
    ({"model.num_labels": 2, "model.pooling": None}, ["model:", "  num_labels: 2", "  pooling: null"], 0),
]


@pytest.mark.parametrize("changes, new, gone", CHANGES, ids=lambda value: str(value)[:40])
def test_only_the_lines_of_a_change_are_other_lines(changes, new, gone):
    after = edit_text(COMMENTED, changes)
    found = other_lines(COMMENTED, after)
    assert found[0] == new and len(found[1]) == gone
    assert comments(after) == comments(COMMENTED)


def test_a_list_of_callbacks_keeps_the_comments_within(file):
    callbacks = [{"type": "learning_curve", "every": 2}, {"type": "progress_bar"}]
    after = edit_text(COMMENTED, {"callbacks": callbacks})
    assert parse_yaml(after).value["callbacks"] == callbacks and comments(after) == comments(COMMENTED)
    shorter = edit_text(COMMENTED, {"callbacks": callbacks[:1]})
    assert "# the first" in shorter and parse_yaml(shorter).value["callbacks"] == callbacks[:1]


def test_a_file_that_extends_goes_on_to_extend_and_gets_only_what_is_changed(file):
    wanted = read_settings(file) | {"optimizer.weight_decay": 0.1}
    after = save_edited(wanted, file).read_text()
    assert other_lines(COMMENTED, after) == (["    weight_decay: 0.1"], [])
    assert read_settings(file) == wanted


def test_windows_line_ends_and_a_byte_order_mark_are_no_obstacle(file):
    file.write_bytes(b"\xef\xbb\xbf" + COMMENTED.replace("\n", "\r\n").encode())
    save_edited(read_settings(file) | {"model.pooling": "max", "optimizer.learning_rate": 1e-3}, file)
    text = file.read_bytes()
    assert text.count(b"\r\n") == text.count(b"\n") == COMMENTED.count("\n") + 3
    assert load_config(file).model.pooling == "max"


def test_json_stays_json_and_keeps_its_order_and_indentation(tmp_path):
    path = tmp_path / "run.json"
    path.write_text('{\n    "training": {"num_epochs": 3},\n    "data": {"text_column": "Töxt"}\n}\n')
    save_edited(read_settings(path) | {"training.num_epochs": 4, "optimizer.learning_rate": 1e-4}, path)
    assert list(json.loads(path.read_text())) == ["training", "data", "optimizer"]
    assert path.read_text().startswith('{\n    "training"') and "Töxt" in path.read_text()
    assert load_config(path).training.num_epochs == 4


@pytest.mark.parametrize("source, target", [("run.yaml", "new.json"), ("run.json", "new.yaml")])
def test_the_suffix_says_what_is_written(file, tmp_path, source, target):
    wanted = read_settings(file)
    save_edited(wanted, tmp_path / "run.json", file)
    save_edited(wanted, tmp_path / target, tmp_path / source)
    assert read_settings(tmp_path / target) == wanted
    assert (tmp_path / target).read_text().startswith("{") == target.endswith(".json")


def test_without_a_source_only_what_is_no_default_is_written(tmp_path):
    path = save_edited(read_settings({"data": {"max_length": 64}}), tmp_path / "new.yaml")
    assert path.read_text() == "data:\n  max_length: 64\n"
    assert save_edited(read_settings(None), tmp_path / "default.yaml").read_text() == "{}\n"
    assert load_config(tmp_path / "default.yaml") == load_config()


def test_what_was_settled_is_not_written_as_if_it_had_been_said(file):
    assert find_changes(read_settings(load_config("development")), "development") == {}
    assert find_changes(read_settings("development") | {"training.early_stopping": False}, "development") == {
        "training.early_stopping": False}


def test_a_relative_extends_is_followed_to_another_folder(file, tmp_path):
    (tmp_path / "child.yaml").write_text("extends: run.yaml  # beside it\ntraining: {num_epochs: 2}\n")
    wanted = read_settings(tmp_path / "child.yaml") | {"training.num_epochs": 3}
    other = save_edited(wanted, tmp_path / "deep" / "er" / "child.yaml", tmp_path / "child.yaml")
    assert other.read_text() == "extends: ../../run.yaml  # beside it\ntraining: {num_epochs: 3}\n"
    assert read_settings(other) == wanted


def test_a_competition_comes_and_goes(file):
    wanted = read_settings(file) | {key: value for key, value in read_settings({"kaggle": {}}).items()
                                    if key.startswith("kaggle.")}
    save_edited(wanted, file)
    assert isinstance(load_config(file), KaggleTrainerConfig) and file.read_text().startswith(COMMENTED)
    save_edited(read_settings("production"), file, file)
    assert not isinstance(load_config(file), KaggleTrainerConfig)


REFUSED = [
    ("extends: kaggle\n", lambda s: {k: v for k, v in s.items() if not k.startswith("kaggle.")}, "kaggle"),
    ("extends: titanic\n", lambda s: s | {"data.template_defaults": {"Age": "unknown"}}, "template_defaults"),
    ("training: {num_epochs: 2}\n", lambda s: s | {"training.num_epochs": 0}, "num_epochs"),
]


@pytest.mark.parametrize("text, change, names", REFUSED, ids=[names for *_, names in REFUSED])
def test_what_cannot_be_said_is_refused_and_the_file_left_alone(file, text, change, names):
    file.write_text(text)
    with pytest.raises(ConfigError, match=names): save_edited(change(read_settings(file)), file)
    assert file.read_text() == text and [path.name for path in file.parent.iterdir()] == [file.name]


def test_only_yaml_and_json_are_written(tmp_path):
    with pytest.raises(ConfigError, match="YAML or JSON"): save_edited(read_settings(None), tmp_path / "run.toml")


def test_without_the_library_the_extra_is_named(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml_edit", None)
    with pytest.raises(MissingExtraError, match=r"\[notebook\]"): save_edited(read_settings("quick_test"), file)
    assert file.read_text() == COMMENTED


NUMBERS = st.integers(-10**6, 10**6) | st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=60),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1, max_size=8), inner, max_size=3),
    max_leaves=6)


@settings(max_examples=150)
@given(first=PLAIN, second=PLAIN)
def test_any_value_in_place_of_any_other_reads_back(first, second):
    "In the middle of a section and at its end, in block and in flow style; comments around it stay."
    for frame in ("m:\n  a: 0  # a\n  value: 1  # v\n  z: 2\n\n# n\nn: 3\n", "m: {a: 0, value: 1}  # v\n\n# n\nn: 3\n",
                  "m:\n  a: 0  # a\n\n# n\nn: 3\n"):
        text = edit_text(edit_text(frame, {"m.value": first}), {"m.value": second})
        expected = parse_yaml(frame).value
        expected["m"]["value"] = second
        document = parse_yaml(text)
        assert not document.problems and document.value == expected, text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_short_numbers_are_the_same_numbers(number):
    assert float(short(number)) == number and parse_yaml(write_value({"n": number})).value == {"n": number}


def test_the_root_may_be_in_flow_style():
    changes = {"model.pooling": "mean", "data": REMOVED}
    assert edit_text("{data: {batch_size: 2}}\n", changes) == "{model: {pooling: mean}}\n"


