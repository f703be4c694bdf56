"Tags of words in a competition: folds, out-of-fold tags, an ensemble of seeds, submissions of two forms."
from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from mlx_bert_training import create_kaggle_trainer
from mlx_bert_training.declaration.load import load_config
from mlx_bert_training.declaration.problems import ConfigError
from mlx_bert_training.ensemble.base import EnsembleError
from mlx_bert_training.ensemble.create import create_ensemble
from mlx_bert_training.kaggle.bundle import BundleError, bundle
from mlx_bert_training.tasks.metrics import compute_metrics
from mlx_bert_training.tasks.task import TaskError
from mlx_bert_training.tasks.token_classification import TokenClassification
from mlx_bert_training.tasks.words import IGNORED, NO_ANSWER
from mlx_bert_training.validation.comparison import bootstrap_variance
from mlx_bert_training.validation.oof import load_oof
from mlx_bert_training.validation.scores import judge

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
PLACES = [("Paris",), ("New", "York"), ("Rome",), ("Cape", "Town"), ("Lima",)]
TASK = TokenClassification()


def texts(n, seed):
    rng = np.random.default_rng(seed)
    for i in range(n):
        before, place = [str(rng.choice(["we", "they", "you"])), "went"][: 1 + int(rng.integers(2))], ()
        if rng.random() < 0.8: place = PLACES[int(rng.integers(len(PLACES)))]
        tags = ["O"] * (len(before) + 1) + ["B-place"] * bool(place) + ["I-place"] * (len(place) - 1)
        yield {"id": f"t{i}", "tokens": [*before, str(rng.choice(["to", "from"])), *place], "tags": tags}


def files(folder, by_word=False, n=48, m=9):
    folder.mkdir(parents=True, exist_ok=True)
    train, test = list(texts(n, 0)), list(texts(m, 1))
    for name, rows in (("train", train), ("test", [{k: row[k] for k in ("id", "tokens")} for row in test])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ids = [row["id"] for row in test]
    if by_word: ids = [f"{row['id']}_{i}" for row in test for i in range(len(row["tokens"]))]
    pd.DataFrame({"id": ids, "tags": "O"}).to_csv(folder / "sample_submission.csv", index=False)
    return train, test


def settings(folder, **kaggle):
    return {
        "model": {"head_type": "token_classification", "dropout_rate": 0.0, "config": SMALL},
        "data": {"train_path": str(folder / "train.jsonl"), "test_path": str(folder / "test.jsonl"), "id_column": "id",
                 "text_column": "tokens", "target_column": "tags", "batch_size": 8, "num_workers": 0},
        "optimizer": {"learning_rate": 0.02}, "training": {"num_epochs": 4, "save_strategy": "no"},
        "kaggle": {"cv_folds": 2, "submission_dir": str(folder / "sent"), "adversarial_validation": False, **kaggle},
        "environment": {"output_dir": str(folder / "runs"), "run_name": "run", "device": "cpu", "compile": False}}


def test_folds_scores_an_ensemble_of_seeds_and_tags_in_a_cell(tmp_path):
    train, test = files(tmp_path)
    trainer = create_kaggle_trainer(config=settings(tmp_path, enable_ensemble=True, seeds=2))
    result = trainer.train_with_cv()
    assert result.metric == "span_f1" and result.mean > 0.9
    width = max(len(row["tokens"]) for row in train)
    assert result.oof.predictions.shape == (48, width, 3) and result.oof.targets.shape == (48, width)
    known = result.oof.targets != IGNORED
    assert np.isnan(result.oof.predictions[~known]).all() and not np.isnan(result.oof.predictions[known]).any()
    pooled = compute_metrics(["span_f1"], TASK, result.oof.predictions, result.oof.targets)["span_f1"]
    assert pooled == pytest.approx(result.oof.score().pooled)
    assert len(result.combined.members) == 2 and result.ensemble.method == "voting"
    kept = load_oof(result.folder.oof(result.model.name))
    assert kept.task == TASK and kept.to_frame()["target"][0] == " ".join(train[0]["tags"])
    table = trainer.create_submission().to_frame()
    assert table["id"].tolist() == [row["id"] for row in test]
    truth = [" ".join(row["tags"]) for row in test]
    assert (table["tags"] == truth).mean() > 0.7 and all(map(len, table["tags"]))
    assert len(trainer.predict().span_frame()) > 3
    for method in ("hard_voting", "blending", "hill_climbing"):
        assert create_ensemble(result.combined.members, method).score.mean > 0.9
    with pytest.raises(EnsembleError, match="voting, hard_voting, blending, hill_climbing, not by stacking"):
        create_ensemble(result.combined.members, "stacking")


def test_a_row_for_each_word(tmp_path):
    _, test = files(tmp_path, by_word=True)
    trainer = create_kaggle_trainer(config=settings(tmp_path))
    trainer.train_with_cv()
    table = trainer.create_submission().to_frame()
    assert table["id"].tolist()[:2] == ["t0_0", "t0_1"] and len(table) == sum(len(row["tokens"]) for row in test)
    assert (table["tags"] == [tag for row in test for tag in row["tags"]]).mean() > 0.8
    with pytest.raises(BundleError, match="cannot carry a token_classification"):
        bundle(tmp_path / "runs" / "run", tmp_path / "bundle", wheels=False)


@pytest.mark.parametrize("kaggle, message", [
    ({"enable_ensemble": True, "ensemble_method": "stacking"}, "combined by voting, hard_voting, blending"),
    ({"enable_tta": True}, "varied texts have others"),
    ({"enable_pseudo_labeling": True}, "no label of a single row"),
])
def test_what_makes_no_sense_for_words_is_refused_by_the_declaration(tmp_path, kaggle, message):
    with pytest.raises(ConfigError, match=message): load_config(settings(tmp_path, **kaggle))


def test_texts_are_dealt_out_by_what_they_have():
    labels = np.array([[0, 1, 2], [0, 0, IGNORED], [3, IGNORED, IGNORED], [1, 3, 0]])
    assert TASK.spread(labels).tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 1, 1]]
    plain = TokenClassification(scheme="plain").spread(labels)
    assert plain.shape == (4, 5) and plain[2].tolist() == [0, 0, 0, 0, 1]
    assert TASK.given_away(TASK.spread(labels)) == 4
    perfect = TASK.perfect(labels, 5)
    assert compute_metrics(["span_f1"], TASK, perfect, labels) == {"span_f1": 1.0}


def test_members_that_cut_words_off_are_completed_by_the_others():
    p = np.full((2, 1, 3, 3), np.nan)
    p[0, 0, :2], p[1, 0, :1] = [0.2, 0.8, 0.0], [0.6, 0.4, 0.0]
    full = TASK.completed(p)
    assert full[1, 0, 1].tolist() == [0.2, 0.8, 0.0] and np.isnan(full[:, 0, 2]).all()
    assert TASK.decide(full.mean(0)).tolist() == [[1, 1, NO_ANSWER]]
    likelihood = TASK.likelihood(full, np.array([[0, 1, 1]]))
    np.testing.assert_allclose(likelihood, [[0.2, 0.8], [0.6, 0.8]])


def test_a_word_that_was_cut_off_has_no_plain_tag():
    with pytest.raises(TaskError, match="word 2 of a text was cut off"):
        TokenClassification(scheme="plain").cell_names(["NN", None], ["NN", "VB"])


def test_the_error_of_a_difference_in_span_f1_is_that_of_drawing_texts():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (300, 6))
    folds = np.zeros(300, int)
    made = []
    for wrong in (0.1, 0.2):
        said = np.where(rng.random(labels.shape) < wrong, rng.integers(0, 3, labels.shape), labels)
        made.append(judge("span_f1", TASK, np.eye(3)[said], labels, folds))
    one, other = made
    rows = folds == 0
    mine = float(np.square(one.influence(rows) - other.influence(rows)).sum())
    assert mine == pytest.approx(bootstrap_variance(one, other, rows), rel=0.35)
