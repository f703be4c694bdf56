"""CoLA with this package and with transformers on torch: same weights, rows, recipe and seeds; who scores what?

    python benchmarks/same_recipe.py DATA --rows 2000 --epochs 2 --seeds 0 1 2          # both sides, a process each
    python benchmarks/same_recipe.py DATA --only torch --python TORCH/bin/python        # torch lives elsewhere
    python benchmarks/same_recipe.py report

DATA is the folder of the Corpus of Linguistic Acceptability (Warstadt and others, 2019,
https://arxiv.org/abs/1805.12471) as its authors publish it: `in_domain_train.tsv`, `in_domain_dev.tsv` and
`out_of_domain_dev.tsv`. Rows are drawn from the first by the seed; the other two are the test, scored once with the
last weights, by Matthews' correlation. Both read the first token, as `BertForSequenceClassification` does: dropout .1,
batches of 32, AdamW (no decay of biases and norms), a warm-up of a tenth, then down to nothing in a line, clipping at
norm 1. The order of the rows and the masks of dropout are drawn by each side for itself, so a difference is the noise
of a seed and what is really different. Results are lines of JSON in `benchmarks/results/same_recipe.jsonl`; a run
that is there is not repeated.
"""
from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd

RESULTS = Path(__file__).parent / "results" / "same_recipe.jsonl"
BATCH, RATE, DECAY, WARM_UP, LENGTH = 32, 1e-4, 0.01, 0.1, 64


def read(path: Path) -> pd.DataFrame:
    "Sentences with 1 where they are acceptable, else 0."
    return pd.read_csv(path, sep="\t", header=None, quoting=3, usecols=[1, 3]).set_axis(["label", "text"], axis=1)


def parts(data: Path, rows: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    "Rows to train on, and those that judge."
    test = pd.concat([read(data / "in_domain_dev.tsv"), read(data / "out_of_domain_dev.tsv")], ignore_index=True)
    return read(data / "in_domain_train.tsv").sample(frac=1, random_state=seed)[:rows], test


def ours(data: Path, rows: int, epochs: int, seed: int) -> float:
    "Matthews' correlation of this package."
    from mlx_bert_training import create_trainer
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder, f"{name}.csv")) for name in ("train", "test")]
        for frame, file in zip(parts(data, rows, seed), files, strict=True): frame.to_csv(file, index=False)
        trainer = create_trainer(
            config={"model": {"pretrained": "all-MiniLM-L6-v2", "pooling": "cls"}},
            train_path=files[0], validation_path=files[1], text_column="text", target_column="label", max_length=LENGTH,
            batch_size=BATCH, eval_batch_size=64, num_workers=0, learning_rate=RATE, weight_decay=DECAY, seed=seed,
            num_epochs=epochs, output_dir=folder, eval_strategy="no", save_strategy="no", early_stopping=False,
            load_best_at_end=False, mixed_precision=False, metrics=["mcc"], logging_steps=1000,
            **{"scheduler.type": "linear", "scheduler.warmup_ratio": WARM_UP, "optimizer.max_grad_norm": 1.0})
        trainer.train()
        return float(trainer.evaluate()["eval_mcc"])


def torch_model(seed: int) -> tuple[Any, Any, Any]:
    "The same weights in transformers, their tokenizer, and an optimizer."
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from mlx_bert_training.models.weights import resolve_pretrained
    torch.manual_seed(seed)
    place = str(resolve_pretrained("all-MiniLM-L6-v2"))
    model = AutoModelForSequenceClassification.from_pretrained(place, num_labels=2)
    plain = [p for name, p in model.named_parameters() if "bias" in name or "LayerNorm" in name]
    decayed = [p for name, p in model.named_parameters() if "bias" not in name and "LayerNorm" not in name]
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": plain, "weight_decay": 0.0}]
    return model, AutoTokenizer.from_pretrained(place), torch.optim.AdamW(groups, lr=RATE)


def theirs(data: Path, rows: int, epochs: int, seed: int) -> float:
    "Matthews' correlation of transformers, in the usual loop."
    import torch
    from sklearn.metrics import matthews_corrcoef
    from transformers import get_linear_schedule_with_warmup
    (train, test), (model, tokenizer, optimizer) = parts(data, rows, seed), torch_model(seed)

    def batch(frame: pd.DataFrame) -> dict[str, Any]:
        made = tokenizer(frame["text"].tolist(), padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
        return {**made, "labels": torch.tensor(frame["label"].tolist())}

    updates = epochs * -(-len(train) // BATCH)
    schedule = get_linear_schedule_with_warmup(optimizer, int(WARM_UP * updates), updates)
    model.train()
    for epoch in range(epochs):
        mixed = train.sample(frac=1, random_state=1000 * seed + epoch)
        for start in range(0, len(mixed), BATCH):
            model(**batch(mixed[start:start + BATCH])).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    model.eval()
    with torch.inference_mode():
        said = [model(**batch(test[i:i + 64])).logits.argmax(-1) for i in range(0, len(test), 64)]
    return float(matthews_corrcoef(test["label"], torch.cat(said).numpy()))


SIDES = {"mlx": ours, "torch": theirs}


def report(lines: list[dict[str, Any]]) -> str:
    "For each number of rows and epochs, what both sides score, and the difference seed by seed."
    out = ["| rows | epochs | seeds | this package | transformers | difference |", "|---" * 6 + "|"]
    for rows, epochs in dict.fromkeys((line["rows"], line["epochs"]) for line in lines):
        by = {(line["side"], line["seed"]): line["mcc"] for line in lines
              if (line["rows"], line["epochs"]) == (rows, epochs)}
        seeds = sorted({seed for _, seed in by if {("mlx", seed), ("torch", seed)} <= by.keys()})
        if not seeds: continue
        mine, other = ([by[side, seed] for seed in seeds] for side in ("mlx", "torch"))
        gaps = [a - b for a, b in zip(mine, other, strict=True)]
        error = f" ± {statistics.stdev(gaps) / len(gaps) ** 0.5:.3f}" if len(gaps) > 1 else ""
        out.append(f"| {rows} | {epochs} | {len(seeds)} | {statistics.mean(mine):.3f} | {statistics.mean(other):.3f} | "
                   f"{statistics.mean(gaps):+.3f}{error} |")
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder of the corpus, or: report")
    parser.add_argument("--rows", type=int, default=2000, help="to train on, of 8,551")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", choices=list(SIDES))
    parser.add_argument("--python", default=sys.executable, help="that has torch and transformers")
    parser.add_argument("--side", choices=list(SIDES), help=argparse.SUPPRESS)      # in the process of one run
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    known = [json.loads(line) for line in args.results.read_text().splitlines()] if args.results.exists() else []
    if args.data == "report": return print(report(known))
    if args.side: return print(SIDES[args.side](Path(args.data), args.rows, args.epochs, args.seeds[0]))
    for seed in args.seeds:
        for side in SIDES if args.only is None else [args.only]:
            key = {"side": side, "rows": args.rows, "epochs": args.epochs, "seed": seed}
            if any(key.items() <= row.items() for row in known): continue
            started = time.perf_counter()
            python = args.python if side == "torch" else sys.executable
            done = subprocess.run([python, __file__, args.data, "--side", side, "--rows", str(args.rows), "--epochs",
                                   str(args.epochs), "--seeds", str(seed)],
                                  check=True, stdout=subprocess.PIPE, text=True)
            row = {**key, "mcc": float(done.stdout.split()[-1]), "seconds": round(time.perf_counter() - started, 1)}
            with args.results.open("a", encoding="utf-8") as file: file.write(json.dumps(row) + "\n")
            print(row, flush=True)


if __name__ == "__main__":
    main()
