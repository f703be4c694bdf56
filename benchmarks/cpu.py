"""Speed on a CPU against transformers on torch: steps and inference of many shapes, epochs of real texts, start-up.

    pip install -r benchmarks/requirements.txt accelerate matplotlib
    python benchmarks/cpu.py shapes                     # lengths 16 to 512, batches 1, 8 and 32; tables and a plot
    python benchmarks/cpu.py epoch --data train.csv --text text --label target
    python benchmarks/cpu.py start
    python benchmarks/cpu.py report                     # the tables again, from the figures that were kept

Three sides take turns in one run, each in its own process with the same weights and batches: this package, this package
with `environment.cpu_parts: 2`, and transformers. A figure is the median of the ratios of neighbouring turns with their
quartiles, once of the time on the clock and once of the processor's time (user and system of the process); below 1 this
package is faster. On a machine that others use, threads that wait for each other spin, which costs both sides processor
time and torch the most: the load is kept with the figures, and says how far to trust them.
"""
from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
from train_step import MODELS, Worker, fixed_batches

RESULTS = Path(__file__).parent / "results"
OURS = {"mlx": "one part", "mlx-parts": "two parts"}
Turn = dict[str, dict[str, float]]      # side -> seconds, processor


def machine() -> dict[str, Any]:
    "What the figures were taken on."
    import importlib.metadata

    from mlx_bert_training.runtime import cpu_threads
    names = ("mlx", "torch", "transformers", "scipy-openblas32")
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    model = next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")), "")
    return {"processor": model, "threads": cpu_threads(), "date": time.strftime("%Y-%m-%d"),
            "versions": {name: importlib.metadata.version(name) for name in names}}


def keep(name: str, figures: dict[str, Any]) -> None:
    "Write figures to the results, with the machine and its load."
    figures = {"machine": machine(), "load": os.getloadavg(), **figures}
    (RESULTS / f"cpu-{name}.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def ratio(turns: Sequence[Turn], side: str, other: str, clock: str) -> str:
    "Median and quartiles of one side over another."
    ratios = [turn[side][clock] / turn[other][clock] for turn in turns]
    if len(ratios) < 2: return f"{ratios[0]:.2f}"
    low, _, high = quantiles(ratios, n=4, method="inclusive")
    return f"{median(ratios):.2f} [{low:.2f}, {high:.2f}]"


# ---- steps and inference


def shapes(args: argparse.Namespace) -> None:
    "Every shape, the cheapest first, until the time is over."
    end, sizes = time.monotonic() + 60 * args.minutes, [(b, t) for b in args.batches for t in args.lengths]
    sizes.sort(key=lambda size: size[0] * size[1])
    batches = [fixed_batches(b, t, 1, 30522)[0] for b, t in sizes]
    name = f"shapes-{args.model}-{args.dropout}"
    kept = RESULTS / f"cpu-{name}.json"
    found: dict[str, dict[str, list[Turn]]] = json.loads(kept.read_text(encoding="utf-8"))["shapes"] if args.add else {}
    from mlx_bert_training import create_model
    with tempfile.TemporaryDirectory() as folder:
        create_model(config=MODELS[args.model], dropout_rate=0.0).save_pretrained(folder)
        sides = [Worker(name, Path(folder), batches, args.dropout) for name in (*OURS, "torch")]
        losses = [side("infer", *range(len(sizes)))["losses"] for side in sides]    # before dropout parts them
        if np.ptp(losses, axis=0).max() > 1e-3: raise SystemExit(f"the losses of the sides differ: {losses}")
        for number, (b, t) in enumerate(sizes):
            if time.monotonic() > end: break
            for side in sides: side("train", number, number)    # compiles
            shape, until = f"{b} x {t}", min(end, time.monotonic() + args.seconds)
            found[shape] = {"train": [], "infer": []}
            while len(found[shape]["train"]) < args.least or time.monotonic() < until:
                for action, turns in found[shape].items():
                    first = len(turns) % 3      # what one leaves in the caches must not favour the next
                    order = sides[first:] + sides[:first]
                    turns.append({side.name: timed(side(action, number)) for side in order})
            print(shape, *(f"{action} {ratio(turns, side, 'torch', 'seconds')}"
                           for action, turns in found[shape].items() for side in OURS), flush=True)
            keep(name, {"model": args.model, "dropout": args.dropout, "shapes": found,
                        "mib": {side.name: side("infer", 0)["mib"] for side in sides}})
        for side in sides: side.close()


def timed(answer: dict[str, Any]) -> dict[str, float]:
    "What of a worker's answer is kept."
    return {key: round(answer[key], 5) for key in ("seconds", "processor")}


# ---- an epoch of real texts


def epoch(args: argparse.Namespace) -> None:
    "The same rows, one epoch with evaluation and saving, in a process of its own each time."
    kinds, found = ["mlx", "mlx-parts", "trainer", "trainer-grouped"], []
    for number in range(args.rounds):
        turn = {}
        for kind in kinds[number % 4:] + kinds[:number % 4]:
            command = [sys.executable, __file__, "one-epoch", kind, "--data", str(args.data), "--text", args.text,
                       "--label", args.label, "--rows", str(args.rows), "--seed", str(number)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            turn[kind] = json.loads(done.stdout.splitlines()[-1])
            print(number, kind, turn[kind], flush=True)
        found.append(turn)
        keep(f"epoch-{args.data.parent.name}", {"data": args.data.parent.name, "rows": args.rows, "turns": found})


def one_epoch(args: argparse.Namespace) -> None:
    "One side: seconds from files to a trained, evaluated and saved model, imports left out."
    import pandas as pd
    frame = pd.read_csv(args.data).sample(args.rows, random_state=0)[[args.text, args.label]]
    frame.columns = ["text", "label"]
    cut = args.rows * 5 // 6
    with tempfile.TemporaryDirectory() as folder:
        files = [f"{folder}/train.csv", f"{folder}/validation.csv"]
        for file, part in zip(files, (frame[:cut], frame[cut:]), strict=True): part.to_csv(file, index=False)
        run = {"mlx": our_epoch, "mlx-parts": our_epoch}.get(args.kind, their_epoch)
        print(json.dumps(run(files, folder, args)))


def our_epoch(files: list[str], folder: str, args: argparse.Namespace) -> dict[str, float]:
    import mlx.core  # noqa: F401  # imports are not what is measured

    from mlx_bert_training import create_trainer
    start, before = time.perf_counter(), time.process_time()
    trainer = create_trainer(
        train_path=files[0], validation_path=files[1], text_column="text", target_column="label",
        pretrained="all-MiniLM-L6-v2", pooling="mean", max_length=128, batch_size=32, eval_batch_size=32, num_epochs=1,
        learning_rate=1e-4, seed=args.seed, output_dir=folder, save_strategy="epoch",
        **{"environment.cpu_parts": 2 if args.kind == "mlx-parts" else 1, "training.metrics": ["accuracy"]})
    result = trainer.train()
    return {"seconds": time.perf_counter() - start, "processor": time.process_time() - before,
            "accuracy": result.metrics["eval_accuracy"]}


def their_epoch(files: list[str], folder: str, args: argparse.Namespace) -> dict[str, float]:
    import pandas as pd
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    from mlx_bert_training.models import resolve_pretrained
    from mlx_bert_training.runtime import cpu_threads
    torch.set_num_threads(cpu_threads())
    start, before = time.perf_counter(), time.process_time()
    weights = str(resolve_pretrained("all-MiniLM-L6-v2"))
    tokenizer = AutoTokenizer.from_pretrained(weights)
    sets = []
    for file in files:
        frame = pd.read_csv(file)
        encoded = tokenizer(list(frame["text"]), truncation=True, max_length=128)["input_ids"]
        sets.append([{"input_ids": ids, "labels": int(label)}
                     for ids, label in zip(encoded, frame["label"], strict=True)])
    grouped = args.kind == "trainer-grouped"
    fields = TrainingArguments.__dataclass_fields__
    group = {"group_by_length": True} if "group_by_length" in fields else {"train_sampling_strategy": "group_by_length"}
    trainer = Trainer(
        model=AutoModelForSequenceClassification.from_pretrained(weights, num_labels=2),
        args=TrainingArguments(folder, per_device_train_batch_size=32, per_device_eval_batch_size=32, seed=args.seed,
                               num_train_epochs=1, learning_rate=1e-4, eval_strategy="epoch", save_strategy="epoch",
                               report_to="none", use_cpu=True, disable_tqdm=True, **group if grouped else {}),
        train_dataset=sets[0], eval_dataset=sets[1], data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=lambda seen: {"accuracy": float((seen.predictions.argmax(-1) == seen.label_ids).mean())})
    trainer.train()
    seconds, processor = time.perf_counter() - start, time.process_time() - before
    return {"seconds": seconds, "processor": processor, "accuracy": trainer.state.log_history[-2]["eval_accuracy"]}


# ---- start-up


STARTS = {
    "import mlx_bert_training": "import mlx_bert_training",
    "import transformers, the Trainer": "from transformers import Trainer, AutoModelForSequenceClassification",
    "mlx-bert --help": "from mlx_bert_training.cli import main; main(['--help'])",
    "process start to the first update": "",
}


def start(args: argparse.Namespace) -> None:
    "Seconds of a process, by what it does; the first update with kernels that are kept from earlier runs."
    found: dict[str, list[dict[str, float]]] = {name: [] for name in STARTS}
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, "train.csv")
        rows = [f"a {'good' if i % 2 else 'bad'} film number {i},{i % 2}" for i in range(64)]
        table.write_text("\n".join(["text,label", *rows]), encoding="utf-8")
        STARTS["process start to the first update"] = (
            "from mlx_bert_training import create_trainer; create_trainer("
            f"train_path={str(table)!r}, output_dir={folder!r}, text_column='text', target_column='label', "
            "pretrained='all-MiniLM-L6-v2', eval_strategy='no', save_strategy='no', max_steps=1, "
            "validation_fraction=0.0, batch_size=32).train()")
        for _ in range(args.rounds):
            for name, code in STARTS.items():
                before, times = time.perf_counter(), os.times()
                subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
                after = os.times()
                spent = after.children_user + after.children_system - times.children_user - times.children_system
                found[name].append({"seconds": time.perf_counter() - before, "processor": spent})
    keep("start", {"turns": found})


# ---- tables


def report(args: argparse.Namespace) -> None:
    "Every table that there are figures for, and the plot."
    for name, show in (("shapes", shapes_table), ("epoch", epoch_table), ("start", start_table)):
        for file in sorted(RESULTS.glob(f"cpu-{name}*.json")):
            print(show(json.loads(file.read_text(encoding="utf-8"))), "\n")


def shapes_table(kept: dict[str, Any]) -> str:
    sides = [(side, clock) for clock in ("seconds", "processor") for side in OURS]
    heads = [f"{OURS[side]}, {'clock' if clock == 'seconds' else 'processor'}" for side, clock in sides]
    heads += ["two parts to one, clock", "processor"]
    load, cores = kept["load"], kept["machine"]["threads"]
    lines = [f"{kept['model']}, dropout {kept['dropout']}; load {load[0]:.0f} to {load[2]:.0f} on {cores} cores", "",
             "| batch x tokens | turns | ms on torch | " + " | ".join(heads) + " |",
             "|---" * (3 + len(heads)) + "|"]
    for action, word in (("train", "step"), ("infer", "inference")):
        for shape, found in kept["shapes"].items():
            turns = found[action]
            cells = [ratio(turns, side, "torch", clock) for side, clock in sides]
            cells += [ratio(turns, "mlx-parts", "mlx", clock) for clock in ("seconds", "processor")]
            torch = 1e3 * median(turn["torch"]["seconds"] for turn in turns)
            lines.append(f"| {word} {shape} | {len(turns)} | {torch:.0f} | " + " | ".join(cells) + " |")
    plot(kept)
    return "\n".join(lines)


def plot(kept: dict[str, Any]) -> None:
    "Ratios of processor time by length, a line a batch size."
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.2), sharey=True, layout="constrained")
    pairs = [(action, side) for action in ("train", "infer") for side in OURS]
    for ax, (action, side) in zip(axes, pairs, strict=True):
        for size in sorted({int(shape.split(" x ")[0]) for shape in kept["shapes"]}):
            points = [(int(shape.split(" x ")[1]), quantiles([t[side]["processor"] / t["torch"]["processor"]
                       for t in found[action]], n=4, method="inclusive")) for shape, found in kept["shapes"].items()
                      if int(shape.split(" x ")[0]) == size]
            points.sort()
            ax.errorbar([length for length, _ in points], [q[1] for _, q in points],
                        yerr=[[q[1] - q[0] for _, q in points], [q[2] - q[1] for _, q in points]],
                        marker="o", ms=3, capsize=2, label=f"batch {size}")
        ax.axhline(1, color="grey", lw=0.8)
        ax.set(xscale="log", xlabel="tokens", title=f"{'step' if action == 'train' else 'inference'}, {OURS[side]}")
        ax.set_xticks([16, 32, 128, 512], ["16", "32", "128", "512"])
    axes[0].set_ylabel("processor time / torch's")
    axes[0].legend()
    figure.savefig(RESULTS / f"cpu-shapes-{kept['model']}-{kept['dropout']}.png", dpi=110)
    plt.close(figure)


def epoch_table(kept: dict[str, Any]) -> str:
    turns = kept["turns"]
    lines = [f"{kept['rows']} rows of {kept['data']}, load {kept['load'][0]:.0f} to {kept['load'][2]:.0f}", "",
             "| side | seconds | processor, s | accuracy | to Trainer, clock | processor | to group_by_length, clock "
             "| processor |", "|---" * 8 + "|"]
    for side in turns[0]:
        values = [median(turn[side][key] for turn in turns) for key in ("seconds", "processor", "accuracy")]
        cells = [ratio(turns, side, other, clock) for other in ("trainer", "trainer-grouped")
                 for clock in ("seconds", "processor")]
        lines.append(f"| {side} | {values[0]:.0f} | {values[1]:.0f} | {values[2]:.3f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def start_table(kept: dict[str, Any]) -> str:
    lines = [f"load {kept['load'][0]:.0f} to {kept['load'][2]:.0f}", "",
             "| what | seconds | processor, s | runs |", "|---|---|---|---|"]
    for name, turns in kept["turns"].items():
        cells = [f"{median(turn[clock] for turn in turns):.2f}" for clock in ("seconds", "processor")]
        lines.append(f"| {name} | {cells[0]} | {cells[1]} | {len(turns)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)

    def command(function: Any, name: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=function.__doc__)
        sub.set_defaults(function=function)
        return sub

    sub = command(shapes, "shapes")
    sub.add_argument("--model", choices=MODELS, default="minilm")
    sub.add_argument("--lengths", type=int, nargs="+", default=[16, 32, 128, 512])
    sub.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    sub.add_argument("--dropout", type=float, default=0.1)
    sub.add_argument("--minutes", type=float, default=60, help="stop after so many (default 60)")
    sub.add_argument("--seconds", type=float, default=60, help="for each shape (default 60)")
    sub.add_argument("--least", type=int, default=5, help="turns of each shape, whatever they take (default 5)")
    sub.add_argument("--add", action="store_true", help="to the shapes that were kept, in place of them")
    for function, name in ((epoch, "epoch"), (one_epoch, "one-epoch")):
        sub = command(function, name)
        if name == "one-epoch": sub.add_argument("kind")
        sub.add_argument("--data", type=Path, required=True, help="a CSV file")
        sub.add_argument("--text", default="text", help="its column of texts")
        sub.add_argument("--label", default="label", help="its column of classes, 0 and 1")
        sub.add_argument("--rows", type=int, default=1200, help="a sixth of them to evaluate on (default 1200)")
        sub.add_argument("--rounds", type=int, default=3)
        sub.add_argument("--seed", type=int, default=0)
    command(start, "start").add_argument("--rounds", type=int, default=5)
    command(report, "report")
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    main()
