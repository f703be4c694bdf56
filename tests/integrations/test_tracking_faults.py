"""A real MLflow server that is killed, frozen and made to answer nonsense while a run goes on: nothing waits, nothing
is lost."""
from __future__ import annotations

import logging
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow_server import MLflowServer, Proxy
from toys import ToyLoader, ToyModel, toy_config

from mlx_bert_training import Callback, MLflowCallback
from mlx_bert_training.cli import main
from mlx_bert_training.core.base import Trainer
from mlx_bert_training.core.config import MLflowConfig
from mlx_bert_training.integrations import mlflow_store
from mlx_bert_training.integrations import spool as spooling
from mlx_bert_training.integrations.mlflow_store import SPOOL, open_client, sync_folder
from mlx_bert_training.integrations.spool import Spool, is_served

NAMES = {"loss", "learning_rate", "grad_norm", "tokens_per_second", "epoch"}


@pytest.fixture(scope="module")
def server(tmp_path_factory, mlflow_database):
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(mlflow_database, folder / "mlflow.db")
    server = MLflowServer(folder, folder / "mlflow.db").start().wait()
    yield server
    server.thaw()
    server.kill()


@pytest.fixture
def proxy(server):
    proxy = Proxy(server)
    yield proxy
    proxy.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    "Short pauses: what is tested is the order of events, not how long they take."
    monkeypatch.setattr(spooling.Outbox, "linger", 0.02)
    monkeypatch.setattr(spooling.Attempts, "pauses", (0.05, 0.2))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")


def make_trainer(tmp_path, uri, *more, epochs=40, resume=False, **settings):
    "40 examples, 5 updates an epoch."
    config = toy_config(tmp_path, num_epochs=epochs, logging_steps=1, eval_strategy="no",
                        **{"environment.experiment_name": tmp_path.name})
    settings = {"log_metrics_every_n_steps": 1, "log_system_metrics": False, **settings}
    tracker = MLflowCallback(MLflowConfig(tracking_uri=uri, **settings))
    return Trainer(ToyModel(), config, callbacks=[tracker, *more]), tracker


def points(client, run_id):
    "Steps by metric, in the order of their times."
    names = client.get_run(run_id).data.metrics.keys() & NAMES
    return {name: [(p.step, p.value) for p in sorted(client.get_metric_history(run_id, name),
                                                     key=lambda p: (p.timestamp, p.step))] for name in names}


def waits(outbox):
    "The first operation that is not delivered; nothing if there is none."
    operations, _ = outbox.spool.read(1)
    return operations[0] if operations else {"op": ""}


class Faults(Callback):
    "Makes trouble every few updates, and sees to it that the tracker meets it before it is over."
    order = 1000

    def __init__(self, proxy, faults, every):
        self.proxy, self.faults, self.every, self.done = proxy, list(faults), every, []
        self.failed_points: list[bool] = []     # whether it was points that failed

    def on_step_end(self, trainer, state):
        if state.step % self.every or not self.faults: return
        tracker = trainer.callbacks.find(MLflowCallback)
        assert tracker.run.to.outbox().flush(30), "not all was delivered before the fault"
        tracker.run.points(state.step, {"probe": len(self.done)})      # so that it is points that meet the fault
        fault, server = self.faults.pop(0), self.proxy.backend
        counted = {"kill": "down", "freeze": "down"}.get(fault, fault)
        before, deadline = self.proxy.met[counted], time.monotonic() + 30
        if fault == "kill": server.kill()
        elif fault == "freeze": server.freeze()
        else: self.proxy.mode = fault
        tracker = trainer.callbacks.find(MLflowCallback)
        outbox = tracker.run.to.outbox()
        failed = outbox.attempts.failed
        outbox._bell.ring(hurry=True)
        def met(): return outbox.attempts.failed > failed if fault != "slow" else self.proxy.met[counted] > before
        while not met() and time.monotonic() < deadline: time.sleep(0.01)
        assert met(), f"{fault} was not met"
        if fault != "slow": self.failed_points += [waits(outbox)["op"] == "points"]
        if fault == "kill": server.start().wait()
        if fault == "freeze": server.thaw()
        self.proxy.mode = "pass"
        self.done.append(fault)


def train_under_faults(tmp_path, proxy):
    "44 epochs, 20 faults, each met by points. Raises `AssertionError` unless every point arrived once and in order."
    kinds = ["drop", "500", "lost", "503", "garbage", "cut", "torn", "429", "freeze", "hang"]
    faults = Faults(proxy, [*kinds, "kill", *kinds[:-2], "slow"], every=10)
    trainer, tracker = make_trainer(tmp_path, proxy.url, faults, epochs=44)
    result = trainer.train(ToyLoader())
    assert len(faults.done) == 20 and result.steps == 220 and all(faults.failed_points)
    assert tracker.close() and not (trainer.output_dir / SPOOL / "set-aside.jsonl").exists()
    client = open_client(proxy.backend.url)
    found, run = points(client, tracker.run_id), client.get_run(tracker.run_id)
    assert found.keys() == NAMES and run.info.status == "FINISHED"
    for name, series in found.items(): assert [step for step, _ in series] == list(range(1, 221)), name
    assert [value for _, value in found["loss"]] == pytest.approx([row["loss"] for row in result.history])
    arrived = list(dict.fromkeys(proxy.arrived))        # a request whose answer was lost comes again
    assert arrived == sorted(arrived) and len(arrived) == 220
    assert len(client.search_runs([run.info.experiment_id])) == 1       # "lost" and "cut" made no second run


def test_twenty_faults_and_every_point_arrives_in_order(tmp_path, proxy, caplog):
    with caplog.at_level(logging.WARNING): train_under_faults(tmp_path, proxy)
    assert "does not answer" in caplog.text and "answers again" in caplog.text


def forgiving(real, *_):
    "A mutant: a request for points that fails counts as done."
    def send(store, operations):
        try: return real(store, operations)
        except Exception: return 1
    return send


def hasty(real, *_):
    "A mutant: an answer that is torn, or is no answer of MLflow at all, counts as one."
    def send(store, operations):
        try: return real(store, operations)
        except Exception as error:
            broken = ("IncompleteRead", "Connection broken", "Expecting", "JSON", "not valid")
            if any(word in repr(error) for word in broken): return 1
            raise
    return send


def reordered(real, *_):
    "A mutant: of two points that wait, the second is sent first."
    def send(store, operations):
        if len(operations) < 2 or operations[1]["op"] != "points" or operations[1]["run"] != operations[0]["run"]:
            return real(store, operations)
        return real(store, operations[1:2]) + real(store, operations[:1])
    return send


@pytest.mark.parametrize("mutant", [forgiving, hasty, reordered])
def test_the_twenty_faults_find_a_tracker_that_loses_or_reorders_points(tmp_path, proxy, monkeypatch, mutant):
    monkeypatch.setattr(mlflow_store, "send_points", mutant(mlflow_store.send_points))
    with pytest.raises(AssertionError): train_under_faults(tmp_path, proxy)


class Witness(Callback):
    "Notes how far the tracker was when training was over."
    order = 109

    def on_train_end(self, trainer, state):
        outbox = trainer.callbacks.find(MLflowCallback).run.to.outbox()
        self.steps, self.attempts, self.failed = state.step, outbox.attempts.begun, outbox.attempts.failed


def test_training_does_not_wait_for_a_server_that_hangs(tmp_path, proxy, monkeypatch):
    "All updates are done while the very first request still waits for its answer, and the end waits only so long."
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    monkeypatch.setattr(spooling.Attempts, "patience", 0.1)
    proxy.mode, witness = "hang", Witness()
    trainer, tracker = make_trainer(tmp_path, proxy.url, witness)
    trainer.train(ToyLoader())
    assert (witness.steps, witness.failed) == (200, 0) and witness.attempts <= 1
    spool = Spool(trainer.output_dir / SPOOL)
    assert sum(op["op"] == "points" for op in spool) == 200 and spool.pending and is_served(spool.folder)
    assert tracker.run_id is None


def test_what_a_dead_server_did_not_hear_is_sent_later(tmp_path, server, capsys):
    trainer, tracker = make_trainer(tmp_path, "http://127.0.0.1:9", epochs=4)
    trainer.train(ToyLoader())
    assert not tracker.close() and tracker.run_id is None
    outbox = tracker.run.to.outbox()
    assert main(["mlflow", "sync", str(tmp_path)]) == 2 and "still at work" in capsys.readouterr().err
    outbox.stop()       # as the end of the process does
    assert main(["mlflow", "sync", str(tmp_path)]) == 2 and "does not answer" in capsys.readouterr().err
    assert main(["mlflow", "sync", str(tmp_path), "--uri", "http://127.0.0.1:7"]) == 2
    assert "wait on: http://127.0.0.1:7 does not answer" in capsys.readouterr().err
    assert main(["mlflow", "sync", str(tmp_path), "--uri", server.url]) == 0
    client = open_client(server.url)
    found = points(client, tracker.run_id)
    assert {name: [step for step, _ in series] for name, series in found.items()} == dict.fromkeys(
        NAMES, list(range(1, 21)))
    assert client.get_run(tracker.run_id).info.status == "FINISHED"
    assert "config.yaml" in [file.path for file in client.list_artifacts(tracker.run_id)]
    assert main(["mlflow", "sync", str(tmp_path)]) == 0 and ": 0 operations" in capsys.readouterr().out


KILLED = """
import os, signal, sys
sys.path[:0] = {tests!r}
from test_tracking_faults import *
from mlx_bert_training.callbacks import ModelCheckpoint

class Kill(Callback):
    order = 1000
    def on_step_end(self, trainer, state):
        if state.step == 17: os.kill(os.getpid(), signal.SIGKILL)

trainer, _ = make_trainer(Path({folder!r}), {uri!r}, ModelCheckpoint("steps", save_steps=5), Kill(), epochs=6)
trainer.train(ToyLoader())
"""


def test_a_killed_run_is_ended_by_the_next_and_goes_on_when_it_is_resumed(tmp_path, mlflow_database):
    store = tmp_path / "store"
    store.mkdir()
    shutil.copy(mlflow_database, store / "mlflow.db")
    uri = f"sqlite:///{store / 'mlflow.db'}"
    script = KILLED.format(tests=[str(folder) for folder in Path(__file__).parents[:2]], folder=str(tmp_path), uri=uri)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    spool, client = Spool(tmp_path / "toy" / SPOOL), open_client(uri)
    kept = [op["step"] for op in spool if op["op"] == "points"]
    assert kept == list(range(1, 18))
    sync_folder(tmp_path)
    (run,) = client.search_runs([client.get_experiment_by_name(tmp_path.name).experiment_id])
    assert run.info.status == "KILLED" and len(points(client, run.info.run_id)["loss"]) == 17
    client.update_run(run.info.run_id, status="RUNNING")    # as it is where nobody called sync

    other, tracker = make_trainer(tmp_path, uri, epochs=1)
    other.config.environment.run_name = "other"
    other.train(ToyLoader())
    assert client.get_run(run.info.run_id).info.status == "KILLED"
    assert client.get_run(tracker.run_id).info.status == "FINISHED"

    resumed, tracker = make_trainer(tmp_path, uri, epochs=6)
    resumed.train(ToyLoader(), resume_from=tmp_path / "toy" / "checkpoints" / "step-000015")
    assert tracker.run_id == run.info.run_id
    found = points(client, run.info.run_id)
    for name, series in found.items(): assert [step for step, _ in series] == list(range(1, 31)), name
    assert client.get_run(run.info.run_id).info.status == "FINISHED"
