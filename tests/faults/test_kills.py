"""Kills, signals and full disks at random moments: the run goes on and ends with the same bits."""
from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from faults.conftest import KILLS, LONG

TRIAL = Path(__file__).with_name("trial.py")
KINDS = ("train", "compete")


def start(kind, folder, **environment):
    folder.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen([sys.executable, str(TRIAL), kind, str(folder)], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, env={**os.environ, **environment})
    return process


def finish(process):
    "The last line of its output as values, or None where it came to no end, and what it said."
    out, err = process.communicate(timeout=300)
    lines = out.strip().splitlines()
    return (json.loads(lines[-1]) if process.returncode == 0 and lines[-1].startswith("{") else None), err


@lru_cache(maxsize=4)
def undisturbed(kind):
    "What a run comes to when nobody hurts it, and how many seconds it takes."
    home = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with TemporaryDirectory(dir=home) as folder:
        process = start(kind, Path(folder) / "here")
        process.stdout.readline()
        began = time.monotonic()
        result, err = finish(process)
        assert result is not None, err
        return result, time.monotonic() - began


def while_saving(process, folder):
    "Wait until a file or folder is being written, at most some seconds."
    end = time.monotonic() + 20
    while time.monotonic() < end and process.poll() is None:
        for _, folders, files in os.walk(folder):       # overlooks what vanishes meanwhile
            if any(name.endswith((".building", ".draft", ".replaced")) for name in folders + files): return


def hurt(kind, folder, number, how, seed):
    "Send a signal once or twice at random moments, then let the run come to its end."
    chance = random.Random(seed)
    expected, seconds = undisturbed(kind)
    hits = 0
    for _ in range(1 + seed % 2):
        process = start(kind, folder)
        process.stdout.readline()
        time.sleep(chance.uniform(0.05, 0.95) * seconds)
        if how == "saving": while_saving(process, folder)
        process.send_signal(number)
        hits += finish(process)[0] is None
    result, err = finish(start(kind, folder))
    assert result is not None, err
    left = [path for path in folder.rglob(".*") if "__pycache__" not in path.parts]
    return result == expected, hits, left


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["anywhere", "saving"])
def test_killed_at_random_moments(place, count, kind, how):
    different = []
    for seed in range(KILLS):
        same, hits, left = hurt(kind, place / str(seed), signal.SIGKILL, how, seed)
        shutil.rmtree(place / str(seed))
        count(f"SIGKILL {how}, {kind}", divergent=int(not same), kills_that_hit=hits, files_left=len(left))
        if not same or left: different.append((seed, left))
    assert not different


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_ended_by_a_signal(place, count, number):
    for seed in range(min(KILLS, 20)):
        kind = KINDS[seed % 2]
        same, hits, left = hurt(kind, place / str(seed), number, "anywhere", seed)
        shutil.rmtree(place / str(seed))
        count(number.name, divergent=int(not same), files_left=len(left), hits=hits)
        assert same and not left, (seed, left)


SIZES = (1, 100, 300, 1000, 2000, 4000, 6000, 8000, 12000, 20000)


def test_a_full_disk_is_one_typed_line_and_costs_nothing(place, count):
    for size in SIZES if LONG else SIZES[2:4]:
        folder = place / str(size)
        process = start("train", folder, FAULT_FILE_SIZE=str(size))
        result, err = finish(process)
        typed = result is not None or "OutputError: " in err.splitlines()[-1] or "CheckpointError: " in err
        again, said = finish(start("train", folder))
        count("disk full", untyped=int(not typed), divergent=int(again != undisturbed("train")[0]),
              refused=int(result is None))
        assert typed, (size, err)
        assert again == undisturbed("train")[0], (size, said)
