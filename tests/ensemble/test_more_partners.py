"""Every partner does every task that it can, without looking at the rows that it predicts."""
from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from mlx_bert_training.data.prepare import prepare
from mlx_bert_training.declaration.load import load_config
from mlx_bert_training.ensemble import gbm
from mlx_bert_training.ensemble.partners import make_partner
from mlx_bert_training.errors import DataError, MissingExtraError, UnknownNameError
from mlx_bert_training.models import create_model
from mlx_bert_training.models.layers import ModelError
from mlx_bert_training.tasks.task import get_task
from mlx_bert_training.validation.folds import make_folds
from mlx_bert_training.validation.oof import OOF

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_competition import declaration, write_files  # noqa: E402

TINY = str(Path(__file__).parents[1] / "fixtures" / "tiny_bert")


def competition(folder, head: str = "binary_classification", target=None, **data):
    write_files(folder, n=250, target=target)
    config = load_config(declaration(folder, model={"head_type": head}, data=data))
    made = prepare(config)
    y = np.asarray(made.train.labels)
    folds = make_folds(y, "kfold", 3, 0, task=made.labels.task, row_ids=made.train.row_ids)
    shape = (len(y),) if head == "regression" else (len(y), made.labels.num_labels)
    tests = made.test.row_ids
    like = OOF(name="model", task=made.labels.task, row_ids=made.train.row_ids, folds=folds.assignment[0], targets=y,
               predictions=np.full(shape, 0.5), folds_hash=folds.hash, test_ids=tests,
               test_predictions=np.full((len(tests), *shape[1:]), 0.5))
    return made, folds, like


def size(rng, kinds, frame): return kinds * 1.5 + rng.normal(size=len(frame)) * 0.1


QUICK = {"max_iter": 30, "min_samples_leaf": 5}
TREES = {"type": "gbm", "options": {"options": QUICK}}
PARTNERS = [TREES, "chars", "nbsvm",
            {"type": "gbm", "options": {"columns": ["kind", "size", "code"], "options": QUICK}}]


@pytest.mark.parametrize("partner", PARTNERS, ids=str)
def test_partners_learn_what_there_is_to_learn(partner, tmp_path):
    data, folds, like = competition(tmp_path)
    member = make_partner(partner).member(like, data, folds, "none")
    assert member.score("auc").mean > 0.8 and member.test_predictions.shape == (30, 2)
    assert np.allclose(member.predictions.sum(1), 1)


@pytest.mark.parametrize("partner", [TREES, "chars"], ids=str)
def test_partners_of_a_regression(partner, tmp_path):
    data, folds, like = competition(tmp_path, "regression", size)
    member = make_partner(partner).member(like, data, folds, "standardize")
    assert member.score("pearson").mean > 0.7


def test_nbsvm_needs_classes(tmp_path):
    data, folds, like = competition(tmp_path, "regression", size)
    with pytest.raises(DataError, match="nbsvm needs classes"): make_partner("nbsvm").member(like, data, folds, "none")


@pytest.mark.parametrize("partner", [*PARTNERS[:3]], ids=str)
def test_targets_of_a_fold_cannot_change_its_predictions(partner, tmp_path):
    from dataclasses import replace
    data, folds, like = competition(tmp_path)
    _, held = folds[0]
    turned = like.targets.copy()
    turned[held] = 1 - turned[held]
    one, other = (make_partner(partner).member(m, data, folds, "none")
                  for m in (like, replace(like, targets=turned)))
    assert np.array_equal(one.predictions[held], other.predictions[held])


def test_what_folds_keep_together_the_inner_folds_of_trees_do_too(tmp_path, monkeypatch):
    "Each group has a word and a random answer: only who has seen rows of the group can know it."
    rng, groups = np.random.default_rng(0), np.arange(240) // 4
    texts, y = [f"word{group}" for group in groups], rng.integers(0, 2, 60)[groups]
    task, known = get_task("binary_classification"), []
    for clusters in (None, groups, groups % 2):     # of two groups no five folds can be made
        found, _, _ = gbm.text_features(texts, texts[:1], y, task, 2, clusters=clusters)
        known.append(abs(np.corrcoef(found[:, 0], y)[0, 1]))
    assert known[0] > 0.9 and known[1] < 0.35 and known[2] == known[0]
    data, folds, like = competition(tmp_path)
    seen = []
    monkeypatch.setattr(gbm, "text_features", lambda *given, clusters: seen.append(clusters) or (
        np.zeros((len(given[0]), 1)), np.zeros((len(given[1]), 1)), {}))
    grouped = make_folds(like.targets, "group", 3, 0, groups=np.arange(len(like)) // 5)
    make_partner(TREES).member(like, data, grouped, "none")
    assert [c.tolist() for c in seen] == [grouped.clusters[train].tolist() for train, _ in grouped]


@pytest.mark.parametrize("kind", ["embedding", "knn"])
def test_vectors_of_a_frozen_encoder(kind, tmp_path):
    data, folds, like = competition(tmp_path)
    with pytest.raises(DataError, match="pretrained weights"): make_partner(kind).member(like, data, folds, "none")
    with pytest.raises(ModelError, match="the tokenizer has"):      # its ids would read beyond the embeddings
        data.config.model.pretrained = TINY
        make_partner(kind).member(like, data, folds, "none")
    small = {"vocab_size": data.tokenizer.vocab_size, "hidden_size": 32, "num_hidden_layers": 1,
             "num_attention_heads": 2}
    create_model("bert_core", config=small).save_pretrained(tmp_path / "encoder")
    data.tokenizer.save(tmp_path / "encoder")
    options = {"pretrained": str(tmp_path / "encoder")}
    member = make_partner({"type": kind, "options": options}).member(like, data, folds, "none")
    assert np.isfinite(member.predictions).all() and np.allclose(member.predictions.sum(1), 1)


def test_libraries_that_are_not_there_and_words_that_are_none(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "catboost", None)
    data, folds, like = competition(tmp_path)
    with pytest.raises(UnknownNameError, match="lightgbm"):
        make_partner({"type": "gbm", "options": {"library": "lightbgm"}}).member(like, data, folds, "none")
    with pytest.raises(MissingExtraError, match="pip install catboost"):
        make_partner({"type": "gbm", "options": {"library": "catboost"}}).member(like, data, folds, "none")
    with pytest.raises(DataError): make_partner("gbm").member(like, None, folds, "none")


def test_lightgbm(tmp_path):
    pytest.importorskip("lightgbm")
    data, folds, like = competition(tmp_path)
    options = {"library": "lightgbm", "options": {"n_estimators": 30, "n_jobs": 1}}
    member = make_partner({"type": "gbm", "options": options}).member(like, data, folds, "none")
    assert member.score("auc").mean > 0.8
