"""The rows behind a picture: of every form of answer a cell counts exactly the rows it opens."""
from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from mlx_bert_training.errors import MissingExtraError
from mlx_bert_training.widgets import ErrorReport
from mlx_bert_training.widgets.picker import ClassCells, Picker, Points, picker_class, points_to_draw

from .test_error_report import example


@pytest.mark.parametrize(("task", "classes"), [("binary", 2), ("multiclass", 3), ("multiclass", 30), ("multilabel", 4)])
def test_a_cell_opens_as_many_rows_as_it_counts(task, classes):
    report = ErrorReport(*example(task, 300, classes), task, texts=[f"text {i}" for i in range(300)])
    picker = report.picker()
    counts = picker.spots.counts
    drawn = json.loads(json.dumps(picker.spots.drawn()))["cells"]       # as the browser gets it
    assert drawn["counts"] == counts.to_numpy().tolist() and len(drawn["rows"]) <= 24
    for i, j in np.ndindex(counts.shape):
        rows, words = picker.spots.behind({"cell": [i, j]})
        assert len(rows) == counts.iloc[i, j] and str(counts.index[i]) in words
    table = picker.choose({"cell": [0, 0]})
    assert table["loss"].is_monotonic_decreasing and "text" in table
    assert f"{counts.iloc[0, 0]:,} row" in picker.widget.rows


def test_the_others_are_one_row_of_many_classes():
    report = ErrorReport(*example("multiclass", 300, 30), "multiclass")
    cells = ClassCells(report.view, most=5)
    assert cells.counts.index[-1] == "26 others"
    opened = [cells.behind({"cell": [i, j]})[0] for i in range(5) for j in range(5)]
    assert sorted(np.concatenate(opened).tolist()) == list(range(300))      # each row once


def test_a_point_opens_its_row_and_a_row_of_several_values_opens_once():
    y, p = example("regression")
    picker = ErrorReport(y, p, "regression").picker()
    assert picker.choose({"points": [0]})["row"].iloc[0] == str(np.abs(p - y).argmax())
    rng = np.random.default_rng(0)
    targets = rng.normal(size=(40, 3))
    report = ErrorReport(targets, targets + rng.normal(size=(40, 3)), "multi_regression", ["a", "b", "c"])
    points = Points(report.view)
    assert len(points.shown) == 120
    rows, _ = points.behind({"points": list(range(120))})
    assert sorted(rows.tolist()) == list(range(40))


def test_of_many_points_the_hardest_are_drawn():
    errors = np.random.default_rng(0).normal(size=10_000)
    shown = points_to_draw(errors, 100)
    assert len(shown) == len(set(shown.tolist())) == 100
    assert set(np.argsort(-np.abs(errors))[:50]) <= set(shown.tolist())


def test_texts_cannot_inject_markup():
    report = ErrorReport(*example("binary", 20), "binary", ["<i>no</i>", "yes"], ["<script>alert(1)</script>"] * 20)
    picker = report.picker()
    picker.choose({"cell": [0, 0]})
    assert "<script" not in picker.widget.rows and "<i>" not in picker.widget.rows


def test_without_anywidget_an_error_names_the_extra_and_the_picture_stays(monkeypatch):
    picker_class.cache_clear()
    monkeypatch.setitem(sys.modules, "anywidget", None)
    report = ErrorReport(*example("binary", 20), "binary")
    with pytest.raises(MissingExtraError, match="pip install"): Picker(report.view, report._table)
    assert "<img" in report._repr_html_()
