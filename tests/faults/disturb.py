"""Trials that are hurt: where they run, what they come to when nobody hurts them, and what is left of them."""
from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

TRIAL = Path(__file__).with_name("trial.py")


def home() -> str | None:
    "A folder in memory where there is one: a disk that is forced to write a thousand times is slow."
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@lru_cache(maxsize=1)
def nursery() -> subprocess.Popen[str]:
    "The process that has imported everything and whose forks are the trials."
    return subprocess.Popen([sys.executable, str(TRIAL)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@dataclass
class Trial:
    "A run in a process of its own, begun."
    kind: str
    folder: Path
    options: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.out, self.err = (self.folder.with_name(f"{self.folder.name}.{name}") for name in ("out", "err"))
        request = {"kind": self.kind, "folder": str(self.folder), "out": str(self.out), "err": str(self.err)}
        print(json.dumps({**request, **self.options}), file=nursery().stdin, flush=True)
        self.began = time.monotonic()
        self.pid = int(nursery().stdout.readline())

    def signal(self, number: int) -> None:
        try: os.kill(self.pid, number)
        except ProcessLookupError: pass         # it was quicker

    def end(self) -> dict | None:
        "Wait for it. What it said at last, or None where it came to no end."
        self.code = int(nursery().stdout.readline())
        self.said = self.err.read_text(errors="replace")
        lines = self.out.read_text(errors="replace").splitlines()
        return json.loads(lines[-1]) if self.code == 0 and lines and lines[-1].startswith("{") else None


def settle(kind: str, folder: Path) -> dict:
    "The result of a run that nobody disturbs, from wherever it stands."
    trial = Trial(kind, folder)
    ended = trial.end()
    assert ended is not None, trial.said
    return ended["result"]


@lru_cache(maxsize=4)
def undisturbed(kind: str) -> tuple[dict, dict, float]:
    "What a run comes to when nobody hurts it, how often what could be hurt happens, and how many seconds it takes."
    with TemporaryDirectory(dir=home()) as place:
        first = Trial(kind, Path(place) / "first")
        ended = first.end()
        assert ended is not None, first.said
        second = Trial(kind, Path(place) / "second", {"imports": ended["modules"]})
        again = second.end()
        assert again is not None and again["result"] == ended["result"], second.said
        return again["result"], again["seen"], time.monotonic() - second.began


def hurt(kind: str, folder: Path, seed: int, how: str = "", number: int = 0) -> tuple[bool, int, list[Path]]:
    """Disturb a run once or twice, then let it come to its end.

    `how` is what it kills itself after; without one the signal comes from outside at a random moment. Says whether it
    ended as it would have, how often it was hit, and what is left of unfinished writes."""
    chance = random.Random(f"{kind} {how} {seed}")
    expected, seen, seconds = undisturbed(kind)
    hits = 0
    for again in range(1 + seed % 2):
        most = max(1, seen.get(how, 0) // (1 + again))          # there is less to do the second time
        trial = Trial(kind, folder, {"doom": how, "number": chance.randint(1, most)} if how else {})
        if not how:
            time.sleep(chance.uniform(0.02, 0.95) * seconds)
            trial.signal(number)
        hits += trial.end() is None
    same = settle(kind, folder) == expected
    return same, hits, [path for path in folder.rglob(".*") if "__pycache__" not in path.parts]
