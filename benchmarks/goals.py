"""What the presets score on five sets, each in one command, beside the goal that was set for them.

    python benchmarks/goals.py titanic DATA                         # the preset as it is shipped
    python benchmarks/goals.py titanic DATA --held-out 0.3          # and on rows that the run never sees
    python benchmarks/goals.py nlp_disaster DATA --rows 2000 --set kaggle.cv_folds=3 training.num_epochs=1
    python benchmarks/goals.py sst2 DATA --seed 1                   # one split, scored once on its test file
    python benchmarks/goals.py draws DATA                           # is a draw of rows put aside hard by itself?
    python benchmarks/goals.py report                               # the table of what has been run

DATA is a folder with `titanic`, `disaster-tweets` and `house-prices` (`train.csv` and `test.csv` of the competitions)
and `sst2` (`train.tsv` and `test.tsv`, `text<TAB>label` a line); German credit comes with the package. `--held-out`: a
share of the training rows is drawn by the seed and put aside as the test file, answers kept: what cross-validation
promises on the rest can be held against them. A run lies in `--runs`, and the same command goes on with it: folds that
are finished are not trained again, nor for another ensemble of the same folds. What came of it is a line of JSON in
`benchmarks/results/goals.jsonl`. Seconds are those of this command alone, `fold_seconds` those of all folds, whenever
they were trained.
"""
from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score, root_mean_squared_log_error
from sklearn.model_selection import StratifiedKFold, cross_val_score

from mlx_bert_training import create_trainer, load_config, runtime
from mlx_bert_training.declaration.load import parse_overrides
from mlx_bert_training.run import CompetitionRun, run_competition
from mlx_bert_training.validation.oof import OOF

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "goals.jsonl"
Score = Callable[[np.ndarray, np.ndarray], float]       # of answers and predictions


@dataclass(frozen=True)
class Competition:
    "A preset, where its files are, and what is aimed at."
    preset: str
    folder: str                     # in DATA; empty: the files come with the package
    goal: str
    scores: dict[str, Score]        # on rows with answers, of what is submitted
    answers: Path | None = None     # of the test rows, where they are known
    decided: bool = True            # classes are submitted, rather than probabilities or values


CLASSES: dict[str, Score] = {"accuracy": accuracy_score, "f1": f1_score}
SETS = {
    "titanic": Competition("titanic", "titanic", "accuracy >= 0.845", {"accuracy": accuracy_score}),
    "nlp_disaster": Competition("nlp_disaster", "disaster-tweets", "F1 >= 0.81, accuracy >= 0.84", CLASSES),
    "house_prices": Competition("house_prices", "house-prices", "RMSLE <= 0.122",
                                {"rmsle": root_mean_squared_log_error}, decided=False),
    "german_credit": Competition("german_credit", "", "no member better by more than its error",
                                 {"auc": roc_auc_score},
                                 HERE.parent / "tests/fixtures/german_credit_solution.csv", decided=False),
}
SST2 = "accuracy >= 0.905"


def put_aside(source: Path, target: Path, id_column: str, target_column: str, share: float, seed: int) -> pd.Series:
    "Make a competition of the training rows of another, with some of them as its test rows; their answers, by id."
    frame = pd.read_csv(source / "train.csv")
    held = frame.sample(frac=share, random_state=seed).sort_index()
    target.mkdir(parents=True, exist_ok=True)
    frame.drop(held.index).to_csv(target / "train.csv", index=False)
    held.drop(columns=target_column).to_csv(target / "test.csv", index=False)
    for name in ("sample_submission.csv", "gender_submission.csv"):
        held[[id_column]].assign(**{target_column: 0}).to_csv(target / name, index=False)
    return held.set_index(id_column)[target_column]


def bootstrapped(score: Score, answers: np.ndarray, said: np.ndarray, draws: int = 1000) -> tuple[float, float]:
    "A score, and the standard error that drawing rows again gives it."
    rng, n = np.random.default_rng(0), len(answers)
    drawn = (rng.integers(0, n, n) for _ in range(draws))
    return float(score(answers, said)), float(np.std([score(answers[rows], said[rows]) for rows in drawn], ddof=1))


def said_by(member: OOF, decided: bool) -> pd.Series:
    "What a member alone would submit, by id, with the usual threshold of one half."
    values = np.asarray(member.test_predictions)
    if values.ndim == 2: values = values.argmax(axis=1) if decided else values[:, 1]
    return pd.Series(values, index=np.asarray(member.test_ids))


def unseen_scores(run: CompetitionRun, goal: Competition, answers: pd.Series) -> dict[str, dict[str, list[float]]]:
    "Scores with their errors on rows with answers: of what is submitted, and of each member alone."
    assert run.submission is not None
    frame = pd.read_csv(run.submission.path)
    submitted = frame.set_index(frame.columns[0])[frame.columns[1]]
    members = {member.name: said_by(member, goal.decided) for member in run.result.combined.members}
    found = {}
    for name, said in {"submitted": submitted, **members}.items():
        said.index = said.index.astype(str)
        values = said.reindex(answers.index.astype(str)).to_numpy()
        found[name] = {metric: [round(x, 4) for x in bootstrapped(score, answers.to_numpy(), values)]
                       for metric, score in goal.scores.items()}
    return found


def competition(goal: Competition, args: argparse.Namespace) -> dict[str, Any]:
    "Run a preset, and say what it came to."
    answers, options = None, {**parse_overrides(args.set), "environment.seed": args.seed}
    if goal.folder: options["kaggle.data_dir"] = str(args.data / goal.folder)
    if goal.answers is not None: answers = pd.read_csv(goal.answers, index_col=0).iloc[:, 0]
    if args.held_out:
        data = load_config(goal.preset).data
        folder = args.runs / "data" / f"{goal.preset}-{args.held_out}-{args.seed}"
        options["kaggle.data_dir"] = str(folder)
        answers = put_aside(args.data / goal.folder, folder, str(data.id_column), str(data.target_column),
                            args.held_out, args.seed)
    if args.rows: options["data.max_train_rows"] = args.rows
    run = run_competition(goal.preset, **{
        **options, "environment.output_dir": str(args.runs), "environment.run_name": goal.preset,
        "kaggle.submission_dir": str(args.runs / "submissions")})
    print(run)
    result = run.result
    scores = {score.name: [round(score.mean, 4), round(score.standard_error, 4), round(score.pooled, 4)]
              for score in result.scores()}
    other = {}
    if goal.decided:        # the answers out of fold, decided as the submission is, for scores beside the metric
        rule, p = result.rule, result.oof.predictions
        chosen = (p[:, 1] >= rule.value).astype(int) if getattr(rule, "value", None) is not None else p.argmax(axis=1)
        known = result.oof.folds >= 0
        other = {metric: round(float(score(result.oof.targets[known], chosen[known])), 4)
                 for metric, score in goal.scores.items()}
    return {"goal": goal.goal, "metric": result.metric, "score": round(result.mean, 4),
            "error": round(result.standard_error, 4), "folds": len(result.run.runs), "rows": len(result.oof.targets),
            "submitted": result.combined.description, "members": scores, "all rows at once": other,
            "unseen": unseen_scores(run, goal, answers) if answers is not None else {},
            "fold_seconds": round(float(result.table()["seconds"].sum()), 1)}


def sst2(args: argparse.Namespace) -> dict[str, Any]:
    "Fine-tune on the 6,920 sentences and score the last weights once on the test file."
    files = {}
    for part in ("train", "test"):
        lines = (args.data / f"sst2/{part}.tsv").read_text(encoding="utf-8").splitlines()
        frame = pd.DataFrame([line.rsplit("\t", 1) for line in lines if line.strip()], columns=["text", "label"])
        files[part] = str(args.runs / f"sst2-{part}.csv")
        frame.to_csv(files[part], index=False)
    recipe = {"data.batch_size": 32, "data.eval_batch_size": 64, "data.max_length": 80, "optimizer.learning_rate": 1e-4,
              "scheduler.type": "linear", "scheduler.warmup_ratio": 0.1, "training.num_epochs": 3,
              **parse_overrides(args.set)}
    if args.rows: recipe["data.max_train_rows"] = args.rows
    trainer = create_trainer(config="minilm", train_path=files["train"], validation_path=files["test"],
                             text_column="text", target_column="label", seed=args.seed, output_dir=str(args.runs),
                             eval_strategy="no", save_strategy="no", early_stopping=False, load_best_at_end=False,
                             logging_steps=20, metrics=["accuracy", "auc"], **recipe)
    result = trainer.train()
    scores = {name.removeprefix("eval_"): round(value, 4) for name, value in trainer.evaluate().items()}
    rows = trainer.val_loader.num_examples
    return {"goal": SST2, "metric": "accuracy", "score": scores["accuracy"], "updates": result.steps,
            "error": round((scores["accuracy"] * (1 - scores["accuracy"]) / rows) ** 0.5, 4),
            "rows": trainer.train_loader.num_examples, "test_rows": rows, "unseen": {"MiniLM": scores}}


def draws(data: Path, share: float, seeds: int) -> str:
    "What the rule of sex and scikit-learn's trees, without this package, score in folds and on the rows put aside."
    frame = pd.read_csv(data / "titanic/train.csv")
    known = frame[["Pclass", "Age", "SibSp", "Parch", "Fare"]].assign(
        male=frame.Sex.eq("male"), cabin=frame.Cabin.notna(), port=frame.Embarked.map({"S": 0, "C": 1, "Q": 2}))
    x, y, rule = known.astype(float), frame.Survived, frame.Sex.eq("female").astype(int).eq(frame.Survived)
    lines = ["| draw | women survive: rest | put aside | trees: five folds of the rest | put aside |", "|---" * 5 + "|"]
    for seed in range(seeds):
        held = frame.sample(frac=share, random_state=seed).index
        rest = frame.index.difference(held)
        trees = HistGradientBoostingClassifier(max_iter=60, learning_rate=0.08, max_leaf_nodes=8, min_samples_leaf=15)
        folds = StratifiedKFold(5, shuffle=True, random_state=0)
        inside = cross_val_score(trees, x.loc[rest], y[rest], cv=folds).mean()
        outside = trees.fit(x.loc[rest], y[rest]).score(x.loc[held], y[held])
        lines.append(f"| {seed} | {rule[rest].mean():.3f} | {rule[held].mean():.3f} | {inside:.3f} | {outside:.3f} |")
    return "\n".join(lines)


def report(lines: list[dict[str, Any]]) -> str:
    "A line for each run, as Markdown."
    table = ["| set, what was declared | goal | score | members | unseen rows | wall, s | processor, s |",
             "|---" * 7 + "|"]
    for row in lines:
        key = row["key"]
        said = [key["set"], *key["declared"]]
        if key["held_out"]: said.append(f"--held-out {key['held_out']}")
        if key["rows"]: said.append(f"--rows {key['rows']}")
        said.append(f"seed {key['seed']}")
        members = ", ".join(f"{name} {values[0]:.4f}" for name, values in row.get("members", {}).items())
        unseen = "; ".join(f"{name} " + ", ".join(f"{metric} {value if isinstance(value, float) else value[0]}"
                                                  for metric, value in scores.items())
                           for name, scores in row["unseen"].items())
        out = f"{row['metric']} {row['score']:.4f} ± {row['error']:.4f}"
        table.append("| " + " | ".join([" ".join(said), row["goal"], out, members, unseen, f"{row['seconds']:.0f}",
                                        f"{row['cpu_seconds']:.0f}"]) + " |")
    return "\n".join(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=[*SETS, "sst2", "draws", "report"])
    parser.add_argument("data", type=Path, nargs="?", help="folder of the sets")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="other than the preset says")
    parser.add_argument("--rows", type=int, help="no more training rows than this")
    parser.add_argument("--held-out", type=float, help="share of the training rows that is put aside, with answers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/goals"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.name == "report":
        return print(report([json.loads(line) for line in args.results.read_text(encoding="utf-8").splitlines()]))
    if args.data is None and args.name != "german_credit": parser.error("say where the data are, or report")
    if args.name == "draws": return print(draws(args.data, args.held_out or 0.3, 5))
    args.runs.mkdir(parents=True, exist_ok=True)
    key = {"set": args.name, "declared": args.set, "rows": args.rows, "held_out": args.held_out, "seed": args.seed}
    started, before = time.perf_counter(), os.times()
    found = sst2(args) if args.name == "sst2" else competition(SETS[args.name], args)
    after = os.times()
    row = {"key": key, **found, "seconds": round(time.perf_counter() - started, 1),
           "cpu_seconds": round(sum(after[:4]) - sum(before[:4]), 1), "load": round(os.getloadavg()[1], 1),
           "device": str(runtime.select_device("auto").type).removeprefix("DeviceType.")}
    args.results.parent.mkdir(exist_ok=True)
    with args.results.open("a", encoding="utf-8") as file: file.write(json.dumps(row) + "\n")
    print(json.dumps(row, indent=1), flush=True)


if __name__ == "__main__":
    main()
