"""What tracking costs a training step: the same trainer with and without an `MLflowCallback`, in one interleaved run.

    pip install -e '.[mlflow]'
    python benchmarks/tracking.py                       # MiniLM's size, 32 x 128, every update logged
    python benchmarks/tracking.py --small               # a step of a few milliseconds, where every microsecond shows
    python benchmarks/tracking.py --server http://127.0.0.1:9       # the same with a server that is not there

The two sides take turns of a few updates within one training, so that both see the same machine. What is measured is
the time of an update from the start of its batch to the end of its callbacks; a turn's number is the median of its
updates, the result the median of the ratios of neighbouring turns. Below it stands the processor time of the callback
itself, which is the same on a machine that others use too.
"""
from __future__ import annotations

import argparse
import tempfile
import time
from statistics import median

import numpy as np

from mlx_bert_training import Callback, MLflowCallback, MLflowConfig, Trainer, create_model
from mlx_bert_training.declaration.load import load_config

MINILM = {"num_hidden_layers": 6, "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
SMALL = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}


class Batches:
    "Random tokens, the same for each epoch."

    def __init__(self, count: int, rows: int, width: int):
        rng = np.random.default_rng(0)
        self.ids = rng.integers(5, 1000, (count, rows, width)).astype(np.int32)
        self.labels = rng.integers(0, 2, (count, rows)).astype(np.int32)
        self.num_examples = count * rows

    def __len__(self): return len(self.ids)
    def __iter__(self): return self.batches(0)
    def subset(self, indices): raise NotImplementedError

    def batches(self, epoch, start=0):
        for ids, labels in zip(self.ids[start:], self.labels[start:], strict=True):
            yield {"input_ids": ids, "attention_mask": np.ones_like(ids), "labels": labels}


class TakingTurns(MLflowCallback):
    "A tracker that listens in every other turn, and knows how long it took."

    def __init__(self, config: MLflowConfig, turn: int):
        super().__init__(config)
        self.turn, self.on, self.spent = turn, False, []

    def on_step(self, trainer, state):
        began = time.thread_time()
        if self.on: super().on_step(trainer, state)
        self.spent.append(time.thread_time() - began)


class Clock(Callback):
    "Times each update, and says whose turn it is."
    order = 1000

    def __init__(self, tracker: TakingTurns):
        self.tracker, self.times, self.began = tracker, {False: [], True: []}, 0.0

    def on_train_begin(self, trainer, state): self.tracker.run.to.outbox().flush(60)    # the tables of a new database

    def on_batch_begin(self, trainer, state): self.began = time.perf_counter()

    def on_step_end(self, trainer, state):
        tracker, turn = self.tracker, (state.step - 1) // self.tracker.turn
        if (state.step - 1) % tracker.turn == 0: self.times[tracker.on].append([])
        self.times[tracker.on][-1].append(time.perf_counter() - self.began)
        if state.step % tracker.turn == 0: tracker.on = turn % 2 == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a model of a few milliseconds a step")
    parser.add_argument("--turns", type=int, default=20, help="of each side (default: %(default)s)")
    parser.add_argument("--updates", type=int, default=0, help="in a turn (default: 5, or 100 with --small)")
    parser.add_argument("--server", help="an address instead of a database file")
    args = parser.parse_args()
    turn = args.updates or (100 if args.small else 5)
    rows, width = (8, 16) if args.small else (32, 128)
    updates = turn * (2 * args.turns + 2)
    with tempfile.TemporaryDirectory() as folder:
        config = load_config({
            "training": {"max_steps": updates, "logging_steps": 10**6, "eval_strategy": "no", "save_strategy": "no"},
            "environment": {"output_dir": folder, "run_name": "benchmark"}})
        settings = MLflowConfig(tracking_uri=args.server, log_metrics_every_n_steps=1, log_models=False)
        tracker = TakingTurns(settings, turn)
        clock, model = Clock(tracker), create_model(head_type="binary", config=SMALL if args.small else MINILM)
        Trainer(model, config, callbacks=[tracker, clock]).train(Batches(min(updates, 200), rows, width))
        sent = "no" if args.server and not tracker.close() else "all"
    off, on = ([median(times) for times in clock.times[side][1:args.turns + 1]] for side in (False, True))
    ratios = [2 * b / (a + c) for a, b, c in zip(off, on, off[1:], strict=False)]
    listening = [spent for i, spent in enumerate(tracker.spent) if (i // turn) % 2 == 1]
    print(f"update without tracking: {1e3 * median(off):.2f} ms; with, every update logged: {1e3 * median(on):.2f} ms; "
          f"{sent} points sent")
    print(f"ratio of neighbouring turns: median {median(ratios):.4f}, quartiles {np.quantile(ratios, 0.25):.4f} to "
          f"{np.quantile(ratios, 0.75):.4f}, {len(ratios)} turns of {turn} updates")
    print(f"inside the callback: median {1e6 * median(listening):.0f} µs of the processor an update, "
          f"{100 * median(listening) / median(off):.3f} % of it")


if __name__ == "__main__": main()
