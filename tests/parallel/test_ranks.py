"""Several processes that share every batch: the weights of one process, one decision, one typed error."""
import json
import signal
import subprocess
import sys
import threading
import time

import jobs_of_ranks as jobs
import numpy as np
import pandas as pd
import pytest
from jobs_of_ranks import OddRow, Several, ToyRun
from tiny_competition import declaration, write_files

from mlx_bert_training import create_kaggle_trainer, create_trainer, factory, load
from mlx_bert_training.core.checkpoint import latest_checkpoint, verify_checkpoint
from mlx_bert_training.core.control import RunControl
from mlx_bert_training.declaration.load import load_config
from mlx_bert_training.declaration.problems import ConfigError
from mlx_bert_training.errors import DataError
from mlx_bert_training.parallel.ranks import run_in_ranks
from mlx_bert_training.run import run_training
from mlx_bert_training.runtime.ranks import RankError, Ranks

SAVING = {"training.save_strategy": "steps"}


def close(one, other, tolerance=2e-6):
    "The same weights, scores, losses and predictions within rounding."
    for name, values in one["weights"].items():
        assert np.allclose(values, other["weights"][name], atol=tolerance), name
    for name in ("losses", "norms", "values"): assert np.allclose(one[name], other[name], rtol=1e-4, atol=1e-6), name
    assert one["metrics"] == pytest.approx(other["metrics"], rel=1e-5)
    assert [one[name] for name in ("steps", "tokens", "examples")] == [
        other[name] for name in ("steps", "tokens", "examples")]


CASES = {
    "uneven": {},
    "odd batches": {"batch": 7},
    "fewer rows than ranks": {"batch": 1, "rows": 5},
    "windows": {"training.gradient_accumulation_steps": 3, "optimizer.max_grad_norm": 0.05},
    "compiled": {"environment.compile": True, "optimizer.gradient_clip_val": 0.01},
    "fgm": {"technique": {"type": "fgm", "parameters": "embedding"}, "rows": 29},
    "awp": {"technique": {"type": "awp", "lr": 0.1, "eps": 0.1, "start": 0}, "training.gradient_accumulation_steps": 2},
    "bad on one rank": {"technique": {"type": "nonfinite"}, "loader": OddRow, "environment.compile": True},
    "stopped early": {"training.num_epochs": 12, "training.early_stopping": True},
}


@pytest.mark.long
def test_two_ranks_compute_what_one_process_computes(tmp_path):
    runs = [ToyRun(tmp_path / name.replace(" ", "-"), **options) for name, options in CASES.items()]
    one = [ToyRun(tmp_path / f"one-{number}", **options).run() for number, options in enumerate(CASES.values())]
    dropping = [ToyRun(tmp_path / f"dropout-{n}", dropout=0.3) for n in range(2)]
    *two, first, second = run_in_ranks(Several(*runs, *dropping), 2)
    for alone, shared in zip(one, two, strict=True): close(alone, shared)
    assert first["weights"] == second["weights"] and first["losses"] == second["losses"]
    alone = ToyRun(tmp_path / "dropout-one", dropout=0.3).run()
    assert alone["losses"] != first["losses"] and abs(np.mean(alone["losses"]) - np.mean(first["losses"])) < 0.1


@pytest.mark.long
def test_a_run_goes_on_with_another_number_of_ranks(tmp_path):
    whole = ToyRun(tmp_path / "whole").run()
    stopped = run_in_ranks(ToyRun(tmp_path / "two", at=(1, 6, jobs.ask_to_stop), **SAVING), 3)
    assert stopped["steps"] == 8 and stopped["reason"] == "stopped by rank 1 after update 8"    # two updates to agree
    assert stopped["interventions"] == ["update 8: stop"] and "result.json" in stopped["files"]
    checkpoint = latest_checkpoint(tmp_path / "two" / "toy" / "checkpoints")
    again = ToyRun(tmp_path / "two", resume=checkpoint, **SAVING).run()
    close(whole, again)


def refused(tmp_path, act, count=2, **options):
    "The error of a run in which something happens to rank 1 after update 5, and its newest checkpoint."
    with pytest.raises((RankError, DataError)) as caught:
        run_in_ranks(ToyRun(tmp_path, at=(1, 5, act), **SAVING, **options), count)
    checkpoint = latest_checkpoint(tmp_path / "toy" / "checkpoints")
    verify_checkpoint(checkpoint)
    return caught.value, checkpoint


@pytest.mark.long
def test_a_dead_rank_ends_the_run_and_its_checkpoint_is_whole(tmp_path):
    error, checkpoint = refused(tmp_path, jobs.die)
    assert isinstance(error, RankError) and "rank 1 of 2 died with code -9" in str(error)
    again = ToyRun(tmp_path, resume=checkpoint, **SAVING).run()
    close(ToyRun(tmp_path / "whole").run(), again)


@pytest.mark.long
def test_a_rank_that_is_stopped_ends_the_run(tmp_path):
    error, _ = refused(tmp_path, jobs.freeze, **{"parallel.timeout": 3})
    assert "rank 0 of 2 has waited" in str(error) and "parallel.timeout" in str(error)


@pytest.mark.long
def test_the_error_of_one_rank_is_the_error_of_the_run(tmp_path):
    error, _ = refused(tmp_path, jobs.fail)
    assert isinstance(error, DataError) and str(error) == "row 7 cannot be read"


@pytest.mark.long
def test_weights_that_are_changed_on_one_rank_are_noticed(tmp_path):
    error, _ = refused(tmp_path, jobs.change)
    assert "the ranks have different weights after update 5" in str(error)


@pytest.fixture
def files(tmp_path):
    write_files(tmp_path)
    return tmp_path


def config_of(files, **sections):
    config = declaration(files, **sections)
    del config["kaggle"]
    return config


@pytest.mark.long
def test_a_declaration_in_two_processes(files):
    one = run_training(config_of(files, environment={"run_name": "one"}))
    control = RunControl()
    two = run_training(config_of(files, parallel={"ranks": 2}), control=control)
    assert two.trainer is None and two.control is control
    assert two.result.metrics == pytest.approx(one.result.metrics, rel=1e-4) and two.result.steps == one.result.steps
    a, b = (pd.read_csv(run.predictions) for run in (one, two))
    assert np.allclose(a.filter(like="probability"), b.filter(like="probability"), atol=1e-5)
    assert [path.name for path in two.files()] == [path.name for path in one.files()]
    assert len(load(two.result.output_dir).predict(["birch row001"])) == 1
    rows = [json.loads(line) for line in (two.result.output_dir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)     # written once


@pytest.mark.long
@pytest.mark.parametrize("executor", [{}, {"executor": "processes", "workers": 1}], ids=["here", "processes"])
def test_folds_whose_batches_two_ranks_share(files, executor):
    one = create_kaggle_trainer(config=declaration(files, environment={"run_name": "one"})).train_with_cv()
    config = declaration(files, parallel={"ranks": 2, **executor}, kaggle={"save_fold_models": True, "cv_folds": 3})
    two = create_kaggle_trainer(config=config).train_with_cv()
    assert np.allclose(one.oof.predictions, two.oof.predictions, atol=1e-5)
    assert np.allclose(one.test_predictions, two.test_predictions, atol=1e-5)
    folder = files / "runs" / "run" / "folds" / "fold-0-1"
    assert (folder / "model").is_dir() and not (folder / "checkpoints").exists()
    again = create_kaggle_trainer(config=config).train_with_cv()
    assert all(run.skipped for run in again.run.runs)


@pytest.mark.long
def test_sigterm_reaches_all_ranks(files):
    config = load_config(config_of(files, training={"num_epochs": 2000, "eval_strategy": "no"}))
    config.save(files / "run.yaml")
    process = subprocess.Popen([sys.executable, "-m", "mlx_bert_training", "train", str(files / "run.yaml"),
                                "--ranks", "2"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    timer = threading.Timer(120, process.kill)
    timer.start()
    checkpoints = files / "runs" / "run"
    while not (checkpoints / "config.yaml").exists() and process.poll() is None: time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    timer.cancel()
    assert process.returncode == 143, (out, err)
    verify_checkpoint(latest_checkpoint(checkpoints / "checkpoints"))


def test_what_does_not_fit_is_refused(files, monkeypatch):
    config = config_of(files, parallel={"ranks": 2})
    with pytest.raises(RankError, match="parallel.ranks is 2, and this process is alone"): create_trainer(config=config)
    with monkeypatch.context() as patch:
        patch.setattr(factory, "process_ranks", lambda: Ranks(1, 2))
        with pytest.raises(ConfigError, match="each fold starts the ranks"):
            create_kaggle_trainer(config=declaration(files, parallel={"ranks": 2}))
    with pytest.raises(ConfigError, match="more processes than rows in a batch, 16"):
        load_config(config_of(files, parallel={"ranks": 17}))
    with pytest.raises(ConfigError, match="parallel.ranks"): load_config(config_of(files, parallel={"ranks": 0}))


def test_a_share_is_every_so_many_rows():
    batch = {"input_ids": np.arange(5), "labels": None, "example_weight": np.ones(5)}
    shares = [Ranks(rank, 3).share(batch) for rank in range(3)]
    assert [share["input_ids"].tolist() for share in shares] == [[0, 3], [1, 4], [2]]
    none = Ranks(5, 6).share(batch)
    assert none["input_ids"].tolist() == [0] and none["example_weight"].tolist() == [0]
