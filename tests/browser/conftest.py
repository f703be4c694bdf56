"""Fixtures of the browser tests: one JupyterLab and one Chromium for all of them, a fresh page for each.

Screenshots go to the folder that MLX_BERT_SCREENSHOTS names, or else to pytest's temporary folder. Each test leaves a
last one of every notebook it opened. Those that the documentation shows are written by tests, into MLX_BERT_PICTURES.
"""
from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .lab import CHROMIUM_FLAGS, LIGHT, LabServer, Notebook7Server, NotebookPage, find_chromium, missing


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    "Skip what is in this folder where something is missing."
    if reason := missing():
        for item in items:
            if Path(__file__).parent in item.path.parents: item.add_marker(pytest.mark.skip(reason=reason))


# The scope is the package, not the session: Playwright keeps an event loop running in this thread as long as it is
# open, and tests outside this folder call `asyncio.run`.
def serve(server: LabServer) -> Iterator[LabServer]:
    try:
        server.wait()
        yield server
    finally: server.stop()


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabServer]:
    yield from serve(LabServer(tmp_path_factory.mktemp("notebooks")))


@pytest.fixture(scope="package")
def server7(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabServer]:
    yield from serve(Notebook7Server(tmp_path_factory.mktemp("notebooks7")))


@pytest.fixture(scope="package")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "The folder for screenshots."
    folder = Path(os.environ.get("MLX_BERT_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="package")
def pictures(shots: Path) -> Path:
    "The folder for the pictures of the documentation: MLX_BERT_PICTURES, or else that for screenshots."
    return Path(os.environ.get("MLX_BERT_PICTURES") or shots)


def opener(server: LabServer, browser, shots: Path, test: str) -> Iterator[Callable[..., NotebookPage]]:
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    opened: list[NotebookPage] = []

    def open_notebook(name: str, *cells: str) -> NotebookPage:
        notebook = NotebookPage(context.new_page(), server, shots)
        opened.append(notebook)
        return notebook.open(name if name.endswith(".ipynb") else f"{name}.ipynb", *cells)

    yield open_notebook
    for notebook in opened:
        notebook.screenshot(re.sub(r"\W+", "-", f"{test}-{notebook.path.stem}").strip("-"))
        notebook.theme(LIGHT)       # a theme is the server's, so the next test would find it
        notebook.shut_down()
    context.close()


@pytest.fixture
def open_notebook(server, browser, shots, request) -> Iterator[Callable[..., NotebookPage]]:
    "`open_notebook(name, *cells)` writes a notebook, opens it in a fresh page and returns its `NotebookPage`."
    yield from opener(server, browser, shots, request.node.name)


@pytest.fixture
def open_notebook7(server7, browser, shots, request) -> Iterator[Callable[..., NotebookPage]]:
    "The same in Notebook 7."
    yield from opener(server7, browser, shots, request.node.name)
