"""A submission is sent once, whatever is killed and however many send at once; every run keeps its own line."""
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from kaggle_server import Competition, KaggleServer

from mlx_bert_training.declaration.load import load_config
from mlx_bert_training.files import file_sha256
from mlx_bert_training.kaggle.client import KaggleClient
from mlx_bert_training.kaggle.connection import KaggleError, RetryPolicy
from mlx_bert_training.kaggle.delivery import LEDGER_FILE, SubmissionFile, send_final
from mlx_bert_training.kaggle.ledger import Ledger, LedgerEntry

ROWS = "id,target\n" + "".join(f"{i},{i % 2}\n" for i in range(30))


@pytest.fixture
def site(tmp_path, monkeypatch):
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("KAGGLE_"): monkeypatch.delenv(name)
    with KaggleServer(Competition("tiny", {}, {str(i): str(i % 2) for i in range(30)})) as server:
        for name, value in {"HOME": str(tmp_path), "KAGGLE_API_ENVIRONMENT": "LOCALHOST", "HTTP_PROXY": server.url,
                            "KAGGLE_CONFIG_DIR": str(tmp_path), "KAGGLE_USERNAME": "ada",
                            "KAGGLE_KEY": "ada-secret-key"}.items(): monkeypatch.setenv(name, value)
        yield server


def made(folder: Path, run: str, cv: float, rows: str = ROWS) -> SubmissionFile:
    path = folder / f"{run}.csv"
    path.write_text(rows)
    return SubmissionFile(path, path, LedgerEntry("tiny", "auc", cv, .01, run_dir=f"runs/{run}", message=run,
                                                  file=str(path), file_sha256=file_sha256(path)))


def send(folder, run, cv, auto=True, rows=ROWS):
    kaggle = {"competition_name": "tiny", "auto_submit": auto, "score_timeout": 20}
    client = KaggleClient(timeout=10, policy=RetryPolicy(attempts=3, backoff=.02, longest=2))
    return send_final(made(folder, run, cv, rows), load_config({"kaggle": kaggle}), client)


def lines(folder) -> list[LedgerEntry]: return Ledger(folder / LEDGER_FILE).entries()


@pytest.mark.parametrize("auto", [False, True])
def test_runs_with_the_same_file_keep_their_own_scores(site, tmp_path, auto):
    for run, cv in (("a", .81), ("b", .82), ("c", .83), ("a", .81), ("b", .82)):
        assert send(tmp_path, run, cv, auto).entry.cv_mean == cv
    assert [(e.run_dir, e.cv_mean) for e in lines(tmp_path)] == [("runs/a", .81), ("runs/b", .82), ("runs/c", .83)]
    assert len(site.submissions) == auto
    assert len({(e.ref, e.public_score) for e in lines(tmp_path)}) == 1


@pytest.mark.parametrize("fault", [{"status": 500}, {"drop": True}, {"garbage": True}])
def test_an_answer_that_is_lost_after_the_yes(site, tmp_path, fault):
    site.faults = [{"match": "CreateSubmission", "after": True, **fault}]
    entry = send(tmp_path, "a", .8).entry
    assert len(site.submissions) == 1 and entry.ref == site.submissions[0]["ref"]
    assert [e.ref for e in lines(tmp_path)] == [entry.ref] and entry.public_score is not None


def test_when_nobody_knows_whether_it_counted_the_next_one_asks(site, tmp_path):
    site.faults = [{"match": "CreateSubmission", "after": True, "drop": True},
                   {"match": "ListSubmissions", "status": 503, "times": 9}]
    with pytest.raises(KaggleError, match="may have counted"): send(tmp_path, "a", .8)
    [attempt] = lines(tmp_path)
    assert attempt.tag and attempt.ref is None
    site.faults = []
    assert send(tmp_path, "a", .8).entry.ref == site.submissions[0]["ref"] and len(site.submissions) == 1
    assert len(lines(tmp_path)) == 1


def test_a_kill_between_the_yes_and_the_ledger(site, tmp_path):
    code = f"""
import sys, os
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1])!r}]
from pathlib import Path
import test_sent_once as t
from mlx_bert_training.kaggle.client import KaggleClient
once = KaggleClient.submit
def killed(*args): once(*args); os._exit(9)
KaggleClient.submit = killed
t.send(Path({str(tmp_path)!r}), "a", .8)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert len(site.submissions) == 1 and lines(tmp_path)[0].ref is None
    assert send(tmp_path, "a", .8).entry.ref == site.submissions[0]["ref"]
    assert len(site.submissions) == 1 and len(lines(tmp_path)) == 1


def test_what_did_not_arrive_is_sent_and_stays_one_line(site, tmp_path):
    site.faults = [{"match": "CreateSubmission", "status": 503, "times": 9}]
    with pytest.raises(KaggleError): send(tmp_path, "a", .8)
    site.faults = []
    assert send(tmp_path, "a", .8).entry.ref and len(site.submissions) == len(lines(tmp_path)) == 1


def test_several_at_once_send_one(site, tmp_path):
    code = f"""
import sys
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1])!r}]
from pathlib import Path
import test_sent_once as t
t.send(Path({str(tmp_path)!r}), sys.argv[1], .8)
"""
    runs = [subprocess.Popen([sys.executable, "-c", code, name]) for name in "aab"]
    assert [run.wait(timeout=120) for run in runs] == [0, 0, 0] and len(site.submissions) == 1
    assert {e.run_dir for e in lines(tmp_path)} == {"runs/a", "runs/b"}
    assert {e.ref for e in lines(tmp_path)} == {site.submissions[0]["ref"]}


def test_threads_wait_for_one_another(tmp_path):
    inside, most = [], []
    def enter():
        with Ledger(tmp_path / LEDGER_FILE).sending():
            inside.append(1)
            most.append(len(inside))
            inside.pop()
    threads = [threading.Thread(target=enter) for _ in range(20)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert max(most) == 1
