"""How to use the cores of one machine: folds side by side or one after the other, and ranks that share a batch.

    python benchmarks/side_by_side.py                       # a small model and MiniLM, four turns
    python benchmarks/side_by_side.py --models small --turns 6

One job trains for some updates, as a fold does. The sides take turns, because a shared machine is not the same from one
minute to the next: two jobs one after the other on all threads, two jobs side by side on half of the threads each, one
job whose batches two ranks share, and one whose batches two threads of one process share, however small they are
(`environment.cpu_parts`).
What counts are ratios of neighbouring turns, of whole times (a process starts, reads, compiles and trains), of
processor time, which depends less on what else the machine is doing, and of the updates after the first ones.
"""
from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

MODELS: dict[str, dict[str, Any]] = {
    "small": {"config": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                         "intermediate_size": 128}},
    "minilm": {"config": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
                          "intermediate_size": 1536}},
}
FIRST = 3       # updates that compile, and are left out of the times of an update


@dataclass(frozen=True)
class Training:
    "A job that trains for some updates and says how long each took."
    model: str
    table: str
    folder: str
    updates: int
    parts: int = 1

    def run(self, control: Any = None) -> list[float]:
        "Seconds of each update but the first ones."
        from mlx_bert_training import create_trainer
        from mlx_bert_training.callbacks import Callback
        ends = list[float]()

        class Clock(Callback):
            def on_step_end(self, trainer: Any, state: Any) -> None:
                float(state.loss)
                ends.append(time.perf_counter())

        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            trainer = create_trainer(callbacks=[Clock()], control=control, config={
                "model": MODELS[self.model],
                "data": {"train_path": self.table, "target_column": "label", "text_column": "text",
                         "max_length": 32, "batch_size": 32, "num_workers": 0},
                "training": {"max_steps": self.updates, "num_epochs": 1000, "eval_strategy": "no",
                             "save_strategy": "no", "early_stopping": False, "load_best_at_end": False,
                             "logging_steps": 1},
                "environment": {"device": "cpu", "output_dir": folder, "cpu_parts": self.parts, "cpu_parts_from": 0}})
            trainer.train(dashboard=False)
        return np.diff(ends)[FIRST:].tolist()


class Quiet:
    "Hears how far the jobs are, and does nothing."
    control = None

    def on_job_begin(self, number: int) -> None: "Nothing."
    def on_job_end(self, number: int, result: Any) -> None: "Nothing."


def write_table(path: Path, rows: int = 640, words: int = 24) -> None:
    "Rows of made-up words and a class; the tokenizer of the package cuts them to 32 tokens."
    rng = np.random.default_rng(0)
    known = ["".join(rng.choice(list("abcdefghijklmnoprstu"), 4)) for _ in range(500)]
    lines = [f"{' '.join(rng.choice(known, words))},{row % 2}" for row in range(rows)]
    path.write_text("\n".join(["text,label", *lines, ""]))


def sides(model: str, table: Path, folder: Path, updates: int) -> dict[str, Any]:
    "What takes turns: each side gives the seconds of the updates of its jobs."
    from mlx_bert_training.core.control import RunControl
    from mlx_bert_training.parallel.processes import Processes
    from mlx_bert_training.parallel.ranks import run_in_ranks
    from mlx_bert_training.runtime import cpu_threads
    threads = cpu_threads()
    job = Training(model, str(table), str(folder), updates)
    parts = Training(model, str(table), str(folder), updates, 2)
    return {
        "one after the other": lambda: Processes(1, threads).run([job, job], Quiet()),
        "side by side": lambda: Processes(2, max(1, threads // 2)).run([job, job], Quiet()),
        "one process": lambda: Processes(1, threads).run([job], Quiet()),
        "two ranks": lambda: [run_in_ranks(job, 2, RunControl())],
        "two parts": lambda: Processes(1, threads).run([parts], Quiet()),
    }


def processor() -> float:
    "Seconds of the processors that ended processes have used."
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def quartiles(values: list[float]) -> str:
    "Median and quartiles."
    low, high = np.quantile(values, [0.25, 0.75])
    return f"{median(values):.2f} [{low:.2f}, {high:.2f}]"


def measure(model: str, updates: int, turns: int, keep: Path) -> None:
    "Let the sides of one model take turns; print and keep what they took."
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_table(folder / "table.csv")
        made = sides(model, folder / "table.csv", folder, updates)
        seen: dict[str, list[tuple[float, float]]] = {side: [] for side in made}
        for turn in range(turns):
            for side, run in made.items():
                began, used = time.perf_counter(), processor()
                jobs = run()
                whole, used = time.perf_counter() - began, processor() - used
                rate = sum(1 / median(job) for job in jobs) if side == "side by side" else 1 / median(sum(jobs, []))
                seen[side].append((whole, used, rate))
                record = {"model": model, "turn": turn, "side": side, "seconds": whole, "processor": used,
                          "updates per second": rate, "updates": updates, "load": os.getloadavg()[0]}
                with keep.open("a") as file: file.write(json.dumps(record) + "\n")
                print(f"{model} turn {turn + 1} {side:<20} {whole:7.1f} s {used:7.1f} s of processors "
                      f"{rate:7.2f} updates/s", flush=True)
    for side, base in (("side by side", "one after the other"), ("two ranks", "one process"),
                       ("two parts", "one process")):
        ratios = [[a[i] / b[i] for a, b in zip(seen[side], seen[base], strict=True)] for i in range(3)]
        time_of, processor_of, rate_of = map(quartiles, ratios)
        print(f"{model}: {side} to {base}: time {time_of}, processor {processor_of}, updates a second {rate_of}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--updates", type=int, default=None, help="of one job; 150 of small, 20 of minilm")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--keep", type=Path, default=Path(__file__).parent / "results/side-by-side.jsonl")
    args = parser.parse_args()
    args.keep.unlink(missing_ok=True)
    for model in args.models:
        measure(model, args.updates or {"small": 150, "minilm": 20}[model], args.turns, args.keep)


if __name__ == "__main__":
    import side_by_side  # so that workers can read the jobs
    side_by_side.main()
