"""Speed on a CPU against transformers on torch: steps and inference of many shapes, whole jobs on real texts, start-up.

    pip install -r benchmarks/requirements.txt accelerate matplotlib
    python benchmarks/cpu.py shapes                     # lengths 16 to 512, batches 1, 8 and 32; tables and a plot
    python benchmarks/cpu.py family                     # each architecture in MiniLM's size, one shape
    python benchmarks/cpu.py epoch --data train.csv --text text --label target
    python benchmarks/cpu.py folds --data train.csv --text text --label target
    python benchmarks/cpu.py predict --data train.csv --text text --label target --rows 20000
    python benchmarks/cpu.py tokenize --data train.csv --text text --label target --rows 100000
    python benchmarks/cpu.py compile                    # what a shape costs when it is met first
    python benchmarks/cpu.py start
    python benchmarks/cpu.py report                     # the tables again, from the figures that were kept

Three sides take turns in one run, each in its own process with the same weights and batches: this package with whole
batches (`environment.cpu_parts: 1`), with each batch in two parts (`cpu_parts_from: 0`), and transformers. As shipped,
large batches are computed in parts and others whole. A figure is the median of the ratios of neighbouring turns with
their quartiles, once of the time on the clock and once of the processor's time (user and system of the process); below
1 this package is faster. On a machine that others use, threads that wait for each other spin, which costs both sides
processor time and torch the most: the load is kept with the figures, and says how far to trust them.
"""
from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
from train_step import MODELS, Worker, fixed_batches, mlx_side

RESULTS = Path(__file__).parent / "results"
OURS = {"mlx-whole": "one part", "mlx-parts": "two parts"}
Turn = dict[str, dict[str, float]]      # side -> seconds, processor


def machine() -> dict[str, Any]:
    "What the figures were taken on."
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
    name = f"shapes-{args.model}-{args.dropout}"
    kept = RESULTS / f"cpu-{name}.json"
    found = json.loads(kept.read_text(encoding="utf-8"))["shapes"] if args.add else {}
    from mlx_bert_training import create_model
    with tempfile.TemporaryDirectory() as folder:
        create_model(config=MODELS[args.model], dropout_rate=0.0).save_pretrained(folder)
        for size, turns in shape_turns(Path(folder), sizes, args.dropout, end, args):
            found["{} x {}".format(*size)] = turns
            keep(name, {"model": args.model, "dropout": args.dropout, "shapes": found})


def shape_turns(folder: Path, sizes: Sequence[tuple[int, int]], dropout: float, end: float, args: argparse.Namespace,
                ) -> Iterator[tuple[tuple[int, int], dict[str, Any]]]:
    "Each shape with the turns of its steps and inferences, and the most memory that each side has had, in any shape."
    batches = [fixed_batches(b, t, 1, 30522)[0] for b, t in sizes]
    sides = [Worker(name, folder, batches, dropout) for name in (*OURS, "torch")]
    try:
        losses = [side("infer", *range(len(sizes)))["losses"] for side in sides]    # before dropout parts them
        if np.ptp(losses, axis=0).max() > 1e-3: raise SystemExit(f"the losses of the sides differ: {losses}")
        for number, size in enumerate(sizes):
            if time.monotonic() > end: break
            for side in sides: side("train", number, number)    # compiles
            until = min(end, time.monotonic() + args.seconds)
            found: dict[str, list[Turn]] = {"train": [], "infer": []}
            while len(found["train"]) < args.least or time.monotonic() < until:
                for action, turns in found.items():
                    first = len(turns) % 3      # what one leaves in the caches must not favour the next
                    order = sides[first:] + sides[:first]
                    turns.append({side.name: timed(side(action, number)) for side in order})
            print(*size, *(f"{action} {ratio(turns, side, 'torch', 'seconds')}"
                           for action, turns in found.items() for side in OURS), flush=True)
            yield size, {**found, "mib": {side.name: side("infer", number)["mib"] for side in sides}}
    finally:
        for side in sides: side.close()


def timed(answer: dict[str, Any]) -> dict[str, float]:
    "What of a worker's answer is kept."
    return {key: round(answer[key], 5) for key in ("seconds", "processor")}


# ---- the architectures


SIZES = {"vocab_size": 30522, "num_hidden_layers": 6, "hidden_size": 384, "num_attention_heads": 12}
WIDE = {"intermediate_size": 1536}
FAMILY: dict[str, dict[str, Any]] = {
    "bert": WIDE, "roberta": WIDE, "distilbert": {"hidden_dim": 1536}, "electra": {**WIDE, "embedding_size": 384},
    "albert": {**WIDE, "embedding_size": 128}, "mpnet": WIDE,
    "deberta-v2": {**WIDE, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 256,
                   "norm_rel_ebd": "layer_norm", "share_att_key": True, "type_vocab_size": 0,
                   "position_biased_input": False, "max_relative_positions": -1},
    "modernbert": {"intermediate_size": 1024, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
                   "cls_token_id": 1, "sep_token_id": 2},
}


def family(args: argparse.Namespace) -> None:
    "Each architecture in one shape, random weights, every token a word."
    kept = RESULTS / "cpu-family.json"
    found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))["shapes"] if args.only else {}
    for name in args.only or FAMILY:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([sys.executable, __file__, "random-model", name, folder], check=True)
            size = (args.batch, args.length)
            for _, turns in shape_turns(Path(folder), [size], args.dropout, float("inf"), args): found[name] = turns
        keep("family", {"shape": f"{args.batch} x {args.length}", "dropout": args.dropout, "shapes": found})


def random_model(args: argparse.Namespace) -> None:
    "A model of transformers with random weights, saved into a folder."
    from transformers import AutoConfig, AutoModelForSequenceClassification
    config = AutoConfig.for_model(args.name, **SIZES, **FAMILY[args.name], num_labels=2)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(args.folder)


# ---- whole jobs on real texts


def job_turns(args: argparse.Namespace) -> None:
    "The same rows and the same job, in a process of its own each time."
    kinds, found = JOBS[args.job], []
    for number in range(args.rounds):
        turn = {}
        for kind in kinds[number % len(kinds):] + kinds[:number % len(kinds)]:
            command = [sys.executable, __file__, "one-job", args.job, kind, "--data", str(args.data),
                       "--text", args.text, "--label", args.label, "--rows", str(args.rows), "--seed", str(number)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            turn[kind] = json.loads(done.stdout.splitlines()[-1])
            print(number, kind, turn[kind], flush=True)
        found.append(turn)
        keep(f"{args.job}-{args.data.parent.name}",
             {"job": args.job, "data": args.data.parent.name, "rows": args.rows, "turns": found})


JOBS = {"epoch": ["mlx", "mlx-parts", "trainer", "trainer-grouped"],
        "folds": ["mlx", "trainer"], "predict": ["mlx", "trainer"], "tokenize": ["mlx", "trainer"]}


def one_job(args: argparse.Namespace) -> None:
    "One side: seconds from files to what the job asks for, imports left out."
    import pandas as pd
    frame = pd.read_csv(args.data)
    frame = frame.sample(args.rows, replace=args.rows > len(frame), random_state=0)[[args.text, args.label]]
    frame.columns = ["text", "label"]
    if frame["label"].nunique() > 2: frame["label"] = (frame["label"] > frame["label"].median()).astype(int)
    cut = args.rows * 5 // 6
    ours = args.kind in ("mlx", "mlx-parts")
    importlib.import_module("mlx.core" if ours else "transformers.trainer")     # imports are not what is measured
    with tempfile.TemporaryDirectory() as folder:
        files = [f"{folder}/train.csv", f"{folder}/validation.csv"]
        for file, part in zip(files, (frame[:cut], frame[cut:]), strict=True): part.to_csv(file, index=False)
        start, before = time.perf_counter(), os.times()
        name = f"{'our' if ours else 'their'}_{args.job}"
        facts = globals()[name](frame if args.job in ("predict", "tokenize") else files, folder, args)
        after = os.times()      # of this process and of those that it has started
        spent = {"seconds": time.perf_counter() - start, "processor": sum(after[:4]) - sum(before[:4])}
        print(json.dumps({**spent, **facts}))


WEIGHTS = "all-MiniLM-L6-v2"


def declared(args: argparse.Namespace, folder: str) -> dict[str, Any]:
    "How our side trains."
    parts = {"environment.cpu_parts_from": 0} if args.kind == "mlx-parts" else {}
    return {"text_column": "text", "target_column": "label", "pretrained": WEIGHTS, "pooling": "mean",
            "max_length": 128, "batch_size": 32, "eval_batch_size": 32, "num_epochs": 1, "learning_rate": 1e-4,
            "seed": args.seed, "output_dir": folder, **parts}


def our_epoch(files: list[str], folder: str, args: argparse.Namespace) -> dict[str, float]:
    "One epoch, evaluated and saved."
    from mlx_bert_training import create_trainer
    trainer = create_trainer(train_path=files[0], validation_path=files[1], save_strategy="epoch",
                             **declared(args, folder), **{"training.metrics": ["accuracy"]})
    return {"accuracy": trainer.train().metrics["eval_accuracy"]}


def our_folds(files: list[str], folder: str, args: argparse.Namespace) -> dict[str, float]:
    "Five folds of one epoch, out-of-fold predictions and those of the test rows."
    from mlx_bert_training import create_kaggle_trainer
    trainer = create_kaggle_trainer(config="generic_text", train_path=files[0], test_path=files[1], data_dir=None,
                                    download_data=False, sample_path=None, id_column=None, cv_folds=5,
                                    competition_metric="accuracy", enable_ensemble=False, ensemble_members=[],
                                    submission_dir=folder,
                                    **declared(args, folder))
    return {"accuracy": trainer.train_with_cv(dashboard=False).mean}


def our_predict(frame: Any, folder: str, args: argparse.Namespace) -> dict[str, float]:
    "A file of texts to a file of predictions, with a model that has not learnt."
    from mlx_bert_training import create_trainer
    frame.to_csv(f"{folder}/rows.csv", index=False)
    options = {**declared(args, folder), "eval_batch_size": 64, "max_train_rows": 64, "validation_fraction": 0.0}
    trainer = create_trainer(train_path=f"{folder}/train.csv", save_strategy="no", eval_strategy="no", **options)
    trainer.predict(f"{folder}/rows.csv").to_frame().to_csv(f"{folder}/predictions.csv", index=False)
    return {}


def our_tokenize(frame: Any, folder: str, args: argparse.Namespace) -> dict[str, float]:
    "Texts to numbers of tokens, the tokenizer read from its file."
    from mlx_bert_training import runtime
    from mlx_bert_training.data.tokenization import Tokenizer
    from mlx_bert_training.models import resolve_pretrained
    encoded = Tokenizer.load(resolve_pretrained(WEIGHTS)).encode(list(frame["text"]), max_length=128,
                                                                 num_workers=runtime.cpu_threads())
    return {"tokens": int(encoded.lengths.sum())}


def tokens_of(frame: Any, tokenizer: Any) -> list[dict[str, Any]]:
    "Rows as transformers' Trainer takes them."
    encoded = tokenizer(list(frame["text"]), truncation=True, max_length=128)["input_ids"]
    return [{"input_ids": ids, "labels": int(label)} for ids, label in zip(encoded, frame["label"], strict=True)]


def their_trainer(folder: str, args: argparse.Namespace, train: Any, judged: Any, **options: Any) -> Any:
    "`Trainer` with its defaults, but for rate, batch and the number of epochs."
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
    weights = str(resolve_pretrained(WEIGHTS))
    tokenizer = AutoTokenizer.from_pretrained(weights)
    fields = TrainingArguments.__dataclass_fields__
    group = {"group_by_length": True} if "group_by_length" in fields else {"train_sampling_strategy": "group_by_length"}
    if args.kind == "trainer-grouped": options |= group
    return Trainer(
        model=AutoModelForSequenceClassification.from_pretrained(weights, num_labels=2),
        args=TrainingArguments(folder, per_device_train_batch_size=32, seed=args.seed, num_train_epochs=1,
                               learning_rate=1e-4, report_to="none", use_cpu=True, disable_tqdm=True,
                               **{"per_device_eval_batch_size": 32, **options}),
        train_dataset=None if train is None else tokens_of(train, tokenizer), eval_dataset=tokens_of(judged, tokenizer),
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=lambda seen: {"accuracy": float((seen.predictions.argmax(-1) == seen.label_ids).mean())})


def their_epoch(files: list[str], folder: str, args: argparse.Namespace) -> dict[str, float]:
    "The same with `Trainer`."
    import pandas as pd
    train, judged = map(pd.read_csv, files)
    trainer = their_trainer(folder, args, train, judged, eval_strategy="epoch", save_strategy="epoch")
    trainer.train()
    return {"accuracy": trainer.state.log_history[-2]["eval_accuracy"]}


def their_folds(files: list[str], folder: str, args: argparse.Namespace) -> dict[str, float]:
    "The same with `Trainer`, one after the other."
    import pandas as pd
    from sklearn.model_selection import StratifiedKFold
    rows, test = map(pd.read_csv, files)
    scores, asked = [], None
    for train, judged in StratifiedKFold(5, shuffle=True, random_state=args.seed).split(rows, rows["label"]):
        trainer = their_trainer(folder, args, rows.iloc[train], rows.iloc[judged], save_strategy="epoch")
        trainer.train()
        scores.append(trainer.predict(trainer.eval_dataset).metrics["test_accuracy"])
        asked = asked or tokens_of(test, trainer.data_collator.tokenizer)
        trainer.predict(asked)
    return {"accuracy": sum(scores) / len(scores)}


def their_predict(frame: Any, folder: str, args: argparse.Namespace) -> dict[str, float]:
    "The same with `Trainer`."
    import pandas as pd
    frame.to_csv(f"{folder}/rows.csv", index=False)
    rows = pd.read_csv(f"{folder}/rows.csv")
    trainer = their_trainer(folder, args, None, rows, per_device_eval_batch_size=64)
    pd.DataFrame(trainer.predict(trainer.eval_dataset).predictions).to_csv(f"{folder}/predictions.csv", index=False)
    return {}


def their_tokenize(frame: Any, folder: str, args: argparse.Namespace) -> dict[str, float]:
    "The same with the tokenizer of transformers, which takes all cores."
    from transformers import AutoTokenizer

    from mlx_bert_training.models import resolve_pretrained
    tokenizer = AutoTokenizer.from_pretrained(str(resolve_pretrained(WEIGHTS)))
    encoded = tokenizer(list(frame["text"]), truncation=True, max_length=128)["input_ids"]
    return {"tokens": sum(map(len, encoded))}


# ---- start-up


BATCH = 32      # rows of the shapes whose first step is measured


def compiling(args: argparse.Namespace) -> None:
    "Seconds of the first step of each shape beside a later one, in new processes: kernels kept, and none kept."
    found: dict[str, list[dict[str, list[float]]]] = {"kept": [], "none": []}
    for _ in range(args.rounds):
        for kernels, runs in found.items():
            with tempfile.TemporaryDirectory() as folder:
                where = {"TMPDIR": folder} if kernels == "none" else {}     # where MLX keeps what it has compiled
                done = subprocess.run([sys.executable, __file__, "first-steps", *map(str, args.lengths)], check=True,
                                      stdout=subprocess.PIPE, text=True, env={**os.environ, **where})
            runs.append(json.loads(done.stdout.splitlines()[-1]))
            print(kernels, runs[-1], flush=True)
    keep("compile", {"batch": BATCH, "turns": found})


def first_steps(args: argparse.Namespace) -> None:
    "One process: for each length the first training step and inference, and the median of five later ones."
    from mlx_bert_training import create_model
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        create_model(config=MODELS["minilm"], dropout_rate=0.0).save_pretrained(folder)
        side = mlx_side(Path(folder), 0.1)
    for length in args.lengths:
        batch = fixed_batches(BATCH, length, 1, 30522)[0]
        for action, run in side.items():
            seconds = []
            for _ in range(6):
                before = time.perf_counter()
                run(batch)
                seconds.append(time.perf_counter() - before)
            found[f"{action} {length}"] = [round(seconds[0], 4), round(median(seconds[1:]), 4)]
    print(json.dumps(found))


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
    tables = {"shapes": shapes_table, "family": family_table, **dict.fromkeys(JOBS, job_table),
              "compile": compile_table, "start": start_table}
    for name, show in tables.items():
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
            cells += [ratio(turns, "mlx-parts", "mlx-whole", clock) for clock in ("seconds", "processor")]
            torch = 1e3 * median(turn["torch"]["seconds"] for turn in turns)
            lines.append(f"| {word} {shape} | {len(turns)} | {torch:.0f} | " + " | ".join(cells) + " |")
    plot(kept)
    most = max(kept["shapes"].values(), key=lambda found: found["mib"]["torch"])["mib"]
    memory = " and ".join(f"{most[side] / most['torch']:.2f} of it with {OURS[side]}" for side in OURS)
    return "\n".join([*lines, "", f"Most memory: {most['torch']:.0f} MiB with torch, {memory}."])


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


def family_table(kept: dict[str, Any]) -> str:
    lines = [f"{kept['shape']}, dropout {kept['dropout']}; load {kept['load'][0]:.0f}", "",
             "| architecture | turns | step on torch, ms | one part | two parts | inference on torch, ms | one part "
             "| two parts | memory |", "|---" * 9 + "|"]
    for name, found in kept["shapes"].items():
        cells = []
        for action in ("train", "infer"):
            cells.append(f"{1e3 * median(turn['torch']['seconds'] for turn in found[action]):.0f}")
            cells += [ratio(found[action], side, "torch", "seconds") for side in OURS]
        memory = ", ".join(f"{found['mib'][side] / found['mib']['torch']:.2f}" for side in OURS)
        lines.append(f"| {name} | {len(found['train'])} | " + " | ".join([*cells, memory]) + " |")
    return "\n".join(lines)


def job_table(kept: dict[str, Any]) -> str:
    turns = kept["turns"]
    others = [side for side in ("trainer", "trainer-grouped") if side in turns[0]]
    heads = [f"to {other}, {clock}" for other in others for clock in ("clock", "processor")]
    lines = [f"{kept['job']}: {kept['rows']} rows of {kept['data']}, {len(turns)} turns, load {kept['load'][0]:.0f} to "
             f"{kept['load'][2]:.0f}", "", "| side | seconds | processor, s | accuracy | " + " | ".join(heads) + " |",
             "|---" * (4 + len(heads)) + "|"]
    for side in turns[0]:
        values = [median(turn[side][key] for turn in turns) for key in ("seconds", "processor")]
        scores = [turn[side]["accuracy"] for turn in turns if "accuracy" in turn[side]]
        cells = [ratio(turns, side, other, clock) for other in others for clock in ("seconds", "processor")]
        lines.append(f"| {side} | {values[0]:.0f} | {values[1]:.0f} | " +
                     (f"{sum(scores) / len(scores):.3f}" if scores else "–") + " | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def compile_table(kept: dict[str, Any]) -> str:
    lines = [f"load {kept['load'][0]:.0f} to {kept['load'][2]:.0f}; seconds beside a later one of the shape", "",
             "| first of its shape | later, s | more, kernels kept | more, none kept |", "|---" * 4 + "|"]
    for name in kept["turns"]["kept"][0]:
        action, length = name.split()
        more = [median(turn[name][0] - turn[name][1] for turn in turns) for turns in kept["turns"].values()]
        later = median(turn[name][1] for turn in kept["turns"]["kept"])
        word = "step" if action == "train" else "inference"
        lines.append(f"| {word} {kept['batch']} x {length} | {later:.2f} | {more[0]:.2f} | {more[1]:.2f} |")
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
    sub = command(family, "family")
    sub.add_argument("--only", nargs="+", choices=FAMILY, help="beside those that were kept")
    sub.add_argument("--batch", type=int, default=32)
    sub.add_argument("--length", type=int, default=32)
    sub.add_argument("--dropout", type=float, default=0.1)
    sub.add_argument("--seconds", type=float, default=30, help="for each architecture (default 30)")
    sub.add_argument("--least", type=int, default=4, help="turns of each, whatever they take (default 4)")
    sub = command(random_model, "random-model")
    sub.add_argument("name", choices=FAMILY)
    sub.add_argument("folder")
    for name in (*JOBS, "one-job"):
        sub = command(one_job if name == "one-job" else job_turns, name)
        if name == "one-job":
            sub.add_argument("job", choices=JOBS)
            sub.add_argument("kind")
        else: sub.set_defaults(job=name)
        sub.add_argument("--data", type=Path, required=True, help="a CSV file")
        sub.add_argument("--text", default="text", help="its column of texts")
        sub.add_argument("--label", default="label", help="its classes, 0 and 1; of numbers: above the median?")
        sub.add_argument("--rows", type=int, default=1200, help="a sixth of them to evaluate on (default 1200)")
        sub.add_argument("--rounds", type=int, default=3)
        sub.add_argument("--seed", type=int, default=0)
    sub = command(compiling, "compile")
    sub.add_argument("--lengths", type=int, nargs="+", default=[32, 48, 64], help="in this order")
    sub.add_argument("--rounds", type=int, default=3)
    command(first_steps, "first-steps").add_argument("lengths", type=int, nargs="+")
    command(start, "start").add_argument("--rounds", type=int, default=5)
    command(report, "report")
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    main()
