"""Jobs on a Ray of this machine: nothing is lost or done twice, whoever dies; and the same bits as in this process."""
import sys

import numpy as np
import pytest
from jobs_to_send import Counted, Dies, DiesOnce, Fails, Heard, Threads, Waits
from tiny_competition import with_dropout, write_files

from mlx_bert_training import create_kaggle_trainer
from mlx_bert_training.core.control import RunStopped
from mlx_bert_training.declaration.load import load_config
from mlx_bert_training.declaration.problems import ConfigError
from mlx_bert_training.errors import MissingExtraError, UnknownNameError
from mlx_bert_training.parallel import ray as on_ray
from mlx_bert_training.parallel.executor import create_executor
from mlx_bert_training.parallel.processes import Processes
from mlx_bert_training.parallel.ray import RayCluster, RayRun, pack_job, unpack_job
from mlx_bert_training.parallel.worker import WorkerError
from mlx_bert_training.stages.run import TimeIsUp

ray = pytest.importorskip("ray", reason="needs the extra ray")
pytestmark = pytest.mark.slow       # a Ray takes its time to start


@pytest.fixture(scope="module", autouse=True)
def cluster():
    "A Ray of this machine with two places."
    on_ray.import_ray()
    for attempt in range(3):
        try: on_ray.start_ray(ray, None, 2)
        except WorkerError:         # a busy machine
            if attempt == 2: raise
        else: break
    yield
    ray.shutdown()


def test_results_come_in_order_and_a_lost_worker_is_no_lost_job(tmp_path):
    heard = Heard()
    jobs = [Counted(tmp_path, 0), DiesOnce(tmp_path, 1), Counted(tmp_path, 2), Threads()]
    assert RayCluster(workers=2).run(jobs, heard) == [0, 1, 4, "1"]
    assert heard.begun == [0, 1, 2, 3] and sorted(heard.ended) == [0, 1, 2, 3]
    assert {number for number, facts in heard.progress if facts.get("step") == 1} == {0, 1, 2}
    assert [len((tmp_path / f"done-{n}").read_text().split()) for n in range(3)] == [1, 1, 1]


def test_an_error_of_a_job_is_raised_here():
    with pytest.raises(KeyError, match="no such column") as caught:
        RayCluster(workers=1).run([Fails(), Fails()], Heard())
    if hasattr(caught.value, "__notes__"): assert "jobs_to_send.py" in caught.value.__notes__[0]


def test_a_worker_that_always_dies_is_an_error():
    with pytest.raises(WorkerError, match="job 0: Ray has lost its worker"):
        RayCluster(workers=1, retries=1).run([Dies()], Heard())


def test_requests_reach_every_worker_and_a_stop_ends_the_run():
    class Stops(Heard):
        def on_job_progress(self, number, facts):
            super().on_job_progress(number, facts)
            if len(self.progress) == 2: self.control.stop()
    heard = Stops()
    with heard.control.running(), pytest.raises(RunStopped, match="stopped by code"):
        RayCluster(workers=2).run([Waits(), Waits(), Waits()], heard)
    assert heard.begun == [0, 1]


@pytest.mark.parametrize("executor", [RayCluster, Processes])
def test_jobs_that_are_under_way_when_no_further_one_may_begin_are_waited_for(executor, tmp_path):
    class NoThird(Heard):
        def on_job_begin(self, number):
            super().on_job_begin(number)
            if number == 2: raise TimeIsUp
    heard = NoThird()
    with pytest.raises(TimeIsUp):
        executor(workers=2).run([Counted(tmp_path, 0), Counted(tmp_path, 1, seconds=5), Counted(tmp_path, 2)], heard)
    assert heard.begun == [0, 1, 2] and sorted(heard.ended) == [0, 1]
    assert sorted(path.name for path in tmp_path.glob("done-*")) == ["done-0", "done-1"]


@pytest.fixture
def files(tmp_path):
    write_files(tmp_path)
    return tmp_path


@pytest.mark.parametrize("sees_our_files", [True, False])
def test_the_same_bits_as_here(files, monkeypatch, sees_our_files):
    plain = create_kaggle_trainer(config=with_dropout(files, environment={"run_name": "plain"})).train_with_cv()
    made = RayRun.__init__
    def elsewhere(run, *arguments):
        made(run, *arguments)
        if not sees_our_files: monkeypatch.setattr(type(run.marker), "touch", lambda path: None)
    monkeypatch.setattr(RayRun, "__init__", elsewhere)
    config = with_dropout(files, parallel={"executor": "ray", "workers": 2}, kaggle={"save_fold_models": True})
    result = create_kaggle_trainer(config=config).train_with_cv()
    monkeypatch.undo()
    assert np.array_equal(result.oof.predictions, plain.oof.predictions)
    assert np.array_equal(result.test_predictions, plain.test_predictions)
    folders = sorted((files / "runs" / "run" / "folds").iterdir())
    assert [path.name for path in folders] == ["fold-0-0", "fold-0-1", "fold-0-2"]
    assert all((path / "model").is_dir() and not list(path.glob(".lease*")) for path in folders)
    again = create_kaggle_trainer(config=config).train_with_cv()
    assert all(run.skipped for run in again.run.runs)


def test_a_worker_that_is_lost_in_mid_fold_costs_nothing(files):
    sections = {"training": {"num_epochs": 3, "save_strategy": "epoch"}}
    quiet = with_dropout(files, environment={"run_name": "plain"}, **sections)
    plain = create_kaggle_trainer(config=quiet).train_with_cv()
    dying = {"type": "jobs_to_send:DiesInMidFold", "options": {"mark": str(files / "died")}}
    config = {**with_dropout(files, parallel={"executor": "ray", "workers": 2}, **sections), "callbacks": [dying]}
    result = create_kaggle_trainer(config=config).train_with_cv()
    assert (files / "died").exists() and np.array_equal(result.oof.predictions, plain.oof.predictions)


def test_declared():
    config = load_config({"parallel": {"executor": "ray", "workers": 3, "options": {"address": "head:6379"}}})
    made = create_executor(config.parallel)
    assert (type(made), made.workers, made.address) == (RayCluster, 3, "head:6379")
    with pytest.raises(UnknownNameError, match="adress"):
        create_executor(load_config({"parallel": {"executor": "ray", "options": {"adress": "x"}}}).parallel)
    with pytest.raises(ConfigError, match="parallel.options"): load_config({"parallel": {"options": {"address": "x"}}})


def test_without_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'mlx_bert_training\[ray\]'"):
        RayCluster().run([], Heard())


def test_a_job_is_packed_without_what_is_shared(tmp_path):
    from mlx_bert_training.parallel.executor import Shared
    job = {"number": 1, "plan": Shared(np.zeros(100_000), tmp_path)}
    data, shared = pack_job(job)
    again = unpack_job(data, {name: value.value for name, value in shared.items()})
    assert len(data) < 500 and again["plan"].value is job["plan"].value and not list(tmp_path.iterdir())
