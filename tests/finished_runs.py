"""Finished competitions of 80 rows with all that is hard to read, for tests of bundles."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from mlx_bert_training.data.tokenization import tiny_tokenizer
from mlx_bert_training.factory import create_kaggle_trainer
from mlx_bert_training.models.create import create_model

WORDS = ["red", "green", "blue", "Ünder", "two words", "a, b", 'say "so"', "line\nbreak", "0", "nan?"]
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
TEMPLATE = "{age} years, {code} {word}: {fare:.2f}"


def rows(n: int, seed: int) -> pd.DataFrame:
    "A table with all that is hard to read: gaps, codes with zeros in front, quotes, line breaks, whole numbers."
    rng = np.random.default_rng(seed)
    return pd.DataFrame({
        "id": np.arange(n) + 1000 * seed,
        "age": [None if i % 7 == 3 else float(a) for i, a in enumerate(rng.integers(1, 90, n))],
        "code": [f"{c:03d}" for c in rng.integers(0, 200, n)], "word": rng.choice(WORDS, n),
        "fare": rng.random(n) * 100, "other": rng.choice(WORDS, n)})


def targets(head: str, frame: pd.DataFrame, answers: str = "") -> pd.DataFrame:
    "Answers that follow from the word, so that the smallest model does not say the same of all rows."
    number = frame["word"].map(WORDS.index)
    if answers == "ratings" or head == "ordinal": return pd.DataFrame({"y": 1 + number // 2})
    if head == "regression": return pd.DataFrame({"y": number * 100.5 + frame["fare"].round(2)})
    if head == "multi_regression": return pd.DataFrame({"a": number * 100.5, "b": number % 3 - frame["fare"].round(2)})
    if answers == "in a cell":
        return pd.DataFrame({"y": ["|".join(n for k, n in enumerate("abc") if i >> k & 1) or "none" for i in number]})
    if head == "multilabel": return pd.DataFrame({"a": number % 2, "b": number // 2 % 2, "c": number // 4 % 2})
    names = ["no", "yes"] if head == "binary" else ["low", "mid", "top"]
    return pd.DataFrame({"y": [names[i % len(names)] for i in number]})


def make_encoder(folder: str | Path) -> None:
    "A pretrained model with words of its own."
    tokenizer = tiny_tokenizer([f"{word} years row" for word in WORDS])
    create_model("bert_core", config={**SMALL, "vocab_size": tokenizer.vocab_size}).save_pretrained(folder)
    tokenizer.save(folder)


def make_run(home: Path, head: str, sample: pd.DataFrame | None, *, pooling: str = "mean", text: dict | None = None,
             epochs: int = 5, answers: str = "", **kaggle) -> tuple[Path, Path]:
    "A finished competition of 80 rows: the run's folder and its submission."
    home.mkdir(parents=True, exist_ok=True)
    train, test = rows(80, 1), rows(21, 2)
    answered = targets(head, train, answers)
    train.join(answered).to_csv(home / "train.csv", index=False)
    test.to_csv(home / "test.csv", index=False)
    if sample is not None:
        shown = test[["id"]].join(pd.concat([sample] * 21, ignore_index=True))
        shown.to_csv(home / "sample_submission.csv", index=False)
    text = text or {"template": TEMPLATE, "template_defaults": {"age": "unknown"}}
    trainer = create_kaggle_trainer(config={
        "model": {"config": SMALL, "head_type": head, "pooling": pooling},
        "data": {"train_path": str(home / "train.csv"), "test_path": str(home / "test.csv"), "id_column": "id",
                 "target_column": list(answered) if len(answered.columns) > 1 else "y", "max_length": 24,
                 "batch_size": 8, "num_workers": 0, **text},
        "optimizer": {"learning_rate": 0.02}, "training": {"num_epochs": epochs, "save_strategy": "no"},
        "environment": {"output_dir": str(home / "runs"), "run_name": "tiny", "compile": False, "device": "cpu"},
        "kaggle": {"cv_folds": 2, "submission_dir": str(home / "sent"), "allow_leak": "random answers", **kaggle}})
    trainer.train_with_cv()
    return home / "runs" / "tiny", trainer.create_submission().path
