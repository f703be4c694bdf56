"""Only a task knows what its name means: nobody else compares names of tasks."""
import re
from pathlib import Path

import mlx_bert_training

ROOT = Path(mlx_bert_training.__file__).parent
BRANCH = re.compile(r"head_type *(==|!=|in |not in)|canonical_head_type|\b(REGRESSION|MULTILABEL|BINARY|MULTICLASS)\b")


def branching(root):
    "Modules outside tasks/ that compare the name of a task."
    return {path.relative_to(root).as_posix() for path in root.rglob("*.py")
            if path.name != "_modidx.py" and path.relative_to(root).parts[0] != "tasks"
            and BRANCH.search(path.read_text(encoding="utf-8"))}


def test_nobody_but_a_task_compares_the_name_of_a_task():
    assert branching(ROOT) == set()


def test_a_comparison_is_found(tmp_path):
    (tmp_path / "tasks").mkdir()
    for name, line in (("a.py", 'if head_type == "regression": pass'), ("b.py", "kind = MULTILABEL"),
                       ("c.py", "head_type = 1"),
                       ("tasks/d.py", 'if head_type == "regression": pass')):
        (tmp_path / name).write_text(line)
    assert branching(tmp_path) == {"a.py", "b.py"}
