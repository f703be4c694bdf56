"""Runs side by side: who is best, what is noise, what was different, and what cannot be compared."""
from __future__ import annotations

import json
import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import yaml

from mlx_bert_training import compare
from mlx_bert_training.cli import main
from mlx_bert_training.errors import DataError, UnknownNameError
from mlx_bert_training.integrations.runs import RunRecord, Score
from mlx_bert_training.widgets.compare import (
    Board,
    board_figure,
    board_html,
    chosen,
    curves,
    differing,
    leaderboard,
    rank,
)


def record(name, values, metric="auc", folds="f", competition="films", **settings):
    values = tuple(values)
    error = float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else math.nan
    score = Score(float(np.mean(values)), error, values if len(values) > 1 else ())
    return RunRecord(name, settings, {metric: score}, metric, folds, "finished", 10.0, competition)


def test_the_best_is_first_whichever_way_the_metric_points():
    runs = [record("a", (0.3, 0.31), "loss"), record("b", (0.2, 0.21), "loss")]
    assert [s.run.name for s in rank(runs, "loss")] == ["b", "a"]
    runs = [record("a", (0.3, 0.31)), record("b", (0.2, 0.21))]
    assert [(s.run.name, s.verdict) for s in rank(runs, "auc")] == [("a", "best"), ("b", "behind")]


def test_pairing_by_fold_tells_a_difference_from_noise():
    hard = np.array([0.0, 0.1, 0.2])        # folds differ a lot, the runs by 0.01 on each of them
    first, second = 0.70 + hard, 0.69 + hard + [0, 0.001, -0.001]
    same = rank([record("a", first), record("b", second)], "auc")[1]
    other = rank([record("a", first), record("b", second, folds="g")], "auc")[1]
    assert (same.paired, same.verdict) == (True, "behind")
    assert (other.paired, other.verdict) == (False, "within noise")
    assert same.behind == pytest.approx(other.behind) == pytest.approx(0.01)


def test_one_split_says_that_it_cannot_tell_and_a_tie_is_within_noise():
    assert rank([record("a", [0.8]), record("b", [0.7])], "auc")[1].verdict == "one split"
    assert rank([record("a", (0.7, 0.8)), record("b", (0.7, 0.8))], "auc")[1].verdict == "within noise"


def test_only_what_differs_is_a_column_and_short_names_stay_clear():
    runs = [record("a", [1], **{"optimizer.type": "adamw", "scheduler.type": "cosine", "data.batch_size": "32"}),
            record("b", [1], **{"optimizer.type": "lion", "scheduler.type": "linear", "data.batch_size": "32"})]
    assert set(differing(runs).values()) == {"optimizer.type", "scheduler.type"}
    runs[1].config["scheduler.type"] = "cosine"
    assert differing(runs) == {"optimizer.type": "type"}


def test_competitions_and_metrics_are_not_mixed():
    runs = [record("a", (0.7, 0.8)), record("b", (0.2, 0.3), "loss"), record("c", (0.9, 0.95), competition="credit")]
    table = leaderboard(runs)
    assert [(b.competition, b.metric) for b in table.boards] == [("films", "auc"), ("films", "loss"), ("credit", "auc")]
    assert len(table.to_frame()) == 3 and table.board("loss").runs[0].name == "b"
    assert [b.competition for b in leaderboard(runs, competition="credit").boards] == ["credit"]
    for wrong in ({"metric": "acu"}, {"competition": "film"}, {"names": ["d"]}):
        with pytest.raises(UnknownNameError, match="nearest|Did you mean|unknown"): leaderboard(runs, **wrong)


def test_what_a_run_says_is_escaped_and_the_filter_reads_names_and_settings():
    board = Board("<b>", "auc", rank([record("<script>", (0.7, 0.8), rate="1"), record("x", (0.6, 0.7), rate="2")],
                                     "auc"))
    assert "<script>" not in board_html(board) and "&lt;script&gt;" in board_html(board)
    assert [run.name for run in chosen(board, "rate=2").runs] == ["x"] and not chosen(board, "nothing").standings
    picture = board_figure(board)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert picture._repr_png_()[:4] == b"\x89PNG"


@pytest.fixture
def runs(tmp_path):
    "Two cross-validations and a run that was killed before its first evaluation, as they lie on the disk."
    for name, rate, folds in (("slow", 1e-5, [0.6, 0.7]), ("fast", 1e-4, [0.7, 0.8])):
        for number in range(2):
            place = tmp_path / name / "folds" / f"fold-0-{number}"
            place.mkdir(parents=True)
            whole = json.dumps({"step": 1, "loss": 0.7 - number / 10})
            (place / "metrics.jsonl").write_text(whole + '\n{"step": 2, "loss": 0.5')
        config = {"optimizer": {"learning_rate": rate}, "environment": {"experiment_name": "films"}}
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump(config))
        (tmp_path / name / "cv.json").write_text(json.dumps({
            "metric": "auc", "score": float(np.mean(folds)), "standard_error": 0.05, "folds": folds, "folds_hash": "f",
            "table": [{"total_seconds": 30.0}, {"total_seconds": 40.0}]}))
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / "config.yaml").write_text("{}\n")
    return tmp_path


def test_folders_are_read_with_time_and_curves(runs):
    board = compare(runs).boards[0]
    assert [run.name for run in board.runs] == ["fast", "slow"] and board.runs[0].seconds == 70
    assert len(compare(runs / "slow").boards[0].runs) == 1
    (chart,) = curves(board.runs, "auc")
    assert chart.lines[0].y.tolist() == pytest.approx([0.65])   # the mean over folds; the torn last line is left out
    assert "learning_rate 0.0001" in str(compare(runs)) or "1e-4" in str(compare(runs))
    with pytest.raises(DataError, match="none of these runs has a score"): compare(runs / "killed")


def test_the_command_prints_best_first_in_80_columns_and_writes_files(runs, capsys):
    assert main(["runs", str(runs), "-o", str(runs / "page.html")]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[2].startswith("1  fast") and "best" in lines[2] and lines[3].startswith("2  slow")
    assert max(map(len, lines[:8])) <= 80
    page = (runs / "page.html").read_text()
    assert page.startswith("<!doctype html>") and "<svg" in page and "fast" in page
    for ending in ("csv", "png", "svg"):
        assert main(["runs", str(runs), "-o", str(runs / f"table.{ending}")]) == 0
    assert main(["runs", str(runs), "-o", str(runs / "table.pgn")]) == 2 and "png" in capsys.readouterr().err
    assert main(["runs", str(runs), "--run", "fats"]) == 2 and "fast" in capsys.readouterr().err
    assert main(["runs", str(runs), "--against", "slow"]) == 0 and "Different from slow" in capsys.readouterr().out


def test_the_filter_is_a_widget(runs):
    pytest.importorskip("ipywidgets")
    panel = compare(runs).widget()
    (_, words), out = panel.children[0].children, panel.children[1]
    words.value = "fast"
    assert "fast" in out.value and "slow" not in out.value
    words.value = "zzz"
    assert out.value == "<p>No run matches.</p>"


def test_what_a_seed_does_is_within_noise():
    best, other = record("a", (0.80, 0.801, 0.80)), record("b", (0.79, 0.791, 0.79))
    assert rank([best, other], "auc")[1].verdict == "behind"
    assert rank([replace(best, noise=0.02), other], "auc")[1].verdict == "within noise"
    assert rank([best, replace(other, noise=0.005)], "auc")[1].verdict == "behind"
