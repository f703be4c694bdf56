"""Samples as competitions really give them: what their columns are named after, and ids that are written otherwise."""
from __future__ import annotations

import numpy as np
import pytest

from mlx_bert_training.core.results import Predictions
from mlx_bert_training.kaggle.submission import SubmissionError, build_submission, check_ids, column_class, read_sample
from mlx_bert_training.tasks.task import get_task

VALUES = {"binary": [[0.9, 0.1], [0.2, 0.8]], "multilabel": [[0.7, 0.9, 0.1], [0.1, 0.1, 0.8]]}


def built(tmp_path, sample, names=("fake", "real"), task="binary", ids=("1", "2")):
    (tmp_path / "sample.csv").write_text(sample)
    made = Predictions(np.array(VALUES[task]), get_task(task), np.array(ids, dtype=object), list(names))
    return build_submission(made, tmp_path / "sample.csv").iloc[:, 1].tolist()


@pytest.mark.parametrize("column, shown", [
    ("fake", "fake"), ("real", "real"), ("is_fake", "fake"), ("P(fake)", "fake"), ("not_fake", "real"),
    ("not_real", "fake"), ("prob_non_real", "fake"), ("probReal", "real"), ("label", "real"), ("fake_real", "real")])
def test_a_column_holds_the_class_that_it_is_named_after(tmp_path, column, shown):
    column_of = {"fake": [0.9, 0.2], "real": [0.1, 0.8]}
    assert built(tmp_path, f"id,{column}\n1,0.5\n2,0.5\n") == column_of[shown]


def test_a_class_whose_own_name_begins_with_not_is_itself():
    assert column_class("not_fake", ["fake", "not_fake"]) == 1 and column_class("not fake", ["fake", "x"]) == 1


@pytest.mark.parametrize("cells, joined", [("a b", "a b"), ('"a,b"', "a,b"), ('"a, b"', "a, b"), ("a;b", "a;b"),
                                           ("a|b", "a|b")])
def test_labels_of_a_row_are_joined_as_in_the_sample(tmp_path, cells, joined):
    assert built(tmp_path, f"id,labels\n1,{cells}\n2,c\n", "abc", "multilabel") == [joined, "c"]


def test_words_that_are_no_classes_are_refused(tmp_path):
    with pytest.raises(SubmissionError, match="'no', 'yes', but the classes of the predictions are '0', '1'"):
        built(tmp_path, "id,label\n1,yes\n2,no\n", (0, 1))
    assert built(tmp_path, "id,label\n1,real\n2,real\n") == ["fake", "real"]


@pytest.mark.parametrize("sample", [",\n", ",,\n,,\n", "\n \n"])
def test_a_sample_of_separators_is_a_typed_error(tmp_path, sample):
    (tmp_path / "sample.csv").write_text(sample)
    with pytest.raises(SubmissionError): read_sample(tmp_path / "sample.csv")


@pytest.mark.parametrize("ids", [("1.0", "2.0"), ("01", "02"), (" 1", "2 ")])
def test_ids_that_are_written_otherwise_are_said_to_be(tmp_path, ids):
    (tmp_path / "test.csv").write_text("id,text\n1,a\n2,b\n")
    sample = "id,fake\n" + "".join(f"{i},0.5\n" for i in ids)
    with pytest.raises(SubmissionError, match="the same ids written otherwise"): built(tmp_path, sample)
    with pytest.raises(SubmissionError, match="the same ids written otherwise"):
        check_ids(read_sample(tmp_path / "sample.csv"), tmp_path / "test.csv")
