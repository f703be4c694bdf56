"""Ensembles: weights a hand can check, scores the fitted rows cannot flatter, members that do not go together."""
from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier

from mlx_bert_training.ensemble.base import EnsembleError, Fit, make_objective
from mlx_bert_training.ensemble.blending import Blending
from mlx_bert_training.ensemble.create import check_members, create_ensemble, diversity
from mlx_bert_training.ensemble.hill_climbing import HillClimbing
from mlx_bert_training.ensemble.rank_average import RankAverage
from mlx_bert_training.ensemble.registry import METHODS
from mlx_bert_training.ensemble.stacking import Stacking
from mlx_bert_training.ensemble.voting import HardVoting, Voting
from mlx_bert_training.errors import UnknownNameError
from mlx_bert_training.tasks.task import get_task
from mlx_bert_training.validation.oof import OOF, load_oof
from mlx_bert_training.validation.scores import score_predictions

N = 120
HEADS = ("binary_classification", "multiclass_classification", "multilabel_classification", "regression")


def library(head: str = "binary_classification", size: int = 3, seed: int = 0, noise: float = 1.5) -> list[OOF]:
    "Members that see the truth through noise."
    rng = np.random.default_rng(seed)
    if head == "regression": y: Any = rng.normal(size=N)
    elif head == "multilabel_classification": y = (rng.random((N, 3)) < 0.4) * 1
    else: y = rng.integers(0, 2 if head.startswith("binary") else 3, N)
    truth = (y[:, None] if head == "regression" else 2 * y - 1 if y.ndim == 2 else
             2 * np.eye(2 if head.startswith("binary") else 3)[y])
    p = [get_task(head).predictions(truth + rng.normal(0, noise, truth.shape)) for _ in range(size)]
    return [OOF(name=f"m{i}", task=head, row_ids=np.arange(N), predictions=q, targets=y, folds=np.arange(N) % 4,
                folds_hash="h", test_ids=np.arange(5), test_predictions=q[:5]) for i, q in enumerate(p)]


def stack(members: list[OOF]) -> np.ndarray: return np.stack([m.predictions for m in members])


# which members go together

@pytest.mark.parametrize("change, message", [
    (dict(folds_hash="other"), "'m0' and 'm1' were made on different folds: hash 'h' against 'other'"),
    (dict(row_ids=np.r_[np.arange(N - 1), 999]), "row ids or their order, first in row 119: 119 against 999"),
    (dict(row_ids=np.arange(N)[::-1]), "row ids or their order, first in row 0"),
    (dict(class_names=["no", "yes"]), r"class names or their order: \[0, 1\] against \['no', 'yes'\]"),
    (dict(folds=np.roll(np.arange(N) % 4, 1)), "different repeats"),
    (dict(test_ids=np.arange(1, 6)), "test ids or their order, first in row 0: 0 against 1"),
    (dict(test_ids=None, test_predictions=None), "'m1' has no test predictions, and 'm0' has"),
    (dict(name="m0"), "two members are called 'm0'"),
])
def test_members_that_differ_are_refused(change: dict[str, Any], message: str):
    first, second = library(size=2)
    with pytest.raises(EnsembleError, match=message): create_ensemble([first, replace(second, **change)])


def test_other_targets_tasks_and_lone_members_are_refused():
    first, second = library(size=2)
    flipped = np.array(second.targets)
    flipped[7] = 1 - flipped[7]
    with pytest.raises(EnsembleError, match="'m1' differ in their targets, first in row 7"):
        check_members([first, replace(second, targets=flipped)])
    with pytest.raises(EnsembleError, match="differ in their tasks"):
        check_members([first, replace(library("regression")[1], row_ids=first.row_ids)])
    with pytest.raises(EnsembleError, match="two members or more, there are 1"): check_members([first])
    shorter = OOF(name="s", task="binary", row_ids=first.row_ids[:9], predictions=first.predictions[:9],
                  targets=first.targets[:9], folds=first.folds[:9], folds_hash="h")
    with pytest.raises(EnsembleError, match=r"row ids.*\(120,\) against \(9,\)"): check_members([first, shorter])


# every method, every task

@pytest.mark.long
@pytest.mark.parametrize("head, method", [(h, m) for h in HEADS for m in METHODS
                                          if not (h == "regression" and m in ("hard_voting", "rank_average"))])
def test_every_method_does_every_task(head: str, method: str, tmp_path: Path):
    members = library(head)
    options: dict[str, Any] = {"rounds": 5} if method == "hill_climbing" else {}
    result = create_ensemble(members, method, **options)
    assert np.isfinite(result.oof.predictions).all() and result.oof.predictions.shape == members[0].predictions.shape
    assert result.test_predictions is not None and result.test_predictions.shape == members[0].predictions[:5].shape
    assert result.weights is not None and sum(result.weights.values()) == pytest.approx(1)
    assert min(result.weights.values()) >= 0 and list(result.weights) == ["m0", "m1", "m2"]
    again = load_oof(result.oof.save(tmp_path / "ensemble.npz"))     # an ensemble is a member like any other
    assert again.folds_hash == "h" and "m0, m1, m2" in again.source
    assert len(result.to_frame()) == 6 and "optimism" in result._repr_html_()
    for gain in (result.gain_over_best, result.gain_over_mean):
        assert f"{gain.mean:+.4f}" in str(result) and f": {gain.verdict})" in str(result)
    if not METHODS.get(method).learns: assert result.optimism.mean == 0
    assert len(result.plot().axes) == 1


# nothing of the held fold is seen

@pytest.mark.long
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("method", ["blending", "stacking", "hill_climbing"])
def test_the_held_fold_has_no_part_in_its_own_predictions(head: str, method: str):
    members = library(head)
    held = members[0].folds == 2
    targets = np.array(members[0].targets)
    targets[held] = 7.5 if head == "regression" else 1 - (targets[held] > 0)
    options: dict[str, Any] = {"rounds": 6} if method == "hill_climbing" else {}
    metric = "rmse" if head == "regression" else "log_loss"
    before = create_ensemble(members, method, metric, **options).oof.predictions
    after = create_ensemble([replace(m, targets=targets) for m in members], method, metric, **options).oof.predictions
    assert np.array_equal(before[held], after[held])
    assert not np.array_equal(before[~held], after[~held])      # while the other folds did learn from it


def test_stacking_fits_on_the_rows_of_the_other_folds_only():
    seen: list[set[float]] = []

    class Recorder(LogisticRegression):
        def fit(self, x: np.ndarray, y: np.ndarray, sample_weight: Any = None) -> Any:
            seen.append({float(v) for v in x[:, 0]})
            return super().fit(x, y, sample_weight)

    members = library()
    create_ensemble(members, "stacking", model=Recorder())
    p = np.clip(members[0].predictions, 1e-6, 1 - 1e-6)
    logit = np.log(p[:, 1]) - np.log(p[:, 0])
    assert len(seen) == 5
    assert seen[0] == set(logit)    # the rule for the test rows
    for k, rows in enumerate(seen[1:]): assert rows == set(logit[members[0].folds != k])


@pytest.mark.long
@pytest.mark.parametrize("method, options", [("blending", {}), ("hill_climbing", {"rounds": 8})])
def test_members_that_know_nothing_gain_nothing(method: str, options: dict[str, Any]):
    naive, nested = [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        y = rng.integers(0, 2, 80)
        members = [OOF(name=f"{i}", task="binary", row_ids=np.arange(80), predictions=rng.random(80), targets=y,
                       folds=np.arange(80) % 4, folds_hash="", metric="auc") for i in range(10)]
        result = create_ensemble(members, method, **options)
        naive.append(result.naive.mean)
        nested.append(result.score.mean)
        assert result.optimism.mean == pytest.approx(naive[-1] - nested[-1])
    assert np.mean(naive) > 0.6 and abs(np.mean(nested) - 0.5) < 0.06


def test_optimism_of_a_loss_is_positive_too():
    result = create_ensemble(library(noise=8, size=6), "stacking", metric="log_loss")
    assert result.naive.mean < result.score.mean and result.optimism.mean > 0


# the methods

def test_voting_is_the_mean_and_takes_weights():
    members = library()
    assert np.allclose(create_ensemble(members).oof.predictions, stack(members).mean(0))
    weighted = create_ensemble(members, "voting", weights=[2, 0, 2])
    assert np.allclose(weighted.oof.predictions, (members[0].predictions + members[2].predictions) / 2)
    for weights, message in (([1, 2], "2 weights for 3"), ([1, -1, 1], "at least zero"), ([0, 0, 0], "not all zero"),
                             ([1, np.nan, 1], "must be numbers")):
        with pytest.raises(EnsembleError, match=message): create_ensemble(members, "voting", weights=weights)


def test_hard_voting_counts_and_breaks_ties_by_confidence():
    def vote(*second: float) -> float:
        p = np.array([[[1 - v, v]] for v in second])
        return HardVoting().fit(p, np.array([1]), get_task(HEADS[0]), "accuracy").combine(p)[0, 1]
    assert vote(0.6, 0.6, 0.01) > 0.5 > vote(0.4, 0.4, 0.99)
    assert vote(0.9, 0.4) > 0.5 > vote(0.6, 0.1)
    with pytest.raises(EnsembleError, match="values cannot be counted"):
        create_ensemble(library("regression"), "hard_voting")


def test_rank_average_does_not_see_a_rising_transformation():
    members = library()
    def bent(m: OOF) -> OOF:
        return replace(m, predictions=m.predictions[:, 1] ** 5, test_predictions=m.predictions[:5, 1] ** 5)
    plain = create_ensemble(members, "rank_average", "auc")
    changed = create_ensemble([members[0], bent(members[1]), members[2]], "rank_average", "auc")
    assert np.allclose(plain.oof.predictions, changed.oof.predictions, atol=1e-12)
    assert plain.test_predictions is not None and changed.test_predictions is not None
    assert np.allclose(plain.test_predictions, changed.test_predictions, atol=1e-12)
    assert not np.allclose(create_ensemble(members, "voting", "auc").oof.predictions,
                           create_ensemble([members[0], bent(members[1]), members[2]], "voting", "auc").oof.predictions)


def test_ranks_by_hand():
    p = np.array([[0.1, 0.4, 0.4, 0.9]])
    fit = RankAverage().fit(p, np.zeros(4), get_task("regression"), "spearman")
    assert np.allclose(fit.combine(p), [0.125, 0.5, 0.5, 0.875])
    assert np.allclose(fit.combine(np.array([[0.0, 0.5, 1.0]])), [0, 0.75, 1])
    with pytest.raises(EnsembleError, match="no scale for 'rmse'"):
        create_ensemble(library("regression"), "rank_average", "rmse")


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("method", [Blending(), Blending("metric"), HillClimbing(bags=1, rounds=10)])
def test_a_perfect_member_gets_all_the_weight(head: str, method: Any):
    members = library(head, noise=3)
    y = members[0].targets
    sure = y * 1.0 if head in HEADS[2:] else np.eye(3 if head == HEADS[1] else 2)[y]
    perfect = replace(members[1], predictions=sure, test_predictions=None, test_ids=None)
    others = [replace(m, test_predictions=None, test_ids=None) for m in (members[0], members[2])]
    metric = "rmse" if head == "regression" else "log_loss"
    result = create_ensemble([others[0], perfect, others[1]], method, metric)
    assert result.weights is not None and result.weights["m1"] == pytest.approx(1, abs=1e-3)
    assert result.best.name == "m1" and abs(result.gain_over_best.mean) < 1e-3


@pytest.mark.parametrize("head", HEADS)
def test_blending_finds_the_best_weights_there_are(head: str):
    members = library(head)
    metric = "mse" if head == "regression" else "log_loss"
    objective = make_objective(metric, head, members[0].targets)
    fit = Blending().fit(stack(members), members[0].targets, get_task(head), metric)
    grid = [np.array([a, b, 50 - a - b]) / 50 for a in range(51) for b in range(51 - a)]
    best = max(objective(np.tensordot(w, stack(members), 1)) for w in grid)
    assert best - 1e-9 <= objective(fit.combine(stack(members))) < best + 1e-2


def test_blending_for_the_metric_is_no_worse_at_it_on_its_rows():
    members = library(noise=2.5, size=4)
    for metric in ("auc", "f1", "mcc"):
        objective = make_objective(metric, HEADS[0], members[0].targets)
        def value(fit: Fit, of: Any = objective) -> float: return of(fit.combine(stack(members)))
        by_metric, by_loss = (value(Blending(o).fit(stack(members), members[0].targets, get_task(HEADS[0]), metric))
                              for o in ("metric", "loss"))
        equal = value(Voting().fit(stack(members), members[0].targets, get_task(HEADS[0]), metric))
        assert by_metric >= max(by_loss, equal)


def test_the_size_of_regression_targets_does_not_matter():
    members = library("regression")
    big = [replace(m, predictions=m.predictions * 1e6, targets=m.targets * 1e6, test_ids=None, test_predictions=None)
           for m in members]
    small, large = (create_ensemble(m, "blending").weights for m in (members, big))
    assert small is not None and large is not None
    assert list(small.values()) == pytest.approx(list(large.values()), abs=1e-4)


def test_stacking_takes_back_too_much_confidence_where_weights_cannot():
    sure = [replace(m, predictions=get_task(HEADS[0]).predictions(8 * np.log(np.clip(m.predictions, 1e-9, 1))))
            for m in library(noise=3)]
    stacked, blended = (create_ensemble(sure, m, "log_loss").score.mean for m in ("stacking", "blending"))
    assert stacked < blended - 0.05


def test_stacking_takes_any_estimator_with_probabilities():
    result = create_ensemble(library(), "stacking", model=RandomForestClassifier(20, random_state=0))
    assert result.weights is None and result.fold_weights is None and result.score.mean > 0.5
    with pytest.raises(EnsembleError, match="RidgeClassifier gives no probabilities"):
        create_ensemble(library(), "stacking", model=RidgeClassifier())


def test_stacking_with_a_class_that_one_fold_keeps_to_itself():
    members = library(HEADS[1])
    y = np.where(members[0].targets == 2, 0, members[0].targets)
    y[members[0].folds == 3] = 2
    result = create_ensemble([replace(m, targets=y) for m in members], "stacking", "accuracy")
    assert (result.oof.predictions[members[0].folds == 3, 2] == 0).all()    # never seen, so never predicted
    assert np.allclose(result.oof.predictions.sum(1), 1)


def test_hill_climbing_is_the_best_multiset_of_its_size():
    members = library(size=3, noise=2, seed=4)
    p, y = stack(members), members[0].targets
    objective = make_objective("log_loss", HEADS[0], y)
    rounds = 12
    fit = HillClimbing(rounds=rounds, bags=1, tolerance=0).fit(p, y, get_task(HEADS[0]), "log_loss")
    everything = [np.bincount(c, minlength=3) / size for size in range(1, rounds + 1)
                  for c in itertools.combinations_with_replacement(range(3), size)]
    best = max(objective(np.tensordot(w, p, 1)) for w in everything)
    assert objective(fit.combine(p)) == pytest.approx(best, abs=1e-4)
    one = HillClimbing(rounds=1).fit(p, y, get_task(HEADS[0]), "log_loss").weights
    assert one is not None and one.tolist() == np.eye(3)[np.argmax([objective(q) for q in p])].tolist()


def test_tolerance_keeps_an_ensemble_small_and_bags_are_reproducible():
    members, binary = library(size=12, noise=2), get_task(HEADS[0])
    single = HillClimbing(bags=1, tolerance=10).fit(stack(members), members[0].targets, binary, "log_loss").weights
    assert single is not None and np.count_nonzero(single) == 1
    runs = [HillClimbing(rounds=6, seed=s).fit(stack(members), members[0].targets, binary, "log_loss").weights
            for s in (0, 0, 1)]
    assert np.array_equal(runs[0], runs[1]) and not np.array_equal(runs[0], runs[2])    # type: ignore[arg-type]
    wrong: list[dict[str, Any]] = [{"bags": 0}, {"rounds": 0}, {"fraction": 0}, {"tolerance": -1}]
    for options in wrong:
        with pytest.raises(EnsembleError, match="begin at 1"): create_ensemble(members, "hill_climbing", **options)


@pytest.mark.parametrize("head", HEADS)
def test_fast_metrics_are_the_metrics(head: str):
    member = library(head)[0]
    p = member.predictions.round(1) if head == HEADS[0] else member.predictions     # with ties
    names = {HEADS[0]: ("auc", "f1", "accuracy", "log_loss"), HEADS[3]: ("rmse", "mse", "mae")}
    for name in names.get(head, ("accuracy", "log_loss")):
        sign = -1 if name in ("log_loss", "rmse", "mse", "mae") else 1
        assert sign * make_objective(name, head, member.targets)(p) == pytest.approx(
            score_predictions(name, head, p, member.targets), abs=1e-12), name
    if head == HEADS[0]: assert make_objective("auc", head, np.zeros(N, int))(p) == -np.inf


# the result

def test_rows_never_validated_stay_out():
    folds = np.where(np.arange(N) < 30, -1, np.arange(N) % 3)
    members = [replace(m, folds=folds) for m in library()]
    for method in ("voting", "blending"):
        result = create_ensemble(members, method)
        assert np.isnan(result.oof.predictions[:30]).all() and np.isfinite(result.oof.predictions[30:]).all()
        assert sum(result.score.rows) == N - 30 and not diversity(members).isna().any(axis=None)
    with pytest.raises(EnsembleError, match="one fold leaves no other"):
        create_ensemble([replace(m, folds=np.zeros(N, int)) for m in members], "blending")


def test_gains_are_against_the_best_member_and_the_mean():
    result = create_ensemble(library(size=4), "blending", "log_loss")
    best = min(result.members, key=lambda s: s.mean)
    assert result.best == best
    assert result.gain_over_best.mean == pytest.approx(best.mean - result.score.mean)
    assert result.gain_over_mean.mean == pytest.approx(result.mean.mean - result.score.mean)
    assert result.fold_weights is not None and result.fold_weights.shape == (4, 4)
    assert result.fold_weights.sum(axis=1).tolist() == pytest.approx([1] * 4)


def test_diversity_is_correlation():
    first, second, _ = library()
    opposite = replace(first, name="opposite", predictions=first.predictions[:, ::-1])
    table = diversity([first, replace(first, name="twin"), opposite, second])
    assert table.loc["m0", "twin"] == pytest.approx(1) and table.loc["m0", "opposite"] == pytest.approx(-1)
    assert table.loc["m0", "m1"] == pytest.approx(np.corrcoef(first.predictions[:, 1], second.predictions[:, 1])[0, 1])


def test_names_are_checked():
    with pytest.raises(UnknownNameError, match="Did you mean 'blending'"): create_ensemble(library(), "blendin")
    with pytest.raises(UnknownNameError, match="option of hill_climbing 'round'.*Did you mean 'rounds'"):
        create_ensemble(library(), "hill_climbing", round=3)
    with pytest.raises(UnknownNameError, match="objective"): create_ensemble(library(), "blending", objective="auc")
    with pytest.raises(UnknownNameError, match="Did you mean 'accuracy'"): create_ensemble(library(), metric="acuracy")
    with pytest.raises(EnsembleError, match="not both"): create_ensemble(library(), Stacking(), rounds=3)
