"""A run that is watched and steered from a notebook, as a person would: in JupyterLab, with the mouse and the keyboard.

The picture of the dashboard in the documentation is made here:

    MLX_BERT_PICTURES=nbs/images python -m pytest tests/browser/test_dashboard.py -k picture
"""
from __future__ import annotations

import re

import pytest

from .lab import DARK, NotebookPage, until

SETUP = """
import tempfile
from mlx_bert_training import create_kaggle_trainer, create_trainer

home = tempfile.mkdtemp()

def declare(**overrides):
    return {"config": {
        "model": {"pooling": "mean", "config": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                                                "intermediate_size": 64}},
        "data": {"train_path": "demo:german_credit/train.csv", "target_column": "risk", "id_column": "id",
                 "max_length": 32, "num_workers": 0,
                 "template": "{checking_account} account, {saving_accounts} savings, {purpose}, {duration} months"},
        "optimizer": {"learning_rate": 2e-3}, "scheduler": {"type": "none"},
        "training": {"num_epochs": 2000, "early_stopping": False, "save_strategy": "no", "eval_strategy": "steps",
                     "eval_steps": 20, "metrics": ["auc", "accuracy"], "best_metric": "eval_auc"},
        "environment": {"output_dir": home, "run_name": "run", "device": "cpu"}}, **overrides}
"""
TRAIN = "trainer = create_trainer(**declare()); result = trainer.train()"
START = "trainer = create_trainer(**declare()); run = trainer.start(); run"
WIDGET = "application/vnd.jupyter.widget-view+json"


def begin(open_notebook, name: str, cell: str, *more: str, trains: str = "trainer.state.step > 25") -> NotebookPage:
    "A notebook whose second code cell trains, and has done so for a while."
    notebook = open_notebook(name, SETUP, cell, *more)
    notebook.run(0)
    notebook.run(1, wait=False)
    notebook.page.get_by_role("button", name="Pause").wait_for(timeout=60_000)
    notebook.until(trains, aside=True, timeout=120)
    return notebook


def outputs_of(saved: dict, cell: int) -> list[dict]:
    return [output["data"] for output in saved["cells"][cell]["outputs"] if "data" in output]


@pytest.mark.parametrize(("app", "cell"), [("open_notebook", TRAIN), ("open_notebook", START),
                                           ("open_notebook7", START)], ids=["train", "start", "start in Notebook 7"])
def test_steering_by_hand(request, app, cell):
    notebook = begin(request.getfixturevalue(app), "steering", cell)
    busy = cell is TRAIN
    assert notebook.running(1) == busy      # start() gives the notebook back at once

    before = notebook.text(1)               # the plot changes
    until(lambda: notebook.text(1) != before and notebook.output(1).locator("canvas").count() >= 5, "another picture")

    notebook.click("Pause")                 # pause really pauses
    notebook.page.get_by_role("button", name="Resume").wait_for()
    notebook.until("trainer.steering.interventions", aside=busy)
    step = notebook.value("trainer.state.step", aside=busy)
    notebook.page.wait_for_timeout(400)
    assert notebook.value("trainer.state.step", aside=busy) == step
    assert "paused" in notebook.text(1)
    notebook.click("Resume")
    notebook.until(f"trainer.state.step > {step}", aside=busy)

    rate = notebook.page.get_by_role("textbox", name="Learning rate")      # a bad rate is refused beside the field
    rate.fill("fast")
    notebook.click("Set")
    notebook.page.get_by_role("alert").filter(has_text="not 'fast'").wait_for()
    assert "now 0.002" in notebook.text(1)
    rate.fill("1e-5")                                       # one far off is asked about, and Enter sets it
    rate.press("Enter")
    notebook.page.get_by_role("alert").filter(has_text="200 times less than now").wait_for()
    rate.press("Enter")
    notebook.until("abs(float(trainer.optimizer.learning_rate) - 1e-5) < 1e-9", aside=busy)

    notebook.click("Checkpoint")
    notebook.until("trainer.state.pinned", aside=busy)
    notebook.click("Stop, keep best")
    if busy: notebook.wait(1)
    else: notebook.python("result = run.result()")
    assert notebook.value("[result.weights, result.metrics['eval_auc'] == result.best_metric == "
                          "max(row['eval_auc'] for row in result.history if 'eval_auc' in row)]") == ["best", True]
    assert notebook.value("[i.action for i in result.interventions]") == [
        "pause", "resume", "learning_rate", "checkpoint", "stop"]
    assert notebook.value("{i.source for i in result.interventions} == {'button'}")

    until(lambda: notebook.output(1).locator("img").count() == 1, "the last picture")
    assert not notebook.output(1).get_by_role("button").count()     # nothing is left that does nothing
    assert {"image/png", "text/html"} <= {kind for data in outputs_of(notebook.save(), 1) for kind in data}
    assert not [data for data in outputs_of(notebook.save(), 1) if WIDGET in data]
    notebook.reopen()
    picture = notebook.output(1).locator("img")
    assert picture.evaluate("image => image.complete && image.naturalWidth > 500")
    assert "Error displaying widget" not in notebook.text(1) and "hardest rows" in notebook.text(1)
    assert notebook.console == []


def tops(notebook: NotebookPage, *places: str) -> list[float]:
    "Where parts of an output begin, from the top of the output, in pixels."
    first = notebook.output(1).bounding_box()["y"]
    return [round(notebook.output(1).locator(place).first.bounding_box()["y"] - first) for place in places]


@pytest.mark.parametrize("width", [1800, 800, 420])
def test_nothing_moves_before_during_and_after(open_notebook, width):
    notebook = open_notebook("place", SETUP, START.replace("declare()", "declare(num_epochs=9)"))
    notebook.page.set_viewport_size({"width": width, "height": 1000})
    notebook.run(0)
    notebook.run(1, wait=False)
    pause = ".mlx-bert-pause"
    notebook.page.locator(pause).wait_for(timeout=60_000)
    notebook.page.locator(".mlx-bert-plots").wait_for()
    seen = [tops(notebook, pause, ".mlx-bert-plots")]
    for moment in ("trainer.state.step > 25", "trainer.state.step > 65"):
        notebook.until(moment, timeout=120)
        seen.append(tops(notebook, pause, ".mlx-bert-plots"))
    notebook.click("Pause")
    notebook.page.get_by_role("button", name="Resume").wait_for()
    seen.append(tops(notebook, pause, ".mlx-bert-plots"))
    slot = tops(notebook, ".mlx-bert-slot")
    notebook.click("Resume")
    notebook.page.locator(".mlx-bert-pause").focus()
    notebook.python("result = run.result()")
    until(lambda: notebook.output(1).locator("img").count() == 1, "the last picture")
    assert max(max(place) - min(place) for place in zip(*seen, strict=True)) <= 1, seen
    card, picture = tops(notebook, ".mlx-bert-card", "img")
    assert abs(card - slot[0]) <= 3 and abs(picture - seen[0][1]) <= 8, "the card is where the controls were"
    assert notebook.page.evaluate("() => !!document.activeElement.closest('.jp-OutputArea')"), "the focus stays there"
    assert re.search(r"\d:\d\d", notebook.text(1)) and "result.json" in notebook.text(1)
    notebook.screenshot(f"dashboard-{width}-end", notebook.output(1))


def test_a_value_under_the_pointer_and_zoom(open_notebook):
    notebook = begin(open_notebook, "hover", START)
    notebook.click("Pause")
    notebook.page.get_by_role("button", name="Resume").wait_for()
    chart = notebook.output(1).locator(".mlx-bert-plot").first
    over = chart.locator(".u-over")
    over.hover(position={"x": 60, "y": 60})
    readout = chart.locator(".mlx-bert-readout")
    until(lambda: re.search(r"update \d+.*each 0\.\d+", readout.inner_text(), re.S), "a value under the pointer")
    box = over.bounding_box()
    whole = notebook.output(1).get_by_role("button", name="Whole run")
    assert whole.is_disabled()
    notebook.page.mouse.move(box["x"] + 40, box["y"] + 50)
    notebook.page.mouse.down()
    notebook.page.mouse.move(box["x"] + 140, box["y"] + 50, steps=5)
    notebook.page.mouse.up()
    until(lambda: whole.is_enabled(), "the zoom")
    whole.click()
    until(lambda: whole.is_disabled(), "the whole run")
    notebook.output(1).get_by_label("Metric").select_option("accuracy")
    until(lambda: "accuracy" in notebook.output(1).locator(".mlx-bert-middle .mlx-bert-readout").first.inner_text(),
          "the other metric")
    notebook.output(1).get_by_label("Log scale").check()
    assert notebook.console == []


def test_a_cell_that_is_run_again_asks(open_notebook):
    notebook = begin(open_notebook, "again", START)
    notebook.run(1, wait=False)
    field = notebook.page.locator(".jp-Stdin-input")
    field.wait_for()
    field.fill("k")
    field.press("Enter")
    until(lambda: "nothing was started" in notebook.text(1), "the answer")
    assert "Traceback" not in notebook.text(1)
    assert notebook.value("len(__import__('mlx_bert_training').runs())") == 1
    notebook.click("Pause")                                 # its panel is there again, and is heard
    notebook.page.get_by_role("button", name="Resume").wait_for()
    until(lambda: "paused" in notebook.text(1), "the panel of the run that goes on")
    assert notebook.output(1).locator("canvas").count() >= 5
    notebook.python("run.stop(); run.result()")


def test_stop_after_the_epoch_by_keyboard(open_notebook):
    notebook = begin(open_notebook, "epoch", START)
    notebook.page.get_by_role("button", name="Stop after epoch").focus()
    notebook.page.keyboard.press("Space")
    notebook.python("result = run.result()")
    assert notebook.value("result.epochs == round(result.epochs) and 'button' in result.stop_reason")


def test_the_stop_button_of_the_notebook_ends_with_a_result(open_notebook):
    notebook = begin(open_notebook, "interrupt", TRAIN)
    notebook.interrupt()
    notebook.wait(1)
    assert notebook.value("['interrupt' in result.stop_reason, result.last_checkpoint.is_dir()]") == [True, True]
    assert notebook.output(1).locator("img").count() == 1 and "Traceback" not in notebook.text(1)


def test_an_awaited_run_is_interrupted_in_the_same_way(open_notebook):
    notebook = begin(open_notebook, "await", "trainer = create_trainer(**declare()); result = await trainer.start()")
    notebook.interrupt()
    notebook.wait(1)
    assert notebook.value("'interrupt' in result.stop_reason")


def test_an_error_in_the_background_shows(open_notebook):
    notebook = begin(open_notebook, "error", START, "1 + 1")
    notebook.python("trainer.optimizer.max_norm = None\n"
                    "def fail(*_): raise ValueError('the disk is gone')\n"
                    "trainer.parts.rate.next = fail")
    until(lambda: "the disk is gone" in notebook.text(1), "the error under the cell that started the run")
    assert "stopped (ValueError: the disk is gone)" in notebook.text(1)
    notebook.run(2)
    assert notebook.text(2).endswith("2")


CV = """
trainer = create_kaggle_trainer(**declare(num_epochs=15, eval_strategy="no", cv_folds=3, competition_metric="auc"))
result = trainer.train_with_cv()
"""


def test_a_cross_validation_has_one_board_and_leaves_a_picture(open_notebook):
    notebook = begin(open_notebook, "folds", CV, trains="trainer.fold_runs")
    until(lambda: "fold 2 of 3, " in notebook.text(1), "the second fold")
    slots = notebook.output(1).locator("svg").all_text_contents()
    assert any("fold 3: waiting" in slot for slot in slots)
    assert notebook.output(1).get_by_role("progressbar").count() == 1
    notebook.click("Pause")
    notebook.page.get_by_role("button", name="Resume").wait_for()
    notebook.screenshot("cross-validation")
    notebook.click("Stop")
    notebook.wait(1)
    assert "stopped in fold 2" in notebook.text(1) and "goes on from there" in notebook.text(1)
    assert "Traceback" not in notebook.text(1)
    notebook.run(1, timeout=120)                            # goes on from there
    assert notebook.value("[len(trainer.fold_runs), trainer.fold_runs[0].skipped]") == [3, True]
    assert notebook.output(1).locator("img").count() == 1
    notebook.reopen()
    assert notebook.output(1).locator("img").count() == 1 and "auc" in notebook.text(1)


def test_pictures_in_both_themes(open_notebook, pictures):
    "For the README, and to be looked at."
    cell = START.replace("declare()", "declare(num_epochs=10)").removesuffix("; run")
    notebook = begin(open_notebook, "picture", cell)
    notebook.page.set_viewport_size({"width": 1000, "height": 1500})    # a picture of an output is of what is in view
    notebook.until("trainer.state.step > 110", timeout=120)
    notebook.click("Pause")
    notebook.page.get_by_role("button", name="Resume").wait_for()
    rate = notebook.page.get_by_role("textbox", name="Learning rate")
    rate.fill("5e-4")
    notebook.click("Set")
    notebook.click("Resume")
    notebook.until("trainer.state.step > 150", timeout=120)
    notebook.click("Pause")
    until(lambda: "paused" in notebook.text(1), "the pause to show")
    live = pictures / "dashboard.png"
    notebook.output(1).screenshot(path=live)
    notebook.theme(DARK)
    notebook.screenshot("dashboard-dark", notebook.output(1))
    notebook.click("Stop, keep best")
    until(lambda: notebook.output(1).locator("img").count() == 1, "the last picture")
    notebook.screenshot("dashboard-end", notebook.output(1))
    assert live.stat().st_size < 200_000
