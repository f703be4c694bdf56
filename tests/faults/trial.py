"""A toy run and a toy competition in a process of their own, to be hurt from outside: python trial.py KIND FOLDER."""
from __future__ import annotations

import hashlib
import json
import os
import resource
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from tiny_competition import declaration, write_files  # noqa: E402
from toys import ToyLoader, ToyModel, toy_config  # noqa: E402

from mlx_bert_training import create_kaggle_trainer  # noqa: E402
from mlx_bert_training.callbacks import MetricsLogger, ModelCheckpoint  # noqa: E402
from mlx_bert_training.core.base import Trainer  # noqa: E402
from mlx_bert_training.core.checkpoint import latest_checkpoint  # noqa: E402
from mlx_bert_training.core.weights import model_weights  # noqa: E402
from mlx_bert_training.stages.identity import array_digest  # noqa: E402


def train(folder: Path) -> dict[str, str]:
    "Many epochs of updates of two windows each, a checkpoint every other update, an evaluation every third."
    config = toy_config(folder, num_epochs=24, gradient_accumulation_steps=2, eval_strategy="steps", eval_steps=3,
                        load_best_at_end=False, logging_steps=1)
    trainer = Trainer(ToyModel(dropout=0.3), config, callbacks=[
        ModelCheckpoint("steps", save_steps=2, save_total_limit=2), MetricsLogger()])
    begun = folder / "toy" / "checkpoints"
    newest = latest_checkpoint(begun) if begun.is_dir() else None
    if newest is None and (folder / "toy").is_dir(): trainer.output_dir = folder / "toy"     # killed before the first
    result = trainer.train(ToyLoader(), ToyLoader(seed=1), resume_from=newest)
    history = [{key: value for key, value in row.items() if key != "tokens_per_second"} for row in result.history]
    rows = [json.loads(line) for line in trainer.folder.metrics.read_text().splitlines()]
    return {"weights": array_digest(model_weights(trainer.model)), "history": digest(history),
            "metrics": digest([{k: v for k, v in row.items() if k != "tokens_per_second"} for row in rows])}


def compete(folder: Path) -> dict[str, str]:
    "Three folds and a second round, with checkpoints inside the folds."
    if not (folder / "train.csv").exists() or not (folder / "sample_submission.csv").exists(): write_files(folder)
    sections = declaration(
        folder, model={"dropout_rate": 0.1}, training={"num_epochs": 2, "save_strategy": "steps", "save_steps": 3},
        kaggle={"enable_pseudo_labeling": True, "pseudo_label_threshold": 0.5, "save_fold_models": True})
    result = create_kaggle_trainer(config=sections).train_with_cv()
    assert result.test_predictions is not None and result.output_dir == folder / "runs" / "run"
    return {"oof": array_digest(result.oof.predictions), "test": array_digest(np.asarray(result.test_predictions)),
            "folds": digest([array_digest(run.oofs[0].predictions) for run in result.run.runs])}


def digest(value: object) -> str: return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


if __name__ == "__main__":
    limit = int(os.environ.get("FAULT_FILE_SIZE", 0))
    if limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))     # every write beyond it is refused
    print("begun", flush=True)
    print(json.dumps({"train": train, "compete": compete}[sys.argv[1]](Path(sys.argv[2]))))
