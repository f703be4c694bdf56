"""Fine-tune on a labelled text file and score on another, over several seeds.

    python benchmarks/fine_tune.py train.tsv test.tsv --seeds 3

Each file has one `text<TAB>label` a line and no header. The number of epochs is fixed beforehand and the last weights
are scored, so nothing is chosen on the test file. Prints each seed's accuracy, their mean and standard deviation.
"""
from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
import time
from pathlib import Path

from mlx_bert_training import create_trainer


def with_header(source: Path, target: Path) -> str:
    "Copy `text<TAB>label` lines into a CSV file with a header."
    with source.open(encoding="utf-8", newline="") as lines, target.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["text", "label"])
        writer.writerows(line.rstrip("\r\n").rsplit("\t", 1) for line in lines if line.strip())
    return str(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--batch", type=int, default=32)
    args = parser.parse_args()
    scores = []
    with tempfile.TemporaryDirectory() as folder:
        files = [with_header(args.train, Path(folder, "train.csv")), with_header(args.test, Path(folder, "test.csv"))]
        for seed in range(args.seeds):
            trainer = create_trainer(
                config={"extends": "development", "model": {"pretrained": "all-MiniLM-L6-v2", "pooling": "mean"}},
                train_path=files[0], validation_path=files[1], text_column="text", target_column="label",
                batch_size=args.batch, eval_batch_size=64, num_epochs=args.epochs, learning_rate=args.learning_rate,
                seed=seed, eval_strategy="no", save_strategy="no", output_dir=folder, logging_steps=50)
            started = time.perf_counter()
            trainer.train()
            seconds = time.perf_counter() - started
            scores.append(trainer.evaluate()["eval_accuracy"])
            print(f"seed {seed}: accuracy {scores[-1]:.4f}, {args.epochs} epochs in {seconds:.0f} s", flush=True)
    spread = f", standard deviation {statistics.stdev(scores):.4f}" if len(scores) > 1 else ""
    print(f"mean accuracy {statistics.mean(scores):.4f} over {len(scores)} seeds{spread}")


if __name__ == "__main__":
    main()
