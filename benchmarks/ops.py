"""What the operations between the matrix products take on a CPU: the GELU by tanh, attention piece by piece, Adam.

    python benchmarks/ops.py

Milliseconds of the clock, medians of seven runs after one that compiles; sides take turns. Adam's update, fused and in
place, is that of all weights of a model, alone and at the end of a training step; memory is what the update or the step
needs at most beyond what there was before.
"""
from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from train_step import MODELS, fixed_batches

from mlx_bert_training import create_model, runtime
from mlx_bert_training.core.config import OptimizerConfig
from mlx_bert_training.core.optimization import create_optimizer
from mlx_bert_training.core.step import TrainingStep
from mlx_bert_training.models import ops
from mlx_bert_training.tasks.losses import create_loss

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


@dataclass
class Update:
    "A training step of a model in one shape, with the seconds and the memory of its runs."
    step: TrainingStep
    batch: dict[str, Any]
    alone: list[tuple[float, float]] = field(default_factory=list)
    whole: list[tuple[float, float]] = field(default_factory=list)

    def measured(self, run: Callable[[], Any]) -> tuple[float, float]:
        "Seconds and MiB of something to evaluate, the model with it."
        mx.synchronize()
        mx.reset_peak_memory()
        before, began = mx.get_active_memory(), time.perf_counter()
        mx.eval(run(), self.step.model.state, self.step.optimizer.state)
        return time.perf_counter() - began, (mx.get_peak_memory() - before) / 2**20

    def turn(self) -> None:
        mx.eval(self.step.accumulate(self.batch), self.step.window)
        self.alone.append(self.measured(lambda: self.step.apply(2e-5)))
        self.whole.append(self.measured(lambda: self.step.update(self.batch, 2e-5)))


def updates(name: str, rows: int, tokens: int, turns: int = 9) -> str:
    "The update in place beside the fused one: ratios of neighbouring turns, and memory."
    sides = []
    for in_place in (False, True):
        model = create_model(config=MODELS[name], dropout_rate=0.1)
        model.train()
        optimizer = create_optimizer(OptimizerConfig(in_place=in_place), model.trainable_parameters())
        step = TrainingStep(model, create_loss(task="binary"), optimizer, max_grad_norm=1.0)
        sides.append(Update(step, fixed_batches(rows, tokens, 1, 30522)[0]))
    for _ in range(2 + turns):
        for side in sides: side.turn()
    said = []
    for what in ("alone", "whole"):
        fused, there = (np.array(getattr(side, what)[2:]) for side in sides)
        low, mid, high = np.quantile(there[:, 0] / fused[:, 0], [0.25, 0.5, 0.75])
        said.append(f"{'update' if what == 'alone' else 'step'} {mid:.2f} [{low:.2f}, {high:.2f}] of "
                    f"{1e3 * median(fused[:, 0]):.0f} ms, {median(there[:, 1]):.0f} for {median(fused[:, 1]):.0f} MiB")
    return "; ".join(said)


def main() -> None:
    runtime.select_device("cpu")
    for shape in (("minilm", 32, 16), ("base", 8, 32)):
        print("Adam in place, {}, {} x {}: ".format(*shape) + updates(*shape), flush=True)
    for title, sides in (("GELU by tanh, 1024 x 1536", gelu_sides()), ("attention, 8 x 512", attention_sides())):
        print(f"{title}: " + ", ".join(f"{name} {spent:.1f} ms" for name, spent in timed(sides).items()), flush=True)


if __name__ == "__main__":
    main()
