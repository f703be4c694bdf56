"""Two threads in one process, or one thread in each of two: one training by ranks, and two folds by an executor.

    python benchmarks/side_by_side.py --turns 3
"""
import argparse
import logging
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SIZES = {"small": {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512},
         "minilm": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}}


def write_rows(path: Path, rows: int) -> None:
    "Made-up sentences of forty words, and a class."
    import numpy as np
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghijklmno"), 5)) for _ in range(2000)]
    lines = [f"{' '.join(rng.choice(words, 40))},{int(rng.integers(2))}" for _ in range(rows)]
    path.write_text("text,label\n" + "\n".join(lines) + "\n")


def declaration(table: str, size: str, updates: int, **parallel: object) -> dict:
    return {"model": {"config": SIZES[size]},
            "data": {"train_path": table, "target_column": "label", "text_column": "text", "max_length": 48,
                     "num_workers": 1, "validation_fraction": 0.0},
            "training": {"max_steps": updates, "eval_strategy": "no", "save_strategy": "no"},
            "parallel": parallel,
            "environment": {"device": "cpu", "output_dir": tempfile.mkdtemp(prefix="side-"), "run_name": "run"}}


def measure(kind: str, table: str, size: str, updates: int) -> None:
    "Print the seconds of one training, or of two folds; runs in a process of its own."
    import time

    from mlx_bert_training import create_kaggle_trainer
    from mlx_bert_training.run import run_training
    logging.disable()
    if kind in ("threads", "ranks"):
        config = declaration(table, size, updates, **({"ranks": 2} if kind == "ranks" else {}))
        print(run_training(config).result.seconds)
    else:
        config = declaration(table, size, updates, executor="here" if kind == "one after the other" else "processes")
        config["kaggle"] = {"cv_folds": 2, "save_fold_models": False, "partners": [], "select_epoch": False}
        trainer = create_kaggle_trainer(config=config)
        began = time.perf_counter()
        trainer.train_with_cv()
        print(time.perf_counter() - began)
    shutil.rmtree(config["environment"]["output_dir"], ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure: return measure(*args.measure, args.size, args.updates)
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.csv"
        write_rows(table, 64 * args.updates + 200)
        for usual, other in (("threads", "ranks"), ("one after the other", "side by side")):
            ratios = []
            for _ in range(args.turns):
                seconds = [float(subprocess.run(
                    [sys.executable, __file__, "--size", args.size, "--updates", str(args.updates), "--measure", kind,
                     str(table)], capture_output=True, text=True, check=True,
                    env=os.environ).stdout.split()[-1]) for kind in (usual, other)]
                ratios.append(seconds[1] / seconds[0])
                print(f"{usual} {seconds[0]:.1f} s, {other} {seconds[1]:.1f} s, ratio {ratios[-1]:.2f}", flush=True)
            print(f"{other} over {usual}, {args.size}: median {statistics.median(ratios):.2f} "
                  f"[{min(ratios):.2f}-{max(ratios):.2f}]", flush=True)


if __name__ == "__main__": main()
