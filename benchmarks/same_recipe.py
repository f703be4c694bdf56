"""Three sets with this package and with transformers on torch: same weights, rows, recipe and seeds; who scores what?

    python benchmarks/same_recipe.py cola --data DIR --rows 2000 --epochs 2 --seeds 0 1 2   # Matthews' correlation
    python benchmarks/same_recipe.py goemotions --data DIR --rows 3000 --epochs 3           # macro F1 of 28 emotions
    python benchmarks/same_recipe.py commonlit --data DIR --rows 800                        # RMSE
    python benchmarks/same_recipe.py cola --data DIR --only torch --python TORCH/bin/python # torch lives elsewhere
    python benchmarks/same_recipe.py report

DIR is the folder of one set, with the files as their authors publish them: the Corpus of Linguistic Acceptability
(Warstadt and others, 2019, https://arxiv.org/abs/1805.12471), `in_domain_train.tsv`, `in_domain_dev.tsv` and
`out_of_domain_dev.tsv`, of which the last two are the test; GoEmotions (Demszky and others, 2020,
https://aclanthology.org/2020.acl-main.372), `train.tsv` and `test.tsv`; the CommonLit Readability Prize, `train.csv`,
of which 600 rows are the test. Rows to train on are drawn by the seed; the test is scored once with the last weights.
Both sides read the first token, as `BertForSequenceClassification` does: dropout .1, batches of 32, AdamW (no decay of
biases and norms), a warm-up of a tenth, then down to nothing in a line, clipping at norm 1. The order of the rows and
the masks of dropout are drawn by each side for itself, so a difference is the noise of a seed and what is really
different. Results are lines of JSON in `benchmarks/results/same_recipe.jsonl`; a run that is there is not repeated.
"""
from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import f1_score, matthews_corrcoef, root_mean_squared_error

RESULTS = Path(__file__).parent / "results" / "same_recipe.jsonl"
BATCH, DECAY, WARM_UP = 32, 0.01, 0.1
EMOTIONS = 28
SAID = 0.3      # an emotion counts as said from this probability on; short trainings seldom reach a half


@dataclass(frozen=True)
class Set:
    "A set: how its files are read, what kind of task it is on either side, and how predictions are scored."
    read: Callable[[Path], tuple[pd.DataFrame, pd.DataFrame]]       # rows to draw from, and the test: text and label
    head: dict[str, Any]                # of this package's model
    outputs: int                        # numbers that transformers' head gives a text
    problem: str                        # transformers' name of the loss
    metric: str
    score: Callable[[pd.Series, np.ndarray], float]                # of answers and probabilities or values
    length: int
    rate: float = 1e-4


def cola_rows(data: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    "Sentences with 1 where they are acceptable, else 0."
    train, *tests = (pd.read_csv(data / f"{name}.tsv", sep="\t", header=None, quoting=3, usecols=[1, 3])
                     .set_axis(["label", "text"], axis=1)
                     for name in ("in_domain_train", "in_domain_dev", "out_of_domain_dev"))
    return train, pd.concat(tests, ignore_index=True)


def goemotions_rows(data: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    "Comments, and the numbers of the emotions in each, of 28."
    train, test = (pd.read_csv(data / f"{part}.tsv", sep="\t", names=["text", "label", "id"], quoting=3, dtype=str)
                   .assign(label=lambda frame: frame["label"].str.split(",")) for part in ("train", "test"))
    return train, test


def commonlit_rows(data: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    "Excerpts, and how easily they are read."
    frame = pd.read_csv(data / "train.csv").sample(frac=1, random_state=0)
    frame = frame.rename(columns={"excerpt": "text", "target": "label"})[["text", "label"]]
    return frame[:-600], frame[-600:]


def indicators(labels: pd.Series) -> np.ndarray:
    "A column of 0 and 1 for each emotion."
    return np.array([[float(str(i) in row) for i in range(EMOTIONS)] for row in labels])


def chosen(answers: pd.Series, said: np.ndarray) -> float:
    "Matthews' correlation of the likelier class."
    return float(matthews_corrcoef(answers, said.argmax(axis=1)))


def emotions(answers: pd.Series, said: np.ndarray) -> float:
    "The mean F1 of the emotions."
    return float(f1_score(indicators(answers), said >= SAID, average="macro", zero_division=0.0))


def distance(answers: pd.Series, said: np.ndarray) -> float:
    "The root of the mean squared error."
    return float(root_mean_squared_error(answers, said.reshape(-1)))


SETS = {
    "cola": Set(cola_rows, {}, 2, "single_label_classification", "mcc", chosen, 64),
    "goemotions": Set(goemotions_rows, {"head_type": "multilabel_classification"}, EMOTIONS,
                      "multi_label_classification", "macro F1", emotions, 64, 2e-4),
    "commonlit": Set(commonlit_rows, {"head_type": "regression"}, 1, "regression", "rmse", distance, 256),
}


def parts(name: str, data: Path, rows: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    "Rows to train on, and those that judge."
    train, test = SETS[name].read(data)
    return train.sample(frac=1, random_state=seed)[:rows], test


def ours(name: str, data: Path, rows: int, epochs: int, seed: int) -> float:
    "What this package scores."
    from mlx_bert_training import create_trainer
    of = SETS[name]
    train, test = parts(name, data, rows, seed)
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder, f"{part}.jsonl")) for part in ("train", "test")]
        for frame, file in zip((train, test), files, strict=True): frame.to_json(file, orient="records", lines=True)
        scaling = {"training.target_transform": "none"} if of.problem == "regression" else {}
        trainer = create_trainer(
            config={"model": {"pretrained": "all-MiniLM-L6-v2", "pooling": "cls", **of.head}},
            train_path=files[0], validation_path=files[1], text_column="text", target_column="label",
            max_length=of.length, batch_size=BATCH, eval_batch_size=64, num_workers=0, learning_rate=of.rate,
            weight_decay=DECAY, seed=seed, num_epochs=epochs, output_dir=folder, eval_strategy="no", save_strategy="no",
            early_stopping=False, load_best_at_end=False, mixed_precision=False, logging_steps=1000, **scaling,
            **{"scheduler.type": "linear", "scheduler.warmup_ratio": WARM_UP, "optimizer.max_grad_norm": 1.0})
        trainer.train()
        found = trainer.predict(test[["text"]])
    said = np.asarray(found.values)
    if of.problem == "multi_label_classification":      # an emotion that was not drawn has no column
        columns = [int(emotion) for emotion in found.class_names]
        said = np.zeros((len(test), EMOTIONS))
        said[:, columns] = found.values
    return of.score(test["label"], said)


def torch_model(of: Set, seed: int) -> tuple[Any, Any, Any]:
    "The same weights in transformers, their tokenizer, and an optimizer."
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from mlx_bert_training.models.weights import resolve_pretrained
    torch.manual_seed(seed)
    place = str(resolve_pretrained("all-MiniLM-L6-v2"))
    model = AutoModelForSequenceClassification.from_pretrained(place, num_labels=of.outputs, problem_type=of.problem)
    plain = [p for name, p in model.named_parameters() if "bias" in name or "LayerNorm" in name]
    decayed = [p for name, p in model.named_parameters() if "bias" not in name and "LayerNorm" not in name]
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": plain, "weight_decay": 0.0}]
    return model, AutoTokenizer.from_pretrained(place), torch.optim.AdamW(groups, lr=of.rate)


def theirs(name: str, data: Path, rows: int, epochs: int, seed: int) -> float:
    "What transformers scores, in the usual loop."
    import torch
    from transformers import get_linear_schedule_with_warmup
    of = SETS[name]
    (train, test), (model, tokenizer, optimizer) = parts(name, data, rows, seed), torch_model(of, seed)

    def answers(labels: pd.Series) -> torch.Tensor:
        if of.problem == "multi_label_classification": return torch.tensor(indicators(labels), dtype=torch.float)
        return torch.tensor(labels.tolist(), dtype=torch.float if of.problem == "regression" else torch.long)

    def batch(frame: pd.DataFrame) -> dict[str, Any]:
        made = tokenizer(frame["text"].tolist(), padding=True, truncation=True, max_length=of.length,
                         return_tensors="pt")
        return {**made, "labels": answers(frame["label"])}

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
        said = [model(**batch(test[i:i + 64])).logits for i in range(0, len(test), 64)]
    joined = torch.cat(said)
    return of.score(test["label"], (torch.sigmoid(joined) if of.outputs == EMOTIONS else joined).numpy())


SIDES = {"mlx": ours, "torch": theirs}


def report(lines: list[dict[str, Any]]) -> str:
    "For each set, number of rows and epochs, what both sides score, and the difference seed by seed."
    out = ["| set | score | rows | epochs | seeds | this package | transformers | difference |", "|---" * 8 + "|"]
    for name, rows, epochs in dict.fromkeys((line["set"], line["rows"], line["epochs"]) for line in lines):
        by = {(line["side"], line["seed"]): line["score"] for line in lines
              if (line["set"], line["rows"], line["epochs"]) == (name, rows, epochs)}
        seeds = sorted({seed for _, seed in by if {("mlx", seed), ("torch", seed)} <= by.keys()})
        if not seeds: continue
        mine, other = ([by[side, seed] for seed in seeds] for side in ("mlx", "torch"))
        gaps = [a - b for a, b in zip(mine, other, strict=True)]
        error = f" ± {statistics.stdev(gaps) / len(gaps) ** 0.5:.3f}" if len(gaps) > 1 else ""
        out.append(f"| {name} | {SETS[name].metric} | {rows} | {epochs} | {len(seeds)} | {statistics.mean(mine):.3f} | "
                   f"{statistics.mean(other):.3f} | {statistics.mean(gaps):+.3f}{error} |")
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=[*SETS, "report"])
    parser.add_argument("--data", type=Path, help="the folder of the set")
    parser.add_argument("--rows", type=int, default=2000, help="to train on")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", choices=list(SIDES))
    parser.add_argument("--python", default=sys.executable, help="that has torch and transformers")
    parser.add_argument("--side", choices=list(SIDES), help=argparse.SUPPRESS)      # in the process of one run
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    known = [json.loads(line) for line in args.results.read_text().splitlines()] if args.results.exists() else []
    if args.set == "report": return print(report(known))
    if args.data is None: parser.error("--data: say where the files of the set are")
    if args.side: return print(SIDES[args.side](args.set, args.data, args.rows, args.epochs, args.seeds[0]))
    for seed in args.seeds:
        for side in SIDES if args.only is None else [args.only]:
            key = {"set": args.set, "side": side, "rows": args.rows, "epochs": args.epochs, "seed": seed}
            if any(key.items() <= row.items() for row in known): continue
            started = time.perf_counter()
            python = args.python if side == "torch" else sys.executable
            done = subprocess.run([python, __file__, args.set, "--data", args.data, "--side", side, "--rows",
                                   str(args.rows), "--epochs", str(args.epochs), "--seeds", str(seed)],
                                  check=True, stdout=subprocess.PIPE, text=True)
            row = {**key, "score": float(done.stdout.split()[-1]), "seconds": round(time.perf_counter() - started, 1)}
            with args.results.open("a", encoding="utf-8") as file: file.write(json.dumps(row) + "\n")
            print(row, flush=True)


if __name__ == "__main__":
    main()
