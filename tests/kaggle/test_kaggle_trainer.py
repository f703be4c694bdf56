"""A whole competition with tiny models: honest folds, nothing run twice, a checked submission, a score in return."""
from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pandas as pd
import pytest
from kaggle_server import Competition, KaggleServer
from mlx.optimizers import SGD
from tiny_competition import SMALL, WORDS, declaration, write_files

from mlx_bert_training import Callback, KaggleTrainer, create_kaggle_trainer, predict_file, run_training
from mlx_bert_training.cli import main
from mlx_bert_training.core.checkpoint import array_digest
from mlx_bert_training.core.resume import model_weights
from mlx_bert_training.core.step import TrainingStep
from mlx_bert_training.declaration.problems import ConfigError
from mlx_bert_training.ensemble.base import EnsembleError
from mlx_bert_training.ensemble.create import create_ensemble
from mlx_bert_training.errors import DataError, MLXBertError
from mlx_bert_training.kaggle.ledger import Ledger
from mlx_bert_training.kaggle.submission import SubmissionError
from mlx_bert_training.run import run_competition
from mlx_bert_training.stages.combine import choose_member
from mlx_bert_training.tasks.decisions import OrdinalCuts
from mlx_bert_training.tasks.metrics import MetricError, compute_metrics
from mlx_bert_training.validation.folds import make_folds
from mlx_bert_training.validation.leaks import LeakError
from mlx_bert_training.validation.oof import load_oof


@pytest.fixture
def files(tmp_path):
    write_files(tmp_path)
    return tmp_path


class Spy(Callback):
    "Notes what each run begins and ends with."

    def __init__(self):
        self.begun, self.ended, self.weights, self.train_auc = [], [], [], []

    def on_train_begin(self, trainer, state):
        self.begun.append((trainer.output_dir.name, state.step))
        if state.step == 0: self.weights.append(array_digest(model_weights(trainer.model)))

    def on_train_end(self, trainer, state):
        self.ended.append(trainer)
        outputs = trainer.predict(trainer.train_loader)
        labels = np.asarray(trainer.train_loader.labels)
        if trainer.head_type == "binary_classification":
            self.train_auc.append(compute_metrics(["auc"], trainer.head_type, outputs.values, labels)["auc"])


# ---- the whole flow


def test_from_files_to_a_valid_submission(files, capsys):
    (files / "run.json").write_text(json.dumps(declaration(
        files, kaggle={"enable_ensemble": True, "ensemble_keep": "always"})))
    assert main(["run", str(files / "run.json"), "training.num_epochs=3"]) == 0
    printed = capsys.readouterr().out
    assert "auc" in printed and "linear" in printed and "submission.csv: 30 rows, checked" in printed
    folder = files / "runs" / "run"
    table = pd.read_csv(folder / "submission.csv")
    sample = pd.read_csv(files / "sample_submission.csv")
    assert list(table.columns) == ["id", "target"] and table.id.tolist() == sample.id.tolist()
    assert table.target.between(0, 1).all() and table.target.nunique() > 2
    assert (files / "submissions" / "run.csv").read_bytes() == (folder / "submission.csv").read_bytes()
    names = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "cv.json", "cv.png", "folds", "folds.csv", "leaks.txt", "leaks.html", "oof"} <= names
    assert {path.stem for path in (folder / "oof").iterdir()} == {"run", "voting"}
    figures = json.loads((folder / "cv.json").read_text())
    assert figures["score"] == pytest.approx(load_oof(folder / "oof" / "voting.npz").score("auc").mean)
    assert len(figures["folds"]) == 3 and figures["standard_error"] > 0
    assert f"auc {figures['score']:.4f} ± {figures['standard_error']:.4f}" in printed      # no figure but the run's
    assert main(["ledger", str(files / "submissions" / "ledger.jsonl")]) == 0
    assert "auc" in capsys.readouterr().out


def test_the_score_has_an_error_and_a_table_and_a_plot(files):
    result = create_kaggle_trainer(config=declaration(files)).train_with_cv()
    values = np.array(result.score.values)
    assert result.mean == pytest.approx(values.mean())
    assert result.standard_error == pytest.approx(values.std(ddof=1) / 3 ** 0.5) and result.standard_error > 0
    table = result.table()
    assert table["auc"].tolist() == pytest.approx(values.tolist()) and table["validation"].sum() == 90
    assert (table["train"] + table["validation"] == 90).all() and (table["updates"] == 2 * 4).all()
    assert "±" in str(result) and "<table" in result._repr_html_() and result.plot().axes
    assert "chosen on the rows" not in str(result)


def test_without_a_test_file_there_is_a_score_and_no_submission(files):
    config = declaration(files)
    config["data"]["test_path"] = None
    run = run_competition(config)
    assert run.submission is None and run.result.test_predictions is None
    with pytest.raises(MLXBertError, match="test_path"): run.trainer.create_submission()


# ---- fold k's model never saw fold k's rows


def tokens_of(batch):
    "The tokens of each row of a batch, filler rows included."
    ids, mask = np.asarray(batch["input_ids"]), np.asarray(batch["attention_mask"]).astype(bool)
    return [tuple(row[real].tolist()) for row, real in zip(ids, mask, strict=True)]


def test_no_row_of_a_fold_reaches_a_gradient_of_its_model(files, monkeypatch):
    "Every row has a word of its own, so the tokens that a training step is given say which rows they are."
    seen, current = {}, []

    class Which(Callback):
        def on_train_begin(self, trainer, state): current[:] = [trainer.output_dir.name]

    def spy_on(original):
        def spied(self, batch, *rest):
            seen.setdefault(current[0], set()).update(tokens_of(batch))
            return original(self, batch, *rest)
        return spied

    for name in ("update", "accumulate"): monkeypatch.setattr(TrainingStep, name, spy_on(getattr(TrainingStep, name)))
    trainer = create_kaggle_trainer(config=declaration(files, kaggle={"cv_repeats": 2}), callbacks=[Which()])
    result = trainer.train_with_cv()
    words = {}
    for batch in trainer.data.train:
        words |= {int(row): key for row, key in zip(batch["row"], tokens_of(batch), strict=True) if row >= 0}
    assert len(set(words.values())) == 90 and len(seen) == 6
    for i, (train, held) in enumerate(result.folds):
        given = seen[f"fold-{i // 3}-{i % 3}"]
        assert given == {words[row] for row in train.tolist()}
        assert not given & {words[row] for row in held.tolist()}
        assert set(train.tolist()) | set(held.tolist()) == set(range(90))


def test_labels_that_mean_nothing_are_learnt_by_heart_and_not_predicted(tmp_path):
    "A model that had seen the rows it is judged on would know their answers."
    write_files(tmp_path, n=120, target=lambda rng, kinds, frame: rng.permutation(len(frame)) % 2)
    spy = Spy()
    config = declaration(tmp_path, training={"num_epochs": 25, "save_strategy": "no"})
    result = create_kaggle_trainer(config=config, callbacks=[spy], learning_rate=0.02).train_with_cv()
    assert len(spy.train_auc) == 3 and min(spy.train_auc) > 0.99
    assert 0.3 < result.score.pooled < 0.7


def test_equal_rows_and_groups_are_never_on_both_sides(tmp_path):
    write_files(tmp_path, n=96)
    frame = pd.read_csv(tmp_path / "train.csv")
    frame.loc[48:, ["kind", "code", "target"]] = frame.loc[:47, ["kind", "code", "target"]].to_numpy()    # twins
    frame["family"] = np.arange(96) % 12
    frame.to_csv(tmp_path / "train.csv", index=False)
    result = create_kaggle_trainer(config=declaration(tmp_path)).train_with_cv()
    assert result.leaks.duplicates is not None
    for train, held in result.folds: assert not set(train % 48) & set(held % 48)
    result = create_kaggle_trainer(config=declaration(tmp_path, kaggle={"group_column": "family"})).train_with_cv()
    for train, held in result.folds:
        assert not set(frame.family.iloc[train]) & set(frame.family.iloc[held])


def test_a_time_series_learns_from_what_came_before(tmp_path):
    write_files(tmp_path)
    frame = pd.read_csv(tmp_path / "train.csv")
    frame["day"] = pd.date_range("2024-01-01", periods=len(frame)).astype(str)
    frame.sample(frac=1, random_state=0).to_csv(tmp_path / "train.csv", index=False)
    config = declaration(tmp_path, kaggle={"cv_strategy": "time_series", "time_column": "day"})
    trainer = create_kaggle_trainer(config=config)
    result = trainer.train_with_cv()
    days = trainer.data.frames["train"]["day"]
    for train, held in result.folds: assert days.iloc[train].max() < days.iloc[held].min()
    assert (result.oof.folds == -1).sum() > 0 and np.isfinite(result.mean)


# ---- every fold from the same beginning


def test_every_fold_starts_from_the_same_weights_in_a_fresh_state(files):
    spy = Spy()
    trainer = create_kaggle_trainer(config=declaration(files, kaggle={"cv_repeats": 2}), callbacks=[spy])
    initial = array_digest(model_weights(trainer.model))
    trainer.train_with_cv()
    assert spy.weights == [initial] * 6 and [step for _, step in spy.begun] == [0] * 6
    assert array_digest(model_weights(trainer.model)) == initial
    assert len({id(fold.optimizer) for fold in spy.ended}) == 6
    assert {fold.config.environment.seed for fold in spy.ended} == {42, 43}     # a repeat has a seed of its own
    orders = {name: [rows.tolist() for rows, _ in fold.train_loader.plan(0)]
              for name, fold in zip(("first", "second"), (spy.ended[0], spy.ended[3]), strict=True)}
    assert orders["first"] != orders["second"]


def test_folds_have_no_evaluation_unless_the_epoch_may_be_chosen(files):
    spy = Spy()
    early = {"num_epochs": 3, "early_stopping": True, "load_best_at_end": True, "eval_strategy": "epoch",
             "save_strategy": "best"}
    create_kaggle_trainer(config=declaration(files, training=early), callbacks=[spy]).train_with_cv()
    assert all("eval_loss" not in row for fold in spy.ended for row in fold.state.history)
    assert all(fold.val_loader is None for fold in spy.ended)
    spy = Spy()
    config = declaration(files, training=early, kaggle={"select_epoch": True})
    result = create_kaggle_trainer(config=config, callbacks=[spy]).train_with_cv()
    assert all("eval_loss" in fold.state.history[-1] for fold in spy.ended)
    assert "the epoch was chosen on the rows that score it" in str(result)


def test_an_optimizer_of_ones_own_is_fresh_in_every_fold(files):
    spy, declared = Spy(), create_kaggle_trainer(config=declaration(files))
    mine = SGD(0.1, momentum=0.9)
    trainer = KaggleTrainer(declared.model, declared.config, data=declared.data, callbacks=[spy], optimizer=mine)
    result = trainer.train_with_cv()
    assert all(type(fold.optimizer) is SGD and int(fold.optimizer.step) == 8 for fold in spy.ended)
    assert len({id(fold.optimizer) for fold in spy.ended}) == 3 and int(mine.step) == 0
    assert not np.array_equal(result.oof.predictions, declared.train_with_cv().oof.predictions)


# ---- nothing is run twice


def test_finished_folds_are_never_run_again(files):
    first = create_kaggle_trainer(config=declaration(files)).train_with_cv()
    kept = {path: path.stat().st_mtime_ns for path in files.rglob("folds/fold-*/*.npz")}
    assert len(kept) == 3
    spy = Spy()
    again = create_kaggle_trainer(config=declaration(files), callbacks=[spy]).train_with_cv()
    assert spy.begun == [] and kept == {path: path.stat().st_mtime_ns for path in kept}
    assert again.output_dir == first.output_dir and np.array_equal(again.oof.predictions, first.oof.predictions)
    # what is done with the predictions can change without training
    changed = declaration(files, kaggle={"enable_ensemble": True, "ensemble_method": "blending"})
    result = create_kaggle_trainer(config=changed, callbacks=[spy]).train_with_cv()
    assert spy.begun == [] and result.ensemble is not None and result.output_dir == first.output_dir
    # a fold that was damaged is run again, alone, and comes out the same
    damaged = files / "runs/run/folds/fold-0-1/predictions.npz"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    repaired = create_kaggle_trainer(config=declaration(files), callbacks=[spy]).train_with_cv()
    assert spy.begun == [("fold-0-1", 0)] and np.array_equal(repaired.oof.predictions, first.oof.predictions)


@pytest.mark.parametrize("change", [{"learning_rate": 0.02}, {"seed": 7}, {"cv_folds": 2}, {"template": "{kind}"}])
def test_other_settings_get_another_folder(files, change):
    first = create_kaggle_trainer(config=declaration(files)).train_with_cv()
    before = {path: path.stat().st_mtime_ns for path in first.output_dir.rglob("*") if path.is_file()}
    other = create_kaggle_trainer(config=declaration(files), **change).train_with_cv()
    assert other.output_dir.name == "run-2"
    assert before == {path: path.stat().st_mtime_ns for path in before}
    spy = Spy()
    again = create_kaggle_trainer(config=declaration(files), callbacks=[spy], **change).train_with_cv()
    assert again.output_dir.name == "run-2" and spy.begun == []


def test_other_data_under_the_same_name_get_another_folder(files):
    create_kaggle_trainer(config=declaration(files)).train_with_cv()
    table = pd.read_csv(files / "train.csv")
    table.loc[0, "target"] = 1 - table.loc[0, "target"]
    table.to_csv(files / "train.csv", index=False)
    assert create_kaggle_trainer(config=declaration(files)).train_with_cv().output_dir.name == "run-2"


KILLED = """
    import json, os, signal, sys
    from mlx_bert_training import Callback, create_kaggle_trainer

    class Kill(Callback):
        order = 99      # after the checkpoint of the epoch
        def on_epoch_end(self, trainer, state):
            if trainer.output_dir.name == "fold-0-1" and state.epoch == 2: os.kill(os.getpid(), signal.SIGKILL)

    create_kaggle_trainer(config=json.load(open(sys.argv[1])), callbacks=[Kill()]).train_with_cv()
"""


def test_a_killed_run_goes_on_where_it_was_and_comes_to_the_same(files):
    config = declaration(files, model={"config": SMALL, "dropout_rate": 0.1},
                         training={"num_epochs": 4, "save_strategy": "epoch", "save_total_limit": 1})
    (files / "run.json").write_text(json.dumps(config))
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), str(files / "run.json")], capture_output=True)
    assert done.returncode == -signal.SIGKILL
    folds = files / "runs" / "run" / "folds"
    assert (folds / "fold-0-0" / "predictions.npz").exists() and not (folds / "fold-0-1" / "predictions.npz").exists()
    spy = Spy()
    resumed = create_kaggle_trainer(config=config, callbacks=[spy]).train_with_cv()
    assert resumed.output_dir.name == "run"
    assert [name for name, _ in spy.begun] == ["fold-0-1", "fold-0-2"]
    assert spy.begun[0][1] == 2 * 4 and spy.begun[1][1] == 0       # two epochs of four updates were done
    assert not list(folds.glob("*/checkpoints"))        # finished folds need none
    whole = create_kaggle_trainer(config={**config, "environment": {**config["environment"], "run_name": "whole"}})
    assert np.array_equal(whole.train_with_cv().oof.predictions, resumed.oof.predictions)


# ---- what is said on the way


def test_every_fold_announces_itself_in_a_log_file(files):
    "As `mlx-bert run ... > log 2>&1` shows it: what is to come, each fold with score and time, and what is left."
    (files / "run.json").write_text(json.dumps(declaration(files)))
    done = subprocess.run([sys.executable, "-m", "mlx_bert_training", "run", str(files / "run.json")], check=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("run: ")]
    assert lines[0] == ("run: 3 folds; the first trains on 60 rows, 2 epochs, 8 updates, and judges auc on 30, "
                        "30 test rows to predict")
    clock = r"\d+:\d\d"
    for number, line in enumerate(lines[1:3], 1):
        assert re.fullmatch(rf"run: fold {number} of 3, auc [01]\.\d{{4}}, took {clock}, about {clock} left", line)
    assert re.fullmatch(rf"run: fold 3 of 3, auc [01]\.\d{{4}}, took {clock}", lines[3])
    again = subprocess.run([sys.executable, "-m", "mlx_bert_training", "run", str(files / "run.json")], check=True,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert again.stdout.count("was finished before") == 3


def test_a_cell_hears_the_folds_without_any_setting_and_silence_can_be_had(files, capsys, caplog):
    create_kaggle_trainer(config=declaration(files)).train_with_cv()
    assert capsys.readouterr().out.count(" of 3, auc ") == 3
    with caplog.at_level(logging.INFO, "mlx_bert_training"):
        create_kaggle_trainer(config=declaration(files)).train_with_cv()
    assert capsys.readouterr().out == "" and sum(" of 3, auc " in m for m in caplog.messages) == 3    # not twice
    with caplog.at_level(logging.WARNING, "mlx_bert_training"):
        create_kaggle_trainer(config=declaration(files)).train_with_cv()
    assert capsys.readouterr().out == ""


# ---- repeats, ensembles, thresholds


def test_repeats_are_averaged_and_the_test_predictions_are_a_mean_over_all_folds(files):
    result = create_kaggle_trainer(config=declaration(files, kaggle={"cv_repeats": 2})).train_with_cv()
    assert len(result.run.repeats) == 2 and len(result.table()) == 6
    first, second = result.run.repeats
    assert not np.array_equal(first.folds, second.folds)
    assert np.allclose(result.oof.predictions, (first.predictions + second.predictions) / 2)
    parts = [load_oof(path) for path in sorted(files.glob("runs/run/folds/*/predictions.npz"))]
    assert len(parts) == 6
    assert np.allclose(result.test_predictions, np.mean([part.test_predictions for part in parts], axis=0))
    assert len({part.test_predictions.tobytes() for part in parts}) == 6


def test_stacking_is_no_mean_and_is_scored_on_rows_that_did_not_fit_it(files):
    made = {method: create_kaggle_trainer(config=declaration(
        files, kaggle={"enable_ensemble": True, "ensemble_method": method})).train_with_cv().ensemble
        for method in ("voting", "stacking")}
    mean = (made["voting"].oof.test_predictions, made["stacking"].oof.test_predictions)
    assert not np.allclose(*mean, atol=1e-3)
    members = [member.name for member in made["stacking"].members]
    assert members == ["run", "linear"] and made["stacking"].score.pooled != made["stacking"].naive.pooled


def test_the_linear_member_is_fitted_without_the_rows_it_predicts(tmp_path):
    "A word of its own in each row lets a linear model learn any labels by heart."
    write_files(tmp_path, n=120, target=lambda rng, kinds, frame: rng.permutation(len(frame)) % 2)
    config = declaration(tmp_path, training={"num_epochs": 1}, kaggle={"enable_ensemble": True})
    result = create_kaggle_trainer(config=config).train_with_cv()
    assert 0.3 < result.ensemble.members[1].pooled < 0.7


def member_against(files, keep: str, **sections):
    "A model that learns nothing beside a linear one that knows nearly all."
    config = declaration(files, optimizer={"learning_rate": 1e-6}, kaggle={
        "enable_ensemble": True, "ensemble_weights": [9, 1], "ensemble_keep": keep, "competition_metric": "log_loss",
        "save_fold_models": True}, **sections)
    trainer = create_kaggle_trainer(config=config, run_name=keep)
    return trainer, trainer.train_with_cv()


def test_a_member_that_is_clearly_better_is_submitted_instead_of_the_ensemble(files):
    trainer, result = member_against(files, "auto")
    combined, linear = result.combined, result.combined.members[1]
    assert combined.alone is linear and set(combined.choice.by_fold.values()) == {"linear"}
    assert result.mean == pytest.approx(linear.score("log_loss").mean) and result.mean < result.ensemble.score.mean
    table = pd.read_csv(trainer.create_submission())
    assert np.allclose(table.target, linear.test_predictions[:, 1])
    assert "submitted: linear alone because it is better than voting" in str(result)
    entry = trainer.create_submission().entry
    assert "linear alone" in entry.message and entry.cv_mean == result.mean
    assert {path.stem for path in (result.output_dir / "oof").iterdir()} == {"auto", "voting", "linear, chosen"}


def test_an_ensemble_that_was_demanded_is_submitted_with_a_word_of_caution(files):
    trainer, result = member_against(files, "always")
    assert result.combined.alone is None and result.oof is result.ensemble.oof
    caution = "voting of always and linear although linear alone has a gain"
    assert f"submitted: {caution}" in str(result) and "(ensemble_keep: always)" in str(result)
    submission = trainer.create_submission()
    assert caution in submission.entry.message
    assert np.allclose(pd.read_csv(submission).target, result.ensemble.test_predictions[:, 1])


def test_the_choice_between_ensemble_and_members_is_scored_on_folds_that_did_not_make_it(files):
    "The labels of a fold may turn round: what the others chose for it stays, and so do its predictions."
    _, result = member_against(files, "auto")
    combined, folds = result.combined, result.model.folds
    for k in range(3):
        targets = np.where(folds == k, 1 - result.model.targets, result.model.targets)
        turned = [replace(member, targets=targets) for member in combined.members]
        again = choose_member(turned, create_ensemble(turned, "voting", "log_loss", weights=[9, 1]))
        assert again.by_fold[k] == combined.choice.by_fold[k]


def test_members_of_other_runs_must_have_the_same_folds(files):
    other = create_kaggle_trainer(config=declaration(files), learning_rate=0.02, run_name="other").train_with_cv()
    members = [str(other.output_dir / "oof" / "other.npz"), "linear"]
    together = declaration(files, kaggle={"enable_ensemble": True, "ensemble_members": members})
    result = create_kaggle_trainer(config=together).train_with_cv()
    assert [member.name for member in result.ensemble.members] == ["run", "other", "linear"]
    with pytest.raises(EnsembleError, match="different folds"):
        create_kaggle_trainer(config=together, cv_folds=2).train_with_cv()
    same = declaration(files, kaggle={"folds_path": str(other.output_dir / "folds.csv")})
    assert create_kaggle_trainer(config=same, seed=7).train_with_cv().folds.hash == other.folds.hash


def test_folds_of_a_file_are_what_the_declaration_says_beside_them(tmp_path):
    write_files(tmp_path, n=60)
    frame = pd.read_csv(tmp_path / "train.csv").assign(who=np.arange(60) // 4, day=np.arange(60))
    frame.to_csv(tmp_path / "train.csv", index=False)
    folds = {name: str(make_folds(60, how, 3, order=np.arange(60), row_ids=frame["id"]).save(tmp_path / f"{name}.csv"))
             for name, how in (("any", "kfold"), ("time", "time_series"))}

    def plan(file, **kaggle):
        return create_kaggle_trainer(config=declaration(tmp_path, kaggle={"folds_path": folds[file], **kaggle})).plan()

    assert plan("any", cv_strategy="kfold").folds.n_folds == 3
    assert plan("time", time_column="day").folds.by_time
    for kaggle, message in (({"cv_folds": 5}, r"kaggle.cv_folds = 5: .*any.csv has 3: set it to 3"),
                            ({"cv_repeats": 2}, r"kaggle.cv_repeats = 2: .*any.csv has 1: set it to 1"),
                            ({"cv_strategy": "stratified"}, "has folds by kfold: set it to auto"),
                            ({"competition_type": "time_series"}, "are not by time")):
        with pytest.raises(ConfigError, match=message): plan("any", **kaggle)
    for kaggle, message in (({"group_column": "who"}, "kaggle.group_column: fold 1 of 3 .* are of one group"),
                            ({"time_column": "day"}, "kaggle.time_column: fold 1 of 3 .* which is no later")):
        with pytest.raises(DataError, match=message): plan("any", **kaggle)


def test_a_threshold_is_searched_nested_and_decides_the_submission(tmp_path):
    write_files(tmp_path, n=150, target=lambda rng, kinds, frame: ((kinds < 3) & (rng.random(len(kinds)) < 0.7)) * 1)
    config = declaration(tmp_path, kaggle={"competition_metric": "f1", "threshold_search": True})
    trainer = create_kaggle_trainer(config=config, num_epochs=6)
    result = trainer.train_with_cv()
    search = result.threshold
    assert result.use_threshold and result.score is search.score and len(search.fold_rules) == 3
    table = pd.read_csv(trainer.create_submission())
    expected = (result.test_predictions[:, 1] >= search.value).astype(int)
    assert table.target.tolist() == expected.tolist()
    # auto: not for accuracy, for which one half is right, nor for a metric of probabilities
    for metric in ("accuracy", "auc"):
        again = create_kaggle_trainer(config=config, competition_metric=metric, threshold_search="auto", num_epochs=6)
        assert again.train_with_cv().threshold is None


# ---- other tasks


def test_prices_are_learnt_as_logarithms_and_predicted_as_prices(tmp_path):
    def price(rng, kinds, frame): return np.round(100_000 * np.exp(0.2 * kinds + 0.05 * rng.normal(size=len(kinds))))
    write_files(tmp_path, n=120, target=price)
    config = declaration(tmp_path, model={"config": SMALL, "head_type": "regression", "pooling": "mean"},
                         kaggle={"competition_metric": "rmsle", "enable_ensemble": True, "save_fold_models": True},
                         training={"num_epochs": 8, "save_strategy": "no"})
    trainer = create_kaggle_trainer(config=config)
    result = trainer.train_with_cv()
    targets = pd.read_csv(tmp_path / "train.csv")["target"].to_numpy()
    constant = float(np.std(np.log1p(targets)))
    assert result.run.oof.score("rmsle").mean < 0.6 * constant
    assert result.metric == result.ensemble.metric == "rmsle" and result.mean < 0.6 * constant
    values = pd.read_csv(trainer.create_submission())["target"]
    assert values.between(50_000, 1_500_000).all()
    # the scale is that of each fold's own training rows, and the saved model of a fold predicts prices again
    folder = result.output_dir / "folds"
    scales = [json.loads((folder / f"fold-0-{k}" / "model" / "targets.json").read_text()) for k in range(3)]
    for scale, (train, _) in zip(scales, result.folds, strict=True):
        assert scale["mean"] == pytest.approx(np.log1p(targets[train]).mean())
    part = load_oof(folder / "fold-0-2" / "predictions.npz")
    again = predict_file(folder / "fold-0-2", tmp_path / "test.csv")
    assert np.allclose(again.values, part.test_predictions, rtol=1e-5)
    standard = create_kaggle_trainer(config=config, competition_metric="rmse", run_name="rmse").train_with_cv()
    assert standard.run.oof.score().mean < 0.6 * targets.std()


def test_ratings_are_learnt_as_values_and_cut_where_it_is_best(tmp_path):
    "A timid regression never says 1 or 5: the cuts are found out of fold, and the file has whole ratings."
    def rating(rng, kinds, frame): return 1 + (kinds + (rng.random(len(kinds)) < 0.1)) % 10 // 2
    write_files(tmp_path, n=150, target=rating)
    config = declaration(tmp_path, model={"config": SMALL, "head_type": "regression", "pooling": "mean"},
                         kaggle={"competition_type": "ordinal_regression", "competition_metric": "qwk",
                                 "enable_ensemble": True, "threshold_search": True})
    trainer = create_kaggle_trainer(config=config, num_epochs=4)
    result = trainer.train_with_cv()
    search = result.threshold
    assert result.metric == "qwk" and isinstance(search.rule, OrdinalCuts) and len(search.rule.cuts) == 4
    assert result.mean == search.score.mean > 0.3 and len(search.fold_rules) == 3
    table = pd.read_csv(trainer.create_submission())
    assert table.target.dtype == "int64" and table.target.between(1, 5).all()
    assert table.target.tolist() == search.rule.apply(result.test_predictions).tolist()
    # a search that gains nothing leaves the nearest rating, in the score as in the file
    rounded = create_kaggle_trainer(config=config, num_epochs=4, threshold_search=False)
    plain = rounded.train_with_cv()
    assert plain.threshold is None and plain.mean == plain.oof.score("qwk").mean
    nearest = np.clip(np.floor(plain.test_predictions + 0.5), 1, 5)
    assert pd.read_csv(rounded.create_submission()).target.tolist() == nearest.tolist()


def test_targets_that_are_no_ratings_are_noticed_before_anything_is_trained(tmp_path):
    write_files(tmp_path, target=lambda rng, kinds, frame: kinds + 0.5 * (frame.index == 7))
    spy = Spy()
    config = declaration(tmp_path, model={"config": SMALL, "head_type": "regression"},
                         kaggle={"competition_type": "ordinal_regression", "competition_metric": "qwk"})
    with pytest.raises(DataError, match=r"row 7 \(id 107\) is \d\.5"):
        create_kaggle_trainer(config=config, callbacks=[spy]).train_with_cv()
    with pytest.raises(MetricError, match="qwk"):
        create_kaggle_trainer(config=config, competition_type="regression").train_with_cv()
    assert spy.begun == []


def test_several_classes_and_several_labels(tmp_path):
    def one_of_three(rng, kinds, frame): return [f"class {(k + (rng.random() < 0.1)) % 3}" for k in kinds]
    write_files(tmp_path, n=120, target=one_of_three)
    config = declaration(tmp_path, model={"config": SMALL, "head_type": "multiclass", "pooling": "mean"},
                         kaggle={"competition_metric": "accuracy", "enable_ensemble": True})
    trainer = create_kaggle_trainer(config=config, num_epochs=6)
    assert trainer.train_with_cv().mean > 0.5
    assert set(pd.read_csv(trainer.create_submission()).target) <= {"class 0", "class 1", "class 2"}
    frame = pd.read_csv(tmp_path / "train.csv")
    noise = np.random.default_rng(1).random((2, len(frame))) < 0.1
    frame["tall"] = (frame.kind.isin(WORDS[:5]) ^ noise[0]) * 1
    frame["wide"] = (frame.kind.isin(WORDS[2:8]) ^ noise[1]) * 1
    frame.drop(columns="target").to_csv(tmp_path / "train.csv", index=False)
    (tmp_path / "sample_submission.csv").unlink()
    config = declaration(tmp_path, model={"config": SMALL, "head_type": "multilabel", "pooling": "mean"},
                         data={**config["data"], "target_column": ["tall", "wide"]},
                         kaggle={"competition_metric": "auc", "enable_ensemble": True})
    trainer = create_kaggle_trainer(config=config, num_epochs=6, run_name="labels")
    assert trainer.train_with_cv().mean > 0.7
    assert list(pd.read_csv(trainer.create_submission()).columns) == ["id", "tall", "wide"]


# ---- test-time augmentation and pseudo-labels


def test_augmentation_changes_what_is_predicted_and_none_is_kept_when_it_does_not_help(files):
    config = declaration(files, kaggle={"enable_tta": True, "tta_kinds": ["word_dropout"], "tta_iterations": 2,
                                        "tta_word_dropout": 0.5})
    trainer = create_kaggle_trainer(config=config, num_epochs=6)
    result = trainer.train_with_cv()
    plain, *variants = result.run.oofs
    assert len(variants) == 2
    for variant in variants:
        assert not np.allclose(variant.predictions, plain.predictions) and not np.allclose(
            variant.test_predictions, plain.test_predictions)
        assert np.allclose(variant.predictions.sum(axis=1), 1)      # probabilities, not logits
    if result.tta.chosen == "none": assert result.model is result.run.oof
    else: assert result.model.score().mean >= plain.score().mean
    assert "test-time augmentation" in str(result)


def test_augmentation_of_finished_folds_trains_nothing_again(files):
    spy, kept = Spy(), {"save_fold_models": True}
    plain = create_kaggle_trainer(config=declaration(files, kaggle=kept)).train_with_cv()
    varied = declaration(files, kaggle={**kept, "enable_tta": True, "tta_kinds": ["word_dropout"], "tta_iterations": 1})
    result = create_kaggle_trainer(config=varied, callbacks=[spy]).train_with_cv()
    assert spy.begun == [] and result.output_dir == plain.output_dir and len(result.run.oofs) == 2
    fresh = create_kaggle_trainer(config=varied, run_name="fresh").train_with_cv()
    for one, other in zip(result.run.oofs, fresh.run.oofs, strict=True):
        assert np.allclose(one.predictions, other.predictions, atol=1e-6)
    other = create_kaggle_trainer(config=varied, callbacks=[spy], tta_word_dropout=0.5).train_with_cv()
    assert spy.begun == [] and not np.array_equal(other.run.oofs[1].predictions, result.run.oofs[1].predictions)


def test_pseudo_labels_are_trained_on_by_models_that_never_saw_the_validation_rows(files):
    spy = Spy()
    config = declaration(files, kaggle={"enable_pseudo_labeling": True, "pseudo_label_threshold": 0.6})
    trainer = create_kaggle_trainer(config=config, callbacks=[spy], num_epochs=6)
    result = trainer.train_with_cv()
    assert [name for name, _ in spy.begun] == [f"fold-0-{k}" for k in range(3)] * 2
    test_ids = {f"pseudo-{i}" for i in trainer.data.test.row_ids}       # what a test row is called in training
    for k, (train, held) in enumerate(result.folds):
        ids = set(np.asarray(spy.ended[3 + k].train_loader.row_ids).tolist())
        known = set(trainer.data.train.row_ids[train].tolist())
        assert known < ids <= known | test_ids and not ids & set(trainer.data.train.row_ids[held].tolist())
    assert spy.weights == [spy.weights[0]] * 6      # the second round begins anew
    assert "pseudo-labels" in str(result)
    kept = result.model.score().values != result.run.oof.score().values
    assert kept == result.pseudo_labels.keep
    spy.begun.clear()
    create_kaggle_trainer(config=config, callbacks=[spy], num_epochs=6).train_with_cv()
    assert spy.begun == []      # both rounds are finished


def test_without_a_sure_test_row_no_fold_is_run_again(files):
    spy = Spy()
    config = declaration(files, kaggle={"enable_pseudo_labeling": True, "pseudo_label_threshold": 1.0})
    result = create_kaggle_trainer(config=config, callbacks=[spy], num_epochs=1).train_with_cv()
    assert len(spy.begun) == 3 and not result.pseudo_labels.keep
    assert "pseudo-labels: none, for no test row is sure enough" in str(result)


def test_pseudo_labels_without_test_rows_are_refused(files):
    config = declaration(files, kaggle={"enable_pseudo_labeling": True})
    config["data"]["test_path"] = None
    with pytest.raises(MLXBertError, match="test_path"): create_kaggle_trainer(config=config).train_with_cv()


# ---- leaks


def test_a_leak_is_an_error_before_anything_is_trained_unless_there_is_a_reason(files):
    frame = pd.read_csv(files / "train.csv")
    frame["answer"] = frame.target * 2.0
    frame.to_csv(files / "train.csv", index=False)
    pd.read_csv(files / "test.csv").assign(answer=0.0).to_csv(files / "test.csv", index=False)
    spy, config = Spy(), declaration(files)
    config["data"]["template"] = "{kind} {answer}"
    with pytest.raises(LeakError, match="answer"):
        create_kaggle_trainer(config=config, callbacks=[spy]).train_with_cv()
    assert spy.begun == [] and not (files / "runs").exists()
    config["kaggle"]["allow_leak"] = "a test of the check"
    result = create_kaggle_trainer(config=config, callbacks=[spy]).train_with_cv()
    assert len(spy.begun) == 3 and "answer" in (result.output_dir / "leaks.txt").read_text()


def test_adversarial_validation_is_done_when_asked_for(files):
    assert create_kaggle_trainer(config=declaration(files)).train_with_cv().adversarial is None
    frame = pd.read_csv(files / "test.csv")
    frame.assign(size=frame["size"] + 40).to_csv(files / "test.csv", index=False)
    config = declaration(files, kaggle={"adversarial_validation": True})
    config["data"]["template"] = "{kind} {size}"
    result = create_kaggle_trainer(config=config, run_name="shift").train_with_cv()
    assert result.adversarial.shifted and "size" in (result.output_dir / "adversarial.txt").read_text()


# ---- what the user sets


def test_nothing_that_the_user_sets_is_overwritten(files):
    config = declaration(files, training={"num_epochs": 1, "early_stopping": True, "load_best_at_end": True,
                                          "save_strategy": "best", "best_metric": "eval_auc"})
    trainer = create_kaggle_trainer(config=config, learning_rate=0.005, batch_size=8)
    before = trainer.config.to_dict()
    result = trainer.train_with_cv()
    trainer.create_submission()
    assert trainer.config.to_dict() == before
    assert (trainer.config.optimizer.learning_rate, trainer.config.data.batch_size) == (0.005, 8)
    assert trainer.config.training.early_stopping and trainer.config.data.validation_fraction == 0.2
    from mlx_bert_training import get_trainer_config
    assert get_trainer_config(result.output_dir / "config.yaml").to_dict() == before


def test_the_metric_of_the_competition_counts_and_its_direction_cannot_be_turned_round(files):
    result = create_kaggle_trainer(config=declaration(files), competition_metric="log_loss").train_with_cv()
    assert result.metric == "log_loss" and "log_loss" in result.table()
    assert create_kaggle_trainer(config=declaration(files), maximize_metric=True).train_with_cv().metric == "auc"
    with pytest.raises(ConfigError, match="maximize_metric"):
        create_kaggle_trainer(config=declaration(files), maximize_metric=False).train_with_cv()


def test_class_weights_of_the_competition_reach_the_folds(files):
    spy = Spy()
    config = declaration(files, kaggle={"class_weights": [1.0, 3.0]})
    create_kaggle_trainer(config=config, callbacks=[spy]).train_with_cv()
    assert all(fold.config.training.class_weights == [1.0, 3.0] for fold in spy.ended)


def test_predictions_need_not_be_kept(files):
    kept = create_kaggle_trainer(config=declaration(files), save_test_predictions=False).train_with_cv()
    assert load_oof(kept.output_dir / "oof" / "run.npz").test_predictions is None
    none = create_kaggle_trainer(config=declaration(files), save_oof_predictions=False, run_name="none").train_with_cv()
    assert not (none.output_dir / "oof").exists()


# ---- the trainer as a trainer


def test_a_competition_section_does_not_disturb_a_single_split(files):
    run = run_training(declaration(files, training={"num_epochs": 1, "save_strategy": "no"}))
    assert run.result.metrics["eval_loss"] > 0 and run.trainer.val_loader.num_examples == 18
    assert not (run.result.output_dir / "folds").exists()


def test_after_cross_validation_predict_gives_the_predictions_of_the_run(files):
    trainer = create_kaggle_trainer(config=declaration(files))
    with pytest.raises(MLXBertError, match="train_with_cv"): trainer.create_submission()
    result = trainer.train_with_cv()
    assert np.array_equal(trainer.predict().values, result.test_predictions)
    with pytest.raises(MLXBertError, match="initial weights"): trainer.predict(trainer.data.test)
    with pytest.raises(MLXBertError, match="initial weights"): trainer.evaluate(trainer.data.train)
    trainer.train()     # one model on all rows
    assert len(trainer.predict(trainer.data.test)) == 30


def test_a_loader_of_ones_own_and_a_loader_that_will_not_do(files):
    trainer = create_kaggle_trainer(config=declaration(files))
    part = trainer.data.train.subset(np.arange(60))
    result = trainer.train_with_cv(part)
    assert result.folds.n_rows == 60 and result.leaks is None and len(trainer.create_submission().to_frame()) == 30
    with pytest.raises(MLXBertError, match="labels and subset"): trainer.train_with_cv([1, 2, 3])
    with pytest.raises(MLXBertError, match="train_path"):
        create_kaggle_trainer(trainer.model, {"environment": {"compile": False}}).train_with_cv()


def test_partners_never_read_texts_of_other_rows_than_the_loader_has(files, capsys):
    kaggle = {"enable_ensemble": True, "ensemble_keep": "always"}
    trainer = create_kaggle_trainer(config=declaration(files, training={"num_epochs": 1}, kaggle=kaggle))
    result = trainer.train_with_cv(trainer.data.train.subset(np.arange(30, 90)))
    assert [member.name for member in result.combined.members] == [result.combined.members[0].name]
    assert "no linear partner: it needs the data" in capsys.readouterr().out
    declared = declaration(files, training={"num_epochs": 1}, kaggle={**kaggle, "ensemble_members": ["linear"]})
    trainer = create_kaggle_trainer(config=declared)
    with pytest.raises(DataError, match="needs the data, not only a loader"):
        trainer.train_with_cv(trainer.data.train.subset(np.arange(30, 90)))


def test_the_model_of_every_fold_is_kept_and_predicts_the_same(files):
    result = create_kaggle_trainer(config=declaration(files, kaggle={"save_fold_models": True})).train_with_cv()
    for k in range(3):
        folder = result.output_dir / "folds" / f"fold-0-{k}"
        again = predict_file(folder, files / "test.csv")
        assert np.allclose(again.values, load_oof(folder / "predictions.npz").test_predictions, atol=1e-6)


# ---- the submission


def test_a_stale_sample_is_refused_and_nothing_is_written(files):
    sample = pd.read_csv(files / "sample_submission.csv")
    sample.iloc[:-1].to_csv(files / "sample_submission.csv", index=False)
    trainer = create_kaggle_trainer(config=declaration(files))
    with pytest.raises(SubmissionError, match="sample"): trainer.train_with_cv()
    assert not (files / "runs").exists() and not (files / "submissions").exists()


def test_labels_are_sent_where_the_metric_wants_labels(files):
    trainer = create_kaggle_trainer(config=declaration(files), competition_metric="accuracy", num_epochs=6)
    trainer.train_with_cv()
    submission = trainer.create_submission()
    assert set(submission.to_frame().target) <= {0, 1}
    assert os.fspath(submission) == str(submission) and "target" in submission._repr_html_()
    with open(submission) as file: assert file.readline() == "id,target\n"
    before = Ledger(files / "submissions" / "ledger.jsonl").entries()
    trainer.create_submission()
    assert Ledger(files / "submissions" / "ledger.jsonl").entries() == before     # the same file is one line


# ---- with the real client


@pytest.fixture
def site(tmp_path, monkeypatch):
    "A competition on a local server, and an environment in which the real client talks to it."
    frame = write_files(tmp_path / "origin")
    solution = {str(row.id): str(row.target) for row in frame[90:].itertuples()}
    content = {path.name: path.read_bytes() for path in (tmp_path / "origin").iterdir()}
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("KAGGLE_"): monkeypatch.delenv(name)
    with KaggleServer(Competition("tiny-words", content, solution)) as server:
        for name, value in {"HOME": str(tmp_path), "KAGGLE_API_ENVIRONMENT": "LOCALHOST", "HTTP_PROXY": server.url,
                            "KAGGLE_CONFIG_DIR": str(tmp_path), "KAGGLE_USERNAME": "ada",
                            "KAGGLE_KEY": "ada-secret-key"}.items(): monkeypatch.setenv(name, value)
        yield server


def test_download_train_submit_and_read_the_score(site, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = declaration(Path("here"), kaggle={"competition_name": "tiny-words", "auto_submit": True,
                                               "competition_metric": "accuracy", "enable_ensemble": True})
    config["data"] |= {"train_path": "train.csv", "test_path": "test.csv"}
    config["environment"]["run_name"] = None
    run = run_competition(config, num_epochs=6)
    assert (tmp_path / "data" / "tiny-words" / "train.csv").is_file()
    assert run.result.output_dir == Path("here/runs/tiny-words")
    assert run.submission.public_score is not None and 0 <= run.submission.public_score <= 1
    assert len(site.submissions) == 1
    [entry] = Ledger("here/submissions/ledger.jsonl").entries()
    assert (entry.competition, entry.metric, entry.ref) == ("tiny-words", "accuracy", run.submission.entry.ref)
    assert entry.public_score == run.submission.public_score and entry.cv_mean == run.result.mean
    assert entry.cv_error == run.result.standard_error and entry.message.startswith("tiny-words: CV accuracy 0.")
    assert main(["ledger", "here/submissions/ledger.jsonl"]) == 0
    assert "tiny-words" in capsys.readouterr().out
    again = run_competition(config, num_epochs=6)      # the same file is not sent twice, and no fold is run
    assert len(site.submissions) == 1 and again.submission.public_score == entry.public_score
    assert all(fold.skipped for fold in again.result.run.runs) and site.count("DownloadDataFiles") == 1


def test_without_downloads_a_missing_file_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = declaration(tmp_path, kaggle={"competition_name": "tiny-words", "download_data": False})
    config["data"]["train_path"] = "train.csv"
    with pytest.raises(MLXBertError, match="data/tiny-words"): create_kaggle_trainer(config=config)


def test_a_declaration_without_data_says_so(tmp_path):
    with pytest.raises(DataError, match="data.train_path"): run_competition({"model": {"config": SMALL}})


def test_presets_of_competitions_load_and_read_the_columns_they_name(tmp_path):
    from mlx_bert_training import get_trainer_config, list_presets
    from mlx_bert_training.data.templates import RowTemplate
    kinds = {name.removeprefix("generic_") for name in list_presets() if name.startswith("generic_")}
    assert {"binary", "multiclass", "multilabel", "regression", "text"} <= kinds
    named = {"titanic": ("accuracy", 5), "house_prices": ("rmsle", 5), "nlp_disaster": ("f1", 5),
             "spaceship_titanic": ("accuracy", 5), "german_credit": ("auc", 3)}
    for name, (metric, folds) in named.items():
        config = get_trainer_config(name)
        assert (config.kaggle.competition_metric, config.kaggle.cv_folds) == (metric, folds)
        assert config.kaggle.enable_ensemble and config.kaggle.ensemble_members[0] == "linear"
        trees = [kind["type"] for kind in config.kaggle.ensemble_members[1:]]
        assert trees == (["gbm"] if name in ("titanic", "house_prices") else [])
        columns = RowTemplate(config.data.template, config.data.template_defaults).columns
        assert config.data.target_column not in columns and config.data.id_column not in columns
    assert get_trainer_config("house_prices").kaggle.target_transform == "log1p"


def test_the_weights_are_of_this_process(files):
    "Snapshots are free because arrays never change in place; if that ever changed, folds would leak into each other."
    trainer = create_kaggle_trainer(config=declaration(files))
    kept = {name: mx.array(value) for name, value in model_weights(trainer.model).items()}
    trainer.train_with_cv()
    assert all(mx.array_equal(value, kept[name]) for name, value in model_weights(trainer.model).items())
