"""Pseudo-labels: the right rows, weights that reach the gradient, and no way for validation answers to come back."""
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.optimizers import SGD
from toys import ToyModel

from mlx_bert_training.core.base import Trainer
from mlx_bert_training.core.step import TrainingStep
from mlx_bert_training.data.loader import BucketedLoader, TextDataset
from mlx_bert_training.data.tokenization import tiny_tokenizer
from mlx_bert_training.declaration.load import load_config
from mlx_bert_training.ensemble.pseudo_label import (
    PseudoLabelError,
    PseudoLabelLeak,
    PseudoLabels,
    compare_pseudo_labels,
    select_pseudo_labels,
    with_pseudo_labels,
)
from mlx_bert_training.errors import DataError, MLXBertError
from mlx_bert_training.tasks.losses import create_loss
from mlx_bert_training.validation.folds import make_folds
from mlx_bert_training.validation.oof import OOF

TOKENIZER = tiny_tokenizer(["yes no a b c"])


def dataset(n: int, labels: np.ndarray | None = None, ids: Any = None, words: int = 1) -> TextDataset:
    return TextDataset(TOKENIZER.encode([" ".join(["yes" if i % 2 else "no"] * words) for i in range(n)]), labels,
                       ids=np.arange(n) if ids is None else ids)


def loader(n: int = 20, labels: np.ndarray | None = None, **options: Any) -> BucketedLoader:
    return BucketedLoader(dataset(n, np.arange(n, dtype=np.int32) % 2 if labels is None else labels),
                          batch_size=options.pop("batch_size", 4), **options)


def pick(p: Any, head: str = "binary", threshold: float = 0.9, trained_on: Any = range(5, 20), **options: Any
         ) -> PseudoLabels:
    return select_pseudo_labels(np.asarray(p), head, threshold, trained_on=trained_on, **options)


# ---- which rows

@pytest.mark.parametrize("soft", [False, True])
def test_only_rows_above_the_threshold(soft):
    p = np.array([0.02, 0.11, 0.5, 0.9, 0.89, 0.95, 0.1])
    chosen = pick(p, soft=soft, balance=False)
    assert chosen.rows.tolist() == [0, 3, 5, 6] and (chosen.confidence >= 0.9).all() and chosen.total == 7
    if soft: assert chosen.labels == pytest.approx(np.stack([1 - p, p], 1)[chosen.rows])
    else: assert chosen.labels.tolist() == [0, 1, 1, 0] and chosen.labels.dtype == np.int32
    assert pick(p, threshold=0, balance=False).rows.tolist() == list(range(7))
    assert len(pick(p, threshold=1.0, balance=False)) == 0


def test_no_row_at_all_is_reported(caplog):
    assert len(pick(np.array([0.4, 0.6]), name="fold 3")) == 0
    assert "pseudo-labels 'fold 3': no test row is sure enough for threshold 0.9" in caplog.text


def test_balance_keeps_the_surest_of_each_class_up_to_its_share():
    p = np.array([[0.99, 0.01, 0], [0.95, 0.05, 0], [0.97, 0.03, 0], [0.92, 0, 0.08], [0, 0.93, 0.07], [0.1, 0, 0.9],
                  [0.4, 0.3, 0.3], [0.91, 0.09, 0]])
    assert pick(p, "multiclass", balance=False).rows.tolist() == [0, 1, 2, 3, 4, 5, 7]
    chosen = pick(p, "multiclass", class_shares=[0.25, 0.5, 0.25])
    assert chosen.rows.tolist() == [0, 2, 4, 5] and chosen.labels.tolist() == [0, 0, 1, 2]
    own = pick(p, "multiclass")     # mean probabilities: 0.655 of 8 rows, so 6 of class 0 would be allowed
    assert own.rows.tolist() == [0, 1, 2, 3, 4, 5, 7]


@pytest.mark.parametrize("balance", [False, True])
def test_max_share_keeps_the_surest(balance):
    p = np.array([0.99, 0.98, 0.97, 0.01, 0.96, 0.95, 0.94, 0.93])
    chosen = pick(p, max_share=0.5, balance=balance, class_shares=[0.5, 0.5])
    assert chosen.rows.tolist() == ([0, 1, 3] if balance else [0, 1, 2, 3])


def test_many_labels_must_all_be_sure():
    p = np.array([[0.95, 0.02], [0.95, 0.5], [0.1, 0.01], [0.99, 0.97]])
    hard, soft = pick(p, "multilabel"), pick(p, "multilabel", soft=True)
    assert hard.rows.tolist() == soft.rows.tolist() == [0, 2, 3]
    assert hard.labels.tolist() == [[1, 0], [0, 0], [1, 1]] and soft.labels == pytest.approx(p[[0, 2, 3]])


def test_values():
    p = np.array([3.0, -1.0, 7.0, 0.0, 5.0])
    every = pick(p, "regression")
    assert every.rows.tolist() == [0, 1, 2, 3, 4] and every.labels.tolist() == p.tolist()
    assert pick(p, "regression", max_share=0.6).labels.tolist() == [3.0, -1.0, 7.0]     # from the whole range
    agreed = pick(p, "regression", max_share=0.4, spread=np.array([0.5, 0.1, 0.9, 0.2, 0.3]))
    assert agreed.rows.tolist() == [1, 3]


@pytest.mark.parametrize(("options", "words"), [
    (dict(threshold=1.2), "between 0 and 1"), (dict(max_share=0.0), "above 0"), (dict(trained_on=[]), "no leak can be"),
    (dict(class_shares=[1, 2, 3]), "3 class_shares for 2"), (dict(spread=np.ones(3)), "spread is for values"),
])
def test_options_out_of_range(options, words):
    with pytest.raises(PseudoLabelError, match=words): pick(np.array([0.1, 0.5, 0.9]), **options)
    with pytest.raises(PseudoLabelError, match="spread must be"): pick(np.ones(3), "regression", spread=0.3)
    with pytest.raises(DataError, match="test row 1.*not probabilities"): pick(np.array([0.1, 1.5, 0.9]))


# ---- joining

@pytest.mark.parametrize("soft", [False, True])
def test_joined_rows_have_their_labels_and_weights(soft):
    p = np.array([0.95, 0.5, 0.03])
    train = loader().subset(np.arange(5, 20))
    joined = with_pseudo_labels(train, dataset(3, ids=np.arange(3), words=2), pick(p, soft=soft), 0.3,
                                validation=range(5))
    assert joined.row_ids.tolist() == [*range(5, 20), "pseudo-0", "pseudo-2"]
    assert joined.labels is not None and train.labels is not None
    if soft:
        assert joined.labels[:15] == pytest.approx(np.eye(2)[train.labels]) and joined.labels.dtype == np.float32
        assert joined.labels[15:] == pytest.approx(np.array([[0.05, 0.95], [0.97, 0.03]]))
    else: assert joined.labels.tolist() == [*train.labels.tolist(), 1, 0]
    seen = {}
    for batch in joined:
        for row, weight, ids in zip(batch["row"], batch["example_weight"], batch["input_ids"], strict=True):
            if row >= 0: seen[int(row)] = (float(weight), ids)
    assert sorted(seen) == list(range(17))
    assert [seen[i][0] for i in range(17)] == pytest.approx([1.0] * 15 + [0.3] * 2)
    assert [TOKENIZER.decode(seen[i][1]) for i in (14, 15, 16)] == ["yes", "no no", "no no"]    # test rows 0 and 2


@pytest.mark.parametrize(("head", "p"), [("regression", np.array([0.5, 2.0, -1.0])),
                                         ("multilabel", np.array([[0.99, 0.01], [0.6, 0.01], [0.02, 0.98]]))])
def test_other_tasks_join_too(head, p):
    rng = np.random.default_rng(0)
    known = rng.normal(size=20) if head == "regression" else rng.integers(0, 2, (20, 2))
    train = loader(20, known.astype(np.float32)).subset(np.arange(5, 20))
    joined = with_pseudo_labels(train, dataset(3), pick(p, head), validation=range(5))
    added = {"regression": [0.5, 2.0, -1.0], "multilabel": [[1, 0], [0, 1]]}[head]
    assert joined.labels is not None
    assert np.array_equal(joined.labels, np.concatenate([known[5:].astype(np.float32), np.array(added, np.float32)]))


def test_joined_loader_keeps_its_ways():
    train = loader(20, shuffle=True, seed=7, drop_last=True).subset(np.arange(5, 20))
    test = BucketedLoader(dataset(6, words=12), batch_size=2)
    joined = with_pseudo_labels(train, test, pick(np.array([0.99, 0.98, 0.02, 0.01, 0.97, 0.03])), validation=range(5))
    assert (joined.shuffle, joined.seed, joined.drop_last, joined.batch_size) == (True, 7, True, 4)
    assert joined.widths[:-1] == train.widths and joined.widths[-1] >= 14      # test texts are longer
    assert len(joined.dataset) == 21 and len(list(joined)) == len(joined) == 5
    assert with_pseudo_labels(train, test, pick(np.full(6, 0.5)), validation=range(5)) is train


def test_weights_add_up_over_rounds():
    "Weights of the training rows stay, and those of single labels multiply the common one."
    base = loader()
    weighted = BucketedLoader(replace(base.dataset, weights=np.full(20, 2.0, np.float32)), 4).subset(np.arange(5, 20))
    labels = replace(pick(np.array([0.95, 0.97])), weights=np.array([1.0, 0.5], np.float32))
    joined = with_pseudo_labels(weighted, dataset(2), labels, 0.4, validation=range(5))
    assert joined.dataset.weights == pytest.approx(np.array([2.0] * 15 + [0.4, 0.2]))


def gradient(batch: dict[str, np.ndarray]) -> tuple[np.ndarray, float]:
    "Gradient of the loss sum with respect to the output layer, and the weight of the batch."
    model = ToyModel(seed=1)
    step = TrainingStep(model, create_loss("auto", task="binary"), SGD(0.1), compiled=False)
    step.accumulate(batch)
    assert step.window is not None
    return np.array(step.window[0]["out"]["weight"]), float(step.window[1])


@pytest.mark.parametrize("soft", [False, True])
def test_weights_reach_the_gradient(soft):
    "The gradient of a batch is that of its known rows plus `weight` times that of its pseudo-labelled rows."
    train, test = loader(8, batch_size=10), dataset(2, words=3)
    labels = pick(np.array([0.97, 0.04]), soft=soft, trained_on=range(8))

    def joined(weight: float) -> dict[str, np.ndarray]:
        [batch] = list(with_pseudo_labels(train, test, labels, weight, validation=[99]))
        return dict(batch)

    known = joined(0.25)
    pseudo = dict(known)
    is_pseudo = np.isin(known["row"], [8, 9])
    known["example_weight"] = (~is_pseudo).astype(np.float32)
    pseudo["example_weight"] = is_pseudo.astype(np.float32)
    (g_known, w_known), (g_pseudo, w_pseudo) = gradient(known), gradient(pseudo)
    assert (w_known, w_pseudo) == (8, 2) and np.abs(g_pseudo).max() > 1e-3
    for weight in (0.25, 0.5, 1.0):
        g, total = gradient(joined(weight))
        np.testing.assert_allclose(g, g_known + weight * g_pseudo, atol=1e-6)
        assert total == pytest.approx(8 + weight * 2)


def test_soft_labels_teach_something_else_than_hard_ones():
    train, test, p = loader(8, batch_size=10), dataset(2), np.array([0.7, 0.35])
    grads = []
    for soft in (False, True):
        labels = pick(p, soft=soft, threshold=0.6, trained_on=range(8))
        [batch] = list(with_pseudo_labels(train, test, labels, 1.0, validation=[]))
        grads.append(gradient(dict(batch))[0])
    assert np.abs(grads[0] - grads[1]).max() > 1e-3
    certain = [pick(np.array([1.0, 0.0]), soft=soft, trained_on=range(8)) for soft in (False, True)]
    batches = [next(iter(with_pseudo_labels(train, test, c, 1.0, validation=[]))) for c in certain]
    np.testing.assert_allclose(gradient(dict(batches[0]))[0], gradient(dict(batches[1]))[0], atol=1e-6)


# ---- leaks

def test_labels_from_a_model_that_saw_validation_rows_are_refused():
    folds = make_folds(np.arange(20) % 2, "stratified", 4, task="binary", row_ids=[f"r{i}" for i in range(20)])
    base = BucketedLoader(dataset(20, np.arange(20, dtype=np.int32) % 2, ids=folds.row_ids), 4)
    p, test = np.array([0.99, 0.01]), dataset(2)
    for i, (rows, held) in enumerate(folds):
        own = pick(p, trained_on=folds.row_ids[rows], name=f"fold {i}")
        joined = with_pseudo_labels(base.subset(rows), test, own, validation=folds.row_ids[held])
        assert len(joined.dataset) == len(rows) + 2
        for j, (others, _) in enumerate(folds):
            if i == j: continue
            leaking = pick(p, trained_on=folds.row_ids[others], name=f"fold {j}")
            with pytest.raises(PseudoLabelLeak, match=f"'fold {j}' learnt from 5 validation rows, such as id r"):
                with_pseudo_labels(base.subset(rows), test, leaking, validation=folds.row_ids[held])
    every = pick(p, trained_on=folds.row_ids, name="mean of all folds")
    with pytest.raises(PseudoLabelLeak, match="mean of all folds"):
        with_pseudo_labels(base.subset(rows), test, every, validation=folds.row_ids[held])


def test_one_row_is_enough_and_ids_may_be_text():
    labels = pick(np.array([0.99]), trained_on=[1, 2, 3])
    with pytest.raises(PseudoLabelLeak, match="1 validation rows, such as id 3"):
        with_pseudo_labels(loader(), dataset(1), labels, validation=["3", "4"])
    assert issubclass(PseudoLabelLeak, MLXBertError)


def test_validation_rows_among_the_training_rows_are_refused():
    with pytest.raises(PseudoLabelLeak, match="2 validation rows, such as id 18, are among the training rows"):
        with_pseudo_labels(loader(), dataset(1), pick(np.array([0.99]), trained_on=range(3)), validation=[18, 19, 50])


def test_test_ids_are_not_taken_for_training_ids():
    "A second round is trained on rows `pseudo-0`, ...; test row 0 is not validation row 0."
    joined = with_pseudo_labels(loader().subset(np.arange(5, 20)), dataset(2), pick(np.array([0.99, 0.98])),
                                validation=range(5))
    second = pick(np.array([0.99, 0.98]), trained_on=joined.row_ids)
    again = with_pseudo_labels(joined, dataset(2), second, validation=range(5))
    assert len(again.dataset) == 19


def test_what_does_not_fit_is_refused():
    labels = pick(np.array([0.99, 0.98]))
    for train, test, given, words in (
            (loader(), dataset(3), labels, "labels for 2 test rows, and there are 3"),
            (BucketedLoader(dataset(20), 4), dataset(2), labels, "have no labels"),
            (loader(), dataset(2), pick([[0.99, 0.01]] * 2, "multilabel"), "do not go together")):
        with pytest.raises(PseudoLabelError, match=words): with_pseudo_labels(train, test, given, validation=[77])
    with pytest.raises(PseudoLabelError, match="weight 0"):
        with_pseudo_labels(loader(), dataset(2), labels, 0, validation=[77])


# ---- in training, and the comparison

@pytest.mark.parametrize(("soft", "loss", "weights"), [(True, "auto", None), (True, "auto", "balanced"),
                                                      (True, "focal", "balanced"), (False, "auto", "balanced")])
def test_a_trainer_learns_from_joined_rows(soft, loss, weights, tmp_path: Path):
    config = load_config({"training": {"num_epochs": 8, "eval_strategy": "no", "save_strategy": "no", "loss": loss,
                                       "class_weights": weights},
                          "optimizer": {"learning_rate": 0.05}, "scheduler": {"type": "none"},
                          "environment": {"output_dir": str(tmp_path), "run_name": "toy", "device": "cpu"}})
    labels = np.array([0] * 12 + [1] * 4, np.int32)     # the words say nothing about these
    train = BucketedLoader(TextDataset(TOKENIZER.encode(["c"] * 16), labels, ids=np.arange(16)), 8, shuffle=True)
    test = dataset(16)
    certain = pick(np.where(np.arange(16) % 2, 0.96, 0.04), soft=soft, trained_on=range(16))
    joined = with_pseudo_labels(train, test, certain, 1.0, validation=[99])
    trainer = Trainer(ToyModel(), config)
    trainer.train(joined)
    p = trainer.predict(BucketedLoader(test, 8)).values[:, 1]
    assert p[1::2].min() > 0.5 > p[::2].max()       # "yes" and "no" are known from pseudo-labels only
    assert all(mx.isfinite(value).all() for value in trainer.model.parameters()["out"].values())


def rounds(noise: float, seed: int = 0, fold_hash: str = "same") -> tuple[OOF, OOF]:
    rng = np.random.default_rng(seed)
    y, folds = rng.integers(0, 2, 300), np.arange(300) % 5
    made = [1 / (1 + np.exp(-(2 * y - 1 + n * rng.normal(size=300)))) for n in (1.5, noise)]
    first, second = (OOF(name=name, task="binary", row_ids=np.arange(300), folds=folds, targets=y, predictions=p,
                         folds_hash=h, metric="auc")
                     for name, p, h in zip(("plain", "pseudo"), made, ("same", fold_hash), strict=True))
    return first, second


def test_labels_that_help_are_kept_and_others_are_not():
    good = compare_pseudo_labels(*rounds(0.8), "auc")
    assert good.keep and good.oof is good.with_labels and good.gain.clear and good.nested_gain.mean > 0
    assert good.gain.values == pytest.approx([b - a for a, b in zip(good.without.score("auc").values,
                                                                    good.with_labels.score("auc").values, strict=True)])
    bad = compare_pseudo_labels(*rounds(2.5), "auc")
    assert not bad.keep and bad.oof is bad.without and bad.gain.mean < 0 and bad.nested_gain.mean == 0
    loss = compare_pseudo_labels(*rounds(0.8), "log_loss")      # less is better here
    assert loss.keep and loss.gain.mean > 0


def test_what_goes_on_is_of_the_round_that_the_other_folds_chose():
    result = compare_pseudo_labels(*rounds(1.3), "auc")
    mixed = result.nest(result.without, result.with_labels)
    assert result.keep and set(result.choice.by_fold.values()) == {"with", "without"}
    for fold, name in result.choice.by_fold.items():
        rows, source = mixed.folds == fold, result.without if name == "without" else result.with_labels
        assert np.array_equal(mixed.predictions[rows], source.predictions[rows])


def test_the_comparison_shows_itself_and_checks_for_leaks():
    first, second = rounds(0.8)
    p = np.linspace(0.01, 0.99, 50)
    own = [pick(p, trained_on=np.flatnonzero(first.folds != k), name=f"fold {k}") for k in range(5)]
    result = compare_pseudo_labels(first, second, "auc", own)
    table = result.to_frame()
    assert table["pseudo-labelled"].tolist() == [len(part) for part in own] and len(own[0]) == 10
    assert table["gain"].tolist() == pytest.approx((table["with"] - table["without"]).tolist())
    assert "pseudo-labels: kept" in result._repr_html_() and "±" in repr(result)
    assert len(result.plot().axes[0].get_yticklabels()) == 2
    with pytest.raises(PseudoLabelLeak, match="'fold 1' learnt from 60 validation rows"):
        compare_pseudo_labels(first, second, "auc", [own[1], own[0], *own[2:]])
    with pytest.raises(PseudoLabelError, match="4 folds for 5"): compare_pseudo_labels(first, second, "auc", own[:4])
    with pytest.raises(PseudoLabelError, match="different rows or folds"):
        compare_pseudo_labels(*rounds(0.8, fold_hash="other"), "auc")
