"""A competition that trains in a second: files whose answer follows from a word, and a declaration for them."""
from __future__ import annotations

import numpy as np
import pandas as pd

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
WORDS = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "islet", "jetty"]


def write_files(folder, n=90, m=30, seed=0, target=None):
    "train.csv, test.csv and sample_submission.csv: the class follows from one of ten words, and every row has a name."
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 10, n + m)
    odd = rng.random(n + m) < 0.1
    frame = pd.DataFrame({"id": np.arange(100, 100 + n + m), "kind": [WORDS[k] for k in kinds],
                          "code": [f"row{i:03d}" for i in range(n + m)], "size": rng.integers(1, 50, n + m)})
    frame["target"] = ((kinds % 2 == 1) ^ odd).astype(int) if target is None else target(rng, kinds, frame)
    folder.mkdir(parents=True, exist_ok=True)
    frame[:n].to_csv(folder / "train.csv", index=False)
    frame[n:].drop(columns="target").to_csv(folder / "test.csv", index=False)
    sample = frame[n:][["id"]].assign(target=0 if target is None else frame["target"].iloc[0])
    sample.to_csv(folder / "sample_submission.csv", index=False)
    return frame


def declaration(folder, **sections):
    base = {
        "model": {"config": SMALL, "pooling": "mean", "dropout_rate": 0.0},
        "data": {"train_path": str(folder / "train.csv"), "test_path": str(folder / "test.csv"), "id_column": "id",
                 "target_column": "target", "template": "{kind} {code}", "max_length": 16, "batch_size": 16,
                 "num_workers": 0},
        "optimizer": {"learning_rate": 0.01},
        "training": {"num_epochs": 2, "save_strategy": "no"},
        "environment": {"output_dir": str(folder / "runs"), "run_name": "run", "device": "cpu", "compile": False},
        "kaggle": {"competition_metric": "auc", "cv_folds": 3, "submission_dir": str(folder / "submissions"),
                   "save_fold_models": False}}
    return {name: {**base.get(name, {}), **sections.get(name, {})} for name in base.keys() | sections.keys()}


def with_dropout(folder, **sections):
    "The same with dropout, so that a fold that draws other random numbers ends with other bits."
    return declaration(folder, model={"config": SMALL, "pooling": "mean", "dropout_rate": 0.1}, **sections)
