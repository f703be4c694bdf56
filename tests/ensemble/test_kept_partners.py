"""What a partner keeps says of the test rows what the partner itself said, for every partner and task."""
from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlx_bert_training.data.prepare import prepare
from mlx_bert_training.declaration.load import load_config
from mlx_bert_training.ensemble.boosting_file import trees_output
from mlx_bert_training.ensemble.gbm import describe_trees, make_gbm
from mlx_bert_training.ensemble.partners import make_partner
from mlx_bert_training.errors import MissingExtraError
from mlx_bert_training.kaggle.bundle_inference import Rows, partner_values
from mlx_bert_training.models import create_model
from mlx_bert_training.validation.folds import make_folds
from mlx_bert_training.validation.oof import OOF

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_competition import SMALL, declaration, write_files  # noqa: E402

HEADS = {"binary_classification": None,
         "multiclass": lambda rng, kinds, frame: np.where(rng.random(len(frame)) < 0.1, 0, kinds % 3),
         "regression": lambda rng, kinds, frame: kinds * 1.5 + rng.normal(size=len(frame)) * 0.1}
COLUMNS = {"columns": ["kind", "size", "code"]}
PARTNERS = {
    "trees on columns": {"type": "gbm", "options": {**COLUMNS, "options": {"max_iter": 20, "min_samples_leaf": 5}}},
    "trees on texts": {"type": "gbm", "options": {"options": {"max_iter": 10}}},
    "lightgbm": {"type": "gbm", "options": {"library": "lightgbm", "options": {"n_estimators": 10, "n_jobs": 1}}},
    "xgboost": {"type": "gbm", "options": {"library": "xgboost", "options": {"n_estimators": 10, "n_jobs": 1}}},
    "catboost": {"type": "gbm", "options": {"library": "catboost", "options": {"n_estimators": 10}}},
    "chars": {"type": "chars", "options": {}},
    "embedding": {"type": "embedding", "options": {}},
    "knn": {"type": "knn", "options": {"neighbours": 7}},
}


def competition(folder, head):
    write_files(folder, n=150, m=25, target=HEADS[head])
    texts = {"template": None, "text_column": "kind"} if head == "multiclass" else {}
    config = load_config(declaration(folder, model={"head_type": head}, data=texts))
    made = prepare(config)
    made.frames["test"].loc[::4, "size"] = np.nan
    y = np.asarray(made.train.labels)
    folds = make_folds(y, "kfold", 2, 0, task=made.labels.task, row_ids=made.train.row_ids)
    shape = (len(y),) if head == "regression" else (len(y), made.labels.num_labels)
    tests, flat = made.test.row_ids, 1 / max(1, made.labels.num_labels)
    like = OOF(name="model", task=made.labels.task, row_ids=made.train.row_ids, folds=folds.assignment[0], targets=y,
               predictions=np.full(shape, flat), folds_hash=folds.hash, test_ids=tests,
               test_predictions=np.full((len(tests), *shape[1:]), flat))
    return made, folds, like


def encoder(data, folder):
    create_model("bert_core", config={**SMALL, "vocab_size": data.tokenizer.vocab_size}).save_pretrained(folder)
    data.tokenizer.save(folder)
    return str(folder)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("partner", PARTNERS)
def test_what_was_kept_says_what_was_said(partner, head, tmp_path):
    kind = PARTNERS[partner]
    if library := kind["options"].get("library"): pytest.importorskip(library)
    data, folds, like = competition(tmp_path, head)
    if kind["type"] in ("embedding", "knn"):
        kind = {**kind, "options": {**kind["options"], "pretrained": encoder(data, tmp_path / "tiny")}}
    scaling = "standardize" if head == "regression" else "none"
    member = make_partner(kind).member(like, data, folds, scaling, tmp_path / "partners")
    data.labels.save(tmp_path)
    facts = {"max_length": data.config.data.max_length}
    rows = Rows(tmp_path, facts, data.frames["test"], data.texts["test"], "mlx")
    files = [f"partners/{member.name}-{fold}.json.gz" for fold in range(2)]
    assert np.allclose(partner_values(rows, files), member.test_predictions, rtol=1e-5, atol=1e-6)


def test_labels_each_have_their_trees(tmp_path):
    "Of several labels, one of which no training row has."
    data, folds, like = competition(tmp_path, "binary_classification")
    from mlx_bert_training.data.labels import LabelMap
    from mlx_bert_training.tasks.task import get_task
    task = get_task("multilabel")
    targets = np.stack([like.targets, 1 - like.targets, np.zeros_like(like.targets)], axis=1)
    three = replace(like, task=task, targets=targets, predictions=np.full((len(like), 3), 0.5), class_names=None,
                    test_predictions=np.full((25, 3), 0.5))
    member = make_partner(PARTNERS["trees on columns"]).member(three, data, folds, "none", tmp_path / "partners")
    LabelMap(task, classes=("a", "b", "c"), columns=("a", "b", "c")).save(tmp_path)
    rows = Rows(tmp_path, {}, data.frames["test"], data.texts["test"])
    found = partner_values(rows, [f"partners/gbm-{fold}.json.gz" for fold in range(2)])
    assert np.allclose(found, member.test_predictions, atol=1e-9) and (found[:, 2] < 1e-5).all()


@pytest.mark.parametrize("options", [{}, {"categorical_features": [0, 2]}, {"max_leaf_nodes": 3, "max_depth": 2}])
def test_trees_of_numbers_are_those_of_scikit_learn(options):
    rng = np.random.default_rng(0)
    x = np.stack([rng.integers(0, 40, 600) * 1.0, rng.normal(size=600), rng.choice([3.0, 7.0, 11.0], 600)], axis=1)
    x[rng.random(x.shape) < 0.1] = np.nan
    new = x[rng.permutation(600)[:200]] + np.where(rng.random((200, 3)) < 0.2, 1.0, 0.0)    # values not seen before
    y = (np.nan_to_num(x[:, 0]) % 3).astype(int)
    for values, loss in ((False, "log_loss"), (True, "squared_error"), (True, "poisson")):
        model = make_gbm("sklearn", values, {"max_iter": 15, "loss": loss, **options}, [], 0).fit(x, y)
        kept = json.loads(json.dumps(describe_trees(model)))
        expected = model.predict(new) if values else model.predict_proba(new)
        assert np.allclose(trees_output(kept, new), expected, rtol=1e-12, atol=1e-12)


def test_a_version_that_keeps_its_trees_elsewhere_is_said(tmp_path, monkeypatch, caplog):
    from mlx_bert_training.ensemble import gbm
    def gone(model): raise AttributeError("no attribute '_predictors'")
    monkeypatch.setattr(gbm, "describe_trees", gone)
    data, folds, like = competition(tmp_path, "regression")
    member = make_partner(PARTNERS["trees on texts"]).member(like, data, folds, "none", tmp_path / "partners")
    assert np.isfinite(member.predictions).all() and "cannot be kept" in caplog.text
    assert not list(tmp_path.glob("partners/gbm-*"))


def test_a_library_that_is_missing_is_named(monkeypatch):
    from mlx_bert_training.ensemble.boosting_file import library_output
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(MissingExtraError, match="pip install lightgbm"):
        library_output("lightgbm", "", np.zeros((1, 1)), True)


def test_equal_texts_are_equally_near():
    "Which of several equal rows comes first in the file changes nothing, and neither does the last bit."
    from mlx_bert_training.data.neighbours import neighbour_mean
    rng = np.random.default_rng(1)
    kinds = rng.normal(size=(5, 8))
    train, answers = np.repeat(kinds, 6, axis=0), rng.random((30, 1))
    asked, order = kinds + 0.01, rng.permutation(30)
    found = neighbour_mean(train, answers, asked, 4)
    noise = 1 + 1e-7 * rng.normal(size=train.shape)
    assert np.allclose(found, neighbour_mean((train * noise)[order], answers[order], asked, 4), atol=1e-5)
    near = np.array([[(answers[6 * k:6 * k + 6].mean() * 4 + 0.1 * answers.mean()) / 4.1] for k in range(5)])
    assert np.allclose(found, near, atol=0.01)
