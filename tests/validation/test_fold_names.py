"""One numbering of folds: people see them counted from 1, in messages, tables and pictures; files count from 0."""
from __future__ import annotations

import logging

import numpy as np
import pytest

from mlx_bert_training import create_kaggle_trainer
from mlx_bert_training.stages.jobs import FoldJob
from mlx_bert_training.validation.folds import fold_name, make_folds
from mlx_bert_training.widgets import CompetitionExplorer

from ..tiny_competition import declaration, write_files


def test_a_fold_is_named_as_people_count():
    assert [fold_name(i, 3) for i in range(3)] == ["fold 1 of 3", "fold 2 of 3", "fold 3 of 3"]
    assert fold_name(5, 3, 2) == "fold 6 of 6 (fold 3 of repeat 2)"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "A cross-validation of two repeats of two folds, with all that was logged."
    folder, lines = tmp_path_factory.mktemp("folds"), []
    write_files(folder)

    class Keep(logging.Handler):
        def emit(self, record): lines.append(record.getMessage())
    handler = Keep(logging.INFO)
    logger = logging.getLogger("mlx_bert_training")
    logger.addHandler(handler)
    level, _ = logger.level, logger.setLevel(logging.INFO)
    config = declaration(folder, kaggle={"cv_folds": 2, "cv_repeats": 2})
    trainer = create_kaggle_trainer(config=config)
    try: trainer.train_with_cv()
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    return trainer, lines


@pytest.mark.long
def test_messages_count_from_one(run):
    _, lines = run
    said = [line for line in lines if "fold " in line]
    assert any("fold 1 of 4" in line for line in said) and any("fold 4 of 4" in line for line in said)
    assert not [line for line in said if "fold 0" in line]


def test_tables_count_from_one(run):
    trainer, _ = run
    result = trainer.cv
    assert result.table().index.tolist() == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert result.score.to_frame()["fold"].tolist() == [1, 2]
    assert result.folds.balance().index.tolist() == [(1, 1), (1, 2), (2, 1), (2, 2)]
    shown = CompetitionExplorer(trainer).folds().tables["Folds"]
    assert shown["fold"].tolist() == ["1", "2", "1", "2"] and shown["repeat"].tolist() == ["1", "1", "2", "2"]


def test_pictures_count_from_one():
    labels = make_folds(np.tile([0, 1], 20), "stratified", n_folds=4).plot().axes[0].get_xticklabels()
    assert [label.get_text() for label in labels] == ["1", "2", "3", "4"]


def test_files_and_arrays_count_from_zero_as_they_did(run):
    trainer, _ = run
    assert sorted(path.name for path in (trainer.cv_folder / "folds").iterdir()) == [
        "fold-0-0", "fold-0-1", "fold-1-0", "fold-1-1"]
    assert sorted(set(trainer.cv.oof.folds.tolist())) == [0, 1]
    assert sorted(set(trainer.cv.oof.to_frame()["fold"])) == [0, 1]


def test_a_job_says_which_fold_it_is(run):
    trainer, _ = run
    plan = trainer.plan()
    names = [FoldJob.name.fget(type("Job", (), {"number": i, "plan": plan})()) for i in range(4)]
    assert names[3] == "fold 4 of 4 (fold 2 of repeat 2)"
