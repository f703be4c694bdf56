"""What the compiler's flags of `runtime.kernels` are worth: an update and a step, with them and without, in turns.

    python benchmarks/kernel_flags.py --length 16 --dropout 0.1 --seconds 40

All in one process, because two processes with the same code differ by a tenth: memory lies elsewhere. Constants of the
optimizer and of the norms that differ by a tenth make MLX compile both kinds of kernels. All others (GELU, attention,
dropout) are compiled once, without the flags, so that the gain of a step is that of Adam and of the norms. A third side
is again without the flags: its ratio is the noise. The kernels are kept in a folder of their own for the next run.
"""
from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles

KERNELS = Path(tempfile.gettempdir(), "mlx-bert-kernel-flags")
KERNELS.mkdir(exist_ok=True)
os.environ["TMPDIR"] = str(KERNELS)

import mlx.core as mx  # noqa: E402  # MLX is to find the folder above
from train_step import MODELS, fixed_batches  # noqa: E402

from mlx_bert_training import create_model, runtime  # noqa: E402
from mlx_bert_training.core.config import OptimizerConfig  # noqa: E402
from mlx_bert_training.core.optimization import create_optimizer  # noqa: E402
from mlx_bert_training.core.step import TrainingStep  # noqa: E402
from mlx_bert_training.runtime.kernels import FLAGS, SWITCH, use_kernel_flags  # noqa: E402
from mlx_bert_training.tasks.losses import create_loss  # noqa: E402

SIDES = {"without": (1.0, "off"), "with": (1.1, FLAGS), "without again": (1.0, "off")}
Times = tuple[float, float]     # seconds by the clock, and of the processor


def begin(factor: float, flags: str, args: argparse.Namespace) -> dict[str, Callable[[], None]]:
    "A side's update and whole step, its kernels compiled."
    os.environ[SWITCH] = flags
    use_kernel_flags()
    model = create_model(config={**MODELS["minilm"], "layer_norm_eps": 1e-12 * factor}, dropout_rate=args.dropout)
    optimizer = create_optimizer(OptimizerConfig(epsilon=1e-8 * factor), model.trainable_parameters())
    step = TrainingStep(model, create_loss(task="binary"), optimizer, max_grad_norm=1.0)
    batch = fixed_batches(args.batch, args.length, 1, 30522)[0]
    model.train()
    step.accumulate(batch)
    window = step.window

    def update() -> None:
        step.window = window
        mx.eval(step.apply(2e-5), model.state, optimizer.state)

    def whole() -> None:
        mx.eval(step.update(batch, 2e-5), model.state, optimizer.state)
        runtime.fit_cache_limit()

    update()
    whole()
    return {"norm, clip, Adam": update, "whole step": whole}


def timed(run: Callable[[], None]) -> Times:
    "Run it, and how long that took."
    clock, processor = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - clock, time.process_time() - processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=16)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--seconds", type=float, default=60)
    args = parser.parse_args()
    runtime.select_device("cpu")
    sides = {name: begin(*how, args) for name, how in SIDES.items()}
    found: dict[tuple[str, str], list[Times]] = {(part, name): [] for name in SIDES for part in sides[name]}
    end, turn = time.monotonic() + args.seconds, 0
    while time.monotonic() < end or turn < 3:
        names = list(SIDES)[turn % 3:] + list(SIDES)[:turn % 3]     # each begins in turn
        for part in ("norm, clip, Adam", "whole step"):
            for name in names: found[part, name].append(timed(sides[name][part]))
        turn += 1
    print(f"{args.batch} x {args.length}, dropout {args.dropout}, {turn} turns, load {os.getloadavg()[0]:.0f}")
    for (part, name), times in found.items():
        text = f"{part:17} {name:14} {1e3 * median(clock for clock, _ in times):5.0f} ms"
        for number, kind in enumerate(("clock", "processor")):
            ratios = [mine[number] / base[number] for mine, base in zip(times, found[part, "without"], strict=True)]
            low, middle, high = quantiles(ratios, n=4, method="inclusive")
            text += f", {kind} {middle:.2f} [{low:.2f}, {high:.2f}]"
        print(text)


if __name__ == "__main__": main()
