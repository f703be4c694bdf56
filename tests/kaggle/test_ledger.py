"""The ledger: nothing lost, nothing mixed, and honest about what the scores say."""
import json
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from mlx_bert_training.errors import DataError
from mlx_bert_training.kaggle.ledger import Ledger, LedgerEntry, fit_scores
from mlx_bert_training.stages.identity import config_hash


@pytest.fixture
def ledger(tmp_path) -> Ledger: return Ledger(tmp_path / "runs" / "ledger.jsonl")


def entry(cv: float, public: float | None, error: float = 0.01, **more) -> LedgerEntry:
    values: dict[str, Any] = {"competition": "c", "metric": "auc", "cv_mean": cv, "cv_error": error}
    return LedgerEntry(**values | {"public_score": public} | more)


def test_every_field_survives(ledger, tmp_path):
    (tmp_path / "s.csv").write_text("id,t\n1,0\n")
    written = ledger.append(entry(0.8, 0.79, ref=5, private_score=0.77, message='a "quoted"\nmessage – ü',
                                  run_dir="runs/1", config_hash="abc", file=str(tmp_path / "s.csv")))
    assert ledger.entries() == [written] and len(written.file_sha256) == 64 and written.time.endswith("+00:00")


def test_an_empty_ledger(ledger):
    assert ledger.entries() == [] and len(ledger.to_frame()) == 0 and ledger.fit() is None
    assert str(ledger.summary()).startswith("no submission") and "table" in ledger._repr_html_()
    ledger.plot()
    assert not ledger.path.exists()


def test_a_later_line_completes_an_earlier_one(ledger):
    first = ledger.append(entry(0.8, None, ref=7, message="m"))
    ledger.append(LedgerEntry("c", ref=7, public_score=0.79, time="2030-01-01T00:00:00+00:00"))
    ledger.append(LedgerEntry("other", ref=7, public_score=0.1))
    merged = ledger.entries()[0]
    assert (merged.cv_mean, merged.public_score, merged.message, merged.time) == (0.8, 0.79, "m", first.time)
    assert len(ledger.entries()) == 2


def test_submissions_without_a_number_stay_apart(ledger):
    for _ in range(2): ledger.append(entry(0.8, None))
    assert len(ledger.entries()) == 2


def test_nan_is_written_as_null(ledger):
    ledger.append(entry(math.nan, math.inf))
    assert json.loads(ledger.path.read_text())["cv_mean"] is None and len(ledger.scored()) == 0


@pytest.mark.parametrize("cut", ['{"competition": "c", "cv', "\x00\x00\x00", "[1, 2]", '"text"', '{"no": "name"}'])
def test_a_bad_last_line_is_reported_and_the_rest_kept(ledger, cut, caplog):
    ledger.append(entry(0.8, 0.79))
    with ledger.path.open("a") as file: file.write(cut)
    assert len(ledger.entries()) == 1 and "line 2" in ledger.problems()[0] and "line 2" in caplog.text
    assert "line 2" in ledger._repr_html_()
    ledger.append(entry(0.81, 0.8))
    assert [e.cv_mean for e in ledger.entries()] == [0.8, 0.81] and len(ledger.problems()) == 1


def test_a_field_of_a_later_version_is_ignored(ledger):
    ledger.path.parent.mkdir()
    ledger.path.write_text('{"competition": "c", "colour": "blue"}\n')
    assert ledger.entries() == [LedgerEntry("c")]


def test_processes_that_append_at_once_do_not_mix(ledger):
    code = ("import sys; from mlx_bert_training.kaggle.ledger import *\n"
            f"for i in range(60): Ledger({str(ledger.path)!r}).append("
            "LedgerEntry('c', message=sys.argv[1] * 20000, ref=int(sys.argv[1]) * 1000 + i))")
    workers = [subprocess.Popen([sys.executable, "-c", code, str(n)]) for n in (1, 2)]
    assert [worker.wait() for worker in workers] == [0, 0]
    entries = ledger.entries()
    assert ledger.problems() == [] and {e.ref for e in entries} == {n * 1000 + i for n in (1, 2) for i in range(60)}
    assert all(set(e.message) == {str(e.ref)[0]} and len(e.message) == 20000 for e in entries)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"): Ledger(tmp_path / "file" / "l.jsonl").append(entry(1, 1))
    with pytest.raises(DataError, match="cannot be read"): Ledger(tmp_path).entries()


def test_fit_is_least_squares_with_students_interval():
    "Against scipy, and the prediction interval by the share of new points that fall into it."
    from scipy.stats import linregress
    random = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        cv = random.normal(0.8, 0.02, 8)
        public = 0.1 + 0.85 * cv + random.normal(0, 0.01, 8)
        fit = fit_scores(cv, public)
        assert fit is not None
        low, high = fit.interval(0.82, 0.8)
        inside += low < 0.1 + 0.85 * 0.82 + random.normal(0, 0.01) < high
    line = linregress(cv, public)
    assert fit and fit.slope == pytest.approx(line.slope) and fit.intercept == pytest.approx(line.intercept)
    assert fit.correlation == pytest.approx(line.rvalue)
    assert 0.74 < inside / 400 < 0.86


def test_fit_needs_three_different_scores():
    assert fit_scores(np.array([1., 2.]), np.array([1., 2.])) is None
    assert fit_scores(np.array([1., 1., 1.]), np.array([1., 2., 3.])) is None


def test_summary_of_a_score_to_minimise(ledger):
    for ref, (cv, public) in enumerate([(0.15, 0.14), (0.13, 0.135), (0.12, 0.13)], 1):
        ledger.append(entry(cv, public, error=0.005, ref=ref))
    summary = ledger.summary(maximize=False)
    assert (summary.best_cv, summary.best_public, summary.n) == (0.12, 0.13, 3)
    error = math.hypot(0.005, 0.005)
    assert summary.apart == pytest.approx((0.01 - 1.96 * error, 0.01 + 1.96 * error))
    assert summary.expected and summary.expected[0] < 0.13 < summary.expected[1]
    assert "-0.00386 to +0.02386 better than the next: too little to tell" in str(summary)
    assert ledger.summary(cv=0.14).cv == 0.14


def test_scores_that_cannot_be_compared(ledger):
    ledger.append(entry(0.8, 0.79))
    ledger.append(entry(0.5, 0.4, competition="d"))
    ledger.append(entry(0.5, 0.4, metric="f1"))
    with pytest.raises(DataError, match="scores of c, d cannot be compared; say competition="): ledger.summary()
    with pytest.raises(DataError, match="say metric="): ledger.plot("c")
    assert ledger.summary("c", "auc").n == 1 and len(ledger.to_frame("d")) == 1


def test_plot_has_points_bars_and_lines(ledger):
    for ref in range(4): ledger.append(entry(0.8 + ref / 100, 0.79 + ref / 110, ref=ref + 1))
    ax = ledger.plot().axes[0]
    assert len(ax.containers) == 1 and ax.containers[0].has_xerr
    assert [line.get_label() for line in ax.lines if not line.get_label().startswith("_")] == [
        "equal", "fit, correlation 1.00"]


def test_config_hash_of_a_configuration():
    from mlx_bert_training.core.config import BaseTrainerConfig
    assert config_hash(BaseTrainerConfig()) == config_hash(BaseTrainerConfig()) and len(config_hash({})) == 12
