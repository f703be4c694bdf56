"""What a model gets wrong: every task, few rows, many classes, nothing undefined, nothing that a text can inject."""
from __future__ import annotations

import builtins
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from sklearn.metrics import f1_score, log_loss

from mlx_bert_training.errors import DataError, MLXBertError
from mlx_bert_training.figures import new_figure
from mlx_bert_training.widgets import ErrorReport
from mlx_bert_training.widgets.error_tables import group_classes, most_confused
from mlx_bert_training.widgets.section import Section, axis_names, page_html, table_html, table_text

PNG = b"\x89PNG\r\n"


def softmax(logits):
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def example(task, n=60, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    if task == "regression":
        y = rng.normal(100, 20, n)
        return y, y + rng.normal(0, 5, n)
    if task == "multilabel":
        y = (rng.random((n, classes)) < 0.3).astype(int)
        return y, np.clip(0.5 * y + 0.25 + 0.2 * rng.normal(size=y.shape), 0.01, 0.99)
    y = rng.integers(0, 2 if task == "binary" else classes, n)
    return y, softmax(2 * np.eye(2 if task == "binary" else classes)[y] + rng.normal(size=(n, y.max() + 1)))


def drawn(report):
    "The pictures, drawn; warnings are errors in this suite."
    assert report.plot()._repr_png_().startswith(PNG)
    figure = new_figure(4, 3)
    report.draw(figure.subplots())
    assert figure._repr_png_().startswith(PNG)
    return figure


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "regression"])
def test_every_task_has_tables_pictures_and_text_without_nan(task):
    report = ErrorReport(*example(task), task, texts=[f"text {i}" for i in range(60)])
    drawn(report)
    for shown in (report.section().html(), str(report)):
        assert not re.search(r"\bnan\b|\binf\b|NaN", shown)
    assert "alt='" in report._repr_html_() and len(report.hardest(7)) == 7


def test_a_binary_report_counts_as_scikit_learn_does():
    y, p = example("binary", 200)
    report = ErrorReport(y, p[:, 1], "binary_classification", ["no", "yes"])
    assert report.confusion.loc["no", "yes"] == ((y == 0) & (p[:, 1] >= 0.5)).sum()
    assert report.per_class.loc["yes", "f1"] == pytest.approx(f1_score(y, p[:, 1] >= 0.5))
    assert report.losses.mean() == pytest.approx(log_loss(y, p))
    assert report.wrong.sum() == report.confusion.to_numpy().sum() - np.trace(report.confusion.to_numpy())


def test_a_threshold_decides():
    y, p = example("binary", 200)
    strict = ErrorReport(y, p, "binary", threshold=0.9)
    assert strict.per_class["predicted"].iloc[1] == (p[:, 1] >= 0.9).sum()
    y, p = example("multilabel")
    report = ErrorReport(y, p, "multilabel", threshold=np.array([0.2, 0.5, 0.99]))
    assert report.decided.sum(0).tolist() == (p >= [0.2, 0.5, 0.99]).sum(0).tolist()


def test_a_class_that_is_never_predicted_is_named_and_has_no_undefined_figure():
    p = np.tile([0.6, 0.3, 0.1], (10, 1))
    report = ErrorReport([0] * 6 + [1] * 4, p, "multiclass", ["a", "b", "c"])
    assert report.per_class.loc["b"].tolist() == [0, 0, 0, 4, 0] and report.per_class.loc["c", "support"] == 0
    assert "Never predicted: b." in str(report) and np.isfinite(report.per_class.to_numpy()).all()
    drawn(report)


def test_hardest_rows_come_first_with_id_and_shortened_text():
    y, p = np.array([0, 1, 1]), np.array([[0.9, 0.1], [0.99, 0.01], [0.3, 0.7]])
    report = ErrorReport(y, p, "binary", ["bad", "good"], ["short", "long " * 100, "x"], row_ids=["r1", "r2", "r3"])
    table = report.hardest(2)
    assert table["row"].tolist() == ["r2", "r3"] and table["true"].tolist() == ["good", "good"]
    assert table["predicted"].tolist() == ["bad", "good"] and table["loss"].iloc[0] == pytest.approx(-np.log(0.01))
    assert len(table["text"].iloc[0]) <= 160 and table["text"].iloc[0].endswith("…")
    assert len(report.hardest(50)) == 3 and "text" not in ErrorReport(y, p, "binary").hardest()


def test_a_probability_of_zero_is_a_finite_loss():
    report = ErrorReport([1, 0], [[1.0, 0.0], [1.0, 0.0]], "binary")
    assert np.isfinite(report.losses).all() and report.hardest(1)["row"].iloc[0] == "0"
    labels = ErrorReport([[1, 0]], [[0.0, 1.0]], "multilabel")
    assert np.isfinite(labels.losses).all() and labels.hardest()["predicted"].iloc[0] == "1"


def test_regression_has_ranges_and_signed_errors_and_no_classes():
    y = np.linspace(0, 100, 50)
    report = ErrorReport(y, y + 3, "regression")
    assert report.ranges["mean error"].tolist() == pytest.approx([3] * 5) and report.ranges["rows"].sum() == 50
    assert report.hardest(1)["error"].iloc[0] == pytest.approx(3) and "3.0000 too high" in str(report)
    for name in ("confusion", "per_class", "calibration", "wrong"):
        with pytest.raises(MLXBertError, match="no classes: see ranges"): getattr(report, name)
    with pytest.raises(MLXBertError, match="see per_class"): _ = ErrorReport(*example("binary"), "binary").ranges


def test_equal_targets_and_one_row_are_no_trouble():
    report = ErrorReport([5.0, 5.0, 5.0], [4.0, 5.0, 7.0], "regression")
    assert report.ranges.index.tolist() == ["all"] and "nan" not in str(report)
    drawn(report)
    drawn(ErrorReport([2.5], [2.5], "regression"))
    drawn(ErrorReport([1], [[0.2, 0.8]], "binary"))
    drawn(ErrorReport([[0, 0]], [[0.1, 0.2]], "multilabel"))


def test_labels_are_counted_one_by_one():
    y, p = example("multilabel", 80, 5)
    report = ErrorReport(y, p, "multilabel", list("abcde"))
    for i, name in enumerate("abcde"):
        chosen = p[:, i] >= 0.5
        assert report.confusion.loc[name].tolist() == [
            (chosen & (y[:, i] == 1)).sum(), (~chosen & (y[:, i] == 1)).sum(), (chosen & (y[:, i] == 0)).sum(),
            (~chosen & (y[:, i] == 0)).sum()]
    none = ErrorReport(np.zeros((1, 5), int), np.full((1, 5), 0.1), "multilabel", list("abcde"))
    assert none.hardest()["true"].iloc[0] == "–"


def overlaps(figure, axes):
    "Whether two tick labels of an axis lie on one another, in the picture as it is drawn."
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    for axis in (axes.xaxis, axes.yaxis):
        boxes = [t.get_window_extent(renderer) for t in axis.get_ticklabels() if t.get_text()]
        if any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1:]): return True
    return False


@pytest.mark.parametrize("classes", [2, 7, 12, 50, 200])
def test_many_classes_stay_readable_in_small_axes_and_in_a_figure_of_their_own(classes):
    y, p = example("multiclass", 3000, classes) if classes > 2 else example("binary", 300)
    report = ErrorReport(y, p, "multiclass" if classes > 2 else "binary",
                         [f"a class with number {i}" for i in range(classes)])
    small = drawn(report)
    axes = small.axes[0]
    names = [t.get_text() for t in axes.get_yticklabels()]
    assert not overlaps(small, axes) and len(set(names)) == len(names)
    assert classes < 50 or re.fullmatch(r"\d+ others", names[-1])
    whole = report.plot()
    assert not overlaps(whole, whole.axes[0]) and (classes != 50 or len(whole.axes[0].get_yticks()) == 50)
    assert len(str(report).split("Most often confused")[-1].split("hardest")[0].split("\n")) < 16


def test_grouping_keeps_the_sums_and_the_worst_classes():
    matrix = np.diag([50] * 8)
    matrix[6, 7] = 9
    frame = pd.DataFrame(matrix, index=list("abcdefgh"), columns=list("abcdefgh"))
    grouped = group_classes(frame, 3)
    assert grouped.index.tolist() == ["g", "h", "6 others"] and grouped.loc["g", "h"] == 9
    assert grouped.to_numpy().sum() == matrix.sum() and group_classes(frame, 8) is frame
    assert most_confused(frame).to_dict("records") == [
        {"true": "g", "predicted": "h", "rows": 9, "share of class": pytest.approx(9 / 59)}]


@pytest.mark.parametrize(("arguments", "message"), [
    (([0, 1], [[0.5, 0.5]], "binary"), "do not go with"),
    (([0], [[np.nan, 0.5]], "binary"), "row 0: the prediction .* is not a finite"),
    (([0], [[0.7, 0.7]], "binary"), "sum to 1.4"),
    (([2], [[0.5, 0.5]], "binary"), "row 0 is not a class number from 0 to 1"),
    (([np.inf], [1.0], "regression"), "not a finite number"),
    (([], np.zeros((0, 2)), "binary"), "no rows"),
    (([0], [[0.5, 0.5]], "binary", ["a", "b", "c"]), "3 class names for 2 classes"),
    (([0], [[0.5, 0.5]], "binary", None, ["a", "b"]), "2 texts for 1 rows"),
    (([0], [[0.5, 0.5]], "binary", None, None, [1, 2]), "2 row ids for 1 rows"),
    (([0], [[0.5, 0.5]], "binry"), "unknown task 'binry'. Did you mean 'binary'")])
def test_arrays_that_do_not_go_together_are_refused(arguments, message):
    with pytest.raises(MLXBertError, match=message): ErrorReport(*arguments)


def test_a_text_cannot_write_html():
    evil = "<script>alert('x')</script><img src=x onerror=alert(1)>"
    report = ErrorReport([0, 1], [[0.4, 0.6], [0.1, 0.9]], "binary", [evil, "b"], [evil, "fine"], title=evil)
    for page in (report._repr_html_(), page_html(evil, [report.section()], [evil])):
        assert "<script" not in page and "onerror" not in re.sub(r"&lt;.*?&gt;", "", page)


def test_without_matplotlib_the_tables_stay(monkeypatch):
    real = builtins.__import__

    def no_matplotlib(name, *args, **kwargs):
        if name.startswith("matplotlib"): raise ImportError(name)
        return real(name, *args, **kwargs)
    report = ErrorReport(*example("binary"), "binary")
    monkeypatch.setattr(builtins, "__import__", no_matplotlib)
    html = report._repr_html_()
    assert "<table" in html and "pip install" in html and "<img" not in html


def test_a_notebook_gets_tables_and_png_apart_each_with_its_text(monkeypatch):
    sent = []
    monkeypatch.setattr("IPython.display.display", lambda data, metadata=None, raw=False: sent.append((data, metadata)))
    ErrorReport(*example("binary"), "binary", title="Errors here")._ipython_display_()
    (table, _), (picture, metadata) = sent
    assert set(table) == {"text/html", "text/plain"} and set(picture) == {"image/png", "text/plain"}
    assert "<img" not in table["text/html"] and table["text/plain"].startswith("Errors here\n-----------\n")
    assert metadata["image/png"]["alt"].startswith("Errors here: confusion matrix")
    assert picture["text/plain"] == f"[picture: {metadata['image/png']['alt']}]"


def test_tables_read_well():
    table = pd.DataFrame({"rows": [1234567, 5], "score": [0.81234, np.nan], "share": [0.5, 1.0], "what": ["<b>", None]})
    html, text = table_html(table), table_text(table)
    assert "1,234,567" in html and "0.8123" in html and "50.0%" in html and "&lt;b&gt;" in html and "nan" not in html
    assert text.split("\n")[0].split() == ["rows", "score", "share", "what"] and "–" in text
    assert table_text(table.rename_axis("no.")).startswith("no.")


def test_names_on_an_axis_stay_different():
    for names in (["alpha " * 9, "beta " * 9], ["very long name 1", "very long name 2"], ["xxxxxxx1xxxxxxx",
                                                                                          "xxxxxxx2xxxxxxx"]):
        cut = axis_names(names, 10)
        assert len(set(cut)) == 2 and max(map(len, cut)) <= 10
    assert Section("empty")._repr_html_() == "<h3>empty</h3>"


def test_the_rows_behind_a_cell_are_as_many_as_it_counts():
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 3, 200), rng.dirichlet([1, 1, 1], 200)
    report = ErrorReport(y, p, "multiclass", ["cat", "dog", "owl"], texts=[f"text {i}" for i in range(200)])
    for true in report.class_names:
        for predicted in report.class_names:
            rows = report.rows(true, predicted, count=200)
            assert len(rows) == report.confusion.loc[true, predicted]
            assert rows["loss"].is_monotonic_decreasing and set(rows["true"]) <= {true}
    assert len(report.rows(predicted="owl", count=5)) == 5 and "text" in report.rows()
    with pytest.raises(DataError, match="did you mean 'dog'"): report.rows("dogg")


def test_the_rows_behind_a_range_of_values():
    report = ErrorReport(np.arange(10.0), np.arange(10.0) + 1, "regression")
    assert report.rows(true=(2, 4))["row"].tolist() == ["2", "3", "4"]
    assert report.rows(predicted=(9.5, 99))["row"].tolist() == ["9"]
