"""Training and inference speed and peak memory against transformers + torch, on this machine.

    pip install -r benchmarks/requirements.txt
    python benchmarks/train_step.py --model minilm --batch 32 --length 128
    python benchmarks/train_step.py --epoch reviews.tsv --text-column sentence

Both sides run in their own process, start from the same weights and get the same batches. They take turns within one
run, because two runs on a shared machine cannot be compared; each number is the median of the ratios of neighbouring
turns, with the smallest and the largest. Below 1 this package is faster, or needs less memory. Before anything is
timed the losses of both sides are compared, so that it is the same computation that is timed.
"""
from __future__ import annotations

import argparse
import inspect
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

MODELS = {
    "minilm": {"num_hidden_layers": 6, "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536},
    "base": {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
}
DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout", "classifier_dropout_prob",
            "dropout", "attention_dropout", "seq_classif_dropout", "embedding_dropout", "mlp_dropout", "pooler_dropout")
LEARNING_RATE, WEIGHT_DECAY, MAX_GRAD_NORM = 2e-5, 0.01, 1.0
Side = dict[str, Callable[[dict[str, np.ndarray]], float]]


def mlx_side(folder: Path, rate: float, **environment: int) -> Side:
    "Our own steps, the ones the trainer runs, under keys of `environment`."
    import mlx.core as mx

    from mlx_bert_training import create_model, runtime
    from mlx_bert_training.core.batch_parts import inference_step_of, training_step_of
    from mlx_bert_training.core.config import EnvironmentConfig, OptimizerConfig
    from mlx_bert_training.core.optimization import create_optimizer
    from mlx_bert_training.tasks.losses import create_loss

    model, loss = create_model(pretrained=folder, dropout_rate=rate), create_loss("auto", task="binary")
    config = OptimizerConfig(learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    optimizer = create_optimizer(config, model.trainable_parameters())
    runtime.select_device("auto")
    where = EnvironmentConfig(**environment)
    parts = where.cpu_parts, where.cpu_parts_from
    training = training_step_of(*parts, model, loss, optimizer, max_grad_norm=MAX_GRAD_NORM)
    inference = inference_step_of(*parts, model, loss)

    def train(batch: dict[str, np.ndarray]) -> float:
        model.train()
        total, weight, norm = training.update(batch, LEARNING_RATE)
        mx.eval(total, weight, norm, model.state, optimizer.state)
        runtime.fit_cache_limit()
        return total.item() / weight.item()

    def infer(batch: dict[str, np.ndarray]) -> float:
        model.eval()
        _, total, weight = inference(batch)
        return total.item() / weight.item()

    return {"train": train, "infer": infer}


def torch_side(folder: Path, rate: float) -> Side:
    "The usual loop: AdamW (fused), no decay of biases and norms, clipping by global norm."
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from mlx_bert_training.runtime import cpu_threads

    torch.set_num_threads(cpu_threads())
    config = AutoConfig.from_pretrained(folder)
    for name in DROPOUTS:
        if hasattr(config, name): setattr(config, name, rate)
    model = AutoModelForSequenceClassification.from_pretrained(folder, config=config)
    known = inspect.signature(model.forward).parameters
    matrices, others = ([p for p in model.parameters() if (p.ndim > 1) == wanted] for wanted in (True, False))
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, fused=True)

    def loss(batch: dict[str, np.ndarray]) -> Any:
        rows = batch["example_weight"] > 0      # torch has no need of filler rows
        arrays = {k: torch.from_numpy(batch[k][rows]).long() for k in
                  ("input_ids", "attention_mask", "token_type_ids", "labels") if k in known}
        return model(**arrays).loss

    def train(batch: dict[str, np.ndarray]) -> float:
        model.train()
        value = loss(batch)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad()
        return value.item()

    def infer(batch: dict[str, np.ndarray]) -> float:
        model.eval()
        with torch.inference_mode(): return loss(batch).item()

    return {"train": train, "infer": infer}


SIDES = {"mlx": mlx_side, "mlx-whole": partial(mlx_side, cpu_parts=1), "mlx-parts": partial(mlx_side, cpu_parts_from=0),
         "torch": torch_side}


def work(name: str, folder: Path, rate: float) -> None:
    "Serve one side: a line `train NUMBERS...` on stdin runs these batches, the answer is seconds, losses and memory."
    with np.load(folder / f"{name}.npz") as file: arrays = dict(file)
    side, batches = SIDES[name](folder, rate), {}
    for key, value in arrays.items():
        number, _, field = key.partition(".")
        batches.setdefault(int(number), {})[field] = value
    print("ready", flush=True)
    for line in sys.stdin:
        action, *numbers = line.split()
        start, before = time.perf_counter(), time.process_time()
        losses = [side[action](batches[int(n)]) for n in numbers]
        seconds, processor = time.perf_counter() - start, time.process_time() - before
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        unit = 2**20 if sys.platform == "darwin" else 2**10     # bytes there, KiB on Linux
        answer = {"seconds": seconds, "processor": processor, "losses": losses, "mib": peak / unit}
        print(json.dumps(answer), flush=True)


class Worker:
    "One side in its own process."

    def __init__(self, name: str, folder: Path, batches: list[dict[str, np.ndarray]], rate: float):
        np.savez(folder / f"{name}.npz", **{f"{i}.{k}": v for i, b in enumerate(batches) for k, v in b.items()})
        command = [sys.executable, __file__, "--worker", name, str(folder), str(rate)]
        self.name, self.log = name, (folder / f"{name}.log").open("w+")
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
                                        text=True)
        self._answer()

    def __call__(self, action: str, *numbers: int) -> dict[str, Any]:
        assert self.process.stdin
        print(action, *numbers, file=self.process.stdin, flush=True)
        return json.loads(self._answer())

    def _answer(self) -> str:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if line: return line
        self.log.seek(0)
        raise SystemExit(f"the {self.name} side has ended:\n{self.log.read()}")

    def close(self) -> None:
        "End the process."
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()
        self.log.close()


def compare(what: str, ours: Worker, theirs: Worker, action: str, turns: list[tuple[list[int], list[int]]]) -> None:
    "Let both sides take turns and print the ratios."
    times = []
    for i, (mine, other) in enumerate(turns):
        first, second = (ours, mine), (theirs, other)
        if i % 2: first, second = second, first     # what one leaves in the caches must not favour the other
        took = {side.name: side(action, *numbers)["seconds"] for side, numbers in (first, second)}
        times.append((took["mlx"], took["torch"]))
    ratios = sorted(a / b for a, b in times)
    mine, other = median(a for a, _ in times), median(b for _, b in times)
    print(f"{what:<28} {median(ratios):5.2f}  [{ratios[0]:.2f} to {ratios[-1]:.2f}]  mlx {mine:.3f} s, "
          f"torch {other:.3f} s, {len(times)} pairs", flush=True)


def both(folder: Path, ours: list[dict[str, np.ndarray]], theirs: list[dict[str, np.ndarray]], rate: float
         ) -> tuple[Worker, Worker]:
    "Both sides, started."
    return Worker("mlx", folder, ours, rate), Worker("torch", folder, theirs, rate)


def finish(what: str, ours: Worker, theirs: Worker) -> None:
    "Print peak memory and end both."
    mine, other = (side("infer", 0)["mib"] for side in (ours, theirs))
    print(f"{what:<28} {mine / other:5.2f}  mlx {mine:.0f} MiB, torch {other:.0f} MiB", flush=True)
    ours.close()
    theirs.close()


def fixed_batches(batch: int, length: int, count: int, vocabulary: int) -> list[dict[str, np.ndarray]]:
    "Random tokens, no padding."
    rng = np.random.default_rng(0)
    shape = (batch, length)
    return [{"input_ids": rng.integers(0, vocabulary, shape, dtype=np.int32),
             "attention_mask": np.ones(shape, np.int32), "token_type_ids": np.zeros(shape, np.int32),
             "labels": rng.integers(0, 2, batch, dtype=np.int32), "example_weight": np.ones(batch, np.float32)}
            for _ in range(count)]


def measure_steps(args: argparse.Namespace, folder: Path) -> None:
    "Training step and inference for each dropout rate."
    batches = fixed_batches(args.batch, args.length, 4, 30522)
    for rate in args.dropout:
        ours, theirs = both(folder, batches, batches, rate)
        mine, other = (side("infer", 0)["losses"][0] for side in (ours, theirs))
        if abs(mine - other) > 1e-3: raise SystemExit(f"the losses differ: mlx {mine}, torch {other}")
        mine, other = (side("train", *[0] * 3)["losses"] for side in (ours, theirs))
        if rate == 0 and not np.allclose(mine, other, rtol=1e-2):
            raise SystemExit(f"the losses of the first updates differ: mlx {mine}, torch {other}")
        turns = [([i % 4], [i % 4]) for i in range(args.pairs)]
        compare(f"training step, dropout {rate}", ours, theirs, "train", turns)
        finish(f"peak memory, dropout {rate}", ours, theirs)
        if rate == args.dropout[0]:
            ours, theirs = both(folder, batches, batches, rate)
            for side in (ours, theirs): side("infer", 0, 0)
            compare("inference", ours, theirs, "infer", turns)
            finish("peak memory, inference", ours, theirs)


def measure_epoch(args: argparse.Namespace, folder: Path) -> None:
    "One epoch of real texts: our length buckets against random batches padded to their longest text."
    from mlx_bert_training.data.frames import read_frame
    from mlx_bert_training.data.loader import BucketedLoader, TextDataset, collate
    from mlx_bert_training.data.tokenization import Tokenizer
    from mlx_bert_training.models import resolve_pretrained

    texts = read_frame(args.epoch, required=[args.text_column], max_rows=args.rows)[args.text_column].astype(str)
    encoded = Tokenizer.load(resolve_pretrained(args.tokenizer)).encode(list(texts), max_length=args.length)
    data = TextDataset(encoded, np.random.default_rng(0).integers(0, 2, len(encoded)).astype(np.int32))
    loader = BucketedLoader(data, args.batch, shuffle=True, max_length=args.length)
    order = np.random.default_rng(0).permutation(len(data))
    random = [order[i:i + args.batch] for i in range(0, len(order), args.batch)]
    padded = [collate(data, rows, len(rows), int(encoded.lengths[rows].max())) for rows in random]
    bucketed = [dict(batch) for batch in loader]
    for name, batches in (("mlx, buckets", bucketed), ("torch, longest of batch", padded)):
        print(f"  {name}: {sum(b['input_ids'].size for b in batches)} padded tokens, {len(batches)} batches, "
              f"{len({b['input_ids'].shape for b in batches})} shapes")
    for rate in args.dropout:
        ours, theirs = both(folder, bucketed, padded, rate)
        shapes = {b["input_ids"].shape: i for i, b in enumerate(bucketed)}
        ours("train", *shapes.values())     # compiles one kernel set a shape, once in a run
        theirs("train", 0)
        whole = (list(range(len(bucketed))), list(range(len(padded))))
        compare(f"epoch, dropout {rate}", ours, theirs, "train", [whole] * args.epochs)
        finish(f"peak memory, dropout {rate}", ours, theirs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="minilm")
    parser.add_argument("--batch", type=int, default=32, help="rows in a batch (default 32)")
    parser.add_argument("--length", type=int, default=128, help="tokens in a row, or the most of --epoch (default 128)")
    parser.add_argument("--pairs", type=int, default=8, help="turns of each side (default 8)")
    parser.add_argument("--dropout", type=float, nargs="+", default=[0.0, 0.1], help="rates (default 0 and 0.1)")
    parser.add_argument("--epoch", metavar="FILE", help="csv, tsv or jsonl: measure an epoch of its texts instead")
    parser.add_argument("--text-column", default="text", help="of FILE (default text)")
    parser.add_argument("--rows", type=int, default=512, help="of FILE (default 512)")
    parser.add_argument("--epochs", type=int, default=3, help="turns of each side with --epoch (default 3)")
    parser.add_argument("--tokenizer", default="all-MiniLM-L6-v2", help="name or folder of a model with a tokenizer")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        name, folder, rate = args.worker
        return work(name, Path(folder), float(rate))
    from mlx_bert_training import create_model
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        create_model(config=MODELS[args.model], dropout_rate=0.0).save_pretrained(folder)
        print(f"{args.model}, batch {args.batch}, length {args.length}; mlx / torch, below 1 is faster or smaller")
        (measure_epoch if args.epoch else measure_steps)(args, folder)


if __name__ == "__main__":
    main()
