"""What `auto` makes of four sets within a time, beside the presets in the same time and a linear model.

    python benchmarks/auto.py DATA --time 3m                # all sets; results are kept as they come, and go on
    python benchmarks/auto.py DATA --time 3m --sets titanic sst2
    python benchmarks/auto.py --report

DATA is a folder as `techniques.py` reads it: SST-2, Disaster Tweets, Titanic, German credit. Of each set some rows are
drawn to learn from (`--rows` at most) and 400 others to be scored on, whose answers nobody sees. `auto` gets two tables
and the name of the target; the preset gets the same files and `kaggle.time_budget`. Seconds are of the whole call.
"""
from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import techniques
from sklearn.metrics import accuracy_score, roc_auc_score

from mlx_bert_training import create_kaggle_trainer
from mlx_bert_training.declaration.durations import seconds_of
from mlx_bert_training.errors import MLXBertError
from mlx_bert_training.search.auto import auto, linear_fit

RESULTS = Path(__file__).parent / "results" / "auto.jsonl"
PRESETS = {"sst2": "generic_text", "disaster-tweets": "generic_text", "titanic": "titanic",
           "german-credit": "german_credit"}
TEST = 400


def scores_of(values: Any, answers: np.ndarray) -> dict[str, float]:
    "Accuracy and AUC of probabilities of the second class."
    positive = np.asarray(values).reshape(len(answers), -1)[:, -1]
    return {"accuracy": float(accuracy_score(answers, positive > 0.5)), "auc": float(roc_auc_score(answers, positive))}


def with_auto(train: Path, test: Path, target: str, limit: str, folder: Path) -> tuple[Any, dict[str, Any]]:
    "Predictions of `auto`, and what it came to."
    result = auto(train, test, target=target, time_budget=limit, output_dir=folder)
    assert result.predictions is not None
    folds = len(result.cv.run.runs) if result.cv is not None else 0
    return result.predictions.values, {"folds": folds, "said": result.decisions[-2]}


def with_preset(name: str, train: Path, test: Path, target: str, limit: str,
                folder: Path) -> tuple[Any, dict[str, Any]]:
    "Predictions of a preset in the same time."
    overrides: dict[str, Any] = {"text_column": "text"} if PRESETS[name] == "generic_text" else {}
    trainer = create_kaggle_trainer(
        config=PRESETS[name], train_path=str(train), test_path=str(test), target_column=target, id_column=None,
        time_budget=limit, download_data=False, data_dir=None, output_dir=str(folder), sample_path=None,
        submission_dir=str(folder), **overrides)
    cv = trainer.train_with_cv(dashboard=False)
    return cv.test_predictions, {"folds": len(cv.run.runs), "said": cv.headline()[0]}


def with_linear(train: Path, test: Path, target: str, folder: Path) -> Any:
    "Predictions of the package's linear model on what `auto` reads."
    from mlx_bert_training.search.look import look_at
    facts = look_at(pd.read_csv(train), pd.read_csv(test), target)
    config = {"model": {"config": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                                   "intermediate_size": 16}}, "kaggle": {}}
    data = create_kaggle_trainer(config=config, **{**facts.settings, "data.train_path": str(train),
                                                   "data.test_path": str(test)}).data
    return linear_fit(data, np.arange(data.train.num_examples), "test", np.arange(data.test.num_examples))


def one_set(name: str, rows: techniques.Rows, size: int, limit: str) -> None:
    "Run what is missing of one set, and keep it."
    target = rows.data["target_column"]
    shuffled = rows.frame.sample(frac=1, random_state=0)
    answers = shuffled[:TEST][target].astype(int).to_numpy()
    done = {(row["set"], row["side"]) for row in read_results()}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        train, test = folder / "train.csv", folder / "test.csv"
        shuffled[TEST:TEST + size].to_csv(train, index=False)
        shuffled[:TEST].drop(columns=target).to_csv(test, index=False)
        sides = {"linear": lambda: (with_linear(train, test, target, folder), {}),
                 "auto": lambda: with_auto(train, test, target, limit, folder),
                 "preset": lambda: with_preset(name, train, test, target, limit, folder / "preset")}
        for side, run in sides.items():
            if (name, side) in done: continue
            began = time.perf_counter()
            try:
                values, facts = run()
                facts |= scores_of(values, answers)
            except MLXBertError as error: facts = {"said": str(error)}     # a preset that does not fit into the time
            row = {"set": name, "side": side, "rows": min(size, len(shuffled) - TEST), "time": seconds_of(limit),
                   "seconds": round(time.perf_counter() - began, 1), "load": os.getloadavg()[0], **facts}
            with RESULTS.open("a") as file: file.write(json.dumps(row) + "\n")
            print(row, flush=True)


def read_results() -> list[dict[str, Any]]:
    "What has been run."
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def report() -> None:
    "The table of what has been run."
    table = pd.DataFrame(read_results())
    for name in ("accuracy", "auc"): table[name] = table[name].map("{:.3f}".format).replace("nan", "does not fit")
    print("| set | rows | side | accuracy | AUC | folds | seconds (of) | load |\n|---|---|---|---|---|---|---|---|")
    for row in table.astype(object).fillna("").itertuples():
        limit = f" ({row.time:.0f})" if row.side != "linear" else ""
        folds = "" if row.folds == "" else f"{row.folds:.0f}"
        print(f"| {row.set} | {row.rows} | {row.side} | {row.accuracy} | {row.auc} | {folds} | "
              f"{row.seconds:.0f}{limit} | {row.load:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="a folder of sets")
    parser.add_argument("--sets", nargs="+", default=list(PRESETS))
    parser.add_argument("--time", default="3m", help="budget of a run (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=2000, help="to learn from, at most (default: %(default)s)")
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    if not args.report:
        sets = techniques.read_sets(args.data)
        for name in args.sets: one_set(name, sets[name], args.rows, args.time)
    report()


if __name__ == "__main__": main()
