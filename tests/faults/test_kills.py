"""Kills, signals and full disks at random moments: the run goes on and ends with the same bits."""
from __future__ import annotations

import shutil
import signal

import pytest
from faults.conftest import KILLS, LONG
from faults.disturb import Trial, hurt, settle, undisturbed

KINDS = ("train", "compete")
MOMENTS = {"train": ("", "window", "evaluation"),
           "compete": ("", "evaluation", "fold trained", "between folds", "between rounds")}


def tried(place, count, name, kind, seed, how="", number=signal.SIGKILL):
    folder = place / f"{seed}"
    same, hits, left = hurt(kind, folder, seed, how, number)
    count(name, divergent=int(not same), hits=hits, files_left=len(left))
    assert same and not left, (seed, how, left)
    shutil.rmtree(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_random_moments(place, count, kind):
    "By turns at any moment, inside an accumulation window, in an evaluation, between folds and between rounds."
    for seed in range(KILLS):
        how = MOMENTS[kind][seed % len(MOMENTS[kind])]
        tried(place, count, f"SIGKILL, {kind}, {how or 'any moment'}", kind, seed, how)


@pytest.mark.parametrize("kind", KINDS)
def test_killed_while_saving(place, count, kind):
    "Before, in the middle of and after writing a file, renaming it and removing another."
    for seed in range(KILLS): tried(place, count, f"SIGKILL, {kind}, while saving", kind, seed, "change")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_ended_by_a_signal(place, count, number):
    for seed in range(min(KILLS, 20)): tried(place, count, number.name, KINDS[seed % 2], seed, number=number)


SIZES = (1, 100, 300, 1000, 2000, 4000, 6000, 8000, 12000, 20000)


def test_a_full_disk_is_one_typed_line_and_costs_nothing(place, count):
    for size in SIZES if LONG else SIZES[2:4]:
        folder = place / str(size)
        full = Trial("train", folder, {"file_size": size})
        ended = full.end()
        typed = ended is not None or "OutputError: " in full.said.splitlines()[-1] or "CheckpointError: " in full.said
        same = settle("train", folder) == undisturbed("train")[0]
        count("disk full", untyped=int(not typed), divergent=int(not same), refused=int(ended is None))
        assert typed and same, (size, full.said)
