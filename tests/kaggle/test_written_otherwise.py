"""Samples and test files written otherwise, ids as text, the class of a column, and all of it before the first fold."""
import logging

import numpy as np
import pandas as pd
import pytest
from tiny_competition import declaration, write_files

from mlx_bert_training.core.results import Predictions
from mlx_bert_training.data.delimited import TableFormat
from mlx_bert_training.factory import create_kaggle_trainer
from mlx_bert_training.kaggle.submission import (
    SubmissionError,
    build_submission,
    check_submission,
    column_class,
    describe_columns,
    read_sample,
    write_submission,
)

BINARY = "binary_classification"


def two_classes(ids, second, names=("fake", "real")) -> Predictions:
    second = np.asarray(second, dtype=float)
    return Predictions(np.stack([1 - second, second], axis=1), BINARY, np.asarray(ids, dtype=object), list(names))


@pytest.mark.parametrize(("encoding", "separator", "half"), [
    ("cp1252", ",", "0.5"), ("utf-16", ";", "0,5"), ("cp1251", "\t", "0.5"), ("utf-8-sig", "|", "0.5"),
    ("shift_jis", ";", "0.5")])
def test_a_sample_as_it_is_written(tmp_path, encoding, separator, half):
    word = {"cp1251": "имя", "shift_jis": "名前"}.get(encoding, "é")
    rows = [["id", "risk"], [f"{word}1", half], [f"{word}2", half]]
    text = "\r\n".join(separator.join(row) for row in rows) + "\r\n"
    (tmp_path / "sample.csv").write_bytes(text.encode(encoding))
    form = TableFormat(encoding)
    wanted = read_sample(tmp_path / "sample.csv", form)
    assert wanted.ids == (f"{word}1", f"{word}2") and wanted.kinds == ("number",)
    frame = build_submission(two_classes([f"{word}2", f"{word}1"], [.75, .25]), tmp_path / "sample.csv", form=form)
    path = write_submission(frame, tmp_path / "o.csv", tmp_path / "sample.csv", tmp_path / "sample.csv", form=form)
    assert path.read_bytes().decode() == f"id,risk\n{word}1,0.25\n{word}2,0.75\n"


def test_another_encoding_is_named_with_its_line(tmp_path):
    (tmp_path / "sample.csv").write_bytes("id,risk\n1,0.5\né,0.5\n".encode("latin-1"))
    with pytest.raises(SubmissionError, match=r"sample.csv, line 3: byte 0xe9 .*data.encoding"):
        read_sample(tmp_path / "sample.csv")


def test_quotes_that_are_letters(tmp_path):
    (tmp_path / "sample.tsv").write_text('id\trisk\n"a\t0.5\nb"\t0.5\n')
    assert read_sample(tmp_path / "sample.tsv").ids == ('"a', 'b"')


IDS = [["1.10", "1.1", "1.100"], ["12e1", "120", "1e400"], ["007", "7", "+7"], ["NA", "nan", "None"],
       ["True", "TRUE", "true"], ["1_000", "1000", " 1000"], ["9007199254740993", "9007199254740992", "0x10"]]


@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("declared", [True, False])
def test_ids_are_text_from_file_to_submission(tmp_path, ids, declared):
    write_files(tmp_path)
    test = pd.read_csv(tmp_path / "test.csv").head(3).drop(columns="id")
    test.assign(key=ids).to_csv(tmp_path / "test.csv", index=False)
    pd.DataFrame({"key": ids[::-1], "target": 0.5}).to_csv(tmp_path / "sample_submission.csv", index=False)
    train = pd.read_csv(tmp_path / "train.csv").rename(columns={"id": "key"})
    train.to_csv(tmp_path / "train.csv", index=False)
    sections = declaration(tmp_path, data={"id_column": "key" if declared else None}, kaggle={"cv_folds": 2},
                           training={"num_epochs": 1})
    trainer = create_kaggle_trainer(config=sections)
    trainer.train_with_cv()
    written = trainer.create_submission()
    lines = written.path.read_text().splitlines()[1:]
    assert [line.rsplit(",", 1)[0] for line in lines] == ids[::-1]
    assert written.to_frame()["key"].tolist() == ids[::-1]


@pytest.mark.parametrize(("column", "chosen"), [
    ("fake", 0), ("FAKE", 0), ("is_fake", 0), ("probFake", 0), ("p(fake)", 0), ("fake_probability", 0), ("real", 1),
    ("target", None), ("fake_or_real", None), ("fakery", None)])
def test_the_class_of_a_column_decides(tmp_path, column, chosen):
    assert column_class(column, ["fake", "real"]) == chosen
    sample = tmp_path / "s.csv"
    sample.write_text(f"id,{column}\n1,0.5\n")
    frame = build_submission(two_classes([1], [.75]), sample)
    assert frame[column].tolist() == [.25 if chosen == 0 else .75]
    says = describe_columns(read_sample(sample), BINARY, ["fake", "real"])
    assert repr(column) in says and repr("fake" if chosen == 0 else "real") in says


def test_classes_that_are_numbers_or_several_words():
    assert column_class("1", [0, 1]) == 1 and column_class("target_0", [0, 1]) is None
    assert column_class("prob_0", [0, 1]) == 0 and column_class("is_not_spam", ["not spam", "spam"]) == 0
    assert column_class("label", [False, True]) is None and column_class("a", ["A", "a"]) == 1
    assert column_class("Ａ", ["A", "a"]) is None


class TestBeforeTraining:
    def refused(self, folder, match, **sections):
        trainer = create_kaggle_trainer(config=declaration(folder, **sections))
        with pytest.raises(SubmissionError, match=match): trainer.train_with_cv()
        assert not (folder / "runs").exists() or not list((folder / "runs").rglob("predictions.npz"))

    @pytest.fixture(autouse=True)
    def files(self, tmp_path): write_files(tmp_path)

    def test_a_sample_of_other_ids(self, tmp_path):
        sample = pd.read_csv(tmp_path / "sample_submission.csv")
        sample.assign(id=sample["id"] + 5).to_csv(tmp_path / "sample_submission.csv", index=False)
        self.refused(tmp_path, "two versions of the data")

    def test_a_sample_in_another_encoding(self, tmp_path):
        (tmp_path / "sample_submission.csv").write_bytes(b"id,caf\xe9\n190,0\n")
        self.refused(tmp_path, "data.encoding")

    def test_a_sample_without_a_target(self, tmp_path):
        (tmp_path / "sample_submission.csv").write_text("id\n190\n")
        self.refused(tmp_path, "needs an id column, a target column")

    def test_columns_that_are_no_classes(self, tmp_path):
        ids = pd.read_csv(tmp_path / "test.csv")["id"]
        pd.DataFrame({"id": ids, "yes": 0.5, "no": 0.5}).to_csv(tmp_path / "sample_submission.csv", index=False)
        self.refused(tmp_path, "matches no one class")

    def test_what_will_stand_in_it_is_said_once(self, tmp_path, caplog):
        trainer = create_kaggle_trainer(config=declaration(tmp_path, training={"num_epochs": 1}))
        with caplog.at_level(logging.INFO): trainer.train_with_cv()
        said = [r.message for r in caplog.records if r.message.startswith("submission:")]
        assert said == ["submission: 'target' will hold the probability of '1', the positive class; another one is "
                        "set by data.positive_class"]

    @pytest.mark.parametrize(("trust", "rows"), [("test", 30), ("sample", 28)])
    def test_whose_ids_count_can_be_declared(self, tmp_path, trust, rows):
        sample = pd.read_csv(tmp_path / "sample_submission.csv")
        sample.iloc[2:].to_csv(tmp_path / "sample_submission.csv", index=False)
        self.refused(tmp_path, "kaggle.trust_ids: test")
        trainer = create_kaggle_trainer(config=declaration(tmp_path, training={"num_epochs": 1}), trust_ids=trust)
        trainer.train_with_cv()
        assert len(trainer.create_submission().to_frame()) == rows


def test_one_answer_for_all_is_an_option(tmp_path):
    sample = tmp_path / "s.csv"
    sample.write_text("id,t\n1,0\n2,0\n3,0\n")
    with pytest.raises(SubmissionError, match="kaggle.allow_constant: true"): check_submission(sample, sample)
    check_submission(sample, sample, allow_constant=True)
    write_files(tmp_path, target=lambda rng, kinds, frame: (np.arange(len(kinds)) % 9 == 0).astype(int))
    sections = declaration(tmp_path, training={"num_epochs": 2}, optimizer={"learning_rate": 0.01},
                           kaggle={"competition_metric": "accuracy"})
    trainer = create_kaggle_trainer(config=sections)
    trainer.train_with_cv()
    with pytest.raises(SubmissionError, match="allow_constant"): trainer.create_submission()
    trainer.config.kaggle.allow_constant = True
    assert len(trainer.create_submission().to_frame()) == 30
