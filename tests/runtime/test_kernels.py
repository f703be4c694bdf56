"""The flags of compiled kernels: who gets them, who does not, and that they change no bit."""
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_bert_training import runtime
from mlx_bert_training.runtime import kernels
from mlx_bert_training.runtime.kernels import FLAGS, FOLDER, SWITCH, compiler, use_kernel_flags

pytestmark = pytest.mark.skipif(not runtime.is_linux_cpu(), reason="kernels of C++ are compiled on a Linux CPU")
OF_MLX = ("-O3", "/tmp/mlx/0.32.4/cpu/tmp_5.cpp", "-o", "/tmp/mlx/0.32.4/cpu/tmp_5.so")


def stand_in(folder: Path, refuses: str = "nothing") -> Path:
    "A `g++` that prints its arguments, and fails where one of them is not for it."
    folder.mkdir(parents=True)
    script = folder / "g++"
    script.write_text(f'#!/bin/sh\ncase "$*" in *{refuses}*) exit 1 ;; esac\necho "$@"\n')
    script.chmod(0o755)
    return script


def called(*arguments: str, path: str, flags: str = "-one --two=2") -> str:
    done = subprocess.run(["g++", *arguments], env={"PATH": path, SWITCH: flags}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("where", ["first", "between", "last", "twice"])
def test_kernels_alone_get_the_flags(tmp_path, where):
    real, usual = str(stand_in(tmp_path / "a folder" / "bin").parent), "/usr/bin:/bin"
    other = str(tmp_path)
    path = {"first": f"{FOLDER}:{real}:{usual}", "between": f"{other}:{FOLDER}:{real}:{usual}",
            "last": f"{other}:{real}:{usual}:{FOLDER}", "twice": f"{FOLDER}:{FOLDER}:{real}:{usual}"}[where]
    further = " -one --two=2" if where != "last" else ""    # there the other one is found first
    assert called(*OF_MLX, path=path).startswith(" ".join(OF_MLX) + further)
    assert called("-O2", "my program.cpp", "-o", "program.so", path=path) == "-O2 my program.cpp -o program.so"


def test_a_compiler_that_refuses_the_flags_gets_the_command_of_mlx(tmp_path):
    real = stand_in(tmp_path / "bin", refuses="--two").parent
    assert called(*OF_MLX, path=f"{FOLDER}:{real}:/usr/bin:/bin") == " ".join(OF_MLX)


def test_the_path_holds_the_folder_once_and_not_when_it_is_off(tmp_path, monkeypatch):
    real = stand_in(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(real.parent))
    monkeypatch.delenv(SWITCH, raising=False)
    assert use_kernel_flags() == use_kernel_flags() == FLAGS == os.environ[SWITCH]
    assert os.environ["PATH"] == f"{FOLDER}{os.pathsep}{real.parent}" and compiler() == str(real)
    monkeypatch.setenv(SWITCH, "-O1")
    assert use_kernel_flags() == "-O1"
    for off in ("off", "OFF", ""):
        monkeypatch.setenv(SWITCH, off)
        assert use_kernel_flags() == "" and os.environ["PATH"] == str(real.parent)


def test_without_a_compiler_nothing_is_put_before_the_path(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert use_kernel_flags() == "" and os.environ["PATH"] == str(tmp_path) and compiler() is None


def test_a_script_that_may_not_be_run_is_left_alone(tmp_path, monkeypatch):
    shutil.copy(Path(FOLDER, "g++"), tmp_path)
    (tmp_path / "g++").chmod(stat.S_IRUSR)
    monkeypatch.setattr(kernels, "FOLDER", str(tmp_path))
    if not os.access(tmp_path / "g++", os.X_OK): assert use_kernel_flags() == ""


ADAM = """
import hashlib, sys
import mlx.core as mx, mlx.optimizers as optim, numpy as np
from mlx_bert_training import runtime
runtime.select_device("cpu")
rng = np.random.default_rng(0)
weights = {"w": mx.array(rng.normal(size=(123, 45)).astype(np.float32))}
optimizer = optim.AdamW(1e-3, bias_correction=True)
optimizer.init(weights)
sizes = np.float32(10.0) ** rng.integers(-20, 5, (123, 45))
gradients = {"w": mx.array(rng.normal(size=(123, 45)).astype(np.float32) * sizes)}
update = mx.compile(lambda w, g: optimizer.apply_gradients(g, w), inputs=optimizer.state, outputs=optimizer.state)
for _ in range(3): weights = update(weights, gradients)
mx.eval(weights, optimizer.state)
arrays = weights["w"], optimizer.state["w"]["m"], optimizer.state["w"]["v"]
print(*(hashlib.sha256(np.array(a).tobytes()).hexdigest() for a in arrays))
"""


@pytest.mark.skipif(compiler() is None, reason="needs a compiler")
def test_an_update_has_the_same_bits_with_the_flags_and_without(tmp_path):
    found, marked = [], []
    for number, flags in enumerate((f"{FLAGS} -Wl,-soname,with-flags", "off")):
        folder = tmp_path / str(number)
        folder.mkdir()
        env = {**os.environ, SWITCH: flags, "TMPDIR": str(folder)}
        done = subprocess.run([sys.executable, "-c", ADAM], env=env, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stderr
        found.append(done.stdout)
        marked.append([b"with-flags" in file.read_bytes() for file in folder.rglob("*.so")])
    assert found[0] == found[1]
    assert len(marked[0]) == len(marked[1]) > 0 and all(marked[0]) and not any(marked[1])
