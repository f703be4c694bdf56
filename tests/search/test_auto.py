"""From two tables to a submission: what is found out, what is planned, and that the time is kept."""
import time

import numpy as np
import pandas as pd
import pytest
import yaml
from tiny_competition import SMALL, write_files

import mlx_bert_training
from mlx_bert_training.cli import main
from mlx_bert_training.errors import DataError, UnknownNameError
from mlx_bert_training.run import run_competition
from mlx_bert_training.search import auto as module
from mlx_bert_training.search.look import find_group, find_id, guess_task, look_at
from mlx_bert_training.stages.budget import Speed, plan_budget

TINY = {"model.config": SMALL, "environment.compile": False, "environment.device": "cpu"}


@pytest.fixture
def tables(tmp_path):
    write_files(tmp_path)
    return tmp_path / "train.csv", tmp_path / "test.csv"


def test_a_table_is_understood(tables):
    train, test = map(pd.read_csv, tables)
    facts = look_at(train, test)
    assert facts.target == "target" and facts.settings["data.id_column"] == "id"
    assert facts.settings["model.head_type"] == "binary_classification"
    assert facts.settings["data.template"] == "kind: {kind}. code: {code}. size: {size}"
    assert facts.settings["kaggle.ensemble_members"] == ["linear", "gbm"] and "partners" in facts.notes[-1]
    texts = pd.DataFrame({"text": [f"one more of many words {i}" for i in range(9)], "label": [0, 1, 0] * 3})
    assert "kaggle.ensemble_members" not in look_at(texts, target="label").settings
    with pytest.raises(DataError, match="which column has the answers"): look_at(train)
    with pytest.raises(UnknownNameError, match="target"): look_at(train, None, "tarjet")


@pytest.mark.parametrize(("values", "task"), [
    ([True, False] * 9, "binary_classification"), (["a", "b", "c"] * 9, "multiclass_classification"),
    ([1, 2, 3, 4] * 9, "multiclass_classification"), (list(range(100)), "regression"), ([0.1, 0.2, 0.7], "regression")])
def test_tasks_are_guessed_from_the_answers(values, task): assert guess_task(pd.Series(values))[0] == task


def test_ids_and_groups():
    train = pd.DataFrame({"size": [3, 4, 3, 5], "patient_id": [1, 1, 2, 2], "row_id": list("abcd")})
    assert find_id(train, None) == "row_id" and find_id(train[["size"]], None) is None
    assert find_group(train, pd.DataFrame({"patient_id": [7]}), ["size", "patient_id"]) == "patient_id"
    assert find_group(train, pd.DataFrame({"patient_id": [1]}), ["size", "patient_id"]) is None


def test_plans_fit_or_take_fewer_rows():
    speed = Speed("m", tokens=1000, warm_up=2, row=30)
    plans = [plan_budget(speed, 4000, 500, seconds) for seconds in (1e5, 500, 150, 30)]
    assert (plans[0].folds, plans[0].epochs, plans[0].rows) == (5, 4, 4000)
    assert all(plan.seconds <= limit for plan, limit in zip(plans, (1e5, 500, 150, 30), strict=True))
    assert plans[-1].rows < 4000 and plan_budget(speed, 4000, 500, 1e5, folds=3, epochs=1).folds == 3


def test_auto_and_again_from_its_yaml(tables, tmp_path):
    result = mlx_bert_training.auto(*tables, time_budget="2m", output_dir=tmp_path / "runs", cv_folds=3, num_epochs=2,
                                    **TINY)
    assert result.seconds < 132 and result.cv is not None and len(result.decisions) <= 12
    sent = pd.read_csv(result.submission)
    assert list(sent["id"]) == list(pd.read_csv(tables[1])["id"])
    declared = yaml.safe_load(result.folder.report("auto", "yaml").read_text())
    assert declared["kaggle"]["cv_folds"] == 3 and declared["training"]["num_epochs"] == 2
    again = run_competition(result.folder.report("auto", "yaml"), output_dir=str(tmp_path / "again"))
    assert np.array_equal(again.result.oof.predictions, result.cv.oof.predictions)
    assert {"linear", "gbm"} <= {*result.leaderboard().index} and "linear" in str(result)
    assert "plan: 3 folds" in result.folder.report("report").read_text()


def test_when_the_time_is_up_what_is_finished_is_handed_over(tables, tmp_path, monkeypatch):
    from mlx_bert_training.stages.budget import BudgetPlan
    monkeypatch.setattr(module, "plan_budget", lambda *args: BudgetPlan(3, 100_000, 90, 1.0))
    began = time.perf_counter()
    result = module.auto(*tables, time_budget="20s", output_dir=tmp_path / "runs", **TINY)
    assert time.perf_counter() - began < 40 and result.cv is None
    assert len(pd.read_csv(result.submission)) == 30 and "linear" in str(result)


def test_auto_from_the_shell(tables, tmp_path, capsys):
    words = [f"model.config={{{', '.join(f'{k}: {v}' for k, v in SMALL.items())}}}", "environment.compile=false",
             "num_epochs=1", "cv_folds=2"]
    options = ["--target", "target", "--time", "60s", "-o", str(tmp_path / "runs")]
    assert main(["auto", *map(str, tables), *options, *words]) == 0
    said = capsys.readouterr().out
    assert "plan: 2 folds, 1 epochs" in said and "submission.csv" in said


def test_a_frame_without_test_rows(tables, tmp_path):
    train = pd.read_csv(tables[0])
    result = module.auto(train, target="target", time_budget="60s", output_dir=tmp_path / "runs", cv_folds=2,
                         num_epochs=1, **TINY)
    assert result.predictions is None and not result.submission.exists() and result.cv.score.mean > 0
