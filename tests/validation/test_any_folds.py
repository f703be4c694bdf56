"""Any targets: every row is validated once a repeat, the same folds come from the same seed, and a file keeps them."""
from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_bert_training.errors import DataError
from mlx_bert_training.validation.folds import Folds, make_folds


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(targets=st.lists(st.integers(0, 3), min_size=2, max_size=60), n_folds=st.integers(2, 6),
       repeats=st.integers(1, 3), seed=st.integers(0, 1000), strategy=st.sampled_from(["stratified", "kfold"]))
def test_every_row_is_validated_once_and_never_trained_on_then(tmp_path, targets, n_folds, repeats, seed, strategy):
    def make(): return make_folds(np.array(targets), strategy, n_folds, seed, repeats=repeats, task="multiclass")

    try: folds = make()
    except DataError: return
    for repeat in range(repeats):
        parts = [folds[repeat * n_folds + fold] for fold in range(n_folds)]
        assert sorted(np.concatenate([held for _, held in parts])) == list(range(len(targets)))
        for trained, held in parts: assert not set(trained) & set(held) and len(trained) + len(held) == len(targets)
    assert folds.hash == make().hash == Folds.load(folds.save(tmp_path / "folds.csv")).hash


@settings(max_examples=40)
@given(groups=st.lists(st.integers(0, 9), min_size=4, max_size=50), seed=st.integers(0, 100))
def test_a_group_is_never_torn(groups, seed):
    try: folds = make_folds(np.arange(len(groups)) % 2, "group", 2, seed, groups=np.array(groups), task="multiclass")
    except DataError: return
    for trained, held in folds: assert not {groups[i] for i in trained} & {groups[i] for i in held}
