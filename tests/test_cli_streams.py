"""Streams that are closed, full or no longer read: no traceback, no damage, and the exit code that other tools have."""
from __future__ import annotations

import subprocess
import sys

import pytest
from toys import ToyLoader, ToyModel, toy_config

from mlx_bert_training.callbacks import progress
from mlx_bert_training.callbacks.progress import ProgressBar
from mlx_bert_training.core.base import Trainer

CLI = f"{sys.executable} -m mlx_bert_training"


def shell(command, folder, **env):
    return subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], cwd=folder, capture_output=True, text=True,
                          timeout=300, env={"PATH": "/usr/bin:/bin", "HOME": str(folder), **env})


@pytest.mark.parametrize(("command", "code", "said"), [
    (f"{CLI} presets | true", 141, ""), (f"{CLI} config nothing 2>&1 | true", 141, ""),
    (f"{CLI} presets > /dev/full", 1, "what was printed could not be written: No space left on device\n"),
    (f"{CLI} presets >&- 2>&- <&-", 0, "")])
def test_a_stream_that_fails_ends_a_command_quietly(tmp_path, command, code, said):
    done = shell(command, tmp_path)
    assert (done.returncode, done.stderr) == (code, said)


class Gone:
    "A terminal whose reader has left."
    def write(self, text): raise BrokenPipeError(32, "Broken pipe")
    def flush(self): raise BrokenPipeError(32, "Broken pipe")
    def isatty(self): return True


@pytest.mark.parametrize("mode", ["terminal", "lines"])
def test_a_training_outlives_the_reader_of_its_progress(tmp_path, monkeypatch, mode):
    trainer = Trainer(ToyModel(), toy_config(tmp_path), callbacks=[ProgressBar(mode)])
    with monkeypatch.context() as patch:
        for name in ("stdout", "stderr"): patch.setattr(sys, name, Gone())
        result = trainer.train(ToyLoader(), ToyLoader(seed=1))
    assert result.steps == 15 and "eval_loss" in result.metrics


@pytest.mark.parametrize("columns", ["1", "2", "9", "20"])
def test_no_line_is_wider_than_a_narrow_terminal(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    width = progress.columns()
    assert 1 <= width <= max(1, int(columns) - 1)
    assert len(progress.fitting(["update 3/15", "epoch 0.2/3"], width)) <= width
    assert progress.fitting(["update 3/15"], -5) == ""
