"""A cross-validation that ended early, called again on the same trainer, comes to what an undisturbed one does."""
import signal

import numpy as np
import pytest
from tiny_competition import SMALL, declaration, write_files

from mlx_bert_training import Callback, create_kaggle_trainer
from mlx_bert_training.core.checkpoint import array_digest
from mlx_bert_training.core.control import RunStopped
from mlx_bert_training.core.resume import model_weights

MODEL = {"config": SMALL, "pooling": "mean", "dropout_rate": 0.1}


class Broken(Exception):
    pass


def fail(trainer): raise Broken


def interrupt(trainer):
    raise KeyboardInterrupt


ENDINGS = {"stop": (lambda trainer: trainer.control.stop(), RunStopped),
           "signal": (lambda trainer: signal.raise_signal(signal.SIGINT), RunStopped),
           "error": (fail, Broken), "interrupt": (interrupt, KeyboardInterrupt)}


class Once(Callback):
    "Ends the cross-validation in the middle of one fold, the first time."

    def __init__(self, fold, action):
        self.fold, self.action, self.done = fold, action, False

    def on_step_end(self, trainer, state):
        where = "/".join(trainer.output_dir.parts[-2:])
        if self.done or state.step != 3 or not (where.startswith(self.fold[0]) and where.endswith(self.fold[1])): return
        self.done = True
        self.action(trainer)


def same(one, other):
    "Whether two results hold the same bits, fold by fold and as a whole."
    for mine, its in zip(one.run.runs, other.run.runs, strict=True):
        for a, b in zip(mine.oofs, its.oofs, strict=True):
            assert np.array_equal(a.predictions, b.predictions, equal_nan=True)
            assert np.array_equal(a.test_predictions, b.test_predictions)
    for a, b in ((one.oof, other.oof), (one.relabelled.run.oof, other.relabelled.run.oof)):
        assert np.array_equal(a.predictions, b.predictions) and np.array_equal(a.test_predictions, b.test_predictions)
    if one.pseudo_labels is not None:
        a, b = one.pseudo_labels.with_labels, other.pseudo_labels.with_labels
        assert np.array_equal(a.predictions, b.predictions) and np.array_equal(a.test_predictions, b.test_predictions)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "Undisturbed runs, with and without a second round."
    folder = tmp_path_factory.mktemp("whole")
    write_files(folder)
    found = {}
    for again in (False, True):
        config = declaration(folder, model=MODEL, environment={"run_name": f"whole-{again}"}, kaggle=rounds(again))
        found[again] = create_kaggle_trainer(config=config).train_with_cv()
    return found


def rounds(again):
    return {"enable_pseudo_labeling": again, "pseudo_label_threshold": 0.5}


@pytest.mark.parametrize("ending", list(ENDINGS))
@pytest.mark.parametrize("again", [False, True], ids=["folds", "pseudo-labels"])
def test_called_again_it_begins_where_an_undisturbed_one_does(tmp_path, whole, ending, again):
    write_files(tmp_path)
    action, error = ENDINGS[ending]
    once = Once(("pseudo-labels" if again else "folds", "fold-0-1"), action)
    trainer = create_kaggle_trainer(config=declaration(tmp_path, model=MODEL, kaggle=rounds(again)), callbacks=[once])
    with pytest.raises(error): trainer.train_with_cv()
    assert once.done and trainer.cv is None
    same(trainer.train_with_cv(), whole[again])


def test_what_one_model_has_learnt_does_not_reach_the_folds(tmp_path, whole):
    write_files(tmp_path)
    trainer = create_kaggle_trainer(config=declaration(tmp_path, model=MODEL, environment={"run_name": "single"}))
    before = array_digest(model_weights(trainer.model))
    trainer.train()
    trained = array_digest(model_weights(trainer.model))
    assert trained != before
    same(trainer.train_with_cv(), whole[False])
    assert array_digest(model_weights(trainer.model)) == trained     # and the folds do not reach it


def test_a_checkpoint_that_is_loaded_does_not_reach_the_folds(tmp_path, whole):
    write_files(tmp_path)
    trainer = create_kaggle_trainer(config=declaration(tmp_path, model=MODEL))
    trainer.train()
    path = trainer.save_checkpoint(tmp_path / "checkpoint")
    other = create_kaggle_trainer(config=declaration(tmp_path, model=MODEL, environment={"run_name": "other"}))
    other.load_checkpoint(path)
    assert array_digest(model_weights(other.model)) == array_digest(model_weights(trainer.model))
    same(other.train_with_cv(), whole[False])
