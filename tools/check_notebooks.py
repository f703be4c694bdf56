"""Find notebooks that are hard to read: python tools/check_notebooks.py [NOTEBOOK ...]

Prints exported cells over 42 lines (a dataclass of options may be longer), definitions that no cell shows at work
before the next export, lines of prose over 120 characters, notebooks that do not begin with a cell of title and
description alone (nbdev drops what else stands in it), descriptions that are cut where they become the docstring of
a module, and links to files that are not there. Exits 1 where an exported cell is too long.
"""
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbdev.config import get_config
from nbdev.doclinks import nbglob

LONGEST, WIDEST = 42, 120


def definitions(source: str) -> list[str]:
    "The public classes and functions of a cell."
    try: body = ast.parse(source).body
    except SyntaxError: return []
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [node.name for node in body if isinstance(node, kinds) and not node.name.startswith("_")]


def only_options(source: str) -> bool:
    "Whether a cell is a class of `option(...)` fields."
    return "= option(" in source


def exported(source: str) -> bool: return bool(re.search(r"^#\s*\|\s*exports?\b", source, re.M))


def is_shown(source: str) -> bool:
    "Whether a cell of code is run for a reader: any code but imports alone."
    try: body = ast.parse("\n".join(line for line in source.splitlines() if not line.startswith(("%", "!")))).body
    except SyntaxError: return True
    return any(not isinstance(node, (ast.Import, ast.ImportFrom)) for node in body)


def broken_links(text: str, folder: Path) -> list[str]:
    "Targets of Markdown links to files, without code, that are not in the folder."
    prose = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.S)
    targets = (target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", prose))
    return [target for target in targets if target and ":" not in target and not (folder / target).exists()]


def check(path: Path) -> Iterator[tuple[str, str]]:
    "Kind and text of each finding."
    cells = nbformat.read(path, as_version=4).cells
    waiting: list[str] = []     # definitions that nothing has shown yet
    for cell in cells:
        if cell.cell_type == "markdown":
            for line in cell.source.splitlines():
                if len(line) > WIDEST and not line.lstrip().startswith(("|", "![")):
                    yield "prose", f"{len(line)} characters: {line[:60]} ..."
            for target in broken_links(cell.source, path.parent): yield "link", f"{target} is not there"
        elif exported(cell.source):
            found, lines = definitions(cell.source), len(cell.source.splitlines())
            if lines > LONGEST and not only_options(cell.source):
                yield "long", f"{lines} lines: {', '.join(found) or cell.source.splitlines()[1]}"
            if waiting: yield "unshown", ", ".join(waiting)
            waiting = found
        elif cell.cell_type == "code" and is_shown(cell.source): waiting = []
    if waiting: yield "unshown", ", ".join(waiting)
    first = cells[0].source if cells else ""
    if not first.startswith("# ") or cells[0].cell_type != "markdown": yield "title", f"begins with {first[:60]!r}"
    lost = [line for line in first.splitlines()[1:] if line and not line.startswith(">")]
    if lost and path.name != "index.ipynb": yield "title", f"front matter, of which nbdev drops: {lost[0][:60]}"
    for sentence in re.findall(r"^>\s*(.+)", first, re.M)[:1]:
        module = re.search(r"^#\|\s*default_exp +(\S+)", "\n".join(c.source for c in cells), re.M)
        if module and not sentence.rstrip().endswith((".", "?")): yield "docstring", sentence
        elif module and len(sentence) > WIDEST - 7: yield "docstring", f"is cut: {sentence}"


def main(paths: list[Path]) -> int:
    bad = 0
    for path in paths:
        for kind, text in check(path):
            print(f"{path}: {kind}: {text}")
            bad += kind == "long"
    return int(bad > 0)


if __name__ == "__main__":
    root = get_config().nbs_path
    given = [Path(p) for p in sys.argv[1:]]
    sys.exit(main(given or sorted(p.relative_to(Path.cwd()) for p in nbglob(root, as_path=True))))
