"""What an error offers exists: every option, command and declared value that a message names."""
import ast
import re
from pathlib import Path

import numpy as np
import pytest

import mlx_bert_training
from mlx_bert_training.cli import build_parser
from mlx_bert_training.declaration.load import load_config
from mlx_bert_training.errors import DataError
from mlx_bert_training.validation.folds import make_folds

PACKAGE = Path(mlx_bert_training.__file__).parent
SECTIONS = load_config({"kaggle": {}}).to_dict()
NAMED = re.compile(r"(?<![\w./:])(" + "|".join(sorted(SECTIONS)) + r")\.([a-z][a-z_]+)\b(?!\()")
OTHERS = {"pkl", "bundle_inference", "api", "py", "yaml", "json", "ipynb", "com", "safetensors", "csv", "onnx"}


def texts():
    "Every text in the package with its place."
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name == "_modidx.py": continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}", node.value


def test_every_option_that_a_text_names_exists():
    named = [(place, *match.groups()) for place, text in texts() for match in NAMED.finditer(text)]
    named = [(place, section, key) for place, section, key in named
             if key not in OTHERS and isinstance(SECTIONS[section], dict)]
    assert len(named) > 100
    assert [n for n in named if n[2] not in SECTIONS[n[1]]] == []


def test_every_command_that_a_text_names_exists():
    commands = next(a for a in build_parser()._actions if a.choices).choices
    named = {(place, word) for place, text in texts() for word in re.findall(r"`mlx-bert ([a-z]+)", text)}
    assert named and [n for n in named if n[1] not in commands] == []


CLASSES = np.array([0] * 9 + [1] * 9 + [2])


@pytest.mark.parametrize(("targets", "names", "said"), [
    (CLASSES, ["a", "b", "rare"], "class 'rare' has 1 row"), (np.r_[CLASSES, 2], None, "class 2 has 2 rows"),
    (np.r_[CLASSES, 3, 2, 2], ["x", "y", "z", "one"], "class 'one' has 1 row")])
def test_what_is_offered_for_a_rare_class_works(targets, names, said):
    with pytest.raises(DataError) as error:
        make_folds(targets, "stratified", 5, task="multiclass", class_names=names)
    text = str(error.value)
    assert said in text
    for key, value in re.findall(r"kaggle\.(cv_\w+): (\w+)", text):
        config = load_config({"kaggle": {key: value if not value.isdigit() else int(value), "cv_strategy": "stratified"}
                              | ({key: value} if key == "cv_strategy" else {})}).kaggle
        make_folds(targets, config.cv_strategy, config.cv_folds, task="multiclass", class_names=names)
