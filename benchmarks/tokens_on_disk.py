"""Memory of a large table: made-up rows are tokenised and trained on for some updates, tokens in memory and on disk.

    python benchmarks/tokens_on_disk.py --rows 1000000
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


def memory() -> dict[str, float]:
    "MB of this process: what is its own, what files back, and the most that it has had of both together."
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return {name: int(lines[key].split()[0]) / 1024 for name, key in
            (("own", "RssAnon"), ("of files", "RssFile"), ("peak", "VmHWM"))}


def write_table(path: Path, rows: int, words: int) -> None:
    "Rows of made-up words, which come in the frequencies of a language, and a class."
    import numpy as np
    rng = np.random.default_rng(0)
    known = ["".join(rng.choice(list("abcdefghijklmnoprstu"), 6)) for _ in range(5000)]
    share = 1 / np.arange(1, len(known) + 1)
    with path.open("w") as file:
        file.write("text,label\n")
        for _ in range(0, rows, 10_000):
            picked = rng.choice(len(known), (10_000, words), p=share / share.sum())
            lengths = rng.integers(words // 2, words + 1, 10_000)
            for row, length in zip(picked, lengths, strict=True):
                file.write(f"{' '.join(known[i] for i in row[:length])},{row[0] % 2}\n")


def measure(table: str, tokens: str, updates: int) -> None:
    "Print the memory after each stage, as JSON lines; runs in a process of its own."
    from mlx_bert_training import create_trainer
    from mlx_bert_training.callbacks import Callback
    from mlx_bert_training.data.frames import read_frame

    def say(stage: str) -> None: print(json.dumps({"stage": stage, **memory()}), flush=True)

    class Say(Callback):
        def on_step_end(self, trainer, state):
            if state.step in (10, updates // 2, updates): say(f"update {state.step}")

    say("imported")
    frame = read_frame(table)
    say("table read")
    del frame
    trainer = create_trainer(callbacks=[Say()], config={
        "model": {"config": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                             "intermediate_size": 64}},
        "data": {"train_path": table, "target_column": "label", "text_column": "text", "tokens": tokens,
                 "max_length": 64, "validation_fraction": 0.01, "num_workers": 1},
        "training": {"max_steps": updates, "eval_strategy": "no", "save_strategy": "no", "early_stopping": False,
                     "load_best_at_end": False},
        "environment": {"device": "cpu", "output_dir": tempfile.mkdtemp(), "compile": False}})
    say("tokenised")
    print(json.dumps({"stage": "tokens", "millions": len(trainer.data.train.dataset.encoded.ids) / 1e6}), flush=True)
    trainer.train(dashboard=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--words", type=int, default=40)
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--measure", nargs=2, metavar=("TABLE", "TOKENS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure: return measure(*args.measure, args.updates)
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.csv"
        write_table(table, args.rows, args.words)
        print(f"{args.rows:,} rows, {table.stat().st_size / 2**20:,.0f} MB of text")
        print(f"{'':<8} {'':<14} {'own MB':>9} {'of files':>9} {'peak':>9}")
        for tokens in ("memory", "disk"):
            command = [sys.executable, __file__, "--updates", str(args.updates), "--measure", str(table), tokens]
            environment = {**os.environ, "MLX_BERT_CACHE": folder}
            with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
                for line in process.stdout:
                    if not line.startswith("{"): continue
                    row = json.loads(line)
                    if row["stage"] == "tokens": print(f"{tokens:<8} {row['millions']:.1f} million tokens to train on")
                    else:
                        print(f"{tokens:<8} {row['stage']:<14} {row['own']:>9,.0f} {row['of files']:>9,.0f} "
                              f"{row['peak']:>9,.0f}", flush=True)


if __name__ == "__main__": main()
