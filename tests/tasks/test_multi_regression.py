"""Several numbers a row: metrics, losses, what is refused, and a competition from its files to a submission."""
import json

import mlx.core as mx
import numpy as np
import pandas as pd
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import mean_absolute_error, r2_score

from mlx_bert_training.declaration.load import load_config
from mlx_bert_training.declaration.problems import ConfigError
from mlx_bert_training.ensemble.create import create_ensemble
from mlx_bert_training.errors import DataError
from mlx_bert_training.factory import create_kaggle_trainer
from mlx_bert_training.models import create_model
from mlx_bert_training.tasks.losses import LossError, create_loss
from mlx_bert_training.tasks.metrics import compute_metrics
from mlx_bert_training.tasks.multi_regression import MultiRegression
from mlx_bert_training.tasks.targets import TargetTransform
from mlx_bert_training.tasks.task import TaskError, get_task
from mlx_bert_training.validation.oof import load_oof
from tests.tiny_competition import SMALL, WORDS, declaration

NAMES = ["cohesion", "syntax", "grammar"]


@pytest.fixture
def values():
    rng = np.random.default_rng(0)
    y = rng.normal([3, 100, 0], [0.5, 20, 1], (60, 3))
    return y, y + rng.normal(0, [0.3, 30, 1], y.shape)


def test_metrics_are_means_over_columns(values):
    y, p = values
    task = MultiRegression()
    found = compute_metrics(["mcrmse", "rmse", "mse", "mae", "r2", "pearson", "spearman"], task, p, y)
    columns = list(zip(y.T, p.T, strict=True))
    assert found["mcrmse"] == found["rmse"] == pytest.approx(np.mean(np.sqrt(((y - p) ** 2).mean(0))), rel=1e-12)
    assert found["mse"] == pytest.approx(((y - p) ** 2).mean()) and found["mae"] == mean_absolute_error(y, p)
    assert found["r2"] == r2_score(y, p)
    assert found["pearson"] == pytest.approx(np.mean([pearsonr(a, b)[0] for a, b in columns]), rel=1e-12)
    assert found["spearman"] == pytest.approx(np.mean([spearmanr(a, b)[0] for a, b in columns]), rel=1e-12)


def test_columns_without_a_correlation(values):
    y, p = values
    flat = y.copy()
    flat[:, 1] = 7
    with pytest.warns(RuntimeWarning, match=r"columns \[1\] are left out"):
        found = compute_metrics(["spearman"], MultiRegression(), p, flat)["spearman"]
    assert found == pytest.approx(np.mean([spearmanr(y[:, c], p[:, c])[0] for c in (0, 2)]))
    p[:, 0] = 2         # says the same of all rows
    assert compute_metrics(["pearson"], MultiRegression(), p, y)["pearson"] == pytest.approx(
        np.mean([0, pearsonr(y[:, 1], p[:, 1])[0], pearsonr(y[:, 2], p[:, 2])[0]]))


def test_only_what_is_scored_and_submitted_is_cut_to_the_range(values):
    y, p = values
    task = get_task({"type": "multi_regression", "options": {"low": 0, "high": 5}})
    assert (task.predictions(p) == p).all() and task.decide(p).max() == 5 and task.decide(p).min() == 0
    assert compute_metrics(["mae"], task, p, y)["mae"] == mean_absolute_error(y, np.clip(p, 0, 5))
    assert get_task(task.spec) == task


@pytest.mark.parametrize("name", ["mse", "mae", "huber", "pinball"])
def test_losses_are_means_over_columns(name, values):
    y, p = (mx.array(v.astype(np.float32)) for v in values)
    loss, single = create_loss(name, task="multi_regression"), create_loss(name, task="regression")
    found, weight = loss(p, y)
    each = np.stack([np.array(single(p[:, c:c + 1], y[:, c])[0]) for c in range(3)])
    assert found.shape == weight.shape == (60,) and np.allclose(found, each.mean(0), rtol=1e-5)
    with pytest.raises(LossError, match="labels of shape"): loss(p, y[:, :2])
    with pytest.raises(LossError, match=r"\(B, 1\)"): single(p, y[:, 0])


def test_each_column_has_a_scale_of_its_own(values, tmp_path):
    y, _ = values
    scale = TargetTransform.fit("standardize", y)
    assert np.allclose(scale.forward(y).mean(0), 0, atol=1e-6) and np.allclose(scale.forward(y).std(0), 1, atol=1e-5)
    assert np.allclose(scale.inverse(scale.forward(y)), y, atol=1e-4)
    scale.save(tmp_path)
    assert TargetTransform.load(tmp_path) == scale
    with pytest.raises(DataError, match="is negative"): TargetTransform.fit("log1p", y)


def test_what_is_refused():
    with pytest.raises(TaskError, match="num_labels"): MultiRegression().num_outputs(None)
    with pytest.raises(ConfigError, match="mse"):
        load_config({"model": {"head_type": "multi_regression"}, "training": {"loss": "bce"}})
    with pytest.raises(ConfigError, match="smooths classes"):
        load_config({"model": {"head_type": "multi_regression"}, "training": {"label_smoothing": 0.1}})
    with pytest.raises(Exception, match="does not fit"): compute_metrics(["mcrmse"], "regression", [1.0], [1.0])
    with pytest.raises(DataError, match="plain regression"): MultiRegression().form.read(
        [type("C", (), {"unfit": lambda self, text: DataError(text)})()], None)


def test_a_saved_model_knows_its_columns(tmp_path):
    model = create_model(config=SMALL | {"vocab_size": 20}, head_type="multi_regression", label_names=NAMES)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["problem_type"] == "regression"
    again = create_model(pretrained=tmp_path)
    assert (again.head_type, again.num_labels) == ("multi_target_regression", 3) and again.label_names == NAMES


def write_marks(folder, n=90, m=30, c=3):
    "Marks that follow from a word, each on a scale of its own."
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 10, n + m)
    frame = pd.DataFrame({"id": np.arange(n + m), "kind": [WORDS[k] for k in kinds],
                          "code": [f"row{i:03d}" for i in range(n + m)], "size": kinds + 1})
    names = NAMES if c == 3 else [f"target {i}" for i in range(c)]
    for i, name in enumerate(names): frame[name] = 10.0 ** (i % 3) * ((kinds + 3 * i) % 10 + rng.normal(0, 0.3, n + m))
    folder.mkdir(exist_ok=True)
    frame[:n].to_csv(folder / "train.csv", index=False)
    frame[n:].drop(columns=names).to_csv(folder / "test.csv", index=False)
    frame[n:][["id"]].assign(**dict.fromkeys(names, 3.0)).to_csv(folder / "sample_submission.csv", index=False)
    return frame, names


def trained(folder, **kaggle):
    frame, names = write_marks(folder)
    trainer = create_kaggle_trainer(config=declaration(
        folder, model={"config": SMALL, "pooling": "mean", "dropout_rate": 0.0, "head_type": "multi_regression"},
        data={"target_column": names}, training={"num_epochs": 6},
        kaggle={"competition_metric": "mcrmse", **kaggle}))
    return trainer, trainer.train_with_cv(), frame


@pytest.mark.long
@pytest.mark.parametrize("method", ["stacking", {"type": "blending", "options": {"per_column": True}}])
def test_a_competition_with_partners_from_files_to_submission(tmp_path, method):
    trainer, result, frame = trained(
        tmp_path, enable_ensemble=True, ensemble_method=method,
        ensemble_members=["linear", "chars",
                          {"type": "gbm", "options": {"columns": ["size"], "options": {"min_samples_leaf": 2}}}])
    members = {score.name: score.mean for score in result.ensemble.members}
    constant = np.sqrt(((frame[NAMES] - frame[NAMES].mean()) ** 2).mean()).mean()
    assert set(members) >= {"linear", "gbm", "chars"} and all(score < 0.9 * constant for score in members.values())
    assert result.ensemble.score.mean < 1.05 * max(members.values())
    sent = pd.read_csv(trainer.create_submission())
    assert list(sent) == ["id", *NAMES] and sent["id"].tolist() == frame["id"][90:].tolist()
    off = np.sqrt(((sent[NAMES].to_numpy() - frame[NAMES][90:].to_numpy()) ** 2).mean(0))
    assert (off < frame[NAMES].std().to_numpy()).all()       # each column holds its own target


def test_what_is_kept_shows_itself(tmp_path):
    trainer, result, frame = trained(tmp_path, save_fold_models=True)
    oof = load_oof(next((tmp_path / "runs" / "run" / "oof").glob("*.npz")))
    assert oof.class_names == NAMES and list(oof.to_frame())[-3:] == [f"prediction_{name}" for name in NAMES]
    from mlx_bert_training.widgets.explorer import CompetitionExplorer
    explorer = CompetitionExplorer(trainer, result=result)
    assert "mean column-wise" in str(explorer.errors()) or "mean column-wise" in explorer.errors().section().html()
    assert "cohesion" in explorer.targets().html()
    assert explorer.errors().plot() is not None and len(explorer.errors().hardest(3)) == 3
    both = create_ensemble([oof, type(oof)(**{**oof.__dict__, "name": "twin"})], "rank_average", "spearman")
    assert both.score.mean == pytest.approx(oof.score("spearman").mean, abs=1e-9)


@pytest.mark.long
def test_pseudo_labels_of_several_values(tmp_path):
    _, result, _ = trained(tmp_path, enable_pseudo_labeling=True, pseudo_label_max_share=0.5)
    assert np.isfinite(result.mean) and result.pseudo_labels is not None
