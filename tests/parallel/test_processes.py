"""Jobs in processes of their own: nothing is lost or done twice, whoever dies; and the same bits as in this process."""
import os
import random
import signal
import sys
import threading
import time

import numpy as np
import pytest
from jobs_to_send import Counted, Dies, Fails, Heard, Threads, Waits
from tiny_competition import with_dropout, write_files

from mlx_bert_training import create_kaggle_trainer
from mlx_bert_training.core.control import RunControl, RunStopped
from mlx_bert_training.parallel import processes
from mlx_bert_training.parallel.processes import Processes, share_machine
from mlx_bert_training.parallel.worker import WorkerError
from mlx_bert_training.stages.announce import CVListener
from mlx_bert_training.stages.cv import cross_validate


def test_results_come_in_order_and_progress_comes_back(tmp_path):
    heard = Heard()
    assert Processes(workers=2).run([Counted(tmp_path, n) for n in range(3)], heard) == [0, 1, 4]
    assert heard.begun == [0, 1, 2] and sorted(heard.ended) == [0, 1, 2]
    assert sorted(number for number, facts in heard.progress if facts["step"] == 1) == [0, 1, 2]
    assert os.getpid() not in {facts["pid"] for _, facts in heard.progress}


def test_threads_are_divided():
    assert Processes(workers=2, threads=1).run([Threads(), Threads()], Heard()) == ["1", "1"]
    assert share_machine([None] * 8, workers=2, threads=None).workers == 2
    assert share_machine([None], workers=4).workers == 1


def test_a_file_in_the_working_directory_hides_no_module_of_python(tmp_path, monkeypatch):
    (tmp_path / "csv.py").write_text("raise SystemExit('the wrong csv')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    assert Processes(workers=1).run([Counted(tmp_path, 2)], Heard()) == [4]


def test_an_error_of_a_job_is_raised_here_and_nothing_more_begins():
    heard = Heard()
    with pytest.raises(KeyError, match="no such column") as caught: Processes(workers=1).run([Fails(), Fails()], heard)
    assert heard.begun == [0] and heard.ended == []
    if hasattr(caught.value, "__notes__"): assert "jobs_to_send.py" in caught.value.__notes__[0]


def test_a_worker_that_always_dies_is_an_error_that_says_how():
    with pytest.raises(WorkerError, match="its worker died 2 times, the last time with code -9"):
        Processes(workers=1, retries=1).run([Dies()], Heard())


def test_requests_reach_every_worker_and_a_stop_ends_the_run():
    class Stops(Heard):
        def on_job_progress(self, number, facts):
            super().on_job_progress(number, facts)
            if len(self.progress) == 2:
                self.control.set_learning_rate(0.1)
                self.control.stop()
    heard = Stops()
    with heard.control.running(), pytest.raises(RunStopped, match="heard learning_rate|stopped by code"):
        Processes(workers=2).run([Waits(), Waits(), Waits()], heard)
    assert heard.begun == [0, 1]


def test_memory_keeps_further_workers_waiting(monkeypatch, tmp_path):
    monkeypatch.setattr(processes, "available_memory", lambda: 10 << 20)
    most, run = [], Processes(workers=2)
    class Counts(Heard):
        def on_job_progress(self, number, facts): most.append(len(run.current.running))
    assert run.run([Counted(tmp_path, n, 0.3) for n in range(3)], Counts()) == [0, 1, 4] and set(most) == {1}


def killed_at_random(executor, listener, kills, spread, seed=0):
    "A thread that kills a worker now and then."
    rng, left = random.Random(seed), [kills]
    def kill():
        while left[0]:
            time.sleep(rng.uniform(*spread))
            current = executor.current
            workers = list(current.running.values()) if current is not None else []
            if current is None and listener.begun and left[0] == kills: continue
            if current is None: return
            if workers:
                os.kill(rng.choice(workers).process.pid, signal.SIGKILL)
                left[0] -= 1
    thread = threading.Thread(target=kill, daemon=True)
    return thread, left


@pytest.mark.long
def test_killed_workers_lose_nothing_and_double_nothing(tmp_path):
    executor, heard = Processes(workers=2, retries=50), Heard()
    thread, left = killed_at_random(executor, heard, kills=3, spread=(0.3, 0.8))
    timer = threading.Timer(0.5, thread.start)
    timer.start()
    assert executor.run([Counted(tmp_path, n, 1.0) for n in range(4)], heard) == [0, 1, 4, 9]
    timer.join()
    thread.join(10)
    assert left[0] < 3, "nobody was killed"
    assert sorted(heard.ended) == [0, 1, 2, 3] and sorted(heard.begun) == [0, 1, 2, 3]
    assert [len((tmp_path / f"done-{n}").read_text().split()) for n in range(4)] == [1, 1, 1, 1]


@pytest.fixture
def files(tmp_path):
    write_files(tmp_path)
    return tmp_path


@pytest.mark.long
def test_the_same_bits_as_here(files):
    plain = create_kaggle_trainer(config=with_dropout(files, environment={"run_name": "plain"})).train_with_cv()
    apart = create_kaggle_trainer(config=with_dropout(files, parallel={"executor": "processes", "workers": 2}))
    result = apart.train_with_cv()
    assert np.array_equal(result.oof.predictions, plain.oof.predictions)
    assert np.array_equal(result.test_predictions, plain.test_predictions)
    assert [run.fold for run in result.run.runs] == [0, 1, 2] and not any(run.skipped for run in result.run.runs)
    assert apart.fold_progress[0]["step"] > 0 and apart.fold_count == 3
    again = create_kaggle_trainer(config=with_dropout(files, parallel={"executor": "processes"})).train_with_cv()
    assert all(run.skipped for run in again.run.runs)


@pytest.mark.long
def test_a_stop_reaches_folds_elsewhere_and_the_run_goes_on_from_their_checkpoints(files):
    config = with_dropout(files, training={"num_epochs": 40, "logging_steps": 1},
                          parallel={"executor": "processes", "workers": 1})
    plain = create_kaggle_trainer(config={**config, "parallel": {}, "environment": {
        **config["environment"], "run_name": "plain"}}).train_with_cv()
    class Stop(CVListener):
        control = RunControl()
        def on_fold_progress(self, number, facts):
            if facts["step"] == 3: self.control.stop()
    trainer = create_kaggle_trainer(config=config)
    with Stop.control.running(), pytest.raises(RunStopped): cross_validate(trainer.plan(), listener=Stop())
    checkpoints = list((files / "runs" / "run" / "folds" / "fold-0-0" / "checkpoints").iterdir())
    assert [path.name for path in checkpoints] and not (files / "runs" / "run" / "folds" / "fold-0-1").exists()
    result = create_kaggle_trainer(config=config).train_with_cv()
    assert np.array_equal(result.oof.predictions, plain.oof.predictions)


@pytest.mark.slow
def test_twenty_kills_over_folds(files):
    "`pytest -m slow tests/parallel`: 20 workers die over ten folds, and the predictions are those of a quiet run."
    sections = {"kaggle": {"cv_folds": 5, "cv_repeats": 2}, "training": {"num_epochs": 30, "save_strategy": "epoch"}}
    quiet = with_dropout(files, environment={"run_name": "plain"}, **sections)
    plain = create_kaggle_trainer(config=quiet).train_with_cv()
    heard = Heard()
    executor = Processes(workers=2, retries=50)
    thread, left = killed_at_random(executor, heard, kills=20, spread=(0.8, 2.4))
    thread.start()
    trainer = create_kaggle_trainer(config=with_dropout(files, **sections))
    trainer.executor = executor
    ended = []
    fire = trainer.fire
    trainer.fire = lambda event: (ended.append(event), fire(event))
    heard.begun.append(0)
    result = trainer.train_with_cv()
    thread.join(30)
    print(f"{20 - left[0]} workers were killed")
    assert left[0] == 0 and ended.count("on_fold_end") == 10 and len(result.run.runs) == 10
    assert np.array_equal(result.oof.predictions, plain.oof.predictions)
    assert np.array_equal(result.test_predictions, plain.test_predictions)
