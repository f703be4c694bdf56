"""In a notebook an error of the package is its message, and the traceback comes on request."""
import os

import nbformat
import pytest
from nbclient import NotebookClient

CREDENTIALS = """
import os
os.environ.update(HOME={home!r}, KAGGLE_CONFIG_DIR={home!r})
for name in [n for n in os.environ if n.startswith("KAGGLE_") and n != "KAGGLE_CONFIG_DIR"]: del os.environ[name]
from mlx_bert_training.kaggle.client import KaggleClient
KaggleClient().submissions("titanic")
"""
CASES = {
    "an unknown name": ("from mlx_bert_training.tasks.metrics import get_metric\nget_metric('acuracy')",
                        "UnknownNameError: unknown metric 'acuracy'. Did you mean 'accuracy'?"),
    "a file that is not there": ("from mlx_bert_training.data.frames import read_frame\nread_frame('nothing.csv')",
                                 "DataError: no file nothing.csv"),
    "a declaration": ("from mlx_bert_training import get_trainer_config\nget_trainer_config("
                      "'no-such-preset')", "Error: "),
}


def run_cells(*cells: str) -> list[dict]:
    "The error outputs of cells, run in a kernel."
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=120, allow_errors=True, kernel_name="python3").execute()
    return [output for cell in notebook.cells for output in cell.outputs if output.output_type == "error"]


@pytest.mark.parametrize("case", CASES)
def test_the_message_alone_and_the_rest_on_request(case):
    code, message = CASES[case]
    plain, more, again = run_cells(code, "%xmode Verbose\n%tb", code)
    shown = "\n".join(plain["traceback"])
    assert message in shown and "Traceback" not in shown and "-->" not in shown and "%xmode Verbose" in shown
    for verbose in (more, again): assert "errors.py" in "".join(verbose["traceback"]) or "-->" in "".join(
        verbose["traceback"])


def test_an_error_of_somebody_else_is_as_ever():
    [error] = run_cells("1 / 0")
    assert "Traceback" in "\n".join(error["traceback"])


def test_missing_credentials_say_the_same_as_in_a_shell(tmp_path):
    pytest.importorskip("kaggle")
    [error] = run_cells(CREDENTIALS.format(home=str(tmp_path)))
    shown = "\n".join(error["traceback"])
    assert shown.startswith("KaggleCredentialsError: No Kaggle credentials. Looked, in this order, at\n")
    assert "settings/api" in shown and "exit" not in shown and "Traceback" not in shown
    assert f"{tmp_path / 'kaggle.json'}: nothing" in shown and os.fspath(tmp_path) in shown
