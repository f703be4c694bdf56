"""A search: spaces are checked, trials are kept and found again, and the best is scored on fresh folds."""
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import yaml
from tiny_competition import declaration, write_files

from mlx_bert_training import create_kaggle_trainer, get_trainer_config
from mlx_bert_training.cli import main
from mlx_bert_training.declaration.durations import seconds_of
from mlx_bert_training.declaration.problems import ConfigError
from mlx_bert_training.lease import LeaseError
from mlx_bert_training.search.study import (
    Objective,
    SearchError,
    StudyFolder,
    finish_search,
    load_search,
    open_study,
    run_search,
    trial_config,
)
from mlx_bert_training.search.trials import FOLDS, best_trial

optuna = pytest.importorskip("optuna", reason="the extra [search] is not installed")
RATES = {"low": 1e-3, "high": 3e-2, "log": True}


@pytest.fixture
def source(tmp_path):
    write_files(tmp_path)
    return declaration(tmp_path, training={"num_epochs": 1}, search={
        "trials": 4, "space": {"learning_rate": RATES, "model.pooling": {"choices": ["mean", "max"]}}})


@pytest.mark.parametrize(("space", "message"), [
    ({"optimizer.learning_rate": {"low": 1e-5, "high": 1e6}}, "does not fit: out of range"),
    ({"optimizer.learning_rate": {"low": 1e-3, "high": 1e-5}}, "is not below high"),
    ({"optimizer.learning_rate": {"low": 0, "high": 1e-5, "log": True}}, "log needs a low above 0"),
    ({"scheduler.type": {"choices": ["cosin"]}}, "'cosin' does not fit"),
    ({"scheduler.type": {"low": 1, "high": 2}}, "no number"), ({"lerning_rate": {"choices": [1]}}, "no section has"),
    ({"training.num_epochs": {"low": 1, "high": 2.5}}, "2.5 does not fit"),
    ({"optimizer.learning_rate": 3}, "expected {low"), ({"search.trials": {"low": 1, "high": 2}}, "no such option"),
    ({"training.num_epochs": {"low": 1, "high": 4, "step": 0}}, "step is a number above 0, not 0"),
    ({"optimizer.learning_rate": {"low": 1e-5, "high": 1e-3, "step": -1e-5}}, "step is a number above 0, not -1e-05"),
    ({"training.num_epochs": {"low": 1, "high": 4, "step": None}}, "step is a number above 0, not None"),
    ({"training.num_epochs": {"low": 1, "high": 4, "step": 0.5}}, "step is a whole number, as the option is, not 0.5"),
    ({"training.num_epochs": {"low": 1, "high": 4, "step": 5}}, "a step of 5 leaves nothing but low"),
    ({"optimizer.learning_rate": {"low": 1e-5, "high": 1e-3, "log": "false"}}, "log is true or false, not 'false'"),
    ({"learning_rate": {"low": 1e-5, "high": 1e-3}, "optimizer.learning_rate": {"choices": [1e-4]}}, "named twice"),
    ({"environment.run_name": {"choices": ["a", "b"]}}, "the search itself sets this"),
    ({"kaggle.competition_metric": {"choices": ["auc", "f1"]}}, "scores by different metrics cannot be compared")])
def test_spaces_are_checked_against_their_options(space, message):
    with pytest.raises(ConfigError, match=message): get_trainer_config({"search": {"space": space}})


def test_a_space_in_the_place_of_a_value_and_nothing_to_vary(source):
    source["optimizer"] = {"learning_rate": RATES}
    source["search"] = {"trials": 2}
    assert load_search(source).search.space == {"optimizer.learning_rate": RATES}
    source["optimizer"] = {"learning_rate": 1e-3}
    with pytest.raises(SearchError, match="nothing is to be varied"): load_search(source)
    with pytest.raises(ConfigError, match="no length of time"): get_trainer_config({"search": {"time": "soon"}})
    assert seconds_of("1h 30m") == 5400


def test_a_search_from_the_shell_and_again(source, tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(source))
    assert main(["search", str(path), "--trials", "3", "--time", "5m"]) == 0
    said = capsys.readouterr().out
    assert "best of 3 trials: auc" in said and "on fresh folds" in said
    folder = StudyFolder(tmp_path / "runs" / "search")
    best = yaml.safe_load(folder.best.read_text())
    assert 1e-3 <= best["optimizer"]["learning_rate"] <= 3e-2 and "search" not in best
    for name in ("history", "parallel", "slice"): assert folder.plot(name).stat().st_size > 5000
    result = run_search(path, trials=3)         # nothing is left to be done
    assert len(result.trials) == 3 and result.fresh is not None and result.best == get_trainer_config(folder.best)
    assert "<img" in result._repr_html_()


def test_tokens_are_made_once(source, monkeypatch):
    from mlx_bert_training.data import prepare
    config, made = load_search(source), []
    real = prepare.tiny_tokenizer
    monkeypatch.setattr(prepare, "tiny_tokenizer", lambda texts: made.append(1) or real(texts))
    folder = StudyFolder.of(config)
    study = open_study(config, folder, "max")
    study.optimize(Objective(config, folder), n_trials=2)
    assert made == [1]


def test_a_trial_that_falls_behind_is_given_up_with_its_mean_so_far(source):
    source["kaggle"] |= {"cv_folds": 5, "cv_repeats": 2}
    source["search"] = {"space": {"learning_rate": RATES}, "prune_below": 0.4}
    config = load_search(source)
    folder = StudyFolder.of(config)
    study = open_study(config, folder, "max")
    study.enqueue_trial({"learning_rate": 2e-2})
    study.optimize(Objective(config, folder), n_trials=1)
    class Worse(Objective):
        def __call__(self, trial):
            score = super().__call__(trial)
            assert 0 < trial.user_attrs["folds"] < 10
            return score
    study.enqueue_trial({"learning_rate": 1e-3})
    study.optimize(Worse(config, folder), n_trials=1)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE"]


def test_a_trial_behind_the_others_after_its_first_epoch_is_given_up_in_its_first_fold(source):
    source["training"]["num_epochs"] = 3
    source["search"] = {"space": {"learning_rate": RATES}, "pruner": "none", "epoch_pruner": "median"}
    config = load_search(source)
    folder = StudyFolder.of(config)
    study = open_study(config, folder, "max")
    rates = [1.5e-2, 2e-2, 2.5e-2, 3e-2, 1e-3]
    for rate in rates: study.enqueue_trial({"learning_rate": rate})
    config.search.keep_folds = False
    study.optimize(Objective(config, folder), n_trials=5)
    assert len(list(folder.path.glob("trial-*"))) == 5 and not list(folder.path.glob("trial-*/folds"))
    *whole, behind = study.trials
    for trial in whole:     # nobody is given up before there are four to compare with
        assert [step for step in trial.intermediate_values if step < FOLDS] == [1, 2, 3]
        assert "folds" not in trial.user_attrs and trial.value == pytest.approx(
            sum(value for step, value in trial.intermediate_values.items() if step >= FOLDS) / 3, abs=1e-6)
    assert behind.user_attrs["folds"] == 0 and behind.value == list(behind.intermediate_values.values())[-1]
    assert behind.state.name == "PRUNED" and len(behind.intermediate_values) < 3


def test_a_trial_that_was_given_up_in_an_easy_fold_is_not_the_best(source):
    config = load_search(source)
    study = open_study(config, StudyFolder.of(config), "max")
    made = [(0.90, {}, {FOLDS: 0.95, FOLDS + 1: 0.85}), (0.96, {"folds": 1}, {FOLDS: 0.96}), (0.91, {}, {FOLDS: 0.91})]
    drawn = {"params": {"learning_rate": 0.01, "model.pooling": "mean"}, "distributions": {
        "learning_rate": optuna.distributions.FloatDistribution(1e-3, 3e-2, log=True),
        "model.pooling": optuna.distributions.CategoricalDistribution(["mean", "max"])}}
    for value, attributes, folds in made:
        study.add_trial(optuna.trial.create_trial(value=value, user_attrs=attributes, intermediate_values=folds,
                                                  **drawn))
    assert best_trial(study).value == 0.91
    config.search.rescore = False
    result = finish_search(study, config, StudyFolder.of(config), "auc")
    assert result.best_value == 0.91 and "best of 3 trials: auc 0.9100" in result.headline()


def test_scoring_epochs_changes_nothing_else(source):
    one, two = (create_kaggle_trainer(config={**source, "search": {}}, **{"run_name": name, "score_epochs": scores})
                .train_with_cv() for name, scores in (("plain", False), ("scored", True)))
    assert np.array_equal(one.oof.predictions, two.oof.predictions)


def test_a_search_may_keep_scores_only(source, tmp_path):
    source["search"] |= {"trials": 2, "keep_folds": False}
    source["kaggle"]["save_fold_models"] = True
    result = run_search(source)
    folder = result.folder.path
    trials = list(folder.glob("trial-*"))
    assert len(trials) == 2 and all((trial / "config.yaml").is_file() for trial in trials)
    assert not list(folder.glob("trial-*/folds")) and not list(folder.glob("trial-*/oof"))
    assert list(folder.glob("best-on-fresh-folds/folds/*/model"))      # the best one is whole


def test_two_processes_share_a_search(source, tmp_path):
    source["search"] |= {"trials": 6, "rescore": False}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(source))
    script = f"from mlx_bert_training.search.study import run_search\nrun_search({str(path)!r})"
    both = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(2)]
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    config = load_search(path)
    trials = open_study(config, StudyFolder.of(config), "max").trials
    done = [trial for trial in trials if trial.state.name == "COMPLETE"]
    assert len(done) in (6, 7)      # the other one may have begun a last trial
    assert len({str(trial.params) for trial in trials}) == len(trials) and StudyFolder.of(config).result.is_file()
    assert all(out.count("trial ") for out, _ in said)      # both took part


def test_a_trial_that_another_process_makes_is_left_to_it(source, tmp_path):
    source["search"] = {"trials": 2, "space": {"model.pooling": {"choices": ["mean"]}}, "rescore": False}
    config = load_search(source)
    folder = StudyFolder.of(config)
    study = open_study(config, folder, "max")
    study.optimize(Objective(config, folder), 1)
    held = folder.path / trial_config(config, {"model.pooling": "mean"}, folder.path).environment.run_name
    script = ("import sys, time\nfrom mlx_bert_training.lease import Lease\n"
              "with Lease(sys.argv[1]):\n    print('held', flush=True)\n    time.sleep(600)")
    process = subprocess.Popen([sys.executable, "-c", script, str(held)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    try:
        study.optimize(Objective(config, folder), 1, catch=(LeaseError,))
        assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL"]
    finally:
        process.kill()
        process.communicate()


def test_a_search_that_was_killed_goes_on_and_its_dead_trial_is_tried_again(source, tmp_path):
    source["search"]["trials"] = 3
    source["training"]["num_epochs"] = 40
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(source))
    script = f"from mlx_bert_training.search.study import run_search\nrun_search({str(path)!r})"
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.DEVNULL)
    folds = tmp_path / "runs" / "search"
    until = time.monotonic() + 120
    while not list(folds.glob("trial-*/folds/fold-0-0/predictions.npz")) and time.monotonic() < until: time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    config = load_search(path)
    study = open_study(config, StudyFolder.of(config), "max")
    assert [trial.state.name for trial in study.trials][-1] == "RUNNING"
    dead = study.trials[-1].params
    time.sleep(16)      # until it is taken for dead
    result = run_search(path)
    states = [trial.state.name for trial in result.study.trials]
    assert states.count("COMPLETE") == 3 and states.count("FAIL") == 1 and "RUNNING" not in states
    assert any(trial.params == dead for trial in result.study.trials if trial.state.name == "COMPLETE")


def test_tables_that_another_process_makes_at_the_same_time_are_waited_for():
    from sqlalchemy.exc import IntegrityError

    from mlx_bert_training.search.study import open_storage
    asked = []

    def make(succeeds_at):
        asked.append(1)
        if len(asked) < succeeds_at: raise IntegrityError("INSERT", {}, Exception("UNIQUE constraint failed"))
        return "open"
    assert open_storage(lambda: make(3), pause=0) == "open" and len(asked) == 3
    with pytest.raises(IntegrityError): open_storage(lambda: make(99), tries=2, pause=0)


def changed(source, key, value):
    "The same declaration with another value."
    section, _, name = key.partition(".")
    return {**source, section: {**source[section], name: value}}


@pytest.mark.parametrize(("key", "value", "said"), [
    ("search.space", {"learning_rate": RATES}, "search.space.model.pooling.choices was"),
    ("search.space", {"learning_rate": RATES, "model.pooling": {"choices": ["mean", "cls"]}}, "'max'.* is .*'cls'"),
    ("kaggle.competition_metric", "log_loss", "metric was 'auc' and is 'log_loss'; direction was 'max'"),
    ("training.num_epochs", 2, "training.num_epochs was 1 and is 2"),
    ("kaggle.cv_folds", 2, "which rows are in which fold")])
def test_a_study_is_not_gone_on_with_under_another_declaration(source, key, value, said):
    source["search"] |= {"trials": 1, "rescore": False}
    other = changed(source, key, value)
    run_search(source)
    with pytest.raises(SearchError, match=said) as refused: run_search(other)
    assert "search.name" in str(refused.value)
    assert len(run_search(other, **{"search.name": "other"}).trials) == 1
    assert len(run_search(source, trials=2).trials) == 2        # of the old one, as it was


def test_a_study_of_an_earlier_version_is_gone_on_with(source):
    source["search"] |= {"trials": 1, "rescore": False}
    config = load_search(source)
    folder = StudyFolder.of(config)
    open_study(config, folder, "max").optimize(Objective(config, folder), 1)        # keeps nothing but its trial
    with pytest.raises(SearchError, match=r"search.space.model.pooling was 'tried' and is '\(absent\)'"):
        run_search(changed(source, "search.space", {"learning_rate": RATES}))
    with pytest.raises(SearchError, match="direction was 'max' and is 'min'"):
        run_search(changed(source, "kaggle.competition_metric", "log_loss"))
    assert len(run_search(source, trials=2).trials) == 2


def test_a_study_without_a_trial_that_came_to_anything_takes_a_mended_declaration(source, monkeypatch):
    source["search"] |= {"trials": 1, "rescore": False}
    monkeypatch.setattr(Objective, "_score", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError): run_search(source)
    monkeypatch.undo()
    with pytest.raises(SearchError, match="model.pooling"):     # choices that a failed trial drew from are kept to
        run_search(changed(source, "search.space", {"model.pooling": {"choices": ["cls", "max"]}}))
    assert len(run_search(changed(source, "training.num_epochs", 2)).trials) == 1
