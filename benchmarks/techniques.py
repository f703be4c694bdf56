"""Which training techniques help a small model: each alone against the same run without it, on four sets.

    python benchmarks/techniques.py DATA                    # runs what is missing, and keeps each result as it comes
    python benchmarks/techniques.py DATA --minutes 30       # begins no run after that time
    python benchmarks/techniques.py --report                # the table of what has been run
    python benchmarks/techniques.py DATA --rows 64 --epochs 12 --sets sst2 --only "supcon 4 epochs"     # few rows
    python benchmarks/techniques.py --report --rows 64      # the table of those runs

DATA is a folder with `sst2/train.tsv` (`text<TAB>label` a line), `disaster-tweets/train.csv`, `titanic/train.csv` and
`german-credit/german.csv`. For each set and seed some rows are drawn to train on and others to test on; every technique
gets the same rows, the same seed and the recipe below, and the last weights are scored once, so that nothing is chosen
on the test rows. The difference to the run without a technique is paired: same set, same seed, same rows. Results are
lines of JSON in `benchmarks/results/techniques.jsonl`; a run that is there is not repeated.
"""
from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mlx_bert_training import create_kaggle_trainer, create_trainer, load_config, runtime

TEST = 500      # rows to test on, at least
RESULTS = Path(__file__).parent / "results" / "techniques.jsonl"
TECHNIQUES: dict[str, dict[str, Any]] = {
    "baseline": {},
    "layer_decay 0.9": {"optimizer": {"layer_decay": 0.9}},
    "head_lr x10": {"optimizer": {"head_learning_rate": 1e-3}},
    "ema 0.99": {"callbacks": [{"type": "ema", "decay": 0.99}]},
    "dropout_samples 5": {"model": {"dropout_samples": 5, "head_dropout": 0.3}},
    "reinit_layers 1": {"model": {"reinit_layers": 1}},
    "fgm 1.0": {"callbacks": [{"type": "fgm", "eps": 1.0}]},
    "rdrop 1.0": {"callbacks": [{"type": "rdrop", "alpha": 1.0}]},
    "neftune 5": {"callbacks": [{"type": "neftune", "alpha": 5.0}]},
    "swa 0.5": {"callbacks": [{"type": "swa", "start": 0.5}]},
    "mixout 0.7": {"callbacks": [{"type": "mixout", "p": 0.7}]},
    "awp 0.01": {"callbacks": [{"type": "awp", "start": 1}]},
    "label_smoothing 0.1": {"training": {"label_smoothing": 0.1}},
    "balanced sampling": {"data": {"sampling": "balanced"}},
    "supcon 1 epoch": {"callbacks": [{"type": "supcon", "epochs": 1}]},
    "supcon 4 epochs": {"callbacks": [{"type": "supcon", "epochs": 4}]},
    "supcon beside": {"callbacks": [{"type": "supcon", "epochs": None, "weight": 0.3}]},
    "pooling weighted_cls": {"model": {"pooling": "weighted_cls"}},
    "pooling concat_last": {"model": {"pooling": "concat_last"}},
    "pooling attention": {"model": {"pooling": "attention"}},
    "distillation 0.5": {"teacher": {"weight": 0.5}},
}
RECIPE: dict[str, Any] = {
    "model": {"pretrained": "all-MiniLM-L6-v2", "pooling": "mean"},
    "data": {"batch_size": 16, "eval_batch_size": 64, "max_length": 96, "num_workers": 0},
    "optimizer": {"learning_rate": 1e-4}, "scheduler": {"type": "linear", "warmup_ratio": 0.1},
    "training": {"mixed_precision": False, "metrics": ["accuracy", "auc"], "eval_strategy": "no", "save_strategy": "no",
                 "early_stopping": False, "load_best_at_end": False, "logging_steps": 1000},
}


@dataclass(frozen=True)
class Rows:
    "A set: its rows, and what a declaration says of them."
    frame: pd.DataFrame
    data: dict[str, Any]


def read_sets(folder: Path) -> dict[str, Rows]:
    "The four sets. Raises `FileNotFoundError` where a file is not there."
    lines = (folder / "sst2/train.tsv").read_text(encoding="utf-8").splitlines()
    sst2 = pd.DataFrame([line.rsplit("\t", 1) for line in lines if line.strip()], columns=["text", "label"])
    text = {"text_column": "text", "target_column": "label"}
    tweets = pd.read_csv(folder / "disaster-tweets/train.csv")[["text", "target"]].rename(columns={"target": "label"})
    titanic, german = (load_config(name).data for name in ("titanic", "german_credit"))
    return {
        "sst2": Rows(sst2, text), "disaster-tweets": Rows(tweets, text),
        "titanic": Rows(pd.read_csv(folder / "titanic/train.csv"), {
            "template": titanic.template, "template_defaults": titanic.template_defaults, "target_column": "Survived"}),
        "german-credit": Rows(pd.read_csv(folder / "german-credit/german.csv"), {
            "template": german.template, "target_column": "risk"})}


def taught(weight: float, config: dict[str, Any], epochs: int, seed: int, folder: Path) -> list[dict[str, Any]]:
    "A callback that learns from what three folds of the same model and a linear partner said of each row out of fold."
    data = {name: value for name, value in config["data"].items() if name != "validation_path"}
    kaggle = {"cv_folds": 3, "enable_ensemble": True, "ensemble_members": ["linear"], "competition_metric": "auc",
              "competition_type": "binary_classification", "save_fold_models": False, "threshold_search": False}
    trainer = create_kaggle_trainer(config={**config, "data": data, "kaggle": kaggle}, num_epochs=epochs, seed=seed,
                                    output_dir=str(folder), run_name="teacher")
    path = trainer.train_with_cv(dashboard=False).oof.save(folder / "teacher.npz")
    return [{"type": "distillation", "teacher": str(path), "weight": weight}]


def one_run(rows: Rows, technique: str, seed: int, size: int, epochs: int) -> dict[str, float]:
    "Train on some rows and score on others."
    shuffled = rows.frame.sample(frac=1, random_state=seed)
    extra = TECHNIQUES[technique]
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder, f"{name}.csv")) for name in ("train", "test")]
        shuffled[:size].to_csv(files[0], index=False)
        shuffled[size:size + max(size, TEST)].to_csv(files[1], index=False)
        config = {**RECIPE, **{name: {**RECIPE.get(name, {}), **part} if isinstance(part, dict) else part
                               for name, part in extra.items()}}
        config["data"] = {**config["data"], **rows.data, "train_path": files[0], "validation_path": files[1]}
        teacher = config.pop("teacher", None)
        started, cpu = time.perf_counter(), time.process_time()     # of the teacher too, where there is one
        if teacher: config["callbacks"] = taught(teacher["weight"], config, epochs, seed, Path(folder))
        trainer = create_trainer(config=config, num_epochs=epochs, seed=seed, output_dir=folder)
        trainer.train()
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        scores = trainer.evaluate()
    return {**{name.removeprefix("eval_"): value for name, value in scores.items()}, "seconds": round(seconds, 1),
            "cpu_seconds": round(cpu, 1)}


def read_results(path: Path) -> list[dict[str, Any]]:
    "What has been run."
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def mean_and_error(values: list[float]) -> tuple[float, float]:
    "The mean and its standard error; NaN for one value."
    return statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def differences(results: Iterable[dict[str, Any]], technique: str, metric: str) -> dict[tuple[str, int], float]:
    "A technique's value minus that of the run without it, by set and seed."
    by_key = {(r["technique"], r["set"], r["seed"], r["rows"], r["epochs"], r["device"]): r for r in results}
    return {(name, seed): row[metric] - by_key[("baseline", name, seed, *rest)][metric]
            for (kind, name, seed, *rest), row in by_key.items()
            if kind == technique and ("baseline", name, seed, *rest) in by_key}


def report(results: list[dict[str, Any]]) -> str:
    "The table, as Markdown: for each technique, paired differences over all sets and seeds, and for each set."
    sets = list(dict.fromkeys(row["set"] for row in results))
    lines = ["| technique | pairs | seeds | accuracy, points | AUC, points | log loss | "
             + " | ".join(f"AUC {name}" for name in sets) + " |", "|---" * (6 + len(sets)) + "|"]
    for technique in TECHNIQUES:
        pairs = differences(results, technique, "auc")
        if technique == "baseline" or not pairs: continue
        cells = [technique]
        cells += [str(len(pairs)), str(len({seed for _, seed in pairs}))]
        for metric, scale in (("accuracy", 100), ("auc", 100), ("loss", 1)):
            mean, error = mean_and_error([scale * d for d in differences(results, technique, metric).values()])
            digits = 1 if scale == 100 else 3
            cells.append(f"{mean:+.{digits}f} ± {error:.{digits}f}")
        for name in sets:
            found = [100 * value for (of, _), value in pairs.items() if of == name]
            cells.append(f"{statistics.mean(found):+.1f}" if found else "–")
        lines.append("| " + " | ".join(cells) + " |")
    base = [row for row in results if row["technique"] == "baseline"]
    scores = ", ".join(f"{name} {100 * statistics.mean(r['accuracy'] for r in base if r['set'] == name):.1f} % / "
                       f"{statistics.mean(r['auc'] for r in base if r['set'] == name):.3f}" for name in sets)
    return "\n".join([f"Without any (accuracy / AUC): {scores}.", "", *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="folder with the four sets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="to run, such as 0 1 2")
    parser.add_argument("--rows", type=int, default=500, help="to train on, and to test on, but at least 500")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--sets", nargs="+", help="some of the four; all if not said")
    parser.add_argument("--only", nargs="+", help="some of the techniques, beside the run without any")
    parser.add_argument("--report", action="store_true", help="print the table and run nothing")
    args = parser.parse_args()
    if args.report: return print(report([row for row in read_results(args.results) if row["rows"] == args.rows]))
    if args.data is None: parser.error("say where the data are, or --report")
    sets, end = read_sets(args.data), time.monotonic() + 60 * args.minutes
    device = str(runtime.select_device("auto").type).removeprefix("DeviceType.")    # cpu or gpu
    for seed in args.seeds:
        for technique in TECHNIQUES if args.only is None else ["baseline", *args.only]:
            for name, rows in sets.items():
                if args.sets is not None and name not in args.sets: continue
                key = {"set": name, "technique": technique, "seed": seed, "rows": args.rows, "epochs": args.epochs,
                       "device": device}
                if any(key.items() <= row.items() for row in read_results(args.results)): continue
                if time.monotonic() > end: return
                row = {**key, **one_run(rows, technique, seed, args.rows, args.epochs)}
                args.results.parent.mkdir(exist_ok=True)
                with args.results.open("a", encoding="utf-8") as file: file.write(json.dumps(row) + "\n")
                print(row, flush=True)


if __name__ == "__main__":
    main()
