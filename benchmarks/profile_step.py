"""Where a training step on the CPU goes: by part, by kind of work, and how many operations it has.

    python benchmarks/profile_step.py                       # MiniLM, 32 x 16, 32 x 32 and 32 x 128, dropout 0.1
    python benchmarks/profile_step.py --lengths 16 --turns 20

Times are processor time (user and system) of one thread, which depends little on what else the machine does. With the
products on n threads only the row `matrix products` shrinks. Shares by kind are samples of Linux's `perf`, where it is
installed and allowed; the parts and the counts need nothing.
"""
from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from train_step import MODELS, fixed_batches

KINDS = (   # the first whose pattern fits "library|symbol" counts
    ("matrix products", r"openblas"),
    ("Adam", r"Sqrt.*Divide.*_(contiguous|strided\w*)$"),
    ("fused element-wise", r"_(contiguous|strided_\w+)$"),
    ("sums and maxima", r"reduc|contiguous_reduce|Sum|Max"),
    ("copies and layout", r"copy|memcpy|memmove|Gather|gather|Scatter|scatter"),
    ("other element-wise", r"(unary|binary|ternary|select)_op|random|fma|Square|Multiply"),
    ("new memory", r"memset|clear_page|page|kernel"),
    ("Python and dispatch", r""),
)


def kind_of(place: str) -> str:
    "What a sample at `library|symbol` was at work on."
    return next(kind for kind, pattern in KINDS if re.search(pattern, place))


def sampled(run: Callable[[], None], folder: Path) -> dict[str, float]:
    "Share of the samples of this process by kind of work while `run` runs; empty without `perf`."
    if shutil.which("perf") is None: return {}
    data = folder / "perf.data"
    recorder = subprocess.Popen(["perf", "record", "-q", "-F", "499", "-p", str(os.getpid()), "-o", str(data)],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(1)       # until it listens
    run()
    recorder.send_signal(signal.SIGINT)
    recorder.wait()
    done = subprocess.run(["perf", "report", "-i", str(data), "--stdio", "-g", "none", "--no-children", "-t", "|",
                           "--sort", "dso,symbol"], capture_output=True, text=True)
    shares: Counter[str] = Counter()
    for line in done.stdout.splitlines():
        fields = [field.strip() for field in line.split("|")]
        if line.startswith("#") or len(fields) < 3 or not fields[0].endswith("%"): continue
        shares[kind_of(f"{fields[1]}|{fields[2]}")] += float(fields[0].rstrip("%"))
    return dict(shares)


def operations(model: Any, batch: Any) -> Counter[str]:
    "How many operations of each kind the graph of one step has, nothing fused."
    import mlx.core as mx

    from mlx_bert_training.core.config import OptimizerConfig
    from mlx_bert_training.core.optimization import create_optimizer
    from mlx_bert_training.core.step import TrainingStep
    from mlx_bert_training.tasks.losses import create_loss

    optimizer = create_optimizer(OptimizerConfig(), model.trainable_parameters())
    step = TrainingStep(model, create_loss(task="binary"), optimizer, max_grad_norm=1.0, compiled=False)
    mx.eval(model.state, optimizer.state)
    loss, weight, norm = step.update(batch, 2e-5)
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "graph.dot"
        mx.export_to_dot(str(graph), loss, weight, norm, model.trainable_parameters())
        lines = graph.read_text(encoding="utf-8").splitlines()
    nodes = [line for line in lines if 'label ="' in line and "rectangle" in line]
    return Counter(line.split('label ="')[1].split('"')[0] for line in nodes)


def parts_of(model: Any, batch: Any) -> dict[str, Callable[[], None]]:
    "The step and its parts, each evaluated to the end."
    import mlx.core as mx

    from mlx_bert_training.core.config import OptimizerConfig
    from mlx_bert_training.core.optimization import create_optimizer
    from mlx_bert_training.core.step import InferenceStep, TrainingStep
    from mlx_bert_training.tasks.losses import create_loss

    optimizer, loss = create_optimizer(OptimizerConfig(), model.trainable_parameters()), create_loss(task="binary")
    step, inference = TrainingStep(model, loss, optimizer, max_grad_norm=1.0), InferenceStep(model, loss)
    model.train()
    step.accumulate(batch)
    window = step.window
    mx.eval(window)

    def whole() -> None:
        model.train()
        mx.eval(step.update(batch, 2e-5), model.state, optimizer.state)

    def forward() -> None:
        model.eval()
        mx.eval(inference(batch))

    def gradient() -> None:
        model.train()
        step.window = window
        mx.eval(step.accumulate(batch), step.window)

    def apply() -> None:
        step.window = window
        mx.eval(step.apply(2e-5), model.state, optimizer.state)

    return {"whole step": whole, "forward, dropout off": forward,
            "forward, backward, adding to the window": gradient, "norm, clip, Adam": apply}


def worker(length: int, batch_size: int, rate: float, turns: int, name: str) -> dict[str, Any]:
    "The figures of one shape; runs in a process of its own."
    from mlx_bert_training import create_model, runtime
    runtime.select_device("cpu")
    model = create_model(config=MODELS[name], dropout_rate=rate)
    batch = fixed_batches(batch_size, length, 1, 30522)[0]
    parts = parts_of(model, batch)
    for run in parts.values(): run()
    times: dict[str, list[float]] = {part: [] for part in parts}
    for _ in range(turns):
        for part, run in parts.items():
            start = time.process_time()
            run()
            times[part].append(1e3 * (time.process_time() - start))
    def repeat() -> None:
        for _ in range(turns): parts["whole step"]()
    with tempfile.TemporaryDirectory() as folder: shares = sampled(repeat, Path(folder))
    return {"milliseconds": times, "shares": shares, "operations": dict(operations(model, batch).most_common())}


def spread(values: list[float]) -> str:
    "Median and quartiles."
    low, _, high = quantiles(values, n=4)
    return f"{median(values):.0f} [{low:.0f}, {high:.0f}]"


def report(found: dict[str, dict[str, Any]]) -> str:
    "The tables, in Markdown."
    heads = list(found)
    lines = ["| milliseconds of one core | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for part in found[heads[0]]["milliseconds"]:
        cells = [spread(found[head]["milliseconds"][part]) for head in heads]
        lines.append(f"| {part} | " + " | ".join(cells) + " |")
    lines += ["", "| share of the step, % | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for kind, _ in KINDS:
        cells = [f"{found[head]['shares'].get(kind, 0):.0f}" if found[head]["shares"] else "–" for head in heads]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    counts = found[heads[0]]["operations"]
    common = ", ".join(f"{count} {name}" for name, count in list(counts.items())[:10])
    return "\n".join([*lines, "", f"Operations in the graph: {sum(counts.values())}, of them {common}."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="minilm")
    parser.add_argument("--lengths", type=int, nargs="+", default=[16, 32, 128], help="default 16 32 128")
    parser.add_argument("--batch", type=int, default=32, help="rows (default 32)")
    parser.add_argument("--dropout", type=float, default=0.1, help="rate (default 0.1)")
    parser.add_argument("--turns", type=int, default=10, help="of each part (default 10)")
    parser.add_argument("--out", type=Path, help="also write the figures to this JSON file")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(worker(args.worker, args.batch, args.dropout, args.turns, args.model)))
        return
    found = {}
    for length in args.lengths:
        command = [sys.executable, __file__, "--worker", str(length), "--batch", str(args.batch), "--dropout",
                   str(args.dropout), "--turns", str(args.turns), "--model", args.model]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True,
                              env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})
        found[f"{args.batch} x {length}"] = json.loads(done.stdout.splitlines()[-1])
    print(report(found))
    if args.out: args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
