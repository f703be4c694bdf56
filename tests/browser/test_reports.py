"""What is looked at before and after training, in a real notebook: an error report whose cells and points open rows,
the explorer that folds, runs side by side; by mouse and keyboard, in both themes, and reopened without a kernel.

The picture of the error report in the documentation is made here:

    MLX_BERT_PICTURES=nbs/images python -m pytest tests/browser/test_reports.py -k picture
"""
from __future__ import annotations

import re

import pytest

from .lab import DARK, LIGHT, NotebookPage, missing, until
from .test_config_editor import CONTRAST

if not missing():
    from playwright.sync_api import expect

CLASSES = """
import numpy as np
from mlx_bert_training.widgets import ErrorReport
rng = np.random.default_rng(0)
names = ["politics", "sports", "science"]
y = rng.choice(3, 200, p=[0.5, 0.3, 0.2])
logits = 1.8 * np.eye(3)[y] + rng.normal(size=(200, 3))
p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
report = ErrorReport(y, p, "multiclass", names, [f"article {i} about <b>{names[c]}</b>" for i, c in enumerate(y)],
                     title="Errors on 200 articles")
report
"""
REVIEWS = """
from importlib.resources import files
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from mlx_bert_training.widgets import ErrorReport
frame = pd.read_csv(files("mlx_bert_training") / "demo/sentence_polarity/train.csv")
train, rest = frame[::2], frame[1::2]
model = make_pipeline(TfidfVectorizer(), LogisticRegression(C=10)).fit(train["text"], train["positive"])
report = ErrorReport(rest["positive"].to_numpy(), model.predict_proba(rest["text"]), "binary", ["negative", "positive"],
                     rest["text"].tolist(), title="Errors of a linear model on film reviews")
report
"""
VALUES = """
import numpy as np
from mlx_bert_training.widgets import ErrorReport
rng = np.random.default_rng(0)
y = rng.lognormal(3, 0.5, 300)
report = ErrorReport(y, y * rng.lognormal(0, 0.2, 300), "regression", texts=[f"house {i}" for i in range(300)],
                     title="Errors of prices")
report
"""
EXPLORER = """
from mlx_bert_training.widgets import CompetitionExplorer
explorer = CompetitionExplorer({"data": {"train_path": "demo:german_credit/train.csv", "target_column": "risk",
    "test_path": "demo:german_credit/test.csv", "id_column": "id", "max_length": 32,
    "template": "{purpose}, {duration}"}, "model": {"config": {"hidden_size": 32, "num_hidden_layers": 1,
                                                               "num_attention_heads": 2, "intermediate_size": 64}}})
explorer
"""
RUNS = """
import json, tempfile, yaml
from pathlib import Path
from mlx_bert_training import compare
home = Path(tempfile.mkdtemp())
for name, rate, folds in (("small_steps", 1e-5, [0.81, 0.83, 0.80]), ("large_steps", 5e-5, [0.82, 0.85, 0.82]),
                          ("pooled", 2e-5, [0.71, 0.73, 0.69])):
    (home / name).mkdir()
    (home / name / "config.yaml").write_text(yaml.safe_dump({"optimizer": {"learning_rate": rate}}))
    (home / name / "cv.json").write_text(json.dumps({"score": sum(folds) / 3, "standard_error": 0.01, "folds": folds,
        "metric": "auc", "folds_hash": "f", "competition": "films", "seconds": 60}))
table = compare(home)
"""


def opened(notebook: NotebookPage) -> str:
    "The rows below the picture."
    return notebook.output(0).locator(".mlx-bert-rows").inner_text()


@pytest.mark.parametrize("app", ["open_notebook", "open_notebook7"], ids=["lab", "notebook 7"])
def test_a_cell_of_the_confusion_matrix_opens_its_rows(request, app):
    notebook = request.getfixturevalue(app)("confusion", CLASSES)
    notebook.run(0)
    cell = notebook.output(0).get_by_role("button", name=re.compile("true politics, predicted sports"))
    cell.click()
    until(lambda: "true politics, predicted sports" in opened(notebook), "the rows of the cell")
    count = notebook.value("int(report.confusion.loc['politics', 'sports'])")
    assert f": {count} rows" in opened(notebook)
    assert notebook.output(0).locator(".mlx-bert-rows tbody tr").count() == min(count, 20)
    first = notebook.value("report.rows('politics', 'sports')['text'].iloc[0]")     # "<b>" is text and no markup
    assert first in opened(notebook) and not notebook.output(0).locator(".mlx-bert-rows td b").count()
    expect(cell).to_have_attribute("aria-pressed", "true")

    expect(cell).to_be_focused()
    notebook.page.keyboard.press("ArrowDown")       # by keyboard: the cell below, and its rows
    expect(notebook.output(0).get_by_role("button", name=re.compile("true sports, predicted sports"))).to_be_focused()
    notebook.page.keyboard.press("Enter")
    until(lambda: "true sports, predicted sports" in opened(notebook), "the rows of the cell below")

    picture = notebook.output(0).locator(".jp-RenderedImage img")
    expect(picture).to_be_hidden()                  # the widget stands for it
    notebook.reopen()
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.complete && image.naturalWidth > 500")
    for words in ("Error displaying widget", "Loading widget"):
        expect(notebook.output(0).get_by_text(words)).to_be_hidden()
    assert "hardest rows" in notebook.text(0)


def test_a_point_of_the_residuals_opens_its_row(open_notebook):
    notebook = open_notebook("residuals", VALUES)
    notebook.run(0)
    points = notebook.output(0).get_by_role("slider", name="rows, the largest error first")
    points.focus()
    notebook.page.keyboard.press("Home")
    hardest = notebook.value("report.hardest(1)['text'].iloc[0]")
    until(lambda: hardest in opened(notebook), "the row of the largest error")
    notebook.page.keyboard.press("ArrowRight")
    second = notebook.value("report.hardest(2)['text'].iloc[1]")
    until(lambda: second in opened(notebook), "the row of the next error")
    expect(points).to_have_attribute("aria-valuenow", "2")
    box = points.locator("circle").nth(299).bounding_box()      # drawn last: the largest error
    notebook.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    until(lambda: hardest in opened(notebook), "the row under the pointer")
    assert notebook.console == []


def test_the_explorer_folds_and_shows_the_target_by_each_column(open_notebook):
    notebook = open_notebook("explorer", EXPLORER)
    notebook.run(0, timeout=180)
    sections = notebook.output(0).locator("details")
    titles = [text.strip() for text in sections.locator("summary h3").all_inner_texts()]
    columns = sections.filter(has=notebook.page.get_by_role("heading", name=re.compile("by column|column", re.I))).first
    picture = columns.locator("img").first
    expect(columns).to_have_attribute("open", "")
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.complete && image.naturalWidth > 300"), titles
    columns.locator("summary").click()
    expect(picture).to_be_hidden()
    columns.locator("summary").focus()              # and by keyboard
    notebook.page.keyboard.press("Enter")
    expect(picture).to_be_visible()
    expect(sections.last).not_to_have_attribute("open", "")      # what is not there yet waits at the end, folded
    assert "Not here yet" in titles[-1] and not notebook.text(0).startswith("Without")
    notebook.reopen()
    expect(picture).to_be_visible()
    columns.locator("summary").click()              # folding needs no kernel
    expect(picture).to_be_hidden()


def test_runs_side_by_side_are_filtered(open_notebook):
    notebook = open_notebook("runs", RUNS, "table", "table.widget()")
    notebook.run_all()
    shown = notebook.text(1)
    assert shown.index("large_steps") < shown.index("small_steps") < shown.index("pooled")      # the best first
    board = notebook.output(2).locator(".widget-html")
    words = notebook.output(2).get_by_placeholder("name or setting")
    words.fill("learning_rate=1e-05")
    words.press("Enter")
    until(lambda: "pooled" not in board.inner_text() and "small_steps" in board.inner_text(), "the filtered board")
    words.fill("nothing like it")
    words.press("Enter")
    expect(board).to_contain_text("No run matches.")


def test_picture_of_an_error_report(open_notebook, pictures):
    "For the README."
    notebook = open_notebook("reviews", REVIEWS)
    notebook.page.set_viewport_size({"width": 1000, "height": 1500})
    notebook.run(0, timeout=120)
    notebook.output(0).get_by_role("button", name=re.compile("true .*predicted")).nth(1).click()
    until(lambda: "hardest" in opened(notebook), "the rows of the cell")
    notebook.output(0).locator(".mlx-bert-picker").scroll_into_view_if_needed()
    box = notebook.output(0).locator(".mlx-bert-picker").bounding_box()
    notebook.page.screenshot(path=pictures / "error_report.png", clip={**box, "height": 640})    # its first rows
    assert (pictures / "error_report.png").stat().st_size < 250_000


def look(notebook: NotebookPage, name: str, cell: int) -> None:
    "Pictures of an output in both themes and three widths."
    for width in (1800, 800, 420):
        notebook.page.set_viewport_size({"width": width, "height": 3000})
        for theme in (LIGHT, DARK):
            notebook.theme(theme)
            notebook.screenshot(f"{name}-{width}-{theme.split()[-1].lower()}", notebook.output(cell))


CASES = {"confusion": CLASSES, "residuals": VALUES, "explorer": EXPLORER, "runs": RUNS + "table"}


@pytest.mark.parametrize("name", CASES)
def test_looks_have_contrast_and_nothing_is_cut(open_notebook, name):
    notebook = open_notebook(name, CASES[name])
    notebook.run(0, timeout=180)
    look(notebook, name, 0)
    output = notebook.output(0)
    for theme in (LIGHT, DARK):
        notebook.theme(theme)
        texts = output.locator(":is(p, td, th, h2, h3, summary span, small, b):visible")
        low = [(text.inner_text(), round(found, 2)) for text in texts.all()[:150]
               if text.inner_text().strip() and (found := text.evaluate(CONTRAST)) < 4.5]
        assert not low, (theme, low)
    wide = output.evaluate("e => e.scrollWidth - e.clientWidth")
    assert wide <= 1, "the page does not scroll sideways at 420 pixels: tables do in their own place"
