"""How many faults are tried, where, and the table of what came of them.

FAULTS=50 makes the long set: so many kills of each kind; `make faults`.
"""
from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from faults.disturb import home

KILLS = int(os.environ.get("FAULTS", "1"))
LONG = KILLS > 1
TABLE: dict[str, Counter] = {}


@pytest.fixture
def count(request):
    "Counts what was tried and found, under the name of a kind of fault."
    def note(kind: str, **found: int) -> None: TABLE.setdefault(kind, Counter()).update({"tried": 1, **found})
    return note


@pytest.fixture
def place():
    "A folder in memory where there is one."
    folder = Path(tempfile.mkdtemp(prefix="faults-", dir=home()))
    yield folder
    shutil.rmtree(folder)


def pytest_terminal_summary(terminalreporter):
    if not TABLE: return
    terminalreporter.write_sep("-", "faults")
    for kind, figures in sorted(TABLE.items()):
        shown = ", ".join(f"{number} {name}" for name, number in figures.items())
        terminalreporter.write_line(f"{kind:<28} {shown}")
