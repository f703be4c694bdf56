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
    until(lambda: notebook.text(1) != before and notebook.output(1).locator("svg").count() >= 4, "another picture")

    notebook.click("Pause")                 # pause really pauses
    notebook.page.get_by_role("button", name="Resume").wait_for()
    notebook.until("trainer.steering.interventions", aside=busy)
    step = notebook.value("trainer.state.step", aside=busy)
    notebook.page.wait_for_timeout(400)
    assert notebook.value("trainer.state.step", aside=busy) == step
    assert "paused" in notebook.text(1)
    notebook.click("Resume")
    notebook.until(f"trainer.state.step > {step}", aside=busy)

    rate = notebook.page.get_by_label("Learning rate")      # a bad rate is refused beside the field
    rate.fill("fast")
    notebook.click("Set")
    notebook.page.get_by_role("alert").filter(has_text="not 'fast'").wait_for()
    rate.fill("1e-5")                                       # and a good one arrives in the optimizer
    rate.press("Tab")
    notebook.page.keyboard.press("Enter")                   # by keyboard: the next stop is the button
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
    until(lambda: "fold 2" in str(notebook.output(1).locator("svg").all_text_contents()), "the second fold")
    assert len(re.findall("cross-validation", notebook.text(1))) == 1
    notebook.click("Pause")
    notebook.page.get_by_role("button", name="Resume").wait_for()
    notebook.screenshot("cross-validation")
    notebook.click("Stop")
    notebook.wait(1)
    assert "goes on from there" in notebook.text(1) and "Traceback" not in notebook.text(1)
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
    rate = notebook.page.get_by_label("Learning rate")
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
