"Quantiles and rankings in folds, with an ensemble, out-of-fold files and a submission."
from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from tiny_competition import WORDS, declaration, write_files

from mlx_bert_training import create_kaggle_trainer
from mlx_bert_training.declaration.load import load_config
from mlx_bert_training.declaration.problems import ConfigError
from mlx_bert_training.ensemble.base import EnsembleError
from mlx_bert_training.ensemble.create import create_ensemble
from mlx_bert_training.kaggle.bundle import bundle
from mlx_bert_training.kaggle.submission import SubmissionError
from mlx_bert_training.tasks.metrics import compute_metrics
from mlx_bert_training.validation.oof import load_oof

QUANTILE = {"type": "quantile", "options": {"quantiles": [0.1, 0.5, 0.9]}}


def prices(rng, kinds, frame): return 10.0 * kinds + rng.normal(size=len(kinds))


def quantile_files(folder, columns):
    write_files(folder, target=prices)
    sample = pd.read_csv(folder / "sample_submission.csv")[["id"]].assign(**dict.fromkeys(columns, 0.5))
    sample.to_csv(folder / "sample_submission.csv", index=False)


def ranking_files(folder, n=30, m=8):
    "Passages of questions: those with an odd word are relevant."
    rng = np.random.default_rng(0)
    rows = [(q, WORDS[k]) for q in range(n + m) for k in rng.permutation(10)[:4]]
    frame = pd.DataFrame(rows, columns=["query", "kind"])
    frame["id"], frame["code"] = np.arange(len(frame)), [f"row{i}" for i in range(len(frame))]
    frame["target"] = [WORDS.index(kind) % 3 for kind in frame["kind"]]
    odd = rng.random(len(frame)) < 0.15
    frame.loc[odd, "target"] = rng.integers(0, 3, odd.sum())
    test = frame["query"] >= n
    frame[~test].to_csv(folder / "train.csv", index=False)
    frame[test].drop(columns="target").to_csv(folder / "test.csv", index=False)
    frame[test][["id"]].assign(target=0.5).to_csv(folder / "sample_submission.csv", index=False)
    return frame


def quantile_run(folder, **kaggle):
    return declaration(folder, model={"head_type": QUANTILE, "pooling": "mean", "dropout_rate": 0.0, "config": {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}},
        kaggle={"competition_metric": "pinball_loss", "enable_ensemble": True, **kaggle})


def ranking_run(folder, **kaggle):
    base = declaration(folder, kaggle={"competition_metric": "ndcg", **kaggle})
    base["model"]["head_type"] = "ranking"
    base["data"]["group_column"] = "query"
    return base


def test_quantiles_in_folds_with_a_linear_partner(tmp_path):
    quantile_files(tmp_path, ["q10", "q50", "q90"])
    trainer = create_kaggle_trainer(config=quantile_run(tmp_path))
    result = trainer.train_with_cv()
    assert result.metric == "pinball_loss" and result.oof.predictions.shape == (90, 3)
    assert (np.diff(result.oof.predictions) >= 0).all() and (np.diff(result.test_predictions) >= 0).all()
    by_name = {score.name: score for score in result.scores()}
    assert by_name["linear"].mean < 3       # the word says the price to within its noise
    linear = next(member for member in result.combined.members if member.name == "linear")
    assert 0.6 < compute_metrics(["coverage"], linear.task, linear.predictions, linear.targets)["coverage"] < 0.98
    table = trainer.create_submission().to_frame()
    assert list(table) == ["id", "q10", "q50", "q90"] and len(table) == 30
    assert (table["q10"] <= table["q50"]).all() and (table["q50"] <= table["q90"]).all()
    kept = load_oof(result.folder.oof(result.model.name))
    assert list(kept.to_frame())[2:] == ["target", "quantile_0.1", "quantile_0.5", "quantile_0.9"]
    assert kept.task == result.oof.task


def test_one_column_holds_the_median_and_strange_columns_are_refused_before_training(tmp_path):
    quantile_files(tmp_path, ["target"])
    trainer = create_kaggle_trainer(config=quantile_run(tmp_path, enable_ensemble=False))
    result = trainer.train_with_cv()
    assert np.allclose(trainer.create_submission().to_frame()["target"], result.test_predictions[:, 1])
    quantile_files(tmp_path / "other", ["low", "high"])
    strange = create_kaggle_trainer(config=quantile_run(tmp_path / "other"))
    with pytest.raises(SubmissionError, match="'low' names none of the quantiles"): strange.plan()


def test_a_bundle_of_quantiles_predicts_what_the_run_did(tmp_path):
    quantile_files(tmp_path, ["q10", "q90"])
    trainer = create_kaggle_trainer(config=quantile_run(tmp_path, enable_ensemble=False, save_fold_models=True))
    trainer.train_with_cv()
    own = trainer.create_submission().to_frame()
    made = bundle(tmp_path / "runs" / "run", tmp_path / "bundle", wheels=False)
    again = made.predict(tmp_path / "test.csv", tmp_path / "again.csv")
    assert np.allclose(again[["q10", "q90"]], own[["q10", "q90"]], atol=1e-4)


def test_members_of_quantiles(tmp_path):
    quantile_files(tmp_path, ["q10", "q50", "q90"])
    trainer = create_kaggle_trainer(config=quantile_run(tmp_path))
    members = trainer.train_with_cv().combined.members
    for method in ("voting", "blending", "hill_climbing"):
        made = create_ensemble(members, method)
        assert (np.diff(made.oof.predictions) >= -1e-9).all() and made.gain_over_best.interval.low < 1
    with pytest.raises(EnsembleError, match="stacking fits classes or values"): create_ensemble(members, "stacking")


def test_a_ranking_in_folds_keeps_groups_together(tmp_path):
    ranking_files(tmp_path)
    trainer = create_kaggle_trainer(config=ranking_run(tmp_path, enable_ensemble=True, ensemble_method="rank_average"))
    result = trainer.train_with_cv()
    query = pd.read_csv(tmp_path / "train.csv")["query"].to_numpy()
    for train, held in result.folds: assert not set(query[train]) & set(query[held])
    assert result.oof.predictions.shape == (120,) and result.oof.targets.shape == (120, 2)
    assert next(score for score in result.scores() if score.name == "linear").mean > 0.9
    assert list(result.oof.to_frame())[2:] == ["target", "group", "prediction"]
    table = trainer.create_submission().to_frame()
    assert list(table) == ["id", "target"] and len(table) == 32 and table["target"].nunique() > 2
    gain = result.ensemble.gain_over_best
    assert np.isfinite(gain.row_error) or not any(gain.values)


def test_pseudo_labels_of_a_ranking_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no label of a single row"):
        load_config(ranking_run(tmp_path, enable_pseudo_labeling=True))
