"""What the operations between the matrix products take on a CPU: the GELU by tanh, and attention piece by piece.

    python benchmarks/ops.py

Milliseconds of the clock, medians of seven runs after one that compiles; sides take turns.
"""
from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_bert_training import runtime
from mlx_bert_training.models import ops

ROWS, HEADS, TOKENS, SIZE = 8, 12, 512, 32      # of MiniLM's attention


def timed(sides: dict[str, Callable[[], Any]], turns: int = 7) -> dict[str, float]:
    "Milliseconds of each side."
    for run in sides.values(): mx.eval(run())
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(turns):
        for name, run in sides.items():
            began = time.perf_counter()
            mx.eval(run())
            taken[name].append(1e3 * (time.perf_counter() - began))
    return {name: median(times) for name, times in taken.items()}


def gelu_sides() -> dict[str, Callable[[], Any]]:
    "The GELU by tanh of 1024 x 1536 numbers, MLX's and ours, forward and backward."
    x = mx.random.normal((1024, 1536))
    mx.eval(x)
    sides = {}
    for name, gelu in (("MLX's", nn.gelu_approx), ("ours", ops.gelu_by_tanh)):
        slope = mx.grad(lambda x, gelu=gelu: gelu(x).sum())
        sides |= {f"{name}, forward": partial(mx.compile(gelu), x), f"{name}, slope": partial(mx.compile(slope), x)}
    return sides


def in_chunks(q: mx.array, k: mx.array, v: mx.array, mask: mx.array, rows: int) -> mx.array:
    "Attention of some rows of a batch after the other."
    parts = zip(*(mx.split(x, ROWS // rows) for x in (q, k, v, mask)), strict=True)
    return mx.concatenate([ops.attention(*part) for part in parts])


def attention_sides() -> dict[str, Callable[[], Any]]:
    "Attention of 8 x 512 tokens whole, in chunks, and each of its pieces."
    q, k, v = (mx.random.normal((ROWS, HEADS, TOKENS, SIZE)) for _ in range(3))
    mask, scores = mx.zeros((ROWS, 1, 1, TOKENS)), q @ k.swapaxes(-1, -2)
    most = mx.max(scores, axis=-1, keepdims=True)
    mx.eval(q, k, v, mask, scores, most)
    sides: dict[str, Callable[[], Any]] = {"whole": partial(mx.compile(ops.attention), q, k, v, mask)}
    for rows in (1, 2, 4): sides[f"by {rows}"] = partial(mx.compile(partial(in_chunks, rows=rows)), q, k, v, mask)
    return sides | {
        "q k": lambda: q @ k.swapaxes(-1, -2), "weights v": lambda: scores @ v,
        "mask": partial(mx.compile(mx.add), scores, mask), "maximum": lambda: mx.max(scores, axis=-1, keepdims=True),
        "difference": partial(mx.compile(mx.subtract), scores, most),
        "exp": partial(mx.compile(ops._exp_of_negative), scores), "sum": lambda: mx.sum(scores, axis=-1, keepdims=True)}


def main() -> None:
    runtime.select_device("cpu")
    for title, sides in (("GELU by tanh, 1024 x 1536", gelu_sides()), ("attention, 8 x 512", attention_sides())):
        print(f"{title}: " + ", ".join(f"{name} {spent:.1f} ms" for name, spent in timed(sides).items()), flush=True)


if __name__ == "__main__":
    main()
