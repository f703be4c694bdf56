"""The declared option stays unless another is better by more than its error, and the choice is scored nested."""
from __future__ import annotations

import numpy as np
import pytest

from mlx_bert_training.validation.choice import choose, choose_by_folds
from mlx_bert_training.validation.scores import CVScore, score_predictions


def test_the_choice_of_a_fold_does_not_look_at_that_fold():
    def scores(*values: float) -> CVScore: return CVScore("s", "accuracy", tuple(range(4)), (9,) * 4, values, 0.0)
    best, by_fold = choose_by_folds([scores(.5, .5, .5, .5), scores(.4, .6, .6, .6), scores(.9, .4, .4, .4)])
    assert by_fold == (1, 0, 0, 0)      # fold 0 is given option 1 by the others, though it is worse there
    assert best == 0                    # 0.05 is not above its standard error
    assert choose_by_folds([scores(.5, .5, .5, .5), scores(*[float("nan")] * 4)]) == (0, (0, 0, 0, 0))


def options(noises: dict[str, float], n: int = 300, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    "Values for the same targets with noise of their own."
    rng = np.random.default_rng(seed)
    y = rng.normal(size=n)
    return {name: y + noise * rng.normal(size=n) for name, noise in noises.items()}, y


def test_a_chosen_option_has_nested_predictions_and_the_first_its_own():
    values, y = options({"declared": 1.0, "better": 0.5, "worse": 2.0})
    folds = np.arange(300) % 5
    choice = choose(values, y, folds, "rmse", "regression")
    assert choice.chosen == "better" and [s.name for s in choice.scores] == ["declared", "better", "worse"]
    for k, name in choice.by_fold.items():
        assert np.array_equal(choice.predictions[folds == k], values[name][folds == k])
    assert choice.nested.pooled == score_predictions("rmse", "regression", choice.predictions, y)
    kept = choose({"declared": values["better"], "other": values["worse"]}, y, folds, "rmse", "regression")
    assert kept.chosen == "declared" and kept.predictions is values["better"] and kept.gain.mean == 0


def test_labels_of_a_fold_cannot_change_what_is_chosen_for_it():
    values, y = options({"declared": 1.0, "other": 0.9, "third": 0.9}, seed=3)
    folds = np.arange(300) % 5
    before = choose(values, y, folds, "rmse", "regression").by_fold
    for k in range(5):
        turned = np.where(folds == k, -10 * y, y)
        assert choose(values, turned, folds, "rmse", "regression").by_fold[k] == before[k]


def test_as_good_as_the_first_is_not_better():
    "Over many tries an option without merit is seldom taken, and the nested score does not flatter."
    taken, gains = 0, []
    for seed in range(60):
        values, y = options({"declared": 1.0, "a": 1.0, "b": 1.0}, seed=seed)
        choice = choose(values, y, np.arange(300) % 5, "rmse", "regression")
        taken += choice.chosen != "declared"
        gains.append(choice.gain.mean)
    assert taken < 20 and np.mean(gains) < 0.01


def test_rows_never_validated_stay_out():
    values, y = options({"declared": 1.0, "better": 0.4})
    folds = np.arange(300) % 5
    folds[:50] = -1
    for p in values.values(): p[:50] = np.nan
    choice = choose(values, y, folds, "rmse", "regression")
    assert choice.chosen == "better" and np.isnan(choice.predictions[:50]).all()
    assert np.isfinite(choice.predictions[50:]).all()


@pytest.mark.long
@pytest.mark.parametrize("metric", ["qwk", "accuracy"])
def test_ratings_of_a_regression_are_options_too(metric):
    rng = np.random.default_rng(0)
    y = rng.integers(1, 6, 400)
    values = {"rough": y + rng.normal(size=400), "fine": y + 0.3 * rng.normal(size=400)}
    choice = choose(values, y, np.arange(400) % 4, metric, "regression")
    assert choice.chosen == "fine" and choice.score_of("fine").mean > choice.score_of("rough").mean > 0
