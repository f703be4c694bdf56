"""Does an encoder that has read the texts first need fewer labels? MiniLM on a few hundred rows, adapted and not.

    python benchmarks/adaptation.py DATA                # runs what is missing, and keeps each result as it comes
    python benchmarks/adaptation.py --report            # the table of what has been run

DATA is a folder with `disaster-tweets/train.csv` and `test.csv`. The encoder is adapted once to texts of both files,
whose answers are not read. For each seed some rows are drawn to train on and others to test on; the adapted and the
plain encoder get the same rows, the same seed and the recipe below, and the last weights are scored once, so that
nothing is chosen on the test rows. Results are lines of JSON in `benchmarks/results/adaptation.jsonl`; a run that is
there is not repeated.
"""
from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd

from mlx_bert_training import create_trainer, load_config
from mlx_bert_training.run import run_pretraining

RESULTS = Path(__file__).parent / "results" / "adaptation.jsonl"
MODEL = {"pretrained": "all-MiniLM-L6-v2", "pooling": "mean"}
DATA = {"text_column": "text", "target_column": "target", "max_length": 64, "batch_size": 32}
PRETRAINING = {"objective": "masked_words", "learning_rate": 2e-4}
TRAINING = {"num_epochs": 4, "metrics": ["accuracy", "auc", "log_loss"], "early_stopping": False, "save_strategy": "no",
            "load_best_at_end": False}


def known() -> list[dict[str, Any]]:
    "The results so far."
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def keep(**values: Any) -> None:
    "Write a result at the end of the file."
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a") as file: file.write(json.dumps(values) + "\n")


def adapted(folder: Path, runs: Path, texts: int, epochs: int) -> Path:
    "The folder of the adapted encoder; what adapting changed is kept as a result."
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        both = pd.concat([pd.read_csv(folder / name)[["text"]] for name in ("train.csv", "test.csv")])
        drawn = both.drop_duplicates().sample(frac=1, random_state=0)[:texts]
        drawn.assign(target=[i % 2 for i in range(len(drawn))]).to_csv(f"{scratch}/texts.csv", index=False)
        done = run_pretraining({
            "model": MODEL, "pretraining": {**PRETRAINING, "num_epochs": epochs},
            "data": {**DATA, "train_path": f"{scratch}/texts.csv"}, "environment": {"output_dir": str(runs)},
            "training": {"logging_steps": 10}})
    if not done.reused: keep(kind="pretraining", whole_seconds=time.perf_counter() - started, **done.facts)
    return done.model


def score(rows: pd.DataFrame, held: pd.DataFrame, pretrained: str, seed: int) -> dict[str, float]:
    "Scores of one fine-tune on the held rows."
    with tempfile.TemporaryDirectory() as scratch:
        paths = {"train_path": f"{scratch}/train.csv", "validation_path": f"{scratch}/held.csv"}
        rows.to_csv(paths["train_path"], index=False)
        held.to_csv(paths["validation_path"], index=False)
        config = load_config({
            "model": {**MODEL, "pretrained": pretrained}, "data": {**DATA, **paths, "eval_batch_size": 64},
            "optimizer": {"learning_rate": 1e-4}, "training": {**TRAINING, "eval_delay": TRAINING["num_epochs"] - 1},
            "environment": {"output_dir": scratch, "seed": seed}})
        metrics = create_trainer(config=config).train().metrics
    return {name.removeprefix("eval_"): value for name, value in metrics.items()}


def report() -> None:
    "Mean over seeds, and the paired difference with its standard error."
    results = [result for result in known() if result["kind"] == "fine-tune"]
    for result in known():
        if result["kind"] != "pretraining": continue
        before, after = result["before"], result["after"]
        print(f"adapted to {result['texts']:,} texts in {result['steps']} updates, {result['seconds']:.0f} s: "
              f"perplexity {before['eval_perplexity']:,.0f} -> {after['eval_perplexity']:.1f}, guessed "
              f"{before['eval_guessed']:.1%} -> {after['eval_guessed']:.1%}")
    for count in sorted({result["rows"] for result in results}):
        for metric in ("accuracy", "auc", "log_loss"):
            by = {(r["encoder"], r["seed"]): r["scores"][metric] for r in results if r["rows"] == count}
            seeds = sorted({seed for _, seed in by if ("plain", seed) in by and ("adapted", seed) in by})
            if not seeds: continue
            gains = [by["adapted", seed] - by["plain", seed] for seed in seeds]
            error = statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else float("nan")
            plain, other = (statistics.mean(by[name, seed] for seed in seeds) for name in ("plain", "adapted"))
            print(f"{count} rows, {len(seeds)} seeds, {metric:<8} plain {plain:.4f}  adapted {other:.4f}  "
                  f"difference {statistics.mean(gains):+.4f} ± {error:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", help="the folder with the sets")
    parser.add_argument("--report", action="store_true", help="only show what has been run")
    parser.add_argument("--texts", type=int, default=10**9, help="texts to adapt to (default: all)")
    parser.add_argument("--epochs", type=int, default=3, help="passes over them (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=300, help="labelled rows (default: %(default)s)")
    parser.add_argument("--held", type=int, default=1500, help="rows to test on (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="how often (default: %(default)s)")
    parser.add_argument("--runs", default="runs", help="where the adapted encoder is kept (default: %(default)s)")
    args = parser.parse_args()
    if args.data and not args.report:
        folder = Path(args.data) / "disaster-tweets"
        encoders = {"plain": MODEL["pretrained"], "adapted": str(adapted(folder, Path(args.runs), args.texts, args.epochs))}
        table = pd.read_csv(folder / "train.csv")[["text", "target"]]
        table = table.drop_duplicates("text")
        done = {(r["encoder"], r["seed"], r["rows"]) for r in known() if r["kind"] == "fine-tune"}
        for seed in range(args.seeds):
            drawn = table.sample(args.rows + args.held, random_state=seed)
            for name, pretrained in encoders.items():
                if (name, seed, args.rows) in done: continue
                scores = score(drawn[:args.rows], drawn[args.rows:], pretrained, seed)
                keep(kind="fine-tune", encoder=name, seed=seed, rows=args.rows, held=args.held, scores=scores)
    report()


if __name__ == "__main__": main()
