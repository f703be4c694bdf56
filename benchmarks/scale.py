"""What many machines ask of the things that they share, measured on one: a study, leases, and files.

    python benchmarks/scale.py study --trials 1000          # what a trial sends, as the study grows
    python benchmarks/scale.py workers --workers 50         # fifty workers on one database, trials of a second
    python benchmarks/scale.py leases                       # the cost of a sign of life
    python benchmarks/scale.py files --rows 100000          # tokens, plans and predictions, a row each
    python benchmarks/scale.py plan                         # the arithmetic: 1,000 trials x 5 folds over 50 machines

`--storage postgresql://...` measures a server in the place of a file of SQLite.
"""
from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
import warnings
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

SPACE = {"optimizer.learning_rate": {"low": 1e-5, "high": 1e-3, "log": True},
         "optimizer.weight_decay": {"low": 0.0, "high": 0.1}, "scheduler.warmup_ratio": {"low": 0.0, "high": 0.2},
         "training.num_epochs": {"low": 1, "high": 5}, "model.pooling": {"choices": ["mean", "cls", "max"]}}


def open_shared(folder: Path, storage: str | None, beat: int = 5) -> Any:
    "The study of a search, opened as `mlx-bert search` opens it."
    from mlx_bert_training.search.study import StudyFolder, load_search, open_study
    warnings.filterwarnings("ignore", message="Heartbeat of storage is supposed")     # these trials take no time
    config = load_search({"search": {"space": SPACE, "storage": storage}, "environment": {"output_dir": str(folder)}})
    return open_study(config, StudyFolder.of(config), "max", beat)


def make_trial(trial: Any, rng: np.random.Generator, folds: int = 5) -> float:
    "What a trial tells the study: what it draws, a score after each fold, and whether it may go on."
    from mlx_bert_training.search.space import draw
    from mlx_bert_training.search.trials import fold_step
    draw(trial, SPACE)
    trial.set_user_attr("run", f"trial-{trial.number}")
    scores = rng.normal(0.8, 0.01, folds)
    for fold, score in enumerate(scores):
        trial.report(float(score), fold_step(0, fold))
        trial.should_prune()
    return float(scores.mean())


class Statements:
    "Counts what is sent to the database of a study."

    def __init__(self, study: Any):
        from sqlalchemy import event
        self.kinds, self.bytes = Counter[str](), 0
        engine = getattr(study._storage, "_backend", study._storage).engine
        event.listen(engine, "before_cursor_execute", self.hear)
        event.listen(engine, "commit", lambda connection: self.kinds.update(["COMMIT"]))

    def hear(self, connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        self.kinds[statement.split(maxsplit=1)[0].upper()] += 1
        self.bytes += len(statement) + len(str(parameters))


def study_load(trials: int, storage: str | None) -> None:
    "One worker makes trials that take no time: all that is measured is the study."
    with tempfile.TemporaryDirectory() as name:
        study, rng = open_shared(Path(name), storage), np.random.default_rng(0)
        seen, began = Statements(study), time.perf_counter()
        marks = sorted({min(trials, mark) for mark in (10, 100, 300, 1000, 3000)} | {trials})
        heads = ("trials", "ms a trial", "reads", "writes", "commits", "KB sent", "MB on disk")
        print(*(f"{head:>11}" for head in heads))
        done = 0
        for mark in marks:
            seen.kinds.clear()
            seen.bytes, first = 0, done
            began = time.perf_counter()
            while done < mark:
                trial = study.ask()
                study.tell(trial, make_trial(trial, rng))
                done += 1
            count, seconds = max(1, done - first), time.perf_counter() - began
            writes = sum(seen.kinds[kind] for kind in ("INSERT", "UPDATE", "DELETE"))
            size = sum(path.stat().st_size for path in Path(name).rglob("study.db")) / 2**20
            values = (1000 * seconds / count, seen.kinds["SELECT"] / count, writes / count,
                      seen.kinds["COMMIT"] / count, seen.bytes / 1024 / count, size)
            print(f"{done:>11}", *(f"{value:>11.1f}" for value in values), flush=True)


def workers_load(workers: int, trials: int, seconds: float, storage: str | None) -> None:
    "Workers with a connection each make trials at once; `seconds` is how long one takes, spread over its folds."
    with tempfile.TemporaryDirectory() as name:
        open_shared(Path(name), storage)
        left, errors, waits, lock = [trials], Counter[str](), list[float](), threading.Lock()

        def work(number: int) -> None:
            study, rng = open_shared(Path(name), storage), np.random.default_rng(number)
            while True:
                with lock:
                    if left[0] <= 0: return
                    left[0] -= 1
                began = time.perf_counter()
                try:
                    trial = study.ask()
                    value = make_trial(trial, rng)
                    study.tell(trial, value)
                except Exception as error: errors[type(error).__name__] += 1
                with lock: waits.append(time.perf_counter() - began)
                time.sleep(seconds)

        began = time.perf_counter()
        threads = [threading.Thread(target=work, args=(number,)) for number in range(workers)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        whole = time.perf_counter() - began
        study = open_shared(Path(name), storage)
        finished = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
        numbers = {trial.number for trial in study.trials}
        print(f"{workers} workers, {trials} trials of {seconds:g} s: {len(finished)} finished, {len(numbers)} numbers",
              f"in {whole:.0f} s, {len(finished) / whole:.1f} trials/s; waits for the study {median(waits):.2f} s a "
              f"trial (at most {max(waits):.1f}); errors {dict(errors) or 'none'}")


def leases_load() -> None:
    "How long a sign of life takes, and a whole lease."
    from mlx_bert_training.lease import BEAT, Lease
    with tempfile.TemporaryDirectory() as name:
        began = time.perf_counter()
        for _ in range(200):
            with Lease(Path(name) / "run"): pass
        whole = (time.perf_counter() - began) / 200
        with Lease(Path(name) / "run") as lease:
            assert lease.pulse is not None
            began = time.perf_counter()
            for _ in range(1000): lease.pulse.beat()
            beat = (time.perf_counter() - began) / 1000
    print(f"a lease taken and given back: {1000 * whole:.1f} ms; a sign of life: {1e6 * beat:.0f} us (stat, open, "
          f"read, utime), every {BEAT:.0f} s")


def files_load(rows: int, words: int) -> None:
    "Bytes on disk of tokens, of a job and of a fold's predictions, per row."
    import tokens_on_disk

    from mlx_bert_training import create_kaggle_trainer
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokens_on_disk.write_table(folder / "train.csv", rows, words)
        trainer = create_kaggle_trainer(config={
            "model": {"config": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                                 "intermediate_size": 16}},
            "data": {"train_path": str(folder / "train.csv"), "target_column": "label", "text_column": "text",
                     "tokens": "disk", "max_length": 64, "num_workers": 1},
            "training": {"max_steps": 1, "save_strategy": "no"}, "environment": {"output_dir": str(folder)},
            "kaggle": {"competition_metric": "auc", "cv_folds": 5, "save_fold_models": False}})
        report_files(trainer, rows, folder)


def report_files(trainer: Any, rows: int, folder: Path) -> None:
    "Print what the files of a plan take."
    import pickle

    from mlx_bert_training.core.run_folder import RunFolder
    from mlx_bert_training.parallel.executor import Shared
    from mlx_bert_training.stages.jobs import FoldJob, fold_oof
    plan = trainer.plan()
    encoded = trainer.data.train.dataset.encoded
    stored = sum(path.stat().st_size for path in encoded.files.folder.iterdir())
    shared = Shared(plan, folder)
    job = FoldJob(shared, 0, RunFolder(folder / "fold"))
    small, whole = len(pickle.dumps(job)), shared.path.stat().st_size
    held = np.linspace(0, 1, len(job.held))
    fold_oof(job, held, None, plan.identity).save(folder / "fold.npz")
    prediction = (folder / "fold.npz").stat().st_size
    tokens = len(encoded.ids)
    text = (folder / "train.csv").stat().st_size
    print(f"{rows:,} rows, {text / rows:.0f} bytes of text and {tokens / rows:.1f} tokens a row")
    for what, size in (("tokens on disk", stored), ("plan, read by every worker", whole),
                       ("predictions of one fold", prediction)):
        print(f"{what:<28} {size / rows:>7.1f} bytes a row, {size / rows * 10 / 1000:>7.2f} GB at ten million")
    print(f"{'a job beside the plan':<28} {small:>7,} bytes")


def plan_load(args: argparse.Namespace) -> None:
    "The arithmetic, from figures that the other commands measured."
    trials, folds, machines = args.trials, 5, args.machines
    per_machine = trials / machines
    trial = args.minutes * 60
    print(json.dumps({
        "folds": trials * folds, "trials a machine": per_machine, "hours": per_machine * args.minutes / 60,
        "trials ended a second": machines / trial, "statements a second": machines / trial * args.statements,
        "heartbeats a second": machines / 5, "signs of life of leases a second": 3 * machines / 10}, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("study", "workers", "leases", "files", "plan"))
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a trial of `workers`")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--words", type=int, default=20)
    parser.add_argument("--machines", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=10.0, help="of a trial of `plan`, all its folds")
    parser.add_argument("--statements", type=float, default=100.0, help="of a trial, as `study` measured")
    parser.add_argument("--storage", help="URL of a database; default: a file of SQLite in a temporary folder")
    args = parser.parse_args()
    if args.what == "study": study_load(args.trials, args.storage)
    elif args.what == "workers": workers_load(args.workers, args.trials, args.seconds, args.storage)
    elif args.what == "leases": leases_load()
    elif args.what == "files": files_load(args.rows, args.words)
    else: plan_load(args)


if __name__ == "__main__": main()
