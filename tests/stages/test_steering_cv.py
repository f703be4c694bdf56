"""A cross-validation that is watched, paused and stopped: it goes on later and comes to the same."""
import signal
import subprocess
import sys
import time

import pytest
from tiny_competition import declaration, write_files

from mlx_bert_training import Callback, create_kaggle_trainer
from mlx_bert_training.core.control import RunStopped
from mlx_bert_training.declaration.yaml_io import dump_yaml
from mlx_bert_training.validation.oof import load_oof


@pytest.fixture
def files(tmp_path):
    write_files(tmp_path)
    return tmp_path


class Folds(Callback):
    "Notes the events of folds, and does something after an update of one of them."

    def __init__(self, fold=None, action=None):
        self.seen, self.fold, self.action = [], fold, action

    def on_cv_begin(self, trainer, state): self.seen.append(("begin", trainer.fold_count, trainer.cv_folder.name))
    def on_fold_begin(self, trainer, state): self.seen.append(("fold", len(trainer.fold_runs)))
    def on_fold_end(self, trainer, state): self.seen.append(("done", len(trainer.fold_runs)))
    def on_cv_end(self, trainer, state): self.seen.append(("end", trainer.cv is not None))

    def on_step_end(self, trainer, state):
        if state.step == 3 and trainer.output_dir.name == self.fold: self.action(trainer)


def test_listeners_hear_of_folds(files):
    folds = Folds()
    create_kaggle_trainer(config=declaration(files), callbacks=[folds]).train_with_cv()
    assert folds.seen == [("begin", 3, "run"), ("fold", 0), ("done", 1), ("fold", 1), ("done", 2), ("fold", 2),
                          ("done", 3), ("end", True)]


@pytest.mark.parametrize("action", [lambda trainer: trainer.control.stop(),
                                    lambda trainer: signal.raise_signal(signal.SIGINT)], ids=["stop", "interrupt"])
def test_a_stopped_cross_validation_goes_on_to_the_same_predictions(files, action):
    whole = create_kaggle_trainer(config=declaration(files, environment={"run_name": "whole"})).train_with_cv()
    folds = Folds("fold-0-1", action)
    with pytest.raises(RunStopped, match="fold 2 of 3: .*goes on from there"):
        create_kaggle_trainer(config=declaration(files), callbacks=[folds]).train_with_cv()
    assert folds.seen[-1] == ("end", False) and ("done", 1) in folds.seen and ("done", 2) not in folds.seen
    folder = files / "runs" / "run" / "folds"
    assert (folder / "fold-0-1" / "checkpoints" / "step-000003").is_dir()
    assert not (folder / "fold-0-1" / "fold.json").exists()      # half a fold is never taken for a whole one
    result = create_kaggle_trainer(config=declaration(files)).train_with_cv()
    assert result.run.runs[0].skipped and result.output_dir == files / "runs" / "run"
    one, two = (load_oof(next((run.output_dir / "oof").glob("*.npz"))) for run in (whole, result))
    assert (one.predictions == two.predictions).all() and (one.test_predictions == two.test_predictions).all()


def test_a_stop_between_two_folds_is_not_lost(files):
    class Between(Callback):
        def on_fold_end(self, trainer, state): trainer.control.stop()
    with pytest.raises(RunStopped, match="before fold 2 of 3"):
        create_kaggle_trainer(config=declaration(files), callbacks=[Between()]).train_with_cv()


def test_a_cross_validation_in_the_background(files):
    trainer = create_kaggle_trainer(config=declaration(files))
    run = trainer.start_with_cv()
    result = run.result()
    assert trainer.cv is result and "3 of 3 folds are done" in repr(run)
    assert trainer.create_submission().path.exists()


def test_ctrl_c_in_a_shell(files):
    (files / "run.yaml").write_text(dump_yaml(declaration(files, training={"num_epochs": 5000, "save_strategy": "no"})))
    process = subprocess.Popen([sys.executable, "-m", "mlx_bert_training", "run", str(files / "run.yaml")], text=True,
                               stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    written = files / "runs" / "run" / "folds" / "fold-0-0" / "metrics.jsonl"
    end = time.monotonic() + 60
    while not (written.exists() and written.stat().st_size) and time.monotonic() < end: time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and errors.strip().splitlines()[-1].endswith("goes on from there")


def test_ipython_shows_a_stop_as_a_sentence():
    assert RunStopped("stopped before fold 2")._render_traceback_() == ["stopped before fold 2"]
