"""Classes that are called like nothing, like true and false, or that look like another one; points after thousands."""
from __future__ import annotations

import json
import logging

import pandas as pd
import pytest

from mlx_bert_training.data.frames import read_frame, require_columns
from mlx_bert_training.data.labels import fit_labels
from mlx_bert_training.errors import DataError
from mlx_bert_training.kaggle.submission import SubmissionError, _label_cells, read_sample


def labelled(path, labels, task="binary_classification"):
    if path.suffix == ".jsonl": path.write_text("\n".join(json.dumps({"label": label}) for label in labels))
    else: path.write_text("\n".join(["label", *labels]) + "\n")
    return read_frame(path, as_text=["label"] if path.suffix == ".csv" else [])


def test_classes_that_are_called_like_nothing(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        found = fit_labels(labelled(tmp_path / "a.csv", ["NA", "null", "NA"]), "label", "binary")
    assert found.classes == ("NA", "null") and "'NA' is a class, although" in caplog.text
    with pytest.raises(DataError, match="line 3, column 'label': the target is missing"):
        fit_labels(labelled(tmp_path / "b.csv", ["1", "NA", "0"]), "label", "binary")


@pytest.mark.parametrize(("train", "other"), [
    (["True", "False"], ["true", "FALSE"]), ([True, False], ["true", "False"]), (["true", "false"], [True, False]),
    ([1, 0], [True, False])])
def test_true_and_false_are_the_same_however_they_are_written(tmp_path, train, other):
    found = fit_labels(labelled(tmp_path / "a.jsonl", train), "label", "binary")
    assert found.encode(labelled(tmp_path / "b.jsonl", other)).tolist() == [1, 0]
    if all(isinstance(label, str) for label in other):
        assert found.encode(labelled(tmp_path / "b.csv", other)).tolist() == [1, 0]


def test_other_classes_are_the_same_only_as_they_are_written(tmp_path):
    found = fit_labels(labelled(tmp_path / "a.jsonl", ["a", "b"]), "label", "binary")
    with pytest.raises(DataError, match="'A' is not a label of the training data. Did you mean 'a'"):
        found.encode(labelled(tmp_path / "b.jsonl", ["A", "b"]))
    found = fit_labels(labelled(tmp_path / "c.jsonl", [1, 2]), "label", "binary")
    with pytest.raises(DataError, match="'1' is not a label.*stands here as a text and there as another kind"):
        found.encode(labelled(tmp_path / "d.jsonl", ["1", "2"]))


def test_classes_that_look_the_same(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        fit_labels(labelled(tmp_path / "a.csv", ["caf\u00e9", "cafe\u0301"]), "label", "binary")
    assert "are two classes, and look the same" in caplog.text and "'cafe\\u0301'" in caplog.text


@pytest.mark.parametrize(("positive", "labels", "last"), [(True, ["yes", "no"], "yes"), (False, ["on", "off"], "off"),
                                                          (False, ["True", "False"], "False")])
def test_a_positive_class_that_yaml_reads_as_a_boolean(tmp_path, positive, labels, last):
    found = fit_labels(labelled(tmp_path / "a.csv", labels), "label", "binary", positive=positive)
    assert found.classes[1] == last


@pytest.mark.parametrize(("cell", "said"), [("1 000", "without marks between thousands"), ("1'000", "without marks"),
                                            ("1\u202f000", "without marks"), ("5%", "Take signs")])
def test_marks_between_thousands(tmp_path, cell, said):
    with pytest.raises(DataError, match=said):
        fit_labels(labelled(tmp_path / "a.csv", [cell, "2", "3"]), "label", "regression")


def test_points_that_may_stand_after_thousands_are_said(tmp_path, caplog):
    (tmp_path / "a.csv").write_text("t;x;y\na;1.500;0.125\nb;20;2.250\n")
    with caplog.at_level(logging.INFO): frame = read_frame(tmp_path / "a.csv")
    assert frame["x"].tolist() == [1.5, 20] and "column 'x': 1.500 is read as 1.5; data.decimal" in caplog.text
    assert "column 'y'" not in caplog.text
    caplog.clear()
    assert read_frame(tmp_path / "a.csv", decimal=",")["x"].tolist() == [1500, 20] and "is read as" not in caplog.text


@pytest.mark.parametrize("separator", ["tab", "\\t", "\t"])
def test_a_tab_can_be_said(tmp_path, separator):
    (tmp_path / "a.csv").write_text("a\tb\n1\t2\n")
    assert list(read_frame(tmp_path / "a.csv", separator=separator)) == ["a", "b"]


def test_blanks_around_names_are_shown(tmp_path):
    (tmp_path / "a.csv").write_text(" text ,label \na,b\n")
    with pytest.raises(DataError, match="It has: ' text ', 'label '"):
        require_columns(read_frame(tmp_path / "a.csv"), ["label"])


@pytest.mark.parametrize(("labels", "words", "fits"), [
    (["Y", "N"], ["yes"], False), (["b", "a"], ["A"], False), (["True", "False"], ["no"], False),
    (["b", "a"], ["a"], True), (["b", "a"], ["unknown"], True), (["no"], ["yes"], True)])
def test_a_sample_of_one_word_that_spells_the_classes_otherwise(labels, words, fits):
    sample = read_sample(pd.DataFrame({"id": range(3), "label": (words * 3)[:3]}))
    if fits: assert _label_cells(labels, sample) == labels
    else:
        with pytest.raises(SubmissionError, match="use the sample's names"): _label_cells(labels, sample)
