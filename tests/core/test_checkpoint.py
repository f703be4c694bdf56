"""Checkpoints: whole or not there, and honest about damage."""
from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys

import mlx.core as mx
import pytest

from mlx_bert_training.core import checkpoint
from mlx_bert_training.core.checkpoint import (
    latest_checkpoint,
    read_checkpoint,
    replace_folder,
    verify_checkpoint,
    write_checkpoint,
)
from mlx_bert_training.errors import CheckpointError
from mlx_bert_training.files import json_safe


def write(folder, step=1):
    return write_checkpoint(folder, {"weights": {"w": mx.arange(1000)}, "optimizer": {"m": mx.ones(3)}}, {"step": step})


def test_what_is_written_is_read(tmp_path):
    arrays, values = read_checkpoint(write(tmp_path / "step-000001", 7))
    assert mx.array_equal(arrays["weights"]["w"], mx.arange(1000))
    assert mx.array_equal(arrays["optimizer"]["m"], mx.ones(3))
    assert values == {"step": 7}


def test_writing_again_replaces_and_leaves_nothing_behind(tmp_path):
    write(tmp_path / "step-000001", 1)
    write(tmp_path / "step-000001", 2)
    assert read_checkpoint(tmp_path / "step-000001")[1] == {"step": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "state.json"])
def test_a_flipped_bit_a_short_file_and_a_missing_file_are_found(tmp_path, name):
    for damage in ("flip", "cut", "remove"):
        file = write(tmp_path / "step-000001") / name
        raw = bytearray(file.read_bytes())
        if damage == "flip": raw[-1] ^= 1; file.write_bytes(raw)
        elif damage == "cut": file.write_bytes(raw[:-1])
        else: file.unlink()
        with pytest.raises(CheckpointError, match=name): verify_checkpoint(file.parent)


def test_folders_that_are_no_checkpoints_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint"): read_checkpoint(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="manifest.json"): read_checkpoint(tmp_path / "empty")
    write(tmp_path / "step-000001")
    (tmp_path / "step-000001" / "manifest.json").write_text("{ not json")
    with pytest.raises(CheckpointError, match="manifest.json"): read_checkpoint(tmp_path / "step-000001")


def test_an_error_while_writing_leaves_the_former_state(tmp_path):
    write(tmp_path / "step-000001", 1)
    with pytest.raises(RuntimeError, match="half way"), replace_folder(tmp_path / "step-000001") as building:
        (building / "half").write_text("x")
        raise RuntimeError("half way")
    assert read_checkpoint(tmp_path / "step-000001")[1] == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]


def test_a_disk_that_refuses_is_a_checkpoint_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="could not be written"): write(tmp_path / "file" / "step-000001")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_a_checkpoint_error_and_leaves_nothing(tmp_path, monkeypatch):
    def full(path, arrays): open("/dev/full", "w").write("x" * 100_000)
    monkeypatch.setattr(checkpoint.mx, "save_safetensors", full)
    with pytest.raises(CheckpointError, match="No space left"): write(tmp_path / "step-000001")
    assert list(tmp_path.iterdir()) == []


def test_the_latest_is_the_newest_whole_one(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    for step in (2, 10, 9): write(tmp_path / f"step-{step}", step)
    (tmp_path / ".step-11.building").mkdir()
    (tmp_path / "step-other").mkdir()
    assert latest_checkpoint(tmp_path).name == "step-10"
    (tmp_path / "step-10" / "state.json").unlink()
    assert latest_checkpoint(tmp_path).name == "step-9"


def test_kills_while_writing_never_leave_a_torn_checkpoint(tmp_path):
    script = ("import sys, itertools, mlx.core as mx\n"
              "from mlx_bert_training.core.checkpoint import write_checkpoint\n"
              "for i in itertools.count():\n"
              f"    write_checkpoint({str(tmp_path / 'step-000001')!r},\n"
              "                     {'weights': {'w': mx.full((50000,), i)}}, {'i': i})\n"
              "    print(i, flush=True)\n")
    for delay in range(6):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        for _ in range(1 + delay): process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        replaced = tmp_path / ".step-000001.replaced"    # where the former one is between the two renames
        arrays, values = read_checkpoint(tmp_path / "step-000001" if (tmp_path / "step-000001").exists() else replaced)
        assert (arrays["weights"]["w"] == values["i"]).all().item()


def test_json_has_no_nan(tmp_path):
    safe = json_safe({"a": [math.nan, 1.0], "b": {"c": -math.inf}, 3: (1, 2)})
    assert safe == {"a": [None, 1.0], "b": {"c": None}, "3": [1, 2]}
    json.dumps(safe, allow_nan=False)
