"""Out-of-fold files come back as they went, refuse what is wrong by row, and scores are what a hand computes."""
from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlx_bert_training.errors import DataError, UnknownNameError
from mlx_bert_training.tasks.metrics import compute_metrics
from mlx_bert_training.tasks.task import get_task
from mlx_bert_training.validation import oof as module
from mlx_bert_training.validation.oof import OOF, average_repeats, load_oof
from mlx_bert_training.validation.oof_import import import_predictions
from mlx_bert_training.validation.scores import CVScore, compare, plot_scores, score_predictions

rng = np.random.default_rng(3)
N, C = 60, 3
Y2, YC, YM, V = rng.integers(0, 2, N), rng.integers(0, C, N), (rng.random((N, C)) < 0.4) * 1, rng.normal(size=N)
LOGITS = {"binary_classification": rng.normal(size=(N, 2)), "multiclass_classification": rng.normal(size=(N, C)),
          "multilabel_classification": rng.normal(size=(N, C)), "regression": V[:, None] + rng.normal(size=(N, 1))}
TARGETS: dict[str, Any] = dict(zip(LOGITS, (Y2, YC, YM, V), strict=True))
HEADS = list(LOGITS)


def make(head: str = "binary_classification", **changes: Any) -> OOF:
    p = get_task(head).predictions(LOGITS[head])
    values: dict[str, Any] = dict(
        name="m", task=head, row_ids=np.arange(100, 100 + N), predictions=p, targets=TARGETS[head],
        folds=np.arange(N) % 4, folds_hash="abc", test_ids=np.array(["a", "b"]), test_predictions=p[:2],
        class_names=None if head == "regression" else ["x", "y", "z"][:p.shape[1]])
    return OOF(**{**values, **changes})


@pytest.mark.parametrize("head", HEADS)
def test_a_file_comes_back_to_the_last_bit(head: str, tmp_path: Path):
    oof = make(head, config_hash="c0ffee", source="elsewhere", id_column="key")
    again = OOF.load(oof.save(tmp_path / "deep" / "m.npz"))
    for name in module._ARRAYS:
        assert np.array_equal(getattr(oof, name), getattr(again, name)), name
        assert getattr(oof, name).dtype == getattr(again, name).dtype, name
    assert all(getattr(oof, n) == getattr(again, n) for n in module._TEXTS if n != "metric")
    assert again.metric == oof.score().metric and again.score() == oof.score()
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["m.npz"]     # no temporary file stays behind


@pytest.mark.parametrize("head", HEADS)
def test_scores_are_those_of_the_logits(head: str):
    oof = make(head)
    name = oof.score().metric
    for k, value in zip(oof.score().folds, oof.score().values, strict=True):
        rows = oof.folds == k
        p = get_task(head).predictions(LOGITS[head][rows])
        assert value == pytest.approx(compute_metrics([name], head, p, TARGETS[head][rows])[name])


def test_certain_predictions_can_be_scored():
    assert score_predictions("log_loss", "binary", np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 1])) == 0
    assert score_predictions("accuracy", "multilabel", np.array([[1.0, 0.0]]), np.array([[1, 0]])) == 1
    with pytest.raises(UnknownNameError, match="accuracy"): make().score("acuracy")


def test_score_by_hand():
    score = CVScore("m", "accuracy", (0, 1, 2), (2, 2, 2), (0.5, 0.7, 0.9), 0.7)
    assert score.mean == pytest.approx(0.7) and score.standard_error == pytest.approx(0.2 / math.sqrt(3))
    assert math.isnan(CVScore("m", "accuracy", (0,), (2,), (0.5,), 0.5).standard_error)
    assert "0.7000 ± 0.1155 over 3 folds" in str(score) and "0.1155" in score._repr_html_()


def test_gain_is_paired_and_positive_when_better():
    def score(metric: str, *values: float) -> CVScore: return CVScore("m", metric, (0, 1, 2), (1, 1, 1), values, 0.0)
    better = compare(score("auc", 0.8, 0.7, 0.9), score("auc", 0.7, 0.6, 0.8))
    assert better.mean == pytest.approx(0.1) and better.standard_error < 1e-9
    assert compare(score("rmse", 1, 2, 3), score("rmse", 2, 2, 5)).values == (1, 0, 2)
    gain = compare(score("rmse", 1, 2, 3), score("rmse", 2, 2, 5))
    assert gain.standard_error == pytest.approx(math.sqrt(1 / 3 + 1 / 2)) and not gain.clear
    assert compare(score("auc", 1, 1, 1), score("auc", 1, 1, 1)).verdict == "no difference"
    with pytest.raises(DataError, match="not scored alike"): compare(score("auc", 1, 1, 1), score("f1", 1, 1, 1))


def test_rows_never_validated_are_left_out(tmp_path: Path):
    folds = np.where(np.arange(N) < 20, -1, np.arange(N) % 2)
    p = get_task("binary").predictions(LOGITS["binary_classification"])
    p[:20] = np.nan
    oof = make(folds=folds, predictions=p)
    assert oof.fold_numbers == [0, 1] and sum(oof.score().rows) == 40
    assert np.isnan(load_oof(oof.save(tmp_path / "m.npz")).predictions[:20]).all()
    p[30] = np.nan
    with pytest.raises(DataError, match=r"row 30 \(id 130\)"): make(folds=folds, predictions=p)


def bad(row: int, value: Any, head: str = "binary_classification") -> np.ndarray:
    p = get_task(head).predictions(LOGITS[head])
    p[row] = value
    return p


@pytest.mark.parametrize("changes, message", [
    (dict(predictions=bad(7, [math.inf, 0])), r"row 7 \(id 107\).*not a finite number"),
    (dict(predictions=bad(7, [1.5, -0.5])), r"row 7 \(id 107\).*between 0 and 1"),
    (dict(predictions=bad(7, [0.5, 0.4])), r"row 7 \(id 107\).*sum to 0.9"),
    (dict(test_predictions=[[0.5, 0.5], [0.5, 0.6]]), r"test row 1 \(id b\)"),
    (dict(predictions=np.ones((N, 3)) / 3), "do not make a binary"),
    (dict(row_ids=np.r_[np.arange(N - 1), 5]), "5 occurs twice, again in row 59"),
    (dict(row_ids=np.arange(N) + 0.5), "whole numbers or of text"),
    (dict(row_ids=["a", None] * (N // 2)), "whole numbers or of text"),
    (dict(test_ids=["a", "a"]), "test ids: 'a' occurs twice"),
    (dict(test_ids=None), "must come together"),
    (dict(test_ids=["a"]), "do not go with 1 test ids"),
    (dict(folds=np.zeros(N - 1, int)), "do not go together"),
    (dict(folds=np.zeros(N)), "do not go together"),
    (dict(folds=np.full(N, -1)), "no row was validated"),
    (dict(targets=Y2 + 1), "class number from 0 to 1"),
    (dict(targets=np.where(np.arange(N) == 4, np.nan, Y2)), "nan.* in row 4"),
    (dict(targets=Y2[:-1]), "do not go with predictions"),
    (dict(class_names=["x"]), "does not name 2 classes"),
    (dict(class_names=["x", "x"]), "does not name 2 classes"),
])
def test_what_cannot_be_is_refused(changes: dict[str, Any], message: str):
    with pytest.raises(DataError, match=message): make(**changes)


def test_one_column_of_a_binary_task_is_the_second_class():
    p = rng.random(N)
    assert np.array_equal(make(predictions=p, test_predictions=[0.1, 0.2]).predictions, np.stack([1 - p, p], 1))
    assert make("regression", predictions=p[:, None]).predictions.shape == (N,)


def test_single_precision_softmax_is_rescaled():
    p = get_task("multiclass").predictions(LOGITS["multiclass_classification"]).astype(np.float32)
    assert np.abs(make("multiclass_classification", predictions=p).predictions.sum(1) - 1).max() < 1e-12


def rewrite(path: Path, change: Any) -> None:
    with np.load(path) as file: arrays = {name: file[name] for name in file.files}
    change(arrays)
    with path.open("wb") as out: np.savez_compressed(out, **arrays)


def test_a_changed_file_is_noticed(tmp_path: Path):
    def swap(arrays: dict[str, np.ndarray]) -> None: arrays["predictions"][[0, 1]] = arrays["predictions"][[1, 0]]
    def rename(arrays: dict[str, np.ndarray]) -> None:
        arrays["metadata"] = np.array(str(arrays["metadata"]).replace('"abc"', '"abd"'))
    for change in (swap, rename):
        rewrite(make().save(tmp_path / "m.npz"), change)
        with pytest.raises(DataError, match="changed or damaged"): load_oof(tmp_path / "m.npz")


def test_a_later_version_is_refused(tmp_path: Path):
    def later(arrays: dict[str, np.ndarray]) -> None:
        arrays["metadata"] = np.array(json.dumps({**json.loads(str(arrays["metadata"])), "version": 2}))
    rewrite(make().save(tmp_path / "m.npz"), later)
    with pytest.raises(DataError, match="version 2 of the format"): load_oof(tmp_path / "m.npz")


def test_no_damage_passes_as_another_error(tmp_path: Path):
    path = make().save(tmp_path / "m.npz")
    whole = path.read_bytes()
    for size in range(0, len(whole), 97):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError): load_oof(path)
    for place in range(0, len(whole), 41):      # a flipped bit is refused, or fell into padding and changed nothing
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1:])
        try: assert np.array_equal(load_oof(path).predictions, make().predictions)
        except DataError: pass
    np.savez(path, x=np.zeros(3))
    with pytest.raises(DataError, match="not a whole file"): load_oof(path)
    with path.open("wb") as file: np.save(file, np.zeros(3))
    with pytest.raises(DataError, match="not a whole file"): load_oof(path)
    with pytest.raises(DataError, match="no such file"): load_oof(tmp_path / "none.npz")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = make(name="old").save(tmp_path / "m.npz")
    def full(_: int) -> None: raise OSError("no space left on device")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"): make(name="new").save(path)
    assert load_oof(path).name == "old" and len(list(tmp_path.iterdir())) == 1


def test_same_content_is_the_same_file(tmp_path: Path):
    assert make().save(tmp_path / "a").read_bytes() == make().save(tmp_path / "b").read_bytes()


# predictions made elsewhere

def table(head: str = "binary_classification") -> tuple[OOF, pd.DataFrame]:
    like = make(head)
    return like, like.to_frame()


SEVERAL = {"multi_regression": (rng.normal(size=(N, 2)), rng.normal(size=(N, 2)), ["x", "y"]),
           "quantile_regression": (V, np.sort(rng.normal(size=(N, 3)), axis=1), None),
           "ordinal_regression": (YC, get_task("multiclass").predictions(rng.normal(size=(N, C))), [1, 2, 3]),
           "ranking": (np.stack([YC, np.arange(N) // 5], axis=1), rng.normal(size=N), None)}


@pytest.mark.parametrize("head", [*HEADS, *SEVERAL])
def test_our_own_table_comes_back_with_rows_that_were_never_validated(head: str, tmp_path: Path):
    "As folds by time leave them; ids that look like numbers stay what they are."
    if head in HEADS: like = make(head)
    else:
        targets, predictions, names = SEVERAL[head]
        like = make(HEADS[0])
        task = {"type": head, "options": {"quantiles": [0.1, 0.5, 0.9]}} if "quantile" in head else head
        like = OOF(name="m", task=task, row_ids=like.row_ids, predictions=predictions, targets=targets,
                   folds=like.folds, folds_hash="abc", class_names=names)
    folds = np.where(np.arange(N) < 15, -1, like.folds)
    predictions = like.predictions.copy()
    predictions[folds < 0] = np.nan
    like = replace(like, row_ids=np.array([f"{i:03d}" for i in range(N)]), folds=folds, predictions=predictions)
    like.to_frame().sample(frac=1, random_state=1).to_csv(tmp_path / "gbm.csv", index=False)
    oof = import_predictions(tmp_path / "gbm.csv", like, fold_column="fold")
    assert oof.row_ids.tolist() == like.row_ids.tolist()
    assert np.allclose(oof.predictions, like.predictions, rtol=0, atol=1e-15, equal_nan=True)
    gap = like.to_frame()
    gap.iloc[20, -1] = np.nan
    with pytest.raises(DataError, match="row 21, column .*not a finite number"):
        import_predictions(gap, like, fold_column="fold")


@pytest.mark.parametrize("head", HEADS)
def test_our_own_table_comes_back_in_any_order(head: str, tmp_path: Path):
    like, frame = table(head)
    frame.sample(frac=1, random_state=1).to_csv(tmp_path / "gbm.csv", index=False)
    oof = import_predictions(tmp_path / "gbm.csv", like, fold_column="fold")
    assert np.allclose(oof.predictions, like.predictions, rtol=0, atol=1e-15) and oof.name == "gbm"
    assert oof.test_ids is None and "folds checked" in oof.source and str(tmp_path) in oof.source


def test_classes_are_matched_by_name_not_by_order():
    like, frame = table("multiclass_classification")
    plain = frame.rename(columns=lambda c: c.removeprefix("probability_"))[["z", "fold", "x", "id", "y"]]
    assert np.array_equal(import_predictions(plain, like, fold_column="fold").predictions, like.predictions)
    odd = plain.rename(columns={"x": "c1", "y": "c2", "z": "c3"})
    by_class = {"z": "c3", "x": "c1", "y": "c2"}
    for columns in (["c1", "c2", "c3"], by_class):
        oof = import_predictions(odd, like, fold_column="fold", columns=columns)
        assert np.array_equal(oof.predictions, like.predictions)
    with pytest.raises(DataError, match="no column for 'x'"): import_predictions(odd, like, fold_column="fold")
    with pytest.raises(DataError, match="the classes are"):
        import_predictions(odd, like, fold_column="fold", columns={"a": "c1"})
    with pytest.raises(DataError, match="no column 'c9'"):
        import_predictions(odd, like, fold_column="fold", columns=["c1", "c2", "c9"])
    with pytest.raises(DataError, match="2 columns for the classes"):
        import_predictions(odd, like, fold_column="fold", columns=["c1", "c2"])


def test_a_lone_column_is_the_second_class():
    like, frame = table()
    lone = pd.DataFrame({"id": frame["id"], "score": frame["probability_y"]})
    oof = import_predictions(lone, like, same_folds=True, name="lgbm")
    assert np.allclose(oof.predictions, like.predictions) and oof.name == "lgbm" and "vouched" in oof.source


def test_folds_are_asked_for():
    like, frame = table()
    with pytest.raises(DataError, match="which folds"): import_predictions(frame, like)
    frame.loc[3, "fold"] = 0
    with pytest.raises(DataError, match="row 4, column 'fold': id 103 is in fold 0 here and in fold 3"):
        import_predictions(frame, like, fold_column="fold")


@pytest.mark.parametrize("change, message", [
    (lambda f: f.iloc[[0, 1, *range(N)]], "row 3, column 'id': id 100 occurs for the second time"),
    (lambda f: f.assign(id=f["id"].replace(103, 999)), "row 4, column 'id': id '999' is unknown"),
    (lambda f: f.drop(index=5), "no row for id '105'"),
    (lambda f: f.assign(id=f["id"].where(f["id"] != 104)), "row 5, column 'id': the id is missing"),
    (lambda f: f.assign(probability_y=f["probability_y"].where(f["id"] != 106)), "row 7.*not a finite number"),
    (lambda f: f.assign(probability_y=f["probability_y"] + 2 * (f["id"] == 106)), "row 7.*between 0 and 1"),
    (lambda f: f.assign(probability_y=0.5 * f["probability_y"]), "row 1.*sum to"),
    (lambda f: f.drop(columns="id"), "no column 'id'"),
])
def test_a_wrong_table_is_refused_by_row(change: Any, message: str):
    like, frame = table()
    with pytest.raises(DataError, match=message): import_predictions(change(frame), like, fold_column="fold")


def test_text_in_a_file_is_named_by_line(tmp_path: Path):
    like, frame = table()
    frame.astype({"probability_x": object}).replace({"probability_x": {frame["probability_x"][2]: "high"}}).to_csv(
        tmp_path / "p.csv", index=False)
    with pytest.raises(DataError, match=r"p.csv, line 4, column 'probability_x'.*not a finite"):
        import_predictions(tmp_path / "p.csv", like, fold_column="fold")


def test_rounded_rows_are_taken_and_rescaled():
    like, frame = table("multiclass_classification")
    oof = import_predictions(frame.round(2), like, fold_column="fold")
    assert np.allclose(oof.predictions.sum(1), 1) and np.abs(oof.predictions - like.predictions).max() < 0.02
    with pytest.raises(DataError, match="sum to"): import_predictions(frame.round(1), like, fold_column="fold")


def test_test_predictions_come_along():
    like, frame = table()
    test = pd.DataFrame({"id": ["b", "a"], "x": [0.1, 0.2], "y": [0.9, 0.8]})
    oof = import_predictions(frame, like, fold_column="fold", test=test)
    assert oof.test_predictions is not None and np.allclose(oof.test_predictions, [[0.2, 0.8], [0.1, 0.9]])
    with pytest.raises(DataError, match="no row for id 'a'"):
        import_predictions(frame, like, fold_column="fold", test=test[:1])
    with pytest.raises(DataError, match="no test ids"):
        import_predictions(frame, replace(like, test_ids=None, test_predictions=None), fold_column="fold", test=test)


def test_text_ids_with_leading_zeros_stay_text(tmp_path: Path):
    like = make(row_ids=np.array([f"{i:04d}" for i in range(N)]))
    like.to_frame().to_csv(tmp_path / "p.csv", index=False)
    assert np.allclose(import_predictions(tmp_path / "p.csv", like, fold_column="fold").predictions, like.predictions)


def test_average_of_repeats():
    first, second = make(), make(folds=rng.permutation(N) % 4, predictions=np.full((N, 2), 0.5))
    both = average_repeats([first, second], "both")
    assert np.allclose(both.predictions, (first.predictions + 0.5) / 2) and both.name == "both"
    assert np.array_equal(both.folds, first.folds)
    with pytest.raises(DataError, match="row_ids"): average_repeats([first, make(row_ids=np.arange(N))])
    with pytest.raises(DataError, match="targets"): average_repeats([first, make(targets=1 - Y2)])
    with pytest.raises(DataError, match="same rows"): average_repeats([first, make(folds=np.arange(N) % 4 - 1)])
    with pytest.raises(DataError, match="no repeats"): average_repeats([])


def test_plots_and_tables():
    assert len(make().plot().axes) == 1
    fig = plot_scores([make().score(), make(name="other").score()])
    assert [t.get_text() for t in fig.axes[0].get_yticklabels()] == ["m", "other"]
    assert list(make("multilabel_classification").to_frame().columns)[:4] == ["id", "fold", "target_x", "target_y"]
    assert "60 rows in 4 folds, 2 test rows" in make()._repr_html_()
