"""Submissions: built after the sample, and refused with the first bad row when something is wrong."""
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlx_bert_training.core.results import Predictions
from mlx_bert_training.kaggle.submission import (
    SubmissionError,
    build_submission,
    check_submission,
    read_sample,
    write_submission,
)

BINARY, MULTI = "binary_classification", "multiclass_classification"
MULTILABEL, REGRESSION = "multilabel_classification", "regression"


def csv(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def binary(ids, positive, names=(0, 1)) -> Predictions:
    positive = np.asarray(positive, dtype=float)
    return Predictions(np.stack([1 - positive, positive], axis=1), BINARY, np.asarray(ids), list(names))


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    return csv(tmp_path / "sample_submission.csv", "id,target\n10,0\n11,0\n12,0\n")


def problems(*args, **kwargs) -> list[str]:
    with pytest.raises(SubmissionError) as error: check_submission(*args, **kwargs)
    return error.value.problems


class TestBuild:
    def test_labels_for_an_integer_sample_in_its_order(self, sample):
        frame = build_submission(binary([12, 10, 11], [.9, .1, .8]), sample)
        assert frame.to_csv(index=False) == "id,target\n10,0\n11,1\n12,1\n"

    def test_probabilities_for_a_float_sample(self, tmp_path):
        sample = csv(tmp_path / "s.csv", "id,risk\n2,0.5\n13,0.5\n")
        assert build_submission(binary([2, 13], [.25, .75]), sample).to_csv(index=False) == "id,risk\n2,0.25\n13,0.75\n"

    def test_style_overrules_the_sample(self, sample):
        frame = build_submission(binary([10, 11, 12], [.1, .8, .9]), sample, style="probabilities")
        assert frame["target"].tolist() == pytest.approx([.1, .8, .9])

    def test_threshold(self, sample):
        frame = build_submission(binary([10, 11, 12], [.1, .3, .2]), sample, threshold=.25)
        assert frame["target"].tolist() == [0, 1, 0]

    @pytest.mark.parametrize(("written", "names", "expected"), [
        ("False", [False, True], ["False", "True"]), ("FALSE", ["0", "1"], ["FALSE", "TRUE"]),
        ("no", ["no", "yes"], ["no", "yes"]), ("0", ["0.0", "1.0"], ["0", "1"])])
    def test_labels_in_the_words_of_the_sample(self, tmp_path, written, names, expected):
        sample = csv(tmp_path / "s.csv", f"id,t\na,{written}\nb,{written}\n")
        frame = build_submission(binary(["a", "b"], [.2, .9], names), sample)
        path = write_submission(frame, tmp_path / "o.csv", sample)
        assert path.read_text() == f"id,t\na,{expected[0]}\nb,{expected[1]}\n"

    def test_words_do_not_fit_a_number_column(self, sample):
        with pytest.raises(SubmissionError, match="'target' holds integer values.*'bad'"):
            build_submission(binary([10, 11, 12], [.1, .8, .9], ["bad", "good"]), sample)

    def test_a_column_a_class_is_matched_by_name_not_position(self, tmp_path):
        sample = csv(tmp_path / "s.csv", "id,Status_D,Status_C,Status_CL\n1,0.3,0.3,0.4\n")
        predictions = Predictions(np.array([[.5, .2, .3]]), MULTI, np.array([1]), ["C", "CL", "D"])
        assert build_submission(predictions, sample).iloc[0].tolist() == ["1", .3, .5, .2]

    def test_a_class_without_a_column_and_a_column_without_a_class(self, tmp_path):
        predictions = Predictions(np.array([[.5, .2, .3]]), MULTI, np.array([1]), ["C", "CL", "D"])
        with pytest.raises(SubmissionError, match="no column for the class 'CL'"):
            build_submission(predictions, csv(tmp_path / "s.csv", "id,C,D\n1,0.5,0.5\n"))
        with pytest.raises(SubmissionError, match="'X' matches no one class"):
            build_submission(predictions, csv(tmp_path / "s.csv", "id,C,CL,X\n1,0.5,0.2,0.3\n"))

    def test_multiclass_label(self, tmp_path):
        sample = csv(tmp_path / "s.csv", "id,kind\n1,cat\n2,cat\n")
        values = np.array([[.5, .2, .3], [.1, .2, .7]])
        predictions = Predictions(values, MULTI, np.array([1, 2]), ["cat", "dog", "eel"])
        assert build_submission(predictions, sample)["kind"].tolist() == ["cat", "eel"]
        with pytest.raises(SubmissionError, match="cannot hold the probabilities of 3 classes"):
            build_submission(predictions, sample, style="probabilities")

    def test_multilabel(self, tmp_path):
        predictions = Predictions(np.array([[.9, .2], [.7, .6]]), MULTILABEL, np.array([1, 2]), ["toxic", "rude"])
        chances = build_submission(predictions, csv(tmp_path / "a.csv", "id,rude,toxic\n1,0.5,0.5\n2,0.5,0.5\n"))
        assert chances["toxic"].tolist() == [.9, .7]
        labels = build_submission(predictions, csv(tmp_path / "b.csv", "id,rude,toxic\n1,0,0\n2,0,0\n"))
        assert labels["rude"].tolist() == [0, 1]
        names = build_submission(predictions, csv(tmp_path / "c.csv", "id,tags\n1,toxic rude\n2,rude\n"))
        assert names["tags"].tolist() == ["toxic", "toxic rude"]

    def test_regression_stays_exact_and_rounds_when_asked(self, sample):
        predictions = Predictions(np.array([1.25, 2.5, 3.75]), REGRESSION, np.array([10, 11, 12]))
        assert build_submission(predictions, sample)["target"].tolist() == [1.25, 2.5, 3.75]
        assert build_submission(predictions, sample, style="labels")["target"].tolist() == [1, 2, 4]

    def test_an_array_is_taken_as_it_is(self, sample):
        assert build_submission([1, 0, 1], sample)["target"].tolist() == [1, 0, 1]
        with pytest.raises(SubmissionError, match="3 rows and 1 targets, but the array has 2 and 1"):
            build_submission([1, 0], sample)

    def test_ids_must_fit(self, sample):
        with pytest.raises(SubmissionError, match=r"no prediction for 1 of 3 ids, the first is id = '12' \(line 4\)"):
            build_submission(binary([10, 11], [.1, .2]), sample)
        with pytest.raises(SubmissionError, match="1 row that the sample lacks, the first is id = '99'"):
            build_submission(binary([10, 99, 11, 12], [.1, .2, .3, .4]), sample)
        with pytest.raises(SubmissionError, match="two rows for id '10'"):
            build_submission(binary([10, 11, 12, 10], [.1, .2, .3, .4]), sample)

    def test_ids_keep_leading_zeros(self, tmp_path):
        sample = csv(tmp_path / "s.csv", "id,t\n007,0\n070,0\n")
        assert build_submission(binary(["070", "007"], [.9, .1]), sample)["id"].tolist() == ["007", "070"]

    def test_unknown_style(self, sample):
        with pytest.raises(ValueError, match="labels"):
            build_submission(binary([10, 11, 12], [.1, .2, .3]), sample, style="label")


class TestSample:
    @pytest.mark.parametrize(("text", "message"), [
        ("id\n1\n", "needs an id column, a target column and rows"), ("id,t\n", "0 rows"),
        ("id,t\n1,0\n1,0\n", "line 3: id = '1' stands twice")])
    def test_a_bad_sample(self, tmp_path, text, message):
        with pytest.raises(SubmissionError, match=message): read_sample(csv(tmp_path / "s.csv", text))

    def test_a_missing_sample_and_the_demo(self, tmp_path):
        with pytest.raises(SubmissionError, match="the sample submission: no file"): read_sample(tmp_path / "none.csv")
        assert read_sample("demo:german_credit/sample_submission.csv").targets == ("risk",)

    def test_blank_last_lines_and_a_byte_order_mark(self, tmp_path):
        assert read_sample(csv(tmp_path / "s.csv", "\ufeffid,t\n1,0\n\n\n")).ids == ("1",)


class TestCheck:
    def test_a_good_file_passes(self, sample, tmp_path):
        good = csv(tmp_path / "g.csv", "id,target\n10,0\n12,1\n11,1\n")
        check_submission(good, sample, [10, 11, 12], task=BINARY, class_names=[0, 1])

    @pytest.mark.parametrize(("text", "message"), [
        ("id,Target\n10,0\n11,1\n12,0\n", "the header is 'id,Target', but .*'id,target'"),
        ("id,target\n10,0\n11,1\n", "2 rows where"),
        ("id,target\n10,0\n11,1\n", "no row for 1 of 3 ids, the first is id = '12'"),
        ("id,target\n10,0\n11,1\n13,0\n", "line 4: id = '13' is not an id of"),
        ("id,target\n10,0\n11,1\n11,0\n", "line 4: id = '11' stands twice, first at .*line 3"),
        ("id,target\n10,0\n11,\n12,1\n", "line 3: target = '' is no value"),
        ("id,target\n10,0\n11,NaN\n12,1\n", "line 3: target = 'NaN' is no value"),
        ("id,target\n10,0\n11\n12,1\n", "line 3: target = '' is no value"),
        ("id,target\n10,0\n11,0.7\n12,1\n", "line 3: target = '0.7' is not one of 0, 1"),
        ("id,target\n10,0\n11,2\n12,1\n", "line 3: target = '2' is not one of 0, 1"),
        ("id,target\n10,1\n11,1\n12,1\n", "every row of target is '1'")])
    def test_labels(self, sample, tmp_path, text, message):
        found = problems(csv(tmp_path / "g.csv", text), sample, task=BINARY, class_names=[0, 1])
        assert any(re.search(message, p) and "g.csv" in p for p in found), found

    @pytest.mark.parametrize(("cell", "message"), [
        ("1.01", "line 3: p = '1.01' is not between 0 and 1"), ("-0.1", "'-0.1' is not between"),
        ("inf", "'inf' is not finite"), ("high", "'high' is not a number")])
    def test_probabilities(self, tmp_path, cell, message):
        sample = csv(tmp_path / "s.csv", "id,p\n1,0.5\n2,0.5\n")
        found = problems(csv(tmp_path / "g.csv", f"id,p\n1,0.3\n2,{cell}\n"), sample, task=BINARY)
        assert len(found) == 1 and message in found[0]

    def test_all_faults_are_told_at_once(self, sample, tmp_path):
        found = problems(csv(tmp_path / "g.csv", "id,target\n10,5\n11,nan\n99,0\n"), sample,
                         task=BINARY, class_names=[0, 1])
        assert len(found) == 4

    def test_row_sums(self, tmp_path):
        sample = csv(tmp_path / "s.csv", "id,a,b\n1,0.5,0.5\n2,0.5,0.5\n")
        text = "id,a,b\n1,0.4,0.6\n2,0.3,0.8\n"
        assert "line 3: the probabilities add up to 1.1, not 1" in problems(
            csv(tmp_path / "g.csv", text), sample, task=MULTI)[0]
        check_submission(csv(tmp_path / "h.csv", text), sample, task=MULTILABEL)

    def test_class_names_are_words(self, tmp_path):
        sample = csv(tmp_path / "s.csv", "id,t\n1,cat\n2,cat\n3,cat\n")
        found = problems(csv(tmp_path / "g.csv", "id,t\n1,cat\n2,dgo\n3,dog\n"), sample, task=MULTI,
                         class_names=["cat", "dog"])
        assert "line 3: t = 'dgo' is not one of cat, dog, did you mean 'dog'?" in found[0]

    def test_booleans_are_case_sensitive(self, tmp_path):
        sample = csv(tmp_path / "s.csv", "id,t\n1,False\n2,False\n")
        assert "'true' is not one of" in problems(csv(tmp_path / "g.csv", "id,t\n1,False\n2,true\n"), sample,
                                                  task=BINARY)[0]

    def test_value_range_and_constant(self, sample):
        frame = build_submission([1., 1., 1.], sample)
        assert "every row of target is '1'" in problems(frame, sample)[0]
        check_submission(frame, sample, allow_constant=True)
        assert "row 0: target = '1' is not between 2 and 9" in problems(
            frame, sample, task=REGRESSION, value_range=(2, 9), allow_constant=True)[0]

    def test_size(self, sample, tmp_path):
        good = csv(tmp_path / "g.csv", "id,target\n10,0\n12,1\n11,1\n")
        assert "bytes, more than 10" in problems(good, sample, max_bytes=10)[0]

    @pytest.mark.parametrize(("test", "message"), [
        ("id,x\n10,a\n11,b\n12,c\n13,d\n", "the sample is out of date and the test file is right.*first is id = '13'"),
        ("id,x\n10,a\n11,b\n", "the test file is incomplete and the sample is right.*first is id = '12'"),
        ("id,x\n10,a\n11,b\n99,c\n", "of two versions of the data")])
    def test_a_stale_sample(self, sample, tmp_path, test, message):
        good = csv(tmp_path / "g.csv", "id,target\n10,0\n12,1\n11,1\n")
        found = problems(good, sample, csv(tmp_path / "test.csv", test))
        assert re.search(message, found[0]) and "test.csv" in found[0] and "sample_submission.csv" in found[0]
        check_submission(good, sample, tmp_path / "test.csv", trust="sample")

    def test_trust_in_the_test_file(self, sample, tmp_path):
        test = pd.DataFrame({"id": [10, 11, 12, 13]})
        frame = build_submission(binary([10, 11, 12, 13], [.1, .2, .8, .9]), sample, ids=test["id"])
        check_submission(frame, sample, test, trust="test", task=BINARY)
        assert "no row for 1 of 4" in problems(frame.iloc[:3], sample, test, trust="test")[1]

    def test_the_test_file_lacks_the_id(self, sample, tmp_path):
        assert "no column 'id', did you mean 'Id'?" in problems(
            build_submission([0, 1, 1], sample), sample, csv(tmp_path / "t.csv", "Id,x\n1,2\n"))[0]


class TestWrite:
    def test_written_in_one_step(self, sample, tmp_path):
        out = tmp_path / "new" / "sub.csv"
        assert write_submission(build_submission([0, 1, 1], sample), out, sample, [10, 11, 12], task=BINARY) == out
        assert [p.name for p in out.parent.iterdir()] == ["sub.csv"]

    def test_a_refused_one_leaves_the_old_file(self, sample, tmp_path):
        out = csv(tmp_path / "sub.csv", "old")
        with pytest.raises(SubmissionError, match=r"sub.csv, line 3: target = '7'"):
            write_submission(build_submission([0, 7, 1], sample), out, sample, task=BINARY, class_names=[0, 1])
        assert out.read_text() == "old"
        assert sorted(p.name for p in tmp_path.iterdir()) == ["sample_submission.csv", "sub.csv"]

    def test_text_ids_with_commas_survive(self, tmp_path):
        sample = csv(tmp_path / "s.csv", 'id,t\n"a,b",0.5\n"c ""d""",0.5\n')
        path = write_submission(build_submission([.25, .75], sample), tmp_path / "o.csv", sample, task=BINARY)
        assert path.read_text() == 'id,t\n"a,b",0.25\n"c ""d""",0.75\n'
