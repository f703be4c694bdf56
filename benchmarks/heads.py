"""What a short fine-tuning run scores on a task of each kind, beside a simple model on the same rows.

    python benchmarks/heads.py wnut17 --data DIR --rows 1000 --epochs 3     # names in tweets: F1 of spans
    python benchmarks/heads.py stsb --data DIR                              # how alike two sentences are: correlations
    python benchmarks/heads.py goemotions --data DIR                        # several emotions a comment: F1
    python benchmarks/heads.py commonlit --data DIR                         # how hard a text is to read: RMSE
    python benchmarks/heads.py report                                       # the table of what has been run

DIR is the folder of one set, with the files as their authors publish them: `wnut17train.conll` and
`emerging.test.annotated`; `stsb-en-train.csv` and `stsb-en-test.csv`; `train.tsv`, `test.tsv` and `labels.txt`;
`train.csv`, of which 600 rows are the test. `--rows` are drawn to train on; the last weights are scored once, on the
whole test part or on `--test-rows` of it, so that nothing is chosen there. Results are lines of JSON in
`benchmarks/results/heads.jsonl`.
"""
from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer

from mlx_bert_training import create_trainer, runtime
from mlx_bert_training.data.baselines import baseline_scores
from mlx_bert_training.data.frames import read_frame
from mlx_bert_training.declaration.load import parse_overrides
from mlx_bert_training.tasks.metrics import compute_metrics

RESULTS = Path(__file__).parent / "results" / "heads.jsonl"
RECIPE: dict[str, Any] = {
    "model": {"pretrained": "all-MiniLM-L6-v2"},
    "data": {"batch_size": 16, "eval_batch_size": 64, "num_workers": 0},
    "scheduler": {"type": "linear", "warmup_ratio": 0.1},
    "training": {"mixed_precision": False, "eval_strategy": "no", "save_strategy": "no", "early_stopping": False,
                 "load_best_at_end": False, "logging_steps": 50},
}


@dataclass(frozen=True)
class Rows:
    "A set: its rows, and what a declaration says of them."
    train: pd.DataFrame
    test: pd.DataFrame
    declaration: dict[str, Any]
    metrics: list[str]
    baseline: Callable[[Any], dict[str, dict[str, float]]] | None = None   # of prepared data; None: the package's own


def conll(path: Path, folder: Path) -> pd.DataFrame:
    "A file of CoNLL's format, whatever its ending."
    return read_frame(shutil.copy(path, folder / f"{path.stem}.conll"))


def wnut17(data: Path, folder: Path) -> Rows:
    "WNUT-17 (Derczynski and others, 2017, https://aclanthology.org/W17-4418): new names of six kinds."
    said = {"model": {"head_type": "token_classification"}, "optimizer": {"learning_rate": 2e-4},
            "data": {"text_column": "tokens", "target_column": "tags", "max_length": 96}}
    return Rows(conll(data / "wnut17train.conll", folder), conll(data / "emerging.test.annotated", folder), said,
                ["span_f1", "span_precision", "span_recall", "word_accuracy"])


def cosine_scores(prepared: Any) -> dict[str, dict[str, float]]:
    "The cosine of TF-IDF vectors of both sentences, which no score is needed for."
    first, second = prepared.texts["validation"]
    words = TfidfVectorizer(sublinear_tf=True).fit([*prepared.texts["train"].first, *prepared.texts["train"].second])
    cosine = np.asarray(words.transform(first).multiply(words.transform(second)).sum(axis=1)).ravel()
    return {"TF-IDF cosine": compute_metrics(["pearson", "spearman"], "regression", cosine,
                                             prepared.validation.labels)}


def stsb(data: Path, folder: Path) -> Rows:
    "The STS benchmark (Cer and others, 2017, https://aclanthology.org/S17-2001): 0 to 5, how alike two sentences are."
    train, test = (pd.read_csv(data / f"stsb-en-{part}.csv", names=["first", "second", "score"])
                   for part in ("train", "test"))
    said = {"model": {"head_type": "regression", "pooling": "mean"}, "optimizer": {"learning_rate": 1e-4},
            "data": {"text_column": "first", "text_pair_column": "second", "target_column": "score", "max_length": 96}}
    return Rows(train, test, said, ["pearson", "spearman"], cosine_scores)


def goemotions(data: Path, folder: Path) -> Rows:
    "GoEmotions (Demszky and others, 2020, https://aclanthology.org/2020.acl-main.372): 28 emotions of a comment."
    names = (data / "labels.txt").read_text(encoding="utf-8").split()
    parts = []
    for part in ("train", "test"):
        frame = pd.read_csv(data / f"{part}.tsv", sep="\t", names=["text", "labels", "id"], quoting=3)
        parts.append(frame.assign(labels=[",".join(names[int(i)] for i in cell.split(","))
                                          for cell in frame["labels"].astype(str)]))
    said = {"model": {"head_type": "multilabel_classification", "pooling": "mean"},
            "optimizer": {"learning_rate": 2e-4},
            "data": {"text_column": "text", "target_column": "labels", "label_separator": ",", "max_length": 64}}
    return Rows(*parts, said, ["micro_f1", "macro_f1", "auc"])


def commonlit(data: Path, folder: Path) -> Rows:
    "The CommonLit Readability Prize: how easily pupils read a text, by the judgement of teachers."
    frame = pd.read_csv(data / "train.csv")[["excerpt", "target"]].sample(frac=1, random_state=0)
    said = {"model": {"head_type": "regression", "pooling": "mean", "dropout_rate": 0.0},
            "optimizer": {"learning_rate": 1e-4},
            "data": {"text_column": "excerpt", "target_column": "target", "max_length": 256}}
    return Rows(frame[:-600], frame[-600:], said, ["rmse", "pearson"])


SETS = {"wnut17": wnut17, "stsb": stsb, "goemotions": goemotions, "commonlit": commonlit}


def one_run(name: str, data: Path, rows: int, test_rows: int | None, epochs: int, seed: int,
            declared: list[str]) -> list[dict[str, Any]]:
    "Train on some rows, score on the test part: a line for the model and one for each simple model."
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        made = SETS[name](data, folder)
        train = made.train.sample(min(rows, len(made.train)), random_state=seed)
        test = made.test if test_rows is None else made.test.sample(min(test_rows, len(made.test)), random_state=seed)
        files = {}
        for part, frame in (("train", train), ("validation", test)):
            files[f"{part}_path"] = str(folder / f"{part}.jsonl")
            frame.to_json(files[f"{part}_path"], orient="records", lines=True)
        config = {part: {**RECIPE.get(part, {}), **made.declaration.get(part, {})}
                  for part in {*RECIPE, *made.declaration}}
        config["data"] |= files
        config["training"] |= {"metrics": made.metrics}
        trainer = create_trainer(config=config, num_epochs=epochs, seed=seed, output_dir=place,
                                 **parse_overrides(declared))
        key = {"set": name, "rows": len(train), "test_rows": len(test), "epochs": epochs, "seed": seed}
        if declared: key["declared"] = " ".join(declared)
        if made.baseline is not None: simple = made.baseline(trainer.data)
        else: simple = baseline_scores(trainer.data, made.metrics).T.to_dict()
        lines = [{**key, "model": model, **scores} for model, scores in simple.items()]
        started = time.perf_counter()
        trainer.train()
        seconds = round(time.perf_counter() - started, 1)
        scores = {metric.removeprefix("eval_"): value for metric, value in trainer.evaluate().items()}
    device = str(runtime.select_device("auto").type).removeprefix("DeviceType.")
    return [*lines, {**key, "model": "MiniLM", **scores, "seconds": seconds, "device": device}]


def report(results: list[dict[str, Any]]) -> str:
    "A table for each set, as Markdown."
    parts = []
    for name in dict.fromkeys(row["set"] for row in results):
        frame = pd.DataFrame([row for row in results if row["set"] == name]).drop(
            columns=["set", "loss", "seconds", "device"], errors="ignore").astype(object).fillna("")
        heads = [str(column) for column in frame.columns]
        cells = [[f"{value:.3f}" if isinstance(value, float) else str(value) for value in row]
                 for row in frame.itertuples(index=False)]
        parts += [f"**{name}**", "", *(f"| {' | '.join(line)} |" for line in [heads, ["---"] * len(heads), *cells]), ""]
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=[*SETS, "report"])
    parser.add_argument("--data", type=Path, help="the folder of the set")
    parser.add_argument("--rows", type=int, default=1000, help="to train on")
    parser.add_argument("--test-rows", type=int, help="to test on; all of them where this is left out")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", dest="declared",
                        help="other than the recipe")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.set == "report":
        lines = args.results.read_text(encoding="utf-8").splitlines()
        return print(report([json.loads(line) for line in lines]))
    if args.data is None: parser.error("--data: say where the files of the set are")
    for row in one_run(args.set, args.data, args.rows, args.test_rows, args.epochs, args.seed, args.declared):
        print(row, flush=True)
        args.results.parent.mkdir(exist_ok=True)
        with args.results.open("a", encoding="utf-8") as file: file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
