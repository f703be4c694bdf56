"""A reader meets nothing before it was explained: imports go from later notebooks to earlier ones, and downward."""
import ast
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import nbformat
import pytest

import mlx_bert_training

PACKAGE = Path(mlx_bert_training.__file__).parent
NOTEBOOKS = PACKAGE.parent / "nbs"
WHOLE = "core.config"       # puts the sections of all folders together, and so imports from all of them


def imported(module: str) -> set[str]:
    "The modules of the package that a module imports when it is imported."
    path, parts = PACKAGE / (module.replace(".", "/") + ".py"), ["mlx_bert_training", *module.split(".")]
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.ImportFrom): continue
        base = (parts[:-node.level] if node.level else []) + (node.module.split(".") if node.module else [])
        if base[:1] != ["mlx_bert_training"]: continue
        found |= {".".join(base[1:]), *(".".join([*base[1:], name.name]) for name in node.names)}
    return found


def exported(notebook: Path) -> str | None:
    "The module that a notebook exports."
    source = "\n".join(cell.source for cell in nbformat.read(notebook, as_version=4).cells)
    found = re.search(r"^#\s*\|\s*default_exp\s+(\S+)", source, re.M)
    return found and found[1]


MODULES = {path: module for path in sorted(NOTEBOOKS.rglob("[0-9]*.ipynb")) if (module := exported(path))}


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES} - {NOTEBOOKS}), ids=lambda path: path.name)
def test_a_notebook_needs_only_those_before_it(folder):
    here = {module: path.name for path, module in MODULES.items() if path.parent == folder}
    late = [f"{name} imports {here[other]}" for module, name in here.items()
            for other in imported(module) & set(here) if here[other] > name]
    numbers = [name.partition("_")[0] for name in here.values()]
    assert not late and len(set(numbers)) == len(numbers)


def test_no_two_folders_import_each_other():
    edges = defaultdict(set)
    for module in set(MODULES.values()) - {WHOLE}:
        inside = module.partition(".")[0]
        folders = {other.partition(".")[0] for other in imported(module) if "." in other}
        if "." in module: edges[inside] |= folders - {inside}
    both = {tuple(sorted((one, other))) for one, others in edges.items() for other in others
            if one in edges.get(other, ())}
    assert not both


def test_every_exported_cell_fits_a_screen_and_is_shown_at_work():
    command = [sys.executable, "tools/check_notebooks.py"]
    found = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True)
    assert (found.stdout, found.returncode) == ("", 0), found.stderr
