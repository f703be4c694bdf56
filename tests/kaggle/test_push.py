"""A bundle goes the whole way on a local Kaggle, with the real client, whatever breaks: never twice, and resumable."""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest
from finished_runs import make_run
from kaggle_code_server import CodeServer, log_of
from kaggle_server import Competition

from mlx_bert_training.cli import main
from mlx_bert_training.declaration.load import load_config
from mlx_bert_training.declaration.problems import ConfigError
from mlx_bert_training.kaggle.bundle import BundleError, bundle
from mlx_bert_training.kaggle.client import KaggleClient
from mlx_bert_training.kaggle.code_calls import KaggleKernelError, KaggleWaitError
from mlx_bert_training.kaggle.connection import (
    KaggleCredentialsError,
    KaggleError,
    KaggleLimitError,
    KaggleTransferError,
    RetryPolicy,
)
from mlx_bert_training.kaggle.ledger import Ledger
from mlx_bert_training.kaggle.push import push

KEY = "ada-secret-key"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "A finished run of a code competition, and what it submits."
    home = tmp_path_factory.mktemp("run")
    run, submission = make_run(home, "binary", pd.DataFrame({"y": [0.5]}), epochs=2, competition_metric="auc",
                               competition_name="tiny", download_data=False)
    return run, submission.read_bytes(), home / "test.csv"


@pytest.fixture
def site(made, tmp_path, monkeypatch):
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("KAGGLE_"): monkeypatch.delenv(name)
    rows = made[1].decode().splitlines()[1:]
    race = Competition("tiny", {}, {row.split(",")[0]: str(n % 2) for n, row in enumerate(rows)}, target="y")
    with CodeServer(race, runner=lambda kernel, folder: (made[1], log_of("done"))) as server:
        for name, value in {"HOME": str(tmp_path), "KAGGLE_API_ENVIRONMENT": "LOCALHOST", "HTTP_PROXY": server.url,
                            "KAGGLE_CONFIG_DIR": str(tmp_path), "KAGGLE_USERNAME": "ada", "TMPDIR": str(tmp_path),
                            "KAGGLE_KEY": KEY}.items(): monkeypatch.setenv(name, value)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        yield server


@pytest.fixture
def go(made, site, tmp_path):
    "Bundle and push a copy of the run, again and again."
    run = tmp_path / "runs" / "tiny"
    shutil.copytree(made[0], run)

    def go(**overrides):
        client = KaggleClient(timeout=10, policy=RetryPolicy(attempts=3, backoff=0.02, longest=2))
        declared = {"submission_dir": str(tmp_path / "sent"), "score_timeout": 20, "bundle_timeout": 20, **overrides}
        return push(bundle(run, tmp_path / "bundle", wheels=False, **declared), client, poll=0.02)
    go.run, go.ledger = run, Ledger(tmp_path / "sent" / "ledger.jsonl")
    return go


def counts(site) -> tuple[int, int, int]:
    "Versions of datasets and notebooks, and submissions, that there are."
    return (sum(map(len, site.datasets.values())), sum(map(len, site.kernels.values())), len(site.submissions))


def test_the_whole_way_and_then_nothing_more(site, go):
    done = go(bundle_accelerator="gpu")
    assert counts(site) == (1, 1, 1)
    assert done.dataset == "ada/tiny-bundle" and done.kernel == "ada/tiny-bundle-inference"
    [dataset], [kernel] = site.datasets[done.dataset], site.kernels[done.kernel]
    assert dataset["private"] and kernel["isPrivate"] and kernel["enableGpu"] and not kernel.get("enableInternet")
    assert kernel["competitionDataSources"] == ["tiny"] and kernel["datasetDataSources"] == [done.dataset]
    assert {"models.zip", "bundle_inference.zip", "bundle.json", "SHA256SUMS"} < set(dataset["files"])
    [entry] = go.ledger.entries()
    assert entry.ref == site.submissions[0]["ref"] and entry.public_score is not None and entry.cv_mean is not None
    assert "submitted as" in repr(done) and str(entry.public_score) in repr(done)
    assert go(bundle_accelerator="gpu").entry.ref == entry.ref
    assert counts(site) == (1, 1, 1) and len(go.ledger.entries()) == 1
    assert not (go.run / "push.d").exists()


def test_what_is_uploaded_predicts_what_the_run_submits(made, site, go):
    "The notebook that arrived, run on the files that arrived, in a process without this package's source."
    def runner(kernel, folder):
        cells = json.loads(kernel["text"])["cells"]
        code = "\n\n".join(cell["source"] for cell in cells if cell["cell_type"] == "code")
        env = {**os.environ, "BUNDLE_FOLDER": str(folder), "BUNDLE_TEST": str(made[2]), "BUNDLE_ENGINE": "mlx",
               "BUNDLE_OUTPUT": str(folder / "submission.csv")}
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True)
        if done.returncode: raise RuntimeError(done.stderr)
        return (folder / "submission.csv").read_bytes(), log_of(done.stdout)

    site.runner = runner
    go(bundle_timeout=120)
    sent = site.submissions[0]["content"].decode().splitlines()
    expected = made[1].decode().splitlines()
    assert [row.split(",")[0] for row in sent] == [row.split(",")[0] for row in expected]
    for one, other in zip(sent[1:], expected[1:], strict=True):
        assert abs(float(one.split(",")[1]) - float(other.split(",")[1])) < 1e-6


@pytest.mark.parametrize("fault", [{"status": 502}, {"drop": True}, {"garbage": True}])
@pytest.mark.parametrize("call", ["CreateDataset", "SaveKernel", "CreateCodeSubmission"])
def test_an_answer_that_is_lost_after_the_yes(site, go, call, fault):
    site.faults = [{"match": call, "after": True, **fault}]
    try: go()
    except KaggleError: go()        # a web page in place of an answer ends it; the same command goes on
    assert counts(site) == (1, 1, 1) and len(go.ledger.entries()) == 1


@pytest.mark.parametrize("call", ["StartBlobUpload", "CreateDataset", "GetDatasetStatus", "SaveKernel",
                                  "GetKernelSessionStatus", "CreateCodeSubmission", "GetSubmission"])
@pytest.mark.parametrize("status", [429, 503])
def test_a_site_that_is_busy_for_a_moment(site, go, call, status):
    site.faults = [{"match": call, "status": status, "times": 1}]
    try: go()
    except KaggleError: go()
    assert counts(site) == (1, 1, 1) and go.ledger.entries()[0].public_score is not None


@pytest.mark.parametrize("call", ["CreateDataset", "SaveKernel", "CreateCodeSubmission"])
def test_a_kill_between_the_yes_and_the_record(site, go, tmp_path, call):
    code = f"""
import os, sys
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1])!r}]
from mlx_bert_training.kaggle import code_calls, push
from mlx_bert_training.kaggle.bundle import bundle
from mlx_bert_training.kaggle.client import KaggleClient
def killing(call):
    def killed(*args, **options): call(*args, **options); os._exit(9)
    return killed
if {call!r} == "CreateDataset": push.make_dataset = killing(push.make_dataset)
if {call!r} == "SaveKernel": push.make_kernel = killing(push.make_kernel)
if {call!r} == "CreateCodeSubmission": KaggleClient.submit_code = killing(KaggleClient.submit_code)
push.push(bundle({str(go.run)!r}, {str(tmp_path / "bundle")!r}, wheels=False,
                 submission_dir={str(tmp_path / "sent")!r}), poll=0.02)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    go()
    assert counts(site) == (1, 1, 1) and len(go.ledger.entries()) == 1


def test_a_new_bundle_is_the_next_version(site, go, tmp_path):
    go()
    facts = go.run / "config.yaml"
    facts.write_text(facts.read_text().replace("max_length: 24", "max_length: 23"))
    second = go()
    assert second.versions == {"dataset": 2, "kernel": 2} and counts(site) == (2, 2, 2)
    assert len(go.ledger.entries()) == 2


def test_another_machine_is_another_notebook_of_the_same_dataset(site, go):
    go()
    assert go(bundle_accelerator="NvidiaL4").versions == {"dataset": 1, "kernel": 2}
    assert site.kernels["ada/tiny-bundle-inference"][1]["machineShape"] == "NvidiaL4"
    assert len(site.submissions) == 1       # the same predictions are not sent twice


def test_a_notebook_that_fails_shows_the_end_of_its_log_and_runs_anew(site, go, made, capsys):
    def fails(kernel, folder):
        kernel["failed"] = True
        lines = [f"row {n}" for n in range(500)] + ["Traceback (most recent call last):", "  File ...",
                                                    f"KeyError: 'fare' with {KEY}"]
        return None, log_of(*lines, stream="stderr")

    site.runner = fails
    with pytest.raises(KaggleKernelError, match="(?s)KeyError: 'fare'.*Nothing was submitted") as caught: go()
    assert "row 400" not in str(caught.value) and KEY not in str(caught.value) + (go.run / "kernel.log").read_text()
    assert len((go.run / "kernel.log").read_text().splitlines()) == 503
    site.runner = lambda kernel, folder: (made[1], log_of("done"))
    assert go().versions == {"dataset": 1, "kernel": 2} and counts(site) == (1, 2, 1)


def test_a_dataset_that_is_not_ready_is_waited_for(site, go):
    site.ready_after = 3
    go()
    order = [name for name in site.requests if name in ("GetDatasetStatus", "SaveKernel")]
    assert order.index("SaveKernel") >= 4
    site.ready_after = 10_000
    facts = go.run / "config.yaml"
    facts.write_text(facts.read_text().replace("max_length: 24", "max_length: 22"))
    with pytest.raises(KaggleWaitError, match="still blobs received.*run the same command again"):
        go(bundle_timeout=0.3)
    site.ready_after = 0
    assert go().versions["dataset"] == 2 and counts(site) == (2, 2, 2)


def test_a_dataset_that_kaggle_cannot_unpack_is_uploaded_again(site, go):
    site.dataset_fails = True
    with pytest.raises(KaggleError, match="Kaggle says failed"): go()
    site.dataset_fails = False
    assert go().versions == {"dataset": 2, "kernel": 1}


def test_a_notebook_that_runs_long_is_waited_for_later(site, go, made):
    gate = threading.Event()

    def slow(kernel, folder):
        gate.wait(30)
        return made[1], log_of("done")

    site.runner = slow
    with pytest.raises(KaggleWaitError, match="still running"): go(bundle_timeout=0.3)
    gate.set()
    go()
    assert counts(site) == (1, 1, 1)


def test_a_day_without_submissions_left(site, go):
    site.competitions["tiny"].max_daily = 0
    with pytest.raises(KaggleLimitError, match="00:00 UTC"): go()
    assert counts(site) == (1, 1, 0)
    site.competitions["tiny"].max_daily = 5
    go()
    assert counts(site) == (1, 1, 1) and len(go.ledger.entries()) == 1


def test_an_upload_that_breaks_again_and_again(site, go):
    site.faults = [{"match": "PUT upload", "cut": 10, "times": 99}]
    with pytest.raises(KaggleTransferError, match="because it broke 3 x.*goes on from there"): go()
    assert counts(site) == (0, 0, 0)
    site.faults = []
    go()
    assert counts(site) == (1, 1, 1)


def test_a_file_that_arrived_is_not_sent_again(site, go):
    "All files are there when the dataset is refused; the next push asks for each of them, and sends none."
    site.faults = [{"match": "CreateDataset", "status": 400, "message": "quota"}]
    with pytest.raises(KaggleError, match="quota"): go()
    sent = site.received
    assert sent > 200_000
    go()
    assert site.received == sent and counts(site) == (1, 1, 1)


def test_nothing_secret_leaves(site, go, tmp_path, monkeypatch):
    monkeypatch.setattr("mlx_bert_training.kaggle.bundle.write_code", lambda folder, task: (
        (folder / "code").mkdir(), (folder / "code" / "mine.py").write_text(f"login('ada', '{KEY}')")))
    with pytest.raises(BundleError, match="a credential of this machine is in mine.py; nothing was uploaded") as caught:
        go()
    assert KEY not in str(caught.value) and site.count("PUT upload") == 0


def test_refused_credentials_and_missing_ones(site, go, monkeypatch):
    monkeypatch.setenv("KAGGLE_KEY", "wrong-wrong")
    with pytest.raises(KaggleCredentialsError, match="refuses the credentials"): go()
    for name in ("KAGGLE_KEY", "KAGGLE_USERNAME"): monkeypatch.delenv(name)
    with pytest.raises(KaggleCredentialsError, match="No Kaggle credentials"): go()


def test_without_a_competition_nothing_is_submitted(site, go):
    assert "not submitted" in repr(go(competition_name=None)) and counts(site) == (1, 1, 0)


def test_what_cannot_be_declared(made, tmp_path):
    def declared(**overrides): return bundle(made[0], tmp_path / "bundle", wheels=False, **overrides)
    for overrides, message in (({"bundle_accelerator": "NvidiaTeslaP100"}, "retired"),
                               ({"bundle_dataset": "No Slug"}, "small letters"),
                               ({"bundle_kernel": "ada/x"}, "6 to 50"), ({"max_length": 8}, "decided by the run")):
        with pytest.raises(Exception, match=message): declared(**overrides)
    assert not (tmp_path / "bundle").exists()


def test_the_command(site, go, tmp_path, capsys):
    command = ["bundle", str(go.run), "-o", str(tmp_path / "upload"), "--no-wheels", "--push",
               f"submission_dir={tmp_path / 'sent'}", "bundle_dataset=tiny-files", "bundle_private=false"]
    assert main(command) == 0
    assert "https://www.kaggle.com/datasets/ada/tiny-files, version 1" in capsys.readouterr().out
    assert not site.datasets["ada/tiny-files"][0]["private"] and counts(site) == (1, 1, 1)


@pytest.mark.parametrize(("ensemble", "message"), [
    ({"ensemble_method": "stacking"}, "weighted mean .* and no stacking"),
    ({"ensemble_method": "hard_voting"}, "weighted mean .* and no hard_voting"),
])
def test_what_a_bundle_cannot_have_is_known_before_training(ensemble, message):
    declared = {"kaggle": {"enable_ensemble": True, **ensemble}}
    load_config(declared)       # without a bundle everything goes
    with pytest.raises(ConfigError, match=message): load_config(declared, bundle_dataset="ada/tiny-files")
    plain = {"enable_ensemble": True, "ensemble_members": ["linear"], "bundle_dataset": "ada/tiny-files"}
    assert load_config({"kaggle": plain}).kaggle.bundle_dataset == "ada/tiny-files"
