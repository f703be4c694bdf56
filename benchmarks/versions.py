"""The training step of two checkouts of this package, in turns: is the newer one slower?

    git worktree add ../before 886ba09
    python benchmarks/versions.py . ../before --minutes 4 --shapes 32x32 32x128

Both are processes of the same Python, each with the package of its checkout, MiniLM's sizes and the same weights. They
take turns, one update each, so that both see the same machine; what counts is the ratio of neighbouring turns.
"""
from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

BEFORE = dict(os.environ)   # a checkout that is imported here may change it


def serve(checkout: str, model: Path, dropout: float) -> None:
    "Do an update for each line that asks for one, and say how long it took."
    sys.path[:0] = [checkout, f"{checkout}/benchmarks"]
    import train_step

    import mlx_bert_training
    assert mlx_bert_training.__file__.startswith(checkout), mlx_bert_training.__file__
    train = train_step.mlx_side(model, dropout)["train"]
    batches: dict[tuple[int, int], Any] = {}
    print("ready", flush=True)
    for line in sys.stdin:
        rows, tokens = map(int, line.split())
        if (rows, tokens) not in batches: batches[rows, tokens] = train_step.fixed_batches(rows, tokens, 1, 30522)[0]
        clock, processor = time.perf_counter(), time.process_time()
        train(batches[rows, tokens])
        took = {"clock": time.perf_counter() - clock, "processor": time.process_time() - processor}
        print(json.dumps(took), flush=True)


def begin(checkout: str, model: str, dropout: float) -> subprocess.Popen[str]:
    "A process that serves a checkout, with compiled kernels of its own, which are kept for the next run."
    kernels = Path(tempfile.gettempdir(), "mlx-bert-versions", checkout.strip("/").replace("/", "-"))
    kernels.mkdir(parents=True, exist_ok=True)
    side = subprocess.Popen([sys.executable, __file__, "serve", checkout, model, str(dropout)], text=True,
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**BEFORE, "TMPDIR": str(kernels)})
    assert side.stdout is not None and side.stdout.readline().strip() == "ready"
    return side


def update(side: subprocess.Popen[str], rows: int, tokens: int) -> dict[str, float]:
    "One update of a side: seconds by the clock, and of the processor."
    assert side.stdin is not None and side.stdout is not None
    print(rows, tokens, file=side.stdin, flush=True)
    return json.loads(side.stdout.readline())


def said(shape: tuple[int, int], turns: list[tuple[dict[str, float], dict[str, float]]]) -> str:
    "A line for a shape: medians and quartiles of the ratios."
    parts = [f"{shape[0]}x{shape[1]}: first over second"]
    for kind in ("clock", "processor"):
        ratios = [one[kind] / two[kind] for one, two in turns]
        low, _, high = quantiles(ratios, n=4, method="inclusive")
        parts.append(f"{kind} {median(ratios):.2f} [{low:.2f}, {high:.2f}]")
    return ", ".join([*parts, f"{len(turns)} turns, load {os.getloadavg()[0]:.1f}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", nargs=2)
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--shapes", nargs="+", default=["32x32", "32x128"])
    args = parser.parse_args()
    one, two = (str(Path(checkout).resolve()) for checkout in args.checkouts)
    shapes = [tuple(map(int, shape.split("x"))) for shape in args.shapes]
    sys.path[:0] = [one, f"{one}/benchmarks"]
    from train_step import MODELS

    from mlx_bert_training import create_model
    with tempfile.TemporaryDirectory() as model:
        create_model(config=MODELS["minilm"], dropout_rate=0.0).save_pretrained(model)
        sides = begin(one, model, args.dropout), begin(two, model, args.dropout)
        found: dict[Any, list[Any]] = {shape: [] for shape in shapes}
        for shape in shapes:                            # the first updates compile
            for side in sides * 2: update(side, *shape)
        end = time.monotonic() + 60 * args.minutes
        while time.monotonic() < end or min(map(len, found.values())) < 2:
            for shape in shapes:                        # each begins every other turn
                order = (0, 1) if len(found[shape]) % 2 else (1, 0)
                took = {number: update(sides[number], *shape) for number in order}
                found[shape].append((took[0], took[1]))
        for side in sides: side.kill()
    for shape, turns in found.items(): print(said(shape, turns))


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]: serve(sys.argv[2], Path(sys.argv[3]), float(sys.argv[4]))
    else: main()
