"""Labels to numbers and back, and targets that cannot be used."""
import json

import numpy as np
import pandas as pd
import pytest

from mlx_bert_training.data.frames import read_frame
from mlx_bert_training.data.labels import LabelMap, fit_labels
from mlx_bert_training.errors import DataError, UnknownNameError


@pytest.mark.parametrize("values, classes", [
    ([10, 9, 100, 9], (9, 10, 100)),
    (["b", "a", "c", "a"], ("a", "b", "c")),
    ([2.5, 1.0, 2.0], (1.0, 2.0, 2.5)),
])
def test_classes_are_sorted_and_come_back_as_they_were(values, classes, tmp_path):
    frame = pd.DataFrame({"y": values})
    labels = fit_labels(frame, "y", "multiclass")
    assert labels.classes == classes and labels.num_labels == len(classes)
    encoded = labels.encode(frame)
    assert encoded.dtype == np.int32 and encoded.tolist() == [classes.index(v) for v in values]
    labels.save(tmp_path)
    loaded = LabelMap.load(tmp_path)
    assert loaded == labels
    decoded = loaded.decode(encoded).tolist()
    assert decoded == values and [type(v) for v in decoded] == [type(v) for v in values]
    assert fit_labels(frame[::-1], "y", "multiclass") == labels


def test_binary_second_class_is_the_positive_one():
    labels = fit_labels(pd.DataFrame({"y": [True, False]}), "y", "binary")
    assert labels.classes == (False, True) and labels.num_labels == 2
    assert labels.decode(np.array([1, 0])).tolist() == [True, False]
    assert labels.label_names == ["False", "True"]


def test_regression():
    frame = pd.DataFrame({"y": [1, 2.5]})
    labels = fit_labels(frame, "y", "regression")
    assert labels.num_labels == 1 and labels.label_names == ["y"]
    assert labels.encode(frame).dtype == np.float64
    assert labels.decode(labels.encode(frame)).tolist() == [1, 2.5]


def test_multilabel_columns():
    frame = pd.DataFrame({"a": [1, 0], "b": [True, True], "c": [0.0, 0.0]})
    labels = fit_labels(frame, ["a", "b", "c"], "multilabel")
    assert labels.label_names == ["a", "b", "c"] and labels.num_labels == 3
    encoded = labels.encode(frame)
    assert encoded.dtype == np.float32 and encoded.tolist() == [[1, 1, 0], [0, 1, 0]]
    assert labels.decode(encoded).tolist() == [[1, 1, 0], [0, 1, 0]]


def test_multilabel_names_in_one_column(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"y": ["b", "a"]}\n{"y": []}\n{"y": "c"}\n')
    labels = fit_labels(read_frame(tmp_path / "a.jsonl"), "y", "multilabel")
    encoded = labels.encode(read_frame(tmp_path / "a.jsonl"))
    assert encoded.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert labels.decode(encoded).tolist() == ["a b", "", "c"]
    numbers = fit_labels(pd.DataFrame({"y": [3, 5]}), "y", "multilabel")  # a file where nobody has two
    assert numbers.classes == ("3", "5")


def csv(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    return read_frame(tmp_path / "a.csv")


def test_label_never_seen_names_file_row_value_and_nearest(tmp_path):
    labels = fit_labels(pd.DataFrame({"y": ["good", "bad"]}), "y", "binary")
    with pytest.raises(DataError, match=r"a\.csv, line 3, column 'y': 'goood' is not a label.*mean 'good'.*'bad'"):
        labels.encode(csv(tmp_path, "x,y\n1,bad\n2,goood\n"))
    with pytest.raises(DataError, match="no column 'y'"): labels.encode(csv(tmp_path, "x\n1\n"))
    numbers = fit_labels(pd.DataFrame({"y": [0, 1]}), "y", "binary")
    with pytest.raises(DataError, match="line 2, column 'y': '1' is not"):  # text, since one cell of the file is
        numbers.encode(csv(tmp_path, "y\n1\nx\n"))


@pytest.mark.parametrize("head_type", ["binary", "multiclass", "regression"])
def test_missing_target(tmp_path, head_type):
    frame = csv(tmp_path, "x,y\n1,1\n2,\n3,\n4,0\n")
    with pytest.raises(DataError, match=r"a\.csv, line 3, column 'y': the target is missing \(2 rows"):
        fit_labels(frame, "y", head_type)


def test_an_empty_cell_of_labels_is_a_row_without_labels(tmp_path):
    frame = csv(tmp_path, "x,y\n1,a b\n2,\n3,b\n")
    labels = fit_labels(frame, "y", "multilabel")
    assert labels.encode(frame).tolist() == [[1, 1], [0, 0], [0, 1]]


@pytest.mark.parametrize(("cells", "separator"), [
    (["rust,scab", "scab", "rust, healthy"], ","), (["rust;scab", "very dry"], ";"), (["rust|scab"], "|"),
    (["rust scab", "dry"], " "), (["['rust', 'scab']", "['dry']"], " "), (['["rust","scab"]', "[]"], " "),
    (["('rust', 'scab')", ""], " ")])
def test_what_separates_labels_is_found(tmp_path, cells, separator):
    frame = pd.DataFrame({"y": cells})
    labels = fit_labels(frame, "y", "multilabel")
    assert labels.separator == separator and {"rust", "scab"} <= set(labels.classes)
    assert all(name.replace(" ", "").isalpha() for name in labels.classes)
    labels.save(tmp_path)
    assert LabelMap.load(tmp_path) == labels
    assert fit_labels(pd.DataFrame({"y": labels.decode(labels.encode(frame))}), "y", "multilabel",
                      separator=separator) == labels


def test_a_separator_in_doubt_is_asked_for(tmp_path):
    frame = csv(tmp_path, 'x,y\n1,"rust,scab"\n2,dry;scab\n')
    with pytest.raises(DataError, match=r"line 3, column 'y'.*'rust,scab' and 'dry;scab'.*data.label_separator"):
        fit_labels(frame, "y", "multilabel")
    assert fit_labels(frame, "y", "multilabel", separator=",").classes == ("dry;scab", "rust", "scab")


@pytest.mark.parametrize("cells", [[True, False], ["True", "False"], ["true", "FALSE"], [1.0, 0.0], ["1.0", "0"]])
def test_columns_of_yes_and_no(cells):
    frame = pd.DataFrame({"a": cells, "b": cells[::-1]})
    assert fit_labels(frame, ["a", "b"], "multilabel").encode(frame).tolist() == [[1, 0], [0, 1]]


def test_a_positive_class_is_declared():
    frame = pd.DataFrame({"y": ["abnormal", "normal"]})
    assert fit_labels(frame, "y", "binary").classes == ("abnormal", "normal")
    labels = fit_labels(frame, "y", "binary", positive="abnormal")
    assert labels.classes == ("normal", "abnormal") and labels.encode(frame).tolist() == [1, 0]
    assert fit_labels(pd.DataFrame({"y": [0, 1]}), "y", "binary", positive="0").classes == (1, 0)
    with pytest.raises(DataError, match="'odd' does not occur; the classes are 'abnormal', 'normal'"):
        fit_labels(frame, "y", "binary", positive="odd")


def test_missing_target_of_a_multilabel_column(tmp_path):
    frame = csv(tmp_path, "a,b\n1,1\n0,\n")
    with pytest.raises(DataError, match="line 3, column 'b'"): fit_labels(frame, ["a", "b"], "multilabel").encode(frame)
    frame = csv(tmp_path, "a,b\n1,1\n0,2\n")
    with pytest.raises(DataError, match="line 3, column 'b': 2 is neither 0 nor 1"):
        fit_labels(frame, ["a", "b"], "multilabel").encode(frame)


@pytest.mark.parametrize(("cell", "said"), [("x", "finite number"), ("inf", "finite number"), ("1e60", "beyond 3.4")])
def test_regression_needs_numbers_that_can_be_computed_with(tmp_path, cell, said):
    frame = csv(tmp_path, f"x,y\n1,1\n2,{cell}\n")
    with pytest.raises(DataError, match=f"line 3, column 'y'.*{said}"): fit_labels(frame, "y", "regression")


def test_number_of_classes():
    with pytest.raises(DataError, match="only one class"): fit_labels(pd.DataFrame({"y": [1, 1]}), "y", "multiclass")
    with pytest.raises(DataError, match="found 3.*multiclass_classification takes them"):
        fit_labels(pd.DataFrame({"y": [1, 2, 3]}), "y", "binary")
    with pytest.raises(DataError, match="one target column is needed"):
        fit_labels(pd.DataFrame({"a": [1], "b": [2]}), ["a", "b"], "regression")
    with pytest.raises(DataError, match="cannot be a class"): fit_labels(pd.DataFrame({"y": [[1], [2]]}), "y", "binary")
    with pytest.raises(UnknownNameError, match="binary_classification"):
        fit_labels(pd.DataFrame({"y": [0, 1]}), "y", "binry_classification")


def test_decode_out_of_range():
    with pytest.raises(DataError, match="0 to 1"):
        fit_labels(pd.DataFrame({"y": [3, 7]}), "y", "binary").decode(np.array([0, -1]))


def test_damaged_file(tmp_path):
    with pytest.raises(DataError, match="labels.json"): LabelMap.load(tmp_path)
    (tmp_path / "labels.json").write_text(json.dumps({"head_type": "regression"}))
    with pytest.raises(DataError, match="columns"): LabelMap.load(tmp_path)


@pytest.mark.parametrize(("values", "said"), [
    (["normal", "abnormal"], "the positive class is 'normal', the other is 'abnormal'"),
    ([3, 7], "positive class is 7"),
    ([0, 1], ""), (["no", "Yes"], ""), ([True, False], ""), ([0.0, 1.0], "")])
def test_a_positive_class_that_nobody_declared_is_shown(values, said, caplog):
    caplog.set_level("INFO")
    fit_labels(pd.DataFrame({"y": values}), "y", "binary")
    assert (said in caplog.text) if said else "positive" not in caplog.text
    caplog.clear()
    fit_labels(pd.DataFrame({"y": values}), "y", "binary", positive=values[0])
    assert "positive" not in caplog.text


def test_a_separator_that_was_found_is_shown(caplog):
    caplog.set_level("INFO")
    fit_labels(pd.DataFrame({"y": ["rust,scab", "scab"]}), "y", "multilabel")
    assert "separated by ','" in caplog.text
