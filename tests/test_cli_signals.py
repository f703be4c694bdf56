"""What ends a command, what it must not overwrite, and what may stand behind an option."""
from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from tiny_competition import declaration, write_files

from mlx_bert_training.cli import main, settle_resume


@pytest.mark.parametrize("make", [lambda p: "x.csv", lambda p: "./x.csv", lambda p: str(p / "x.csv"),
                                  lambda p: os.symlink("x.csv", "link.csv") or "link.csv",
                                  lambda p: os.link("x.csv", "hard.csv") or "hard.csv"])
def test_predictions_never_overwrite_the_file_that_is_predicted(tmp_path, monkeypatch, capsys, make):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.csv").write_text("id,text\n1,a\n")
    assert main(["predict", "runs/any", "x.csv", "-o", make(tmp_path)]) == 2
    assert "would overwrite x.csv" in capsys.readouterr().err and (tmp_path / "x.csv").read_text() == "id,text\n1,a\n"


@pytest.mark.parametrize("file", ["config.yaml", "model/model.safetensors", "./result.json", "../q/folds.csv", "link"])
def test_predictions_never_overwrite_the_run(tmp_path, monkeypatch, capsys, file):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.csv").write_text("id,text\n1,a\n")
    for name in ("config.yaml", "model/model.safetensors", "result.json", "folds.csv"):
        (tmp_path / "q" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "q" / name).write_text("kept")
    (tmp_path / "link").symlink_to("q/config.yaml")
    assert main(["predict", "q", "x.csv", "-o", "link" if file == "link" else f"q/{file}"]) == 2
    assert "would overwrite a file of the run q" in capsys.readouterr().err
    assert {path.read_text() for path in (tmp_path / "q").rglob("*") if path.is_file()} == {"kept"}


def test_a_page_about_the_data_does_not_overwrite_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text("data: {}\n")
    assert main(["explore", "run.yaml", "-o", "run.yaml"]) == 2 and "would overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(("given", "config", "overrides", "resume"), [
    (("latest", "run.yaml", ["a=1"]), "run.yaml", ["a=1"], "latest"),
    (("run.yaml", None, []), "run.yaml", [], "latest"), (("folder", None, []), None, [], "folder"),
    (("a=b", None, []), None, [], "a=b"), (("missing", "run.yaml", []), "run.yaml", [], "missing"),
    ((None, "run.yaml", []), "run.yaml", [], None)])
def test_what_stands_behind_resume(tmp_path, monkeypatch, given, config, overrides, resume):
    monkeypatch.chdir(tmp_path)
    for name in ("folder", "a=b"): (tmp_path / name).mkdir()
    args = argparse.Namespace(resume=given[0], config=given[1], overrides=list(given[2]))
    settle_resume(args)
    assert (args.config, args.overrides, args.resume) == (config, overrides, resume)


@pytest.mark.parametrize(("words", "config", "overrides", "resume"), [
    ("run.yaml --resume num_epochs=4 a=1", "run.yaml", ["num_epochs=4", "a=1"], "latest"),
    ("run.yaml a=1 --resume a=2", "run.yaml", ["a=1", "a=2"], "latest"),      # of two equal keys the last counts
    ("run.yaml --resume a=1 a=2", "run.yaml", ["a=1", "a=2"], "latest"),
    ("--resume a=1 run.yaml a=2", "run.yaml", ["a=1", "a=2"], "latest"),
    ("a=1 run.yaml a=2", "run.yaml", ["a=1", "a=2"], None), ("a=1 a=2", None, ["a=1", "a=2"], None),
    ("k=v.yaml a=2", "k=v.yaml", ["a=2"], None), ("run.yaml --resume a=b k=1", "run.yaml", ["k=1"], "a=b"),
    ("run.yaml --resume=a=b k=1", "run.yaml", ["k=1"], "a=b"), ("run.yaml more.yaml", "run.yaml", ["more.yaml"], None)])
def test_the_order_of_the_words(tmp_path, monkeypatch, words, config, overrides, resume):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b").mkdir()
    (tmp_path / "k=v.yaml").touch()
    seen = []
    monkeypatch.setattr("mlx_bert_training.cli.train", lambda args: seen.append(args), raising=True)
    main.__globals__["train"].__name__ = "train"
    assert main(["train", *words.split()]) == 0
    assert (seen[0].config, seen[0].overrides, seen[0].resume) == (config, overrides, resume)


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path)
    sections = declaration(tmp_path, training={"num_epochs": 1, "save_strategy": "epoch"})
    (tmp_path / "cv.yaml").write_text(yaml.safe_dump(sections))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({k: v for k, v in sections.items() if k != "kaggle"}))
    return tmp_path


def test_overrides_may_stand_behind_resume(files, capsys):
    assert main(["train", "run.yaml"]) == 0
    assert main(["train", "run.yaml", "--resume", "num_epochs=1"]) == 0
    assert main(["train", "run.yaml", "--resume", "latest", "num_epochs=1", "run_name=run"]) == 0
    assert [path.name for path in (files / "runs").iterdir()] == ["run"]
    with pytest.raises(SystemExit): main(["train", "run.yaml", "--resume", "latest", "nonsense"])
    assert "nonsense" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["train", "run.yaml"], ["run", "cv.yaml"]], ids=["train", "run"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
def test_a_command_that_is_ended_keeps_a_checkpoint_and_says_so(files, command, number, code):
    line = [sys.executable, "-m", "mlx_bert_training", *command, "num_epochs=100000", "logging_steps=10"]
    run = files / "runs" / "run"
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 90
    def whole(): return [*run.glob("checkpoints/step-*"), *run.glob("folds/fold-0-0/checkpoints/step-*")]
    while not whole() and time.monotonic() < end: time.sleep(0.1)
    process.send_signal(number)
    _, err = process.communicate(timeout=90)
    assert process.returncode == code, err
    assert "Traceback" not in err and list(whole()[-1].glob("*.json"))
