"""A tracked run in a real store: what is logged, what is not, and a model that predicts as its trainer does."""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from mlflow_server import free_port
from toys import ToyLoader, ToyModel, toy_config

from mlx_bert_training import Callback, MLflowCallback, create_kaggle_trainer, create_trainer, run_training
from mlx_bert_training.callbacks import ModelCheckpoint
from mlx_bert_training.cli import main
from mlx_bert_training.core.base import Trainer
from mlx_bert_training.core.config import MLflowConfig
from mlx_bert_training.declaration.problems import ConfigError
from mlx_bert_training.errors import DataError, MissingExtraError, UnknownNameError
from mlx_bert_training.integrations import facts
from mlx_bert_training.integrations import spool as spooling
from mlx_bert_training.integrations.facts import frame_digest, redact, run_params
from mlx_bert_training.integrations.mlflow import log_scores
from mlx_bert_training.integrations.mlflow_model import (
    RowPredictor,
    check_rows,
    input_columns,
    save_model,
    save_served,
)
from mlx_bert_training.integrations.mlflow_store import (
    SPOOL,
    Store,
    TrackingError,
    import_mlflow,
    open_client,
    public_uri,
    sync_spool,
    tracking_uri,
)
from mlx_bert_training.integrations.run_log import Destination, RunLog, SystemSampler
from mlx_bert_training.integrations.runs import RunRecord, RunTable, Score, compare_runs, gain, read_store
from mlx_bert_training.integrations.spool import Outbox, Refused, Spool, SpoolError, is_served

COLUMNS = ["purpose", "credit_amount", "duration", "saving_accounts"]
DECLARATION = {
    "model": {"config": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
              "pooling": "mean"},
    "data": {"train_path": "demo:german_credit/train.csv", "test_path": "demo:german_credit/test.csv",
             "target_column": "risk", "id_column": "id", "max_train_rows": 150, "num_workers": 0, "max_length": 32,
             "template": "{purpose} of {credit_amount} over {duration} months, {saving_accounts}",
             "template_defaults": {"saving_accounts": "no savings"}},
    "optimizer": {"learning_rate": 1e-2},
    "training": {"num_epochs": 2, "logging_steps": 1, "save_strategy": "no", "early_stopping": False},
    "environment": {"compile": False, "device": "cpu", "experiment_name": "tests", "run_name": "run"},
    "tracking": {"type": "mlflow", "mlflow": {"register_model": True, "model_name": "credit"}},
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(spooling.Outbox, "linger", 0.02)
    monkeypatch.setattr(spooling.Attempts, "pauses", (0.05, 0.2))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def place(tmp_path, mlflow_database):
    "A folder of runs with an empty store in the default place."
    folder = tmp_path / "my runs"
    folder.mkdir()
    shutil.copy(mlflow_database, folder / "mlflow.db")
    return folder


def client_of(place): return open_client(f"sqlite:///{place / 'mlflow.db'}")


def runs_of(client, name="tests"):
    found = client.search_runs([client.get_experiment_by_name(name).experiment_id])
    return {run.info.run_name: run for run in found}


def files_of(client, run, folder=None):
    return {file.path for file in client.list_artifacts(run.info.run_id, folder)}


def toy_trainer(place, *more, config=None, **settings):
    config = config or toy_config(place, **{"environment.experiment_name": "tests", "eval_strategy": "no"})
    tracker = MLflowCallback(MLflowConfig(**settings))
    return Trainer(ToyModel(), config, callbacks=[tracker, *more]), tracker


# ---- a whole run


@pytest.fixture(scope="module")
def tracked(tmp_path_factory, mlflow_database):
    "A finished run of `run_training`, and the client of its store, in the default place."
    place = tmp_path_factory.mktemp("tracked") / "my runs"
    place.mkdir()
    shutil.copy(mlflow_database, place / "mlflow.db")
    template = DECLARATION["data"]["template"] + " " * 7000
    return run_training({**DECLARATION, "data": {**DECLARATION["data"], "template": template}},
                        **{"environment.output_dir": str(place),
                           "tracking.mlflow": {**DECLARATION["tracking"]["mlflow"], "tags": {"team": "blue"},
                                               "params": {"idea": {"number": 7}}, "log_checkpoints": True},
                           "training.save_strategy": "epoch"}), client_of(place), place


def test_a_run_is_logged_with_all_that_belongs_to_it(tracked):
    done, client, place = tracked
    run, result = runs_of(client)["run"], done.result
    params, tags, metrics = run.data.params, run.data.tags, run.data.metrics
    assert run.info.status == "FINISHED" and run.info.run_id == done.trainer.callbacks.find(MLflowCallback).run_id
    assert run.info.artifact_uri.startswith((place / "mlartifacts").as_uri())
    assert params["optimizer.learning_rate"] == "0.01" and params["idea.number"] == "7"
    assert params["data.template_defaults.saving_accounts"] == "no savings"
    assert tags["team"] == "blue" and tags.keys() >= {"stop_reason", "env.mlx", "env.device", "env.blas", "env.python"}
    assert len(tags["mlflow.source.git.commit"]) == 40
    losses = client.get_metric_history(run.info.run_id, "loss")
    assert [p.value for p in losses] == [row["loss"] for row in result.history if "loss" in row]
    assert {"learning_rate", "tokens_per_second", "grad_norm", "eval_auc", "system/cpu_utilization_percentage",
            "system/process_memory_megabytes"} <= metrics.keys()
    assert metrics["final_eval_auc"] == result.metrics["eval_auc"]
    records = {item.tags[0].value: item.dataset for item in run.inputs.dataset_inputs}
    frames = done.trainer.data.frames
    assert {part: record.digest for part, record in records.items()} == {
        part: frame_digest(frame) for part, frame in frames.items()}
    assert json.loads(records["train"].source)["uri"].endswith("train.csv")
    assert files_of(client, run) >= {"config.yaml", "learning_curve.png", "metrics.jsonl", "predictions.csv",
                                     "result.json", "long_values", "checkpoints"}
    assert len(files_of(client, run, "checkpoints")) == 2
    assert not list((result.output_dir / SPOOL / "files").iterdir())    # what was copied to be sent is gone


def test_a_long_value_is_a_file_and_not_cut(tracked, tmp_path):
    done, client, _ = tracked
    run = runs_of(client)["run"]
    assert "see long_values/data.template.txt" in run.data.params["data.template"]
    path = client.download_artifacts(run.info.run_id, "long_values/data.template.txt", str(tmp_path))
    assert Path(path).read_text() == done.trainer.config.data.template


def load(place, name="credit"):
    mlflow = import_mlflow()
    mlflow.set_tracking_uri(f"sqlite:///{place / 'mlflow.db'}")
    try: return mlflow.pyfunc.load_model(f"models:/{name}@champion")
    finally: os.environ.pop("MLFLOW_TRACKING_URI", None)    # where set_tracking_uri puts it, and later runs find it


def test_the_champion_gives_the_trainers_own_predictions_bit_for_bit(tracked):
    done, _, place = tracked
    model, rows = load(place), done.trainer.data.frames["test"]
    answers = model.predict(rows[COLUMNS])
    own = done.trainer.predict()
    assert np.array_equal(answers[["probability_0", "probability_1"]].to_numpy(), own.values)
    assert answers["risk"].tolist() == own.labels().tolist()
    assert model.metadata.signature.inputs.required_input_names() == COLUMNS[:3]
    assert model.input_example is not None and len(model.input_example) == 3
    missing = rows[COLUMNS].head(2).assign(saving_accounts=[None, "little"])
    assert np.array_equal(model.predict(missing.drop(columns="saving_accounts")).iloc[0].to_numpy(),
                          model.predict(missing).iloc[0].to_numpy())


def test_the_champion_is_served_and_refuses_a_bad_request(tracked, tmp_path):
    done, _, place = tracked
    port, command = free_port(), Path(sys.executable).with_name("mlflow")
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [command, "models", "serve", "-m", "models:/credit@champion", "--env-manager", "local", "-p", str(port)],
            stdout=log, stderr=log, env=_environment(place))
    try:
        rows = done.trainer.data.frames["test"][COLUMNS].head(40)
        split = json.loads(rows.to_json(orient="split", index=False))
        status, answer = _post(server, port, {"dataframe_split": split})
        assert status == 200, answer
        assert np.array_equal(pd.DataFrame(json.loads(answer)["predictions"]).to_numpy(),
                              load(place).predict(rows).to_numpy())
        for bad, said in [({"purpose": ["car"]}, "credit_amount"),
                          ({"purpose": ["car"], "credit_amount": ["much"], "duration": [6]}, "'much'"),
                          ({"purpose": [None], "credit_amount": [100], "duration": [6]}, "column 'purpose'")]:
            rows = [{name: values[0] for name, values in bad.items()}]
            status, answer = _post(server, port, {"dataframe_records": rows})
            assert status == 400 and said in answer, answer
        assert _post(server, port, {"rows": []})[0] == 400
    finally:
        server.terminate()
        server.wait(30)


def _environment(place):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "MLFLOW_TRACKING_URI": f"sqlite:///{place / 'mlflow.db'}",
            "MLFLOW_DISABLE_TELEMETRY": "true"}


def _post(server, port, body):
    request = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    for _ in range(1200):
        try:
            with urllib.request.urlopen(request, timeout=60) as answer: return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error: return error.code, error.read().decode()
        except OSError:
            assert server.poll() is None, "the server ended"
            time.sleep(0.1)
    raise AssertionError("the server did not come up")


# ---- a cross-validation


@pytest.fixture(scope="module")
def validated(tmp_path_factory, mlflow_database):
    "A finished cross-validation with its submission, and the client of its store."
    place = tmp_path_factory.mktemp("validated")
    shutil.copy(mlflow_database, place / "mlflow.db")
    trainer = create_kaggle_trainer(config=DECLARATION, num_epochs=4, **{
        "environment.output_dir": str(place), "kaggle": {"cv_folds": 3, "competition_metric": "auc",
                                                         "submission_dir": str(place / "submissions")}})
    trainer.train_with_cv()
    trainer.create_submission()
    return trainer, client_of(place), place


def test_a_cross_validation_is_one_run_with_its_folds_below_it(validated):
    trainer, client, _ = validated
    runs, result = runs_of(client), trainer.cv
    whole = runs.pop("run")
    assert sorted(runs) == ["fold 1", "fold 2", "fold 3"]
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {whole.info.run_id}
    assert {run.info.status for run in [whole, *runs.values()]} == {"FINISHED"}
    assert whole.data.metrics["cv_auc"] == result.mean and whole.data.metrics["cv_auc_error"] == result.standard_error
    folds = client.get_metric_history(whole.info.run_id, "fold_auc")
    assert tuple(p.value for p in folds) == result.score.values and [p.step for p in folds] == [1, 2, 3]
    for part in result.run.runs:
        fold = runs[f"fold {part.fold + 1}"]
        assert fold.data.metrics["cv_auc"] == part.oofs[0].score("auc").pooled
        assert len(client.get_metric_history(fold.info.run_id, "loss")) == part.facts["updates"]
    assert whole.data.tags["folds_hash"] == result.folds.hash
    assert files_of(client, whole) >= {"cv.json", "cv.png", "folds.csv", "submission.csv", "run.npz"}
    assert whole.data.tags["submission.file_sha256"] == trainer.submission.entry.file_sha256


def test_the_champion_of_a_cross_validation_is_the_mean_of_its_folds(validated):
    trainer, _, place = validated
    answers = load(place).predict(trainer.data.frames["test"][COLUMNS])
    assert np.array_equal(answers.iloc[:, 1:].to_numpy(), trainer.predict().values)


def test_folds_that_are_finished_and_an_ensemble_go_into_the_same_run(validated, tmp_path):
    trainer, client, place = validated
    before = runs_of(client)["run"].info.run_id
    again = create_kaggle_trainer(config=trainer.config, **{"kaggle.enable_ensemble": True})
    again.train_with_cv()
    runs = runs_of(client)
    assert sorted(runs) == ["ensemble", "fold 1", "fold 2", "fold 3", "run"]
    assert runs["run"].info.run_id == before and runs["run"].data.metrics["cv_auc"] == again.cv.mean
    assert runs["ensemble"].data.tags["mlflow.parentRunId"] == before
    assert runs["ensemble"].data.metrics["cv_auc"] == again.cv.mean
    assert runs["run"].data.tags["changed.kaggle.enable_ensemble"] == "true"
    assert len(client.search_model_versions("name = 'credit'")) == 2


@pytest.mark.parametrize("first", [0, 1])
def test_a_run_that_counts_its_folds_from_0_goes_on_doing_so(validated, first):
    noted, older = [], {("fold_auc", 0): 0.5} if first == 0 else {("cv_auc", 0): 0.5}
    run = SimpleNamespace(key="whole", parent=None, to=SimpleNamespace(known_points=lambda key, after: older),
                          points=lambda step, values: noted.append((step, *values)), tags=lambda values: None)
    log_scores(run, validated[0].cv, {})
    assert [step for step, name, *_ in noted if name == "fold_auc"] == [first, first + 1, first + 2]


class Bang(Callback):
    "Raises in the second fold."

    def on_step(self, trainer, state):
        if trainer.output_dir.name == "fold-0-1": raise KeyboardInterrupt


def test_an_interrupted_cross_validation_ends_fold_and_whole_as_killed_and_goes_on(place):
    options = {"environment.output_dir": str(place), "kaggle": {"cv_folds": 2},
               "tracking.mlflow": {"log_models": False, "register_model": False}}
    with pytest.raises(KeyboardInterrupt):
        create_kaggle_trainer(config=DECLARATION, callbacks=[Bang()], **options).train_with_cv()
    first = runs_of(client_of(place))
    assert {name: run.info.status for name, run in first.items()} == {
        "run": "KILLED", "fold 1": "FINISHED", "fold 2": "KILLED"}
    assert first["run"].data.tags.keys() >= {"env.mlx"}
    create_kaggle_trainer(config=DECLARATION, **options).train_with_cv()
    found = client_of(place).search_runs([first["run"].info.experiment_id], order_by=["attributes.start_time ASC"])
    assert [(run.info.run_name, run.info.status) for run in found] == [
        ("run", "FINISHED"), ("fold 1", "FINISHED"), ("fold 2", "KILLED"), ("fold 2", "FINISHED")]


# ---- settings


def test_every_setting_is_read(place):
    trainer, tracker = toy_trainer(place, experiment_name="other", run_name="named", log_artifacts=False,
                                   log_system_metrics=False, log_models=False, params={"a": 1}, tags={"b": "2"})
    trainer.train(ToyLoader())
    client = client_of(place)
    run = runs_of(client, "other")["named"]
    assert run.data.params["a"] == "1" and run.data.tags["b"] == "2" and not files_of(client, run)
    assert not [name for name in run.data.metrics if name.startswith("system/")]
    steps = [p.step for p in client.get_metric_history(run.info.run_id, "loss")]
    assert steps == [row["step"] for row in trainer.state.history]      # every training.logging_steps updates


class Fail(Callback):
    "Ends a training before update 8 is done."
    def on_step(self, trainer, state):
        if state.step == 8: raise RuntimeError("power is gone")


@pytest.mark.parametrize("step", [5, 6, 7])     # where an epoch ends, where a point is due, between two
def test_a_run_that_is_resumed_within_a_window_logs_what_the_whole_run_does(place, step):
    losses = {}
    for name, *more in (("whole",), ("parts", ModelCheckpoint("steps", save_steps=step), Fail())):
        config = toy_config(place, logging_steps=20, num_epochs=2, eval_strategy="no", run_name=name,
                            **{"environment.experiment_name": "tests"})
        settings = {"config": config, "log_metrics_every_n_steps": 2, "log_system_metrics": False}
        trainer, tracker = toy_trainer(place, *more, **settings)
        if not more: trainer.train(ToyLoader())
        else:
            with pytest.raises(RuntimeError, match="power"): trainer.train(ToyLoader())
            trainer, tracker = toy_trainer(place, **settings)
            trainer.train(ToyLoader(), resume_from=place / name / "checkpoints" / f"step-{step:06d}")
        losses[name] = {p.step: p.value for p in client_of(place).get_metric_history(tracker.run_id, "loss")}
    assert losses["parts"] == pytest.approx(losses["whole"], rel=1e-5) and list(losses["whole"]) == [2, 4, 6, 8, 10]


def test_metrics_can_be_logged_more_often_than_the_run_logs(place):
    config = toy_config(place, logging_steps=4, num_epochs=3, **{"environment.experiment_name": "tests"})
    frequent, one = toy_trainer(place, config=config, log_metrics_every_n_steps=2, log_system_metrics=False)
    frequent.train(ToyLoader(), ToyLoader(seed=1))
    client = client_of(place)
    history = client.get_metric_history(one.run_id, "loss")
    assert [p.step for p in history] == [2, 4, 6, 8, 10, 12, 14]
    every = Trainer(ToyModel(), config.replace(logging_steps=1, run_name="every"))
    rows = {row["step"]: row["loss"] for row in every.train(ToyLoader()).history if "loss" in row}
    # a window ends at each log row of the run, and at the end of an epoch
    windows = {2: [1, 2], 4: [3, 4], 6: [6], 8: [7, 8], 10: [9, 10], 12: [11, 12], 14: [13, 14]}
    for point in history: assert point.value == pytest.approx(np.mean([rows[s] for s in windows[point.step]]), rel=1e-4)
    assert len(client.get_metric_history(one.run_id, "eval_loss")) == 3


def test_the_address_of_the_store(tmp_path, monkeypatch):
    assert tracking_uri(None, tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ada:secret-word@mlflow.example")
    assert tracking_uri(None, tmp_path) == "https://ada:secret-word@mlflow.example"
    assert public_uri(tracking_uri(None, tmp_path)) == "MLFLOW_TRACKING_URI"    # what is written down
    for wrong, said in [("mlruns", "sqlite:///mlruns/mlflow.db"), ("file:///tmp/mlruns", "plain files"),
                        ("https://ada:hunter22@mlflow.example", "MLFLOW_TRACKING_PASSWORD"),
                        ("htp://mlflow.example", "not an address"), ("http:/mlflow.example", "not an address")]:
        with pytest.raises(TrackingError, match=said) as caught: MLflowCallback(MLflowConfig(tracking_uri=wrong))
        assert "hunter22" not in str(caught.value)


def test_without_mlflow_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingExtraError, match=r"mlx_bert_training\[mlflow\]"):
        create_trainer(ToyModel(), config={"tracking": "mlflow"})
    with pytest.raises(MissingExtraError): create_kaggle_trainer(ToyModel(), config={"tracking": "mlflow"})
    assert main(["mlflow", "sync"]) == 2


def test_registering_needs_a_model_and_a_name():
    with pytest.raises(ConfigError, match="model_name"):
        create_trainer(ToyModel(), config={"tracking": {"type": "mlflow", "mlflow": {"register_model": True}}})


# ---- secrets


def test_no_secret_leaves(place, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "open-sesame-123")
    monkeypatch.setenv("KAGGLE_KEY", "0123456789abcdef0123456789abcdef")
    hidden = ["open-sesame-123", "0123456789abcdef0123456789abcdef", "swordfish", "hf_" + "x" * 34, "pass-word-9"]
    config = toy_config(place, **{"environment.experiment_name": "tests", "eval_strategy": "no"}, callbacks=[
        {"type": "toys:Named", "greeting": f"{hidden[0]} {hidden[3]}"}, {"type": "toys:Named", "api_key": "swordfish"}])
    trainer, tracker = toy_trainer(place, config=config, tags={"note": f"key {hidden[1]}"}, params={
        "url": "https://ada:pass-word-9@data.example", "token": "swordfish", "tokens": 5})
    trainer.train(ToyLoader())
    run = runs_of(client_of(place))["toy"]
    assert run.data.params["tokens"] == "5" and run.data.params["token"] == "***"
    sent = [*place.rglob("mlartifacts/**/*"), *place.rglob(f"{SPOOL}/*"), place / "mlflow.db"]
    for path in (path for path in sent if path.is_file()):
        for secret in hidden: assert secret.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("value, expected", [
    ({"password": "", "passwords_seen": 3, "pad_token_id": 0, "a.secret": [1, 2]},
     {"password": "", "passwords_seen": 3, "pad_token_id": 0, "a.secret": "***"}),
    ("postgresql://ada:x@host/db", "postgresql://***@host/db"), (["ghp_" + "a" * 36], ["***"]), (1.5, 1.5),
    ("read at me@example.com", "read at me@example.com")])
def test_redact(value, expected): assert redact(value) == expected


# ---- what goes wrong


def test_what_the_store_refuses_is_set_aside_and_the_rest_arrives(place, caplog):
    trainer, tracker = toy_trainer(place, log_system_metrics=False)
    trainer.train(ToyLoader())
    run, client = tracker.run, client_of(place)
    RunLog(run.to, "no such run").points(1, {"loss": 1.0})
    run.points(99, {"loss": 0.5})
    assert tracker.close()
    aside = [json.loads(line) for line in (trainer.output_dir / SPOOL / "set-aside.jsonl").read_text().splitlines()]
    assert [op["run"] for op in aside] == ["no such run"] and "was refused" in caplog.text
    assert client.get_metric_history(tracker.run_id, "loss")[-1].step == 99


def test_a_file_that_never_arrives_does_not_hold_up_what_comes_after(place, monkeypatch):
    trainer, tracker = toy_trainer(place, log_system_metrics=False, log_artifacts=False)
    trainer.train(ToyLoader())
    mlflow = import_mlflow()

    def full(*_): raise mlflow.MlflowException("413 Request Entity Too Large")
    monkeypatch.setattr(mlflow.MlflowClient, "log_artifact", full)
    (trainer.output_dir / "big.bin").write_bytes(b"0")
    tracker.log_files(trainer.output_dir / "big.bin")
    tracker.run.points(99, {"loss": 0.5})
    for _ in range(4): tracker.close()
    assert "big.bin" in (trainer.output_dir / SPOOL / "set-aside.jsonl").read_text()
    assert client_of(place).get_metric_history(tracker.run_id, "loss")[-1].step == 99


def test_a_failing_part_does_not_stop_training(place, monkeypatch, caplog):
    def broken(*_): raise RuntimeError("no frames today")
    monkeypatch.setattr("mlx_bert_training.integrations.mlflow.dataset_records", broken)
    trainer, tracker = toy_trainer(place)
    assert trainer.train(ToyLoader()).steps == 15
    assert "the data was not logged: RuntimeError: no frames today" in caplog.text
    assert client_of(place).get_run(tracker.run_id).info.status == "FINISHED"


def test_a_second_training_is_a_second_run_and_an_error_fails_it(place):
    class Fail(Callback):
        def on_epoch_end(self, trainer, state):
            if self.armed: raise RuntimeError("my fault, token=swordfish")
        armed = False
    fail = Fail()
    trainer, tracker = toy_trainer(place, fail)
    trainer.train(ToyLoader())
    first, fail.armed = tracker.run_id, True
    with pytest.raises(RuntimeError): trainer.train(ToyLoader())
    client = client_of(place)
    assert client.get_run(first).info.status == "FINISHED"
    second = client.get_run(tracker.run_id)
    assert second.info.run_id != first and second.info.status == "FAILED"
    assert "my fault" in second.data.tags["stop_reason"]


def test_nothing_is_lost_on_a_full_disk(tmp_path, monkeypatch):
    spool = Spool(tmp_path)
    spool.acquire()
    spool.add({"n": 0})
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda self, mode="r", *a, **k: _full(self) if mode == "ab" else real(
        self, mode, *a, **k))
    spool.add({"n": 1})
    assert spool.pending and [op["n"] for op in spool] == [0]
    monkeypatch.setattr(Path, "open", real)
    spool.add({"n": 2})
    assert [op["n"] for op in spool] == [0, 1, 2]


def _full(path): raise OSError(28, "No space left on device", str(path))


@pytest.mark.parametrize(("name", "content"), [
    ("spool.jsonl", "\0\0\0\n"), ("spool.jsonl", "[1]\n"), ("runs.json", "[1]")])
def test_a_damaged_spool_is_said_and_given_free(tmp_path, name, content):
    (tmp_path / SPOOL).mkdir()
    (tmp_path / SPOOL / name).write_text(content)
    to = Destination(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}", "tests")
    if name == "runs.json":     # MLflow is asked for the names again
        assert RunLog(to).run_id is None
        return
    with pytest.raises(SpoolError, match=f"{name} is damaged.*remove the file 'done'"): to.outbox()
    assert not is_served(tmp_path / SPOOL)
    with pytest.raises(SpoolError, match=name): sync_spool(tmp_path / SPOOL)
    assert not is_served(tmp_path / SPOOL)
    (tmp_path / SPOOL / name).write_text("")
    to.outbox().stop()


def test_half_a_line_at_the_end_of_a_spool_is_cut_off(tmp_path):
    spool = Spool(tmp_path)
    spool.acquire()
    spool.add({"n": 0})
    spool.release()
    with spool.path.open("a") as file: file.write('{"n": 1')
    again = Spool(tmp_path)
    assert again.acquire() and [op["n"] for op in again] == [0]
    again.add({"n": 2})
    assert [op["n"] for op in again.read()[0]] == [0, 2]


def test_an_operation_comes_again_until_it_is_done(tmp_path):
    "A delivery whose end was not noted, as in a crash between the two, is repeated from where it was."
    spool, seen = Spool(tmp_path), []
    spool.acquire()
    spool.add(*({"n": n} for n in range(5)))

    def twice(operations):
        seen.append(operations[0]["n"])
        if len(seen) == 3: raise ConnectionError
        return 1
    outbox = Outbox(spool, twice)
    assert outbox.flush(10) or outbox.flush(10)
    assert seen == [0, 1, 2, 2, 3, 4]
    outbox.stop()
    assert Refused("x") and Spool(tmp_path).pending == 0


def test_the_same_operations_twice_do_no_harm(tracked):
    "All of a finished run is delivered again, as if no answer had ever come back."
    done, client, place = tracked
    run = runs_of(client)["run"]
    before = {name: len(client.get_metric_history(run.info.run_id, name)) for name in run.data.metrics}
    folder = done.result.output_dir / SPOOL
    store, operations = Store(f"sqlite:///{place / 'mlflow.db'}", "tests", folder), list(Spool(folder))
    while operations:
        if operations[0]["op"] in ("file", "model") and operations[0].get("once"): operations.pop(0)
        else: del operations[:store.deliver(operations)]
    assert {name: len(client.get_metric_history(run.info.run_id, name)) for name in before} == before
    assert len(runs_of(client)) == 1 and len(client.search_model_versions("name = 'credit'")) == 1


def test_the_sampler_logs_while_it_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(SystemSampler, "interval", 0.01)
    run = RunLog(Destination(tmp_path, "http://127.0.0.1:9", "e"))
    sampler = SystemSampler(run)
    spool = Spool(tmp_path / SPOOL)
    while sum(op["op"] == "points" for op in spool) < 3: pass
    sampler.stop()
    names = {name for op in spool if op["op"] == "points" for name in op["values"]}
    assert "system/mlx_peak_memory_megabytes" in names and all(name.startswith("system/") for name in names)


# ---- rows


def test_columns_and_their_kinds(tmp_path):
    data = create_trainer(config=DECLARATION, tracking="none").data
    assert input_columns(data) == {
        "purpose": {"kind": "text", "required": True}, "credit_amount": {"kind": "whole", "required": True},
        "duration": {"kind": "whole", "required": True}, "saving_accounts": {"kind": "text", "required": False}}
    kinds = {"age": {"kind": "number", "required": False}, "name": {"kind": "text", "required": True}}
    rows = check_rows(pd.DataFrame({"name": ["a", "b"], "more": [1, 2]}), kinds)
    assert rows["age"].tolist() == [None, None] and list(rows) == ["age", "name"]
    for wrong, said in [({"age": [1]}, "no column 'name'"), ({"name": ["a"], "age": ["old"]}, "'old' is not a number"),
                        ({"name": ["a"], "age": [True]}, "row 1, column 'age'"), ({"name": []}, "no rows")]:
        with pytest.raises(DataError, match=said): check_rows(pd.DataFrame(wrong), kinds)


def test_a_model_of_one_text_column_takes_a_list_and_any_length(tmp_path):
    frame = pd.DataFrame({"text": ["a good one", "a bad one", "fine", "awful"] * 10, "label": ["yes", "no"] * 20})
    frame.to_csv(tmp_path / "train.csv", index=False)
    trainer = create_trainer(config={**DECLARATION, "tracking": "none", "data": {
        "train_path": str(tmp_path / "train.csv"), "target_column": "label", "max_length": 64, "num_workers": 0}})
    kept = tmp_path / "kept"
    trainer.model.save_pretrained(kept), trainer.data.tokenizer.save(kept), trainer.data.labels.save(kept)
    save_served(tmp_path / "served", trainer.config, trainer.data, [[kept]])
    predictor = RowPredictor(tmp_path / "served")
    answers = predictor(["fine", "word " * 200])
    assert list(answers) == ["label", "probability_no", "probability_yes"] and set(answers["label"]) <= {"yes", "no"}
    with pytest.raises(DataError, match="no rows"): predictor([])


def test_a_model_of_words_gives_a_row_for_each_word(tmp_path):
    rows = [{"tokens": ["we", "are", "in", "ulm"], "tags": ["O", "O", "O", "B-place"]},
            {"tokens": ["hello"], "tags": ["O"]}] * 8
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    trainer = create_trainer(config={**DECLARATION, "tracking": "none", "training": {}, "model": {
        "config": DECLARATION["model"]["config"], "head_type": "token_classification"}, "data": {
        "train_path": str(tmp_path / "train.jsonl"), "text_column": "tokens", "target_column": "tags",
        "num_workers": 0, "validation_fraction": 0.5, "template": None}})
    kept = tmp_path / "kept"
    trainer.model.save_pretrained(kept), trainer.data.tokenizer.save(kept), trainer.data.labels.save(kept)
    path = save_model(tmp_path / "model", trainer.config, trainer.data, [[kept]])
    loaded = import_mlflow().pyfunc.load_model(str(path))
    given = [["in", "ulm"], ["hello"]]
    found, expected = loaded.predict(pd.DataFrame({"tokens": given})), trainer.predict(given)
    assert found["word"].tolist() == ["in", "ulm", "hello"] and found["place"].tolist() == [0, 1, 0]
    assert found["tags"].tolist() == [tag for tags in expected.labels() for tag in tags]
    assert np.allclose(found["probability_B-place"], expected.to_frame()["probability_B-place"], atol=1e-6)


# ---- runs side by side


def test_runs_are_compared_by_folds_where_they_have_the_same(validated, capsys):
    _, client, place = validated
    create_kaggle_trainer(config=DECLARATION, num_epochs=1, learning_rate=1e-3, tracking="none", **{
        "environment.output_dir": str(place), "environment.run_name": "shorter",
        "kaggle": {"cv_folds": 3, "competition_metric": "auc"}}).train_with_cv()
    table = compare_runs(place)
    frame = table.to_frame()
    assert table.metric == "auc" and list(frame.index) == ["run", "shorter"]
    assert frame.loc["shorter", "same folds"] == "yes"
    first, second = (json.loads((place / name / "cv.json").read_text())["folds"] for name in ("run", "shorter"))
    difference = np.array(second) - np.array(first)
    assert frame.loc["shorter", "gain"] == pytest.approx(difference.mean())
    assert frame.loc["shorter", "error of gain"] == pytest.approx(difference.std(ddof=1) * (1 / 3 + 1 / 2) ** 0.5)
    assert "optimizer.learning_rate 0.001 instead of 0.01" in frame.loc["shorter", "different"]
    assert "training.num_epochs 1 instead of 4" in str(table) and "shorter" in table._repr_html_()
    assert main(["runs", str(place), "--against", "shorter", "--run", "run"]) == 0
    assert "Different from shorter" in capsys.readouterr().out
    store = compare_runs(f"sqlite:///{place / 'mlflow.db'}", experiment="tests")
    assert store.runs[0].scores["auc"].folds == pytest.approx(first) and store.runs[0].name == "run"


def test_every_page_of_a_store_is_read(place, monkeypatch):
    from mlflow import MlflowClient
    for _ in range(2):
        trainer, tracker = toy_trainer(place, log_system_metrics=False)
        trainer.train(ToyLoader())
        assert tracker.close()
    search = MlflowClient.search_runs
    monkeypatch.setattr(MlflowClient, "search_runs", lambda *args, **more: search(*args, **{**more, "max_results": 1}))
    assert len(read_store(f"sqlite:///{place / 'mlflow.db'}")) == 2


def test_what_cannot_be_compared_says_so(place, tmp_path, capsys):
    for arguments, said in [(["runs", str(tmp_path / "nothing")], "no run is here"),
                            (["runs", f"sqlite:///{place / 'mlflow.db'}"], "no run of this package"),
                            (["runs", f"sqlite:///{place / 'mlflow.db'}", "--experiment", "x"], "unknown experiment"),
                            (["mlflow", "sync", str(tmp_path / "nothing")], "no run with a spool")]:
        assert main(arguments) == 2 and said in capsys.readouterr().err
    trainer, _ = toy_trainer(place)
    trainer.train(ToyLoader())
    with pytest.raises(DataError, match="none of these runs has a score"): compare_runs(place)
    with pytest.raises(UnknownNameError, match="unknown run 'tow'.*'toy'"): compare_runs(place, reference="tow")
    with pytest.raises(UnknownNameError, match="unknown metric"): compare_runs(place, metric="acu")


def test_a_loss_is_better_when_it_is_smaller():
    a, b = (RunRecord(name, {}, {"loss": Score(value, 0.1)}) for name, value in (("a", 0.5), ("b", 0.3)))
    better, error, paired = gain(b, a, "loss")
    assert better == pytest.approx(0.2) and error == pytest.approx(0.02 ** 0.5) and not paired
    assert "nothing" in str(RunTable([a, b], "loss", a))


def test_parameters_and_names():
    params, long = run_params(toy_config("x"), {"größe (m²)": 1, "list": [1, "a"]})
    assert params["größe _m²_"] == "1"
    assert params["list"] == '[1, "a"]' and not long
    assert len(facts.plain_name("a" * 400)) == 250
