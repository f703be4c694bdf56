"""What the heap of `runtime.heap` is worth: steps of mixed lengths, with it and without, in turns.

    python benchmarks/heap.py --lengths 16 40 24 48 32 --seconds 300
    python benchmarks/heap.py --batch 8 --lengths 512 384 448

All in one process, for two processes with the same code differ by a tenth. A turn is one training step of each length,
as in an epoch of batches of similar length; the first five steps after each switch are not counted. Without the heap
the C library and MLX's cache are as `MLX_BERT_HEAP=off` leaves them in a process that has run for long. A third side
is again without: its ratio is the noise. Time in the kernel and page faults are of the process, so that what else the
machine does is not in them.
"""
from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles

import mlx.core as mx
import numpy as np
from train_step import MODELS, Side, fixed_batches, mlx_side

from mlx_bert_training import create_model, runtime
from mlx_bert_training.runtime.device import cache_limit
from mlx_bert_training.runtime.heap import CACHE, keep_freed, release_freed

SIDES = {"without": False, "with": True, "without again": False}
Figures = dict[str, float]


def switch(on: bool, peak: int) -> None:
    "The heap and the cache of a side, and nothing kept of the side before; `peak`: the most bytes of a step."
    if keep_freed(on) != on: raise SystemExit("the heap of this process cannot be used")
    mx.set_cache_limit(CACHE if on else min(cache_limit() or peak, peak * 3 // 4))
    mx.clear_cache()
    release_freed()


def turn(step: Side, batches: list[dict[str, np.ndarray]]) -> Figures:
    "One step of each length."
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    most = 0
    for batch in batches:
        step["train"](batch)
        most = max(most, int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 20)
    after = resource.getrusage(resource.RUSAGE_SELF)
    kernel, user = after.ru_stime - before.ru_stime, after.ru_utime - before.ru_utime
    return {"clock": time.perf_counter() - start, "processor": user + kernel, "kernel": kernel,
            "faults": (after.ru_minflt - before.ru_minflt) / len(batches), "MiB": most}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="minilm")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lengths", type=int, nargs="+", default=[16, 40, 24, 48, 32])
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--seconds", type=float, default=300)
    args = parser.parse_args()
    batches = [fixed_batches(args.batch, length, 1, 30522)[0] for length in args.lengths]
    with tempfile.TemporaryDirectory() as folder:
        create_model(config=MODELS[args.model], dropout_rate=0.0).save_pretrained(folder)
        step = mlx_side(Path(folder), args.dropout)
    runtime.select_device("cpu")
    for batch in batches: step["train"](batch)      # compiles
    peak = mx.get_peak_memory()
    found: dict[str, list[Figures]] = {name: [] for name in SIDES}
    end = time.monotonic() + args.seconds
    while time.monotonic() < end or len(found["with"]) < 3:
        first = len(found["with"]) % 3
        for name in list(SIDES)[first:] + list(SIDES)[:first]:      # each begins in turn
            switch(SIDES[name], peak)
            for _ in range(-(-5 // len(batches))): turn(step, batches)
            found[name].append(turn(step, batches))
    print(f"{args.batch} x {args.lengths}, {args.model}, dropout {args.dropout}, {len(found['with'])} turns, "
          f"load {os.getloadavg()[0]:.0f}")
    for name, turns in found.items(): print(row(name, turns, found["without"]))


def row(name: str, turns: list[Figures], others: list[Figures]) -> str:
    "A line of the table: ratios to the side without, and what a step costs."
    text = f"{name:14}"
    for kind in ("clock", "processor"):
        low, middle, high = quantiles([mine[kind] / other[kind] for mine, other in zip(turns, others, strict=True)],
                                      n=4, method="inclusive")
        text += f" {kind} {middle:.2f} [{low:.2f}, {high:.2f}],"
    share = median(each["kernel"] / each["processor"] for each in turns)
    return text + (f" {median(each['faults'] for each in turns):,.0f} page faults a step, {100 * share:.1f} % of the "
                   f"processor in the kernel, {max(each['MiB'] for each in turns):,.0f} MiB")


if __name__ == "__main__": main()
