"""Rankings: losses by hand, metrics by hand, groups kept together in batches, and a run that learns an order."""
import json

import mlx.core as mx
import numpy as np
import pandas as pd
import pytest

from mlx_bert_training.data.loader import BucketedLoader, TextDataset, together
from mlx_bert_training.data.prepare import prepare
from mlx_bert_training.data.tokenization import tiny_tokenizer
from mlx_bert_training.declaration.load import load_config
from mlx_bert_training.declaration.problems import ConfigError
from mlx_bert_training.errors import DataError
from mlx_bert_training.run import load, run_training
from mlx_bert_training.search import auto as search_auto
from mlx_bert_training.stages.plan import check_folds, choose_folds
from mlx_bert_training.tasks.losses import LossError, create_loss
from mlx_bert_training.tasks.metrics import MetricError, check_metrics, compute_metrics
from mlx_bert_training.tasks.ranking import Ranking
from mlx_bert_training.tasks.task import TaskError
from mlx_bert_training.validation.folds import make_folds
from mlx_bert_training.widgets.error_report import ErrorReport

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
LABELS = np.array([[2, 0], [1, 0], [0, 0], [3, 1], [0, 1], [1, 2]], np.float32)
SCORES = np.array([0.3, 1.2, -0.5, 2.0, 2.5, 9.0])


def mean(name, logits, labels):
    value, weight = create_loss(name, task="ranking")(mx.array(logits[:, None]), mx.array(labels))
    return ((value * weight).sum() / weight.sum()).item()


def test_pairwise_by_hand():
    pairs = [(0, 1), (0, 2), (1, 2), (3, 4)]
    expected = np.mean([np.log1p(np.exp(SCORES[j] - SCORES[i])) for i, j in pairs])
    assert mean("pairwise", SCORES, LABELS) == pytest.approx(expected, rel=1e-5)


def test_listwise_by_hand():
    total = []
    for rows in ([0, 1, 2], [3, 4], [5]):
        gain = 2 ** LABELS[rows, 0] - 1
        total.append(-(gain / gain.sum() * (SCORES[rows] - np.log(np.exp(SCORES[rows]).sum()))).sum())
    assert mean("listwise", SCORES, LABELS) == pytest.approx(np.mean(total), rel=1e-5)


@pytest.mark.parametrize("name", ["pairwise", "listwise"])
def test_a_filler_row_changes_nothing_and_its_gradient_is_zero(name):
    labels, scores = np.vstack([LABELS, [[-1, -1]]]), np.append(SCORES, 50.0)
    assert mean(name, scores, labels.astype(np.float32)) == pytest.approx(mean(name, SCORES, LABELS), rel=1e-6)
    loss = create_loss(name, task="ranking")

    def total(x):
        value, weight = loss(x, mx.array(labels.astype(np.float32)))
        return (value * weight).sum()
    gradient = np.array(mx.grad(total)(mx.array(scores[:, None])))
    assert gradient[-1] == 0 and np.isfinite(gradient).all() and abs(gradient.sum()) < 1e-4


@pytest.mark.parametrize("name", ["pairwise", "listwise"])
def test_groups_without_an_order_or_gain_cost_nothing(name):
    value, weight = create_loss(name, task="ranking")(mx.zeros((2, 1)), mx.array([[0.0, 0], [0, 0]]))
    assert (value * weight).tolist() == [0, 0] and mx.isfinite(value).all().item()


def test_metrics_by_hand():
    scores = compute_metrics(["ndcg", "ndcg_at_10", "mean_average_precision", "mrr"], "ranking", SCORES, LABELS)
    log = 1 / np.log2(np.arange(2, 5))
    first = (1 * log[0] + 2 * log[1]) / (2 * log[0] + 1 * log[1])
    second = 3 * log[1] / (3 * log[0])
    assert scores["ndcg"] == scores["ndcg_at_10"] == pytest.approx((first + second) / 2)
    assert scores["mean_average_precision"] == pytest.approx((1 + 0.5) / 2) and scores["mrr"] == 0.75
    tied = compute_metrics(["mrr"], "ranking", np.zeros(6), LABELS)["mrr"]
    assert tied == pytest.approx((1 / 2 + 1 / 2) / 2)       # an order that is none is not taken for a good one
    with pytest.warns(RuntimeWarning, match="no group has rows of different relevance"):
        assert np.isnan(compute_metrics(["ndcg"], "ranking", SCORES[:1], LABELS[:1])["ndcg"])


def test_rows_of_a_group_are_together():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), rng.integers(1, 6, 40))
    order = rng.permutation(len(groups))
    found = groups[together(order, groups)]
    assert (np.diff(found) != 0).sum() == 39 and sorted(together(order, groups)) == list(range(len(groups)))
    texts = [f"row {i}" for i in range(len(groups))]
    labels = np.stack([rng.integers(0, 3, len(groups)), groups], axis=1).astype(np.float32)
    loader = BucketedLoader(TextDataset(tiny_tokenizer(texts).encode(texts), labels, groups=groups), 16, shuffle=True)
    assert [b["row"].tolist() for b in loader.batches(0)] != [b["row"].tolist() for b in loader.batches(1)]
    for epoch in range(3):
        batches = list(loader.batches(epoch))
        rows = np.concatenate([batch["row"][batch["row"] >= 0] for batch in batches])
        assert sorted(rows) == list(range(len(groups)))
        parts = sum(len(set(groups[batch["row"][batch["row"] >= 0]])) for batch in batches)
        assert parts <= 40 + len(batches) - 1       # at each border of two batches one group may be cut
        for batch in batches: assert (batch["labels"][batch["row"] < 0] == -1).all()
    assert loader.subset(np.arange(5)).dataset.groups.tolist() == groups[:5].tolist()


@pytest.mark.parametrize(("settings", "message"), [
    ({"model": {"head_type": "ranking"}, "data": {"train_path": "a.csv"}}, "needs the column that says which rows"),
    ({"data": {"group_column": "query"}}, "does not read it: set it to null"),
    ({"model": {"head_type": "ranking"}, "training": {"loss": "mse"}}, "which has auto, pairwise, listwise"),
])
def test_what_does_not_suit_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message): load_config(settings)


@pytest.mark.parametrize(("rows", "message"), [
    ("a,q,1\nb,q,1\nc,r,0\n", "no group has rows of different relevance"),
    ("a,q,1\nb,q,-2\n", "line 3, column 'relevance': a relevance of -2"),
    ("a,q,1\nb,,0\n", "line 3, column 'query': the target is missing"),
])
def test_a_file_without_an_order_is_refused(tmp_path, rows, message):
    (tmp_path / "a.csv").write_text("text,query,relevance\n" + rows)
    config = load_config({"model": {"head_type": "ranking"}, "training": {"eval_strategy": "no"}, "data": {
        "train_path": str(tmp_path / "a.csv"), "text_column": "text", "target_column": "relevance",
        "group_column": "query", "validation_fraction": 0}})
    with pytest.raises(DataError, match=message): prepare(config)


def test_only_its_metrics_and_losses_fit():
    assert check_metrics(["mrr"], "rank") == ["mrr"]
    for metric in ("rmse", "auc"):
        with pytest.raises(MetricError, match="these do: ndcg, ndcg_at_10"): check_metrics([metric], "ranking")
    with pytest.raises(LossError, match="logits of shape"):
        create_loss(task="ranking")(mx.zeros((2, 2)), mx.zeros((2, 2)))
    with pytest.raises(TaskError, match="no errors of single rows"): ErrorReport(LABELS, SCORES, Ranking())
    with pytest.raises(TaskError, match="set it to none"): Ranking().scaling("log1p", "ndcg")


def offers(folder, **data):
    "Thirty groups of two to five rows in any order, as a file, and its declaration."
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), rng.integers(2, 6, 30))
    frame = pd.DataFrame({"text": [f"offer {i}" for i in range(len(groups))], "query": [f"q{i}" for i in groups],
                          "user": np.arange(len(groups)) % 7, "relevance": rng.integers(0, 3, len(groups))})
    frame = frame.iloc[rng.permutation(len(frame))].reset_index(drop=True)
    frame.to_csv(folder / "offers.csv", index=False)
    training = {"eval_strategy": "epoch" if data.get("validation_fraction", 1) else "no"}
    return frame, {"model": {"head_type": "ranking"}, "training": training, "data": {
        "train_path": str(folder / "offers.csv"), "text_column": "text", "target_column": "relevance",
        "group_column": "query", "num_workers": 0, **data}}


def is_whole(part, frame):
    "Whether each group that occurs is there with all its rows."
    return frame["query"].isin(part["query"]).sum() == len(part)


@pytest.mark.parametrize("most", [None, 30])
def test_a_split_and_fewer_rows_keep_groups_whole(tmp_path, most):
    frame, declared = offers(tmp_path, max_train_rows=most)
    found = prepare(load_config(declared))
    train, held = found.frames["train"], found.frames["validation"]
    assert is_whole(train, frame) and is_whole(held, frame) and not set(train["query"]) & set(held["query"])
    assert abs(len(held) - 0.2 * len(frame)) < 5 and len(train) + len(held) == len(frame) if most is None else (
        25 < len(train) <= 30)
    again = prepare(load_config(declared)).frames
    assert all(again[part].equals(found.frames[part]) for part in again)
    known = {(row.text, row.query) for row in frame.itertuples()}
    assert {(row.text, row.query) for part in (train, held) for row in part.itertuples()} <= known


def test_groups_that_are_too_large_to_choose_from_are_refused(tmp_path):
    _, declared = offers(tmp_path, max_train_rows=1)
    with pytest.raises(DataError, match="no group is kept, for the smallest of 2. has 2 rows.*Set it to 2 or more"):
        prepare(load_config(declared))
    _, declared = offers(tmp_path, validation_fraction=0.01)
    with pytest.raises(DataError, match="holds nothing out: the smallest of 30 groups has 2 rows; set a larger"):
        prepare(load_config(declared))


def test_folds_keep_what_is_ranked_together_whatever_else_they_keep(tmp_path):
    "A user asks several queries and a query has offers of several users: both stay in one fold."
    frame, declared = offers(tmp_path, validation_fraction=0)
    frame["user"] = pd.factorize(frame["query"])[0] % 7
    frame.loc[frame["query"] == "q1", "user"] = range(10, 10 + (frame["query"] == "q1").sum())
    frame.to_csv(tmp_path / "offers.csv", index=False)
    config = load_config({**declared, "kaggle": {"cv_folds": 3, "group_column": "user"}})
    data = prepare(config)
    for train, held in choose_folds(config, data.train, Ranking(), data):
        for name in ("query", "user"): assert not set(frame[name][train]) & set(frame[name][held])


def test_folds_by_time_that_part_a_group_are_refused():
    groups = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])
    labels = np.stack([np.arange(9) % 3, groups], axis=1).astype(np.float32)
    folds = make_folds(9, "time_series", 2, order=np.arange(9), groups=groups)
    check_folds(folds, labels, Ranking(), "ndcg")
    labels[3, 1] = 0
    with pytest.raises(DataError, match="ids 0 and 3 are ranked together .*give the rows of a group one time"):
        check_folds(folds, labels, Ranking(), "ndcg")


def test_a_linear_model_is_judged_on_groups_that_it_did_not_see(tmp_path, monkeypatch):
    frame, declared = offers(tmp_path, validation_fraction=0)
    parts = []
    def fit(data, rows, part, others):
        parts.extend((frame.iloc[rows], frame.iloc[others]))
        return np.zeros(len(others))
    monkeypatch.setattr(search_auto, "linear_fit", fit)
    search_auto.linear_score(prepare(load_config(declared)), "ndcg", 0)
    assert all(is_whole(part, frame) for part in parts)


@pytest.mark.long
def test_a_run_learns_an_order_within_groups(tmp_path):
    "What a group is about moves all its relevances, so that only the order within it can be read from the text."
    rng, words = np.random.default_rng(0), ["poor", "fair", "good"]
    rows = []
    for query in range(80):
        for relevance in rng.permutation(3):
            rows.append((f"q{query}", f"offer {rng.integers(9)} is {words[relevance]}", relevance + 2 * (query % 2)))
    frame = pd.DataFrame(rows, columns=["query", "text", "relevance"])
    frame[:180].to_csv(tmp_path / "train.csv", index=False)
    frame[180:].to_csv(tmp_path / "valid.csv", index=False)
    frame[180:].drop(columns=["relevance", "query"]).to_csv(tmp_path / "test.csv", index=False)
    for loss in ("listwise", "pairwise"):
        (tmp_path / "run.yaml").write_text(f"""\
model: {{head_type: ranking, pooling: mean, dropout_rate: 0.0, config: {json.dumps(SMALL)}}}
data: {{train_path: train.csv, validation_path: valid.csv, test_path: test.csv, text_column: text, num_workers: 0,
        target_column: relevance, group_column: query, batch_size: 12}}
optimizer: {{learning_rate: 0.02}}
training: {{num_epochs: 5, loss: {loss}, best_metric: eval_ndcg, save_strategy: no, baselines: true}}
environment: {{output_dir: {tmp_path}, run_name: {loss}, device: cpu, compile: false}}
""")
        run = run_training(tmp_path / "run.yaml")
        assert run.result.metrics["eval_ndcg"] > 0.98, loss
        assert run.scores.index.tolist() == ["mean", "ridge regression", "this model"]
        scores = pd.read_csv(run.result.output_dir / "predictions.csv")["relevance"]
        assert len(scores) == 60
    found = load(tmp_path / "pairwise").predict(["offer 1 is poor", "offer 2 is good"])
    assert found.values[0] < found.values[1]
