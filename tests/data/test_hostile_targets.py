"""Targets as people write them: labels of a cell in every spelling, classes that look like numbers, odd scales."""
from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from mlx_bert_training import get_trainer_config
from mlx_bert_training.data.labels import fit_labels
from mlx_bert_training.data.prepare import prepare
from mlx_bert_training.errors import DataError
from mlx_bert_training.tasks.targets import TargetTransform


def labels_of(cells, **options):
    frame = pd.DataFrame({"y": cells})
    labels = fit_labels(frame, "y", "multilabel", **options)
    return labels.classes, labels.encode(frame).tolist(), labels


@pytest.mark.parametrize("cells", [
    ["a,b", "a", "b,c"], ["a, b", "a", "b ;c".replace(" ;", ", ")], ["a;b", "a", "b; c"], ["a|b", "a", "b||c"],
    ["a b", "a", "b c"], ["a\tb", "a", "b\nc"], ["['a', 'b']", "['a']", "['b', 'c']"],
    ['["a","b"]', '["a"]', '["b","c"]'],
    ["['a' 'b']", "['a']", "['b' 'c']"], ["{'a', 'b'}", "{'a'}", "{'b', 'c'}"], ["{a,b}", "{a}", "{b,c}"],
    ["[a, b]", "[a]", "[b, c]"], ["('a','b')", "('a',)", "('b','c')"], [["a", "b"], ("a",), np.array(["b", "c"])],
    ["a,a,b", "a", "c,b,"], ["['a','b']", "a", "b,c"]])
def test_every_spelling_of_several_labels_is_the_same(cells):
    classes, encoded, _ = labels_of(cells)
    assert classes == ("a", "b", "c") and encoded == [[1, 1, 0], [1, 0, 0], [0, 1, 1]]


@pytest.mark.parametrize("empty", [None, "", "[]", "set()", "{}", " "])
def test_a_row_without_labels(empty):
    assert labels_of(["a,b", empty, "b"])[1][1] == [0, 0]


@pytest.mark.parametrize("cells, said", [
    (["a,b", "a b", "b,c"], "row 2.*'a b' would be a label"), (["a,b", "a/b", "c"], "row 2.*'a/b' would be a label"),
    (["a/b", "a", "b/c"], "'/' splits it"), (["a+b", "a", "b+c"], r"'\+' splits it"), (["a & b", "a"], "'&' would be"),
    (["a,b", "a and b"], "row 2.*'a and b' would be"), (["a,b", "a;b"], "in doubt"),
    (["['a','b'", "['a']"], "row 1.*begins like a list"), (['"a","b"', '"a"'], "row 1.*begins like a list"),
    (['{"a": 1}', '{"b": 1}'], "row 1.*no list"), ([{"a": 1}, {"b": 1}], "row 1.*not read as labels"),
    (["[0, 1, 1]", "[1, 0, 0]"], "row 1.*a column of its own"), (["0 1 1", "1 0 0"], "row 1.*a column of its own")])
def test_a_cell_in_doubt_is_an_error_that_names_it(cells, said):
    with pytest.raises(DataError, match=said): labels_of(cells)


@pytest.mark.parametrize("cells, separator, classes", [
    (["a/b", "a", "b/c"], "/", ("a", "b", "c")), (["a/b", "a", "b/c"], " ", ("a", "a/b", "b/c")),
    (["a,b", "a b"], ",", ("a", "a b", "b")), (["a & b", "a"], "&", ("a", "b"))])
def test_what_the_error_offers_works(cells, separator, classes):
    assert labels_of(cells, separator=separator)[0] == classes


@pytest.mark.parametrize("cells", [["TCP/IP", "USB"], ["powdery mildew, rust", "rust"], ["C++", "C"],
                                   ["R&D, sales", "R&D"], ["sports/tennis, news", "sports/golf"], ["n/a, x", "x"]])
def test_names_with_marks_are_names(cells):
    assert labels_of(cells)[0]


def test_lists_of_names_with_blanks_come_back_apart():
    _, _, labels = labels_of(["['powdery mildew', 'rust']", "['rust']"])
    assert labels.decode(np.array([[1, 1]])).tolist() == ["powdery mildew,rust"]


@pytest.mark.parametrize("pair", [("yes", "no"), ("Y", "n"), ("t", "F"), ("TRUE", "false"), ("1.0", "0.0")])
def test_columns_of_yes_and_no_in_every_spelling(pair):
    frame = pd.DataFrame({"a": pair, "b": pair[::-1]})
    assert fit_labels(frame, ["a", "b"], "multilabel").encode(frame).tolist() == [[1, 0], [0, 1]]


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    "What is made of a target column in a file."
    monkeypatch.chdir(tmp_path)
    def make(cells, task, name="train.csv", **options):
        rows = [{"text": f"word{i} more", "y": cell} for i, cell in enumerate(cells)]
        if name.endswith("jsonl"): (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
        else: pd.DataFrame(rows).to_csv(name, index=False, sep=options.get("separator", ","))
        return prepare(get_trainer_config(train_path=name, text_column="text", target_column="y", head_type=task,
                                          validation_fraction=0.0, eval_strategy="no", **options))
    return make


@pytest.mark.parametrize("cells, classes", [
    (["1.1", "1.10", "1.2"], ("1.1", "1.10", "1.2")), (["1", "2", "10"], (1, 2, 10)),
    (["01", "2", "3"], ("01", "2", "3")),
    (["1", "1e0", "2"], ("1", "1e0", "2")), (["0.0", "1.0", "2.0"], (0.0, 1.0, 2.0)),
    (["1,5", "2", "3"], ("1,5", "2", "3"))])
def test_two_spellings_are_never_one_class(prepared, cells, classes):
    made = prepared(cells * 2, "multiclass")
    assert made.labels.classes == classes and made.labels.encode(made.frames["train"]).tolist() == [0, 1, 2] * 2


def test_labels_that_look_like_decimal_numbers_are_labels(prepared):
    assert prepared(["1,2", "3,45", "2,3"], "multilabel", separator=";").labels.classes == ("1", "2", "3", "45")


def test_a_text_and_a_number_are_never_two_classes(prepared):
    with pytest.raises(DataError, match="line 2.*a number and elsewhere as a text"):
        prepared(["0", 0, "1", 1], "multiclass", "train.jsonl")
    assert prepared([True, False], "binary", "train.jsonl").labels.classes == (False, True)


@pytest.mark.parametrize("cells, said, classes", [
    (["True", "False"], "false", ("True", "False")), (["1.0", "2.0"], 1, (2.0, 1.0)), (["1.0", "2.0"], "1", (2.0, 1.0)),
    (["yes", "no"], "NO", ("yes", "no")), (["-1", "1"], -1, (1, -1))])
def test_a_positive_class_in_any_spelling(prepared, cells, said, classes):
    assert prepared(cells, "binary", positive_class=said).labels.classes == classes


def test_a_positive_class_of_many_is_refused(prepared):
    with pytest.raises(DataError, match="leave it out"): prepared(["a", "b", "c"], "multiclass", positive_class="a")


def test_classes_that_differ_in_case_only_are_said(prepared, caplog):
    caplog.set_level("INFO")
    prepared(["a", "A", "b "], "multiclass")
    assert "'a' are two classes, and differ only in case or blanks" in caplog.text


@pytest.mark.parametrize("base", [1e9, 1.6e18])
def test_values_of_any_size_keep_their_differences(prepared, base):
    step = base / 1e15
    made = prepared([base + step * i for i in range(1, 13)], "regression")
    transform = TargetTransform.fit("standardize", made.train.labels)
    assert len(set(transform.forward(made.train.labels).tolist())) == 12
    assert transform.inverse(transform.forward(made.train.labels)) == pytest.approx(made.train.labels, rel=1e-15)


@pytest.mark.parametrize("cells, said", [
    ([5, 5, 5], "all 3 values are 5"), (["1,234", "2,000"], "data.decimal"), (["5%", "6%"], "signs"),
    (["low", "high"], "multiclass_classification"), ([1, "inf"], "line 3.*finite"), (["1_000", "2"], "line 2.*finite")])
def test_what_is_no_value_says_what_to_do(prepared, cells, said):
    with pytest.raises(DataError, match=said): prepared(cells, "regression")


@pytest.mark.parametrize("decimal, value", [(".", 1234), (",", 1.234)])
def test_what_is_offered_for_commas_works(prepared, decimal, value):
    assert prepared(["1,234", "2,000"], "regression", decimal=decimal).train.labels[0] == value


def test_a_text_that_looks_like_a_number_stays_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.csv").write_text("text,y\n1.10,0\n1e5,1\nNA,0\n007,1\n")
    made = prepare(get_trainer_config(train_path="train.csv", text_column="text", target_column="y", head_type="binary",
                                      validation_fraction=0.0, eval_strategy="no"))
    assert made.texts["train"].first == ["1.10", "1e5", "NA", "007"]


