"""A declaration may name modules. What it names is looked at before it is called, and showing imports nothing."""
from __future__ import annotations

import copy
import os
import subprocess
import sys

import pytest

from mlx_bert_training.cli import main
from mlx_bert_training.core.config import KaggleTrainerConfig
from mlx_bert_training.declaration.load import load_config
from mlx_bert_training.declaration.options import leaves
from mlx_bert_training.errors import MLXBertError
from mlx_bert_training.run import run_competition

KINDS = [key for key, option in leaves(KaggleTrainerConfig).items() if option.registry is not None]
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
DATA = {"train_path": "demo:german_credit/train.csv", "test_path": "demo:german_credit/test.csv", "id_column": "id",
        "target_column": "risk", "template": "{purpose}", "max_train_rows": 60, "max_length": 16}
BASE = {"model": {"config": SMALL}, "data": DATA, "kaggle": {"cv_folds": 2, "enable_ensemble": True,
                                                             "ensemble_members": ["linear"]}}


def declaration(folder, key, value):
    whole = copy.deepcopy(BASE)
    whole["environment"] = {"output_dir": str(folder / "runs"), "device": "cpu"}
    whole["kaggle"]["submission_dir"] = str(folder / "submissions")
    section, _, name = key.rpartition(".")
    part = whole
    for step in filter(None, section.split(".")): part = part.setdefault(step, {})
    part[name] = value
    return whole


@pytest.mark.parametrize("place", ["os:system", "shutil:rmtree", "subprocess:run", "os:mkdir"])
@pytest.mark.parametrize("key", KINDS)
def test_what_is_of_another_kind_is_not_called(tmp_path, monkeypatch, key, place):
    "Whatever the part is: neither by its bare name nor with arguments that would fit."
    monkeypatch.chdir(tmp_path)
    victim, made = tmp_path / "victim", tmp_path / "made"
    victim.mkdir()
    options = {"os:system": {"command": f"touch {made}"}, "shutil:rmtree": {"path": str(victim)}, "os:mkdir": {
        "path": str(made)}, "subprocess:run": {"args": ["touch", str(made)]}}[place]
    several = key in ("callbacks", "kaggle.ensemble_members", "training.metrics")
    for value in (place, {"type": place, "options": options}):
        with pytest.raises(MLXBertError):
            run_competition(declaration(tmp_path, key, [value] if several else value))
    assert victim.is_dir() and not made.exists()


def test_the_arguments_of_a_callback_beside_its_type(tmp_path):
    value = [{"type": "os:system", "command": f"touch {tmp_path / 'made'}"}]
    with pytest.raises(MLXBertError, match="'os:system' is not a callback"):
        run_competition(declaration(tmp_path, "callbacks", value))
    assert not (tmp_path / "made").exists()


@pytest.mark.long
def test_commands_that_show_import_nothing_of_the_users(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text("raise SystemExit('imported')\n")
    file = tmp_path / "run.yaml"
    file.write_text("model: {pooling: 'mine:A', head_type: 'mine:F'}\ncallbacks: ['mine:B']\n"
                    "training: {loss: 'mine:C'}\nkaggle: {cv_strategy: 'mine:D', ensemble_method: 'mine:E'}\n")
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
    for command in (["config", str(file)], ["config", "production", "--diff", str(file)], ["presets"],
                    ["config", "--schema"]):
        done = subprocess.run([sys.executable, "-m", "mlx_bert_training", *command], env=environ, cwd=tmp_path,
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert main(["config", str(file)]) == 0 and "mine:A" in capsys.readouterr().out and "mine" not in sys.modules


@pytest.mark.parametrize("key", [key for key in KINDS if key != "callbacks"])
@pytest.mark.parametrize("place", ["os:system", "subprocess:Popen", "builtins:eval", "os.path:join"])
def test_python_itself_is_no_part_of_a_run_and_validation_says_so(tmp_path, key, place):
    listed = key in ("training.metrics", "kaggle.ensemble_members")
    value = [place] if listed else place
    with pytest.raises(MLXBertError, match="of Python.s own library"): load_config({}, **{key: value})


@pytest.mark.parametrize("name, value", [("hidden_size", -1), ("hidden_size", 0), ("num_hidden_layers", 1.5),
                                         ("vocab_size", "60"), ("num_attention_heads", True)])
def test_sizes_of_a_model_are_known_to_validation(name, value):
    with pytest.raises(MLXBertError, match=f"{name} is {value!r}; it has to be a whole number"):
        load_config({"model": {"config": {name: value}}})
