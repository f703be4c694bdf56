"""A toy run and a toy competition in a process of their own, to be hurt there or from outside.

`python trial.py` imports all that they need and then forks a process for each line of JSON that it reads, for the
imports take longer than the runs; see `disturb.Trial`.
"""
from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import resource
import signal
import sys
import traceback
from functools import wraps
from pathlib import Path
from threading import Lock

import numpy as np
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parent.parent))

from tiny_competition import declaration, write_files  # noqa: E402
from toys import ToyLoader, ToyModel, toy_config  # noqa: E402

from mlx_bert_training import create_kaggle_trainer  # noqa: E402
from mlx_bert_training.callbacks import MetricsLogger, ModelCheckpoint  # noqa: E402
from mlx_bert_training.core.base import Trainer  # noqa: E402
from mlx_bert_training.core.checkpoint import (
    array_digest,  # noqa: E402
    latest_checkpoint,  # noqa: E402
)
from mlx_bert_training.core.evaluator import Evaluator  # noqa: E402
from mlx_bert_training.core.step import TrainingStep  # noqa: E402
from mlx_bert_training.core.weights import model_weights  # noqa: E402
from mlx_bert_training.parallel.executor import Here  # noqa: E402
from mlx_bert_training.stages import jobs  # noqa: E402


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


class Doom:
    "Counts what happens in this process, and kills it when something has happened so often."

    def __init__(self, kind: str, number: int):
        self.kind, self.number, self.seen, self.lock = kind, number, {}, Lock()

    def note(self, kind: str) -> None:
        with self.lock:
            self.seen[kind] = self.seen.get(kind, 0) + 1
            if kind == self.kind and self.seen[kind] == self.number: os.kill(os.getpid(), signal.SIGKILL)

    def after(self, owner: object, name: str, kind: str) -> None:
        "Note a moment each time that a function has done its work."
        function = getattr(owner, name)

        @wraps(function)
        def noted(*args, **options):
            value = function(*args, **options)
            self.note(kind)
            return value

        setattr(owner, name, noted)

    def watch(self, folder: Path) -> None:
        "A change is a file below the folder that is opened to be written, flushed, renamed or removed."
        self.after(TrainingStep, "accumulate", "window")            # between two batches of one update
        self.after(Evaluator, "run", "evaluation")        # before its scores are anywhere
        self.after(jobs, "train_fold", "fold trained")              # before its predictions are anywhere
        self.after(jobs.FoldJob, "run", "between folds")
        self.after(Here, "run", "between rounds")
        flush, home = os.fsync, str(folder)

        def watched(handle: int) -> None:
            doomed = self.kind == "change" and self.seen.get("change", 0) + 1 == self.number
            with contextlib.suppress(OSError):          # as when only half of it was written; folders cannot be cut
                if doomed and self.number % 2: os.truncate(f"/proc/self/fd/{handle}", os.fstat(handle).st_size // 2)
            flush(handle)
            self.note("change")

        def hear(event: str, args: tuple) -> None:
            if event == "open":
                if not (isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)): return
            elif event not in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.utime"): return
            if str(args[0]).startswith(home): self.note("change")

        os.fsync = watched
        sys.addaudithook(hear)


def lead(request: dict) -> None:
    "One trial in a fork of its own; its last line says what came of it and what could have been hurt."
    for number, path in ((1, request["out"]), (2, request["err"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    folder = Path(request["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    doom = Doom(request.get("doom", ""), request.get("number", 0))
    doom.watch(folder)
    limit = request.get("file_size", 0)
    if limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))  # more is refused
    try: result = {"train": train, "compete": compete}[request["kind"]](folder)
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(json.dumps({"result": result, "seen": doom.seen, "modules": sorted(sys.modules)}), flush=True)


def main() -> None:
    Figure.savefig = lambda _, target, **options: target.write(b"no picture: drawing takes longer than the runs")
    for line in sys.stdin:
        request = json.loads(line)
        for name in request.get("imports", ()):
            with contextlib.suppress(BaseException): importlib.import_module(name)
        child = os.fork()
        if not child:
            code = 1
            try:
                lead(request)
                code = 0
            except SystemExit as left: code = left.code if isinstance(left.code, int) else 1
            except BaseException: traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__": main()
