"""Where jobs are done when a declaration does not say: side by side where that is faster and nobody misses anything."""
import os

import numpy as np
import pytest
from jobs_to_send import Counted, Heard
from tiny_competition import with_dropout, write_files

from mlx_bert_training import create_kaggle_trainer
from mlx_bert_training.callbacks import Callback
from mlx_bert_training.parallel import best_place
from mlx_bert_training.parallel.best_place import BestPlace, reason_to_stay
from mlx_bert_training.parallel.executor import Here, Shared, SharingError, packed
from mlx_bert_training.parallel.processes import Processes
from mlx_bert_training.registry import Registry
from mlx_bert_training.stages import jobs as fold_jobs
from mlx_bert_training.stages.run import TimeIsUp


class Long(Counted):
    work = 1e13


@pytest.fixture
def cores(monkeypatch):
    "A machine with two cores, memory, no GPU and nothing that was registered by hand."
    from mlx_bert_training.parallel import processes
    monkeypatch.setattr(processes, "cpu_threads", lambda: 2)
    monkeypatch.setattr(best_place, "available_memory", lambda: 8 << 30)
    monkeypatch.setattr(Registry, "by_hand", set())
    return monkeypatch


def test_long_jobs_go_side_by_side_and_short_ones_do_not(cores, tmp_path):
    long = [Long(tmp_path, n) for n in range(3)]
    assert reason_to_stay(long) is None and isinstance(BestPlace().place(long), Processes)
    assert BestPlace().run(long, Heard()) == [0, 1, 4]
    assert reason_to_stay([Counted(tmp_path, n) for n in range(3)]) == "the jobs are short"
    assert "one job" in reason_to_stay(long[:1]) and "one job" in reason_to_stay(long, workers=1)


class Finished(Long):
    def finished(self): return 7


def test_what_is_finished_does_not_count(cores, tmp_path):
    jobs = [Finished(tmp_path, 0), Finished(tmp_path, 1), Long(tmp_path, 2)]
    assert isinstance(BestPlace().place(jobs), Here)


@pytest.mark.parametrize(("name", "value", "why"), [
    ("on_cpu", lambda: False, "a GPU"), ("available_memory", lambda: 500 << 20, "no memory for two")])
def test_a_machine_that_gains_nothing(cores, tmp_path, name, value, why):
    cores.setattr(best_place, name, value)
    assert why in reason_to_stay([Long(tmp_path, n) for n in range(2)])


def test_what_only_this_process_has_stays_here(cores, tmp_path, monkeypatch):
    class Watched(Long):
        watched = True

    class Unsendable(Long):
        def __init__(self): self.value = Shared(lambda: 1, tmp_path)

    assert "follows each update" in reason_to_stay([Watched(tmp_path, n) for n in range(2)])
    assert "cannot leave this process" in reason_to_stay([Unsendable(), Unsendable()])
    registry = Registry("flavour")
    registry.register("mine", object())
    assert reason_to_stay([Long(tmp_path, n) for n in range(2)]) == "no other process knows flavour mine"


def test_a_class_of_a_script_is_refused_before_a_worker_misses_it(monkeypatch):
    monkeypatch.setattr(Long, "__module__", "__main__")
    with pytest.raises(SharingError, match="Long stands in a notebook or a script"): packed([Long(".", 1)])


class Late(Heard):
    "Has no time for a third job."
    def on_job_begin(self, number):
        super().on_job_begin(number)
        if number == 2: raise TimeIsUp


def test_no_time_for_another_job_leaves_those_that_are_being_done(tmp_path):
    heard = Late()
    with pytest.raises(TimeIsUp):
        Processes(workers=2).run([Counted(tmp_path, n, seconds) for n, seconds in enumerate([0, 2, 0, 0])], heard)
    assert heard.begun == [0, 1, 2] and sorted(heard.ended) == [0, 1]


class Silent(Callback):
    "Is in this process to be told."


def declared_jobs(folder, monkeypatch, callbacks=(), **sections):
    "The jobs that a competition gives to its executor, without doing them."
    class Seen(Exception): pass

    def noted(self, jobs, listener):
        noted.jobs = jobs
        raise Seen

    monkeypatch.setattr(BestPlace, "run", noted)
    with pytest.raises(Seen):
        create_kaggle_trainer(config=with_dropout(folder, **sections), callbacks=callbacks).train_with_cv()
    return noted.jobs


def test_a_fold_knows_its_work_and_who_follows_it(tmp_path, monkeypatch):
    write_files(tmp_path)
    plain = declared_jobs(tmp_path, monkeypatch)
    sizes, lengths = plain[0].plan.model.pattern.config, plain[0].plan.train.dataset.encoded.lengths
    once = 12 * sizes.num_hidden_layers * sizes.hidden_size ** 2 * lengths.mean()       # forward, of a row: a multiple
    rows, predicted = len(plain[0].rows), len(plain[0].held) + 30
    assert plain[0].work == pytest.approx(once * (6 * rows * 2 + 2 * predicted))        # two epochs
    assert not plain[0].watched
    assert declared_jobs(tmp_path, monkeypatch, [Silent()])[0].watched
    longer = declared_jobs(tmp_path, monkeypatch, training={"num_epochs": 4, "save_strategy": "no"})[0].work
    assert longer - plain[0].work == pytest.approx(once * 6 * rows * 2)
    short = declared_jobs(tmp_path, monkeypatch, training={"max_steps": 1, "save_strategy": "no"})[0].work
    assert short == pytest.approx(once * (6 * 16 + 2 * predicted))       # one batch of sixteen
    monkeypatch.setattr(fold_jobs, "detect_mode", lambda: "notebook")
    assert plain[0].watched


@pytest.mark.long
def test_the_same_bits_wherever_the_folds_are_trained(cores, tmp_path):
    write_files(tmp_path)
    here = create_kaggle_trainer(config=with_dropout(tmp_path, environment={"run_name": "here"},
                                                     parallel={"executor": "here"})).train_with_cv()
    cores.setattr(best_place, "LEAST_WORK", 0)
    trainer = create_kaggle_trainer(config=with_dropout(tmp_path, environment={"run_name": "apart"}))
    apart = trainer.train_with_cv()
    assert trainer.fold_progress, "no fold was trained in another process"
    assert np.array_equal(apart.oof.predictions, here.oof.predictions)
    assert np.array_equal(apart.test_predictions, here.test_predictions)


def test_a_listener_that_decides_by_the_order_of_the_folds_has_them_in_order(cores, tmp_path):
    heard = Heard()
    heard.in_order, heard.control.report = True, lambda facts: heard.progress.append(facts["pid"])
    assert BestPlace().run([Long(tmp_path, n) for n in range(2)], heard) == [0, 1]
    assert set(heard.progress) == {os.getpid()} and heard.ended == [0, 1]
