"""The harness itself: what the other browser tests rely on is true of this JupyterLab."""
import sys

import pytest
from playwright.sync_api import expect

from .lab import DARK, LIGHT

WIDGET = """
import ipywidgets
clicks = []
button = ipywidgets.Button(description="Count")
button.on_click(lambda _: clicks.append(1))
button
"""


def test_a_notebook_runs_in_this_interpreter_and_its_widgets_answer(open_notebook):
    notebook = open_notebook("harness", "import sys; print(sys.prefix)", WIDGET, "1 / 0")
    notebook.run_all()
    assert notebook.text(0) == sys.prefix
    assert "ZeroDivisionError" in notebook.text(2)
    notebook.click("Count")
    notebook.until("clicks == [1]")
    assert notebook.console == []


def test_a_busy_cell_can_be_looked_at_and_interrupted(open_notebook):
    notebook = open_notebook("busy", "import time; going = True\nwhile going: time.sleep(0.05)")
    notebook.run(0, wait=False)
    notebook.until("going", aside=True)
    assert notebook.running(0)
    notebook.interrupt()
    notebook.wait(0)
    assert "KeyboardInterrupt" in notebook.text(0)


def test_what_is_saved_is_what_reopens(open_notebook):
    notebook = open_notebook("saved", "print('kept')", "from IPython.display import HTML; HTML('<i>also kept</i>')")
    notebook.run_all()
    notebook.theme(DARK)
    notebook.theme(LIGHT)
    assert notebook.save()["cells"][0]["outputs"][0]["text"] == ["kept\n"]
    notebook.reopen()
    expect(notebook.output(1)).to_contain_text("also kept")
    with pytest.raises(RuntimeError, match="NameError"):
        notebook.python("HTML")
