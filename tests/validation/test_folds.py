"""Folds: nothing on both sides, everything balanced, the same again from a file, and refusals that say why."""
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

from mlx_bert_training.errors import DataError, UnknownNameError
from mlx_bert_training.validation.folds import Folds, check_sides, choose_strategy, join_clusters, make_folds
from mlx_bert_training.validation.splitters import TimeSeries, quantile_bins

RNG = np.random.default_rng(0)
N = 300
CLASSES = RNG.choice(["a", "b", "c"], N, p=[0.7, 0.2, 0.1])
NUMBERS = RNG.lognormal(size=N)
LABELS = (RNG.random((N, 6)) < [0.5, 0.3, 0.2, 0.1, 0.05, 0.02]).astype(int)
GROUPS = RNG.integers(0, 40, N)
COPIES = np.arange(N)
COPIES[:20] = COPIES[20:40]
ALL = [("kfold", N), ("stratified", CLASSES), ("group", N), ("stratified_group", CLASSES), ("binned", NUMBERS),
       ("iterative", LABELS), ("time_series", N)]


def made(strategy, targets, **more):
    if strategy == "time_series": more["order"] = np.arange(N)
    return make_folds(targets, strategy, **more)


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("strategy, targets", ALL)
def test_no_fold_trains_on_a_row_or_a_cluster_that_it_is_validated_on(strategy, targets, repeats):
    repeats = 1 if strategy == "time_series" else repeats
    folds = made(strategy, targets, repeats=repeats, groups=GROUPS, duplicates=COPIES)
    together = join_clusters(GROUPS, COPIES)
    assert together is not None
    assert len(folds) == 5 * repeats == len(list(folds))
    for train, validation in folds:
        assert len(train) and len(validation)
        assert not set(train) & set(validation)
        assert not set(GROUPS[train]) & set(GROUPS[validation])
        assert not set(COPIES[train]) & set(COPIES[validation])
        assert not set(together[train]) & set(together[validation])
        if strategy != "time_series": assert len(train) + len(validation) == N
    for repeat in range(repeats):
        parts = np.concatenate([folds[repeat * 5 + k][1] for k in range(5)])
        assert len(parts) == len(set(parts)) == (N if strategy != "time_series" else (folds.assignment[0] >= 0).sum())


@pytest.mark.parametrize("strategy, targets", [case for case in ALL if "group" not in case[0]])
def test_the_seed_decides_the_folds(strategy, targets):
    first, again, other = made(strategy, targets), made(strategy, targets), made(strategy, targets, seed=7)
    assert first.hash == again.hash
    assert (first.hash == other.hash) == (strategy == "time_series")
    if strategy != "time_series":
        repeated = made(strategy, targets, repeats=2)
        assert (repeated.assignment[0] == first.assignment[0]).all()
        assert (repeated.assignment[1] == made(strategy, targets, seed=43).assignment[0]).all()


@pytest.mark.parametrize("duplicates", [None, COPIES])
def test_classes_are_balanced(duplicates):
    table = make_folds(CLASSES, "stratified", duplicates=duplicates).balance()
    assert table["validation"].between(59, 61).all()
    for name in "abc": assert abs(table[name] - (CLASSES == name).mean()).max() < 0.03


def test_many_clusters_take_the_other_way_and_are_as_even():
    classes, copies = np.tile(CLASSES, 10), np.arange(10 * N)
    copies[:50] = copies[50:100]
    table = make_folds(classes, "stratified", duplicates=copies).balance()
    assert table["validation"].between(595, 605).all()
    for name in "abc": assert abs(table[name] - (classes == name).mean()).max() < 0.005


def test_numbers_are_balanced_by_bins():
    means = make_folds(NUMBERS, "binned").balance()["target mean"]
    plain = make_folds(NUMBERS, "kfold", task="regression").balance()["target mean"]
    assert means.std() < plain.std() / 2
    assert quantile_bins(np.arange(1000.0), 5).max() + 1 == 10       # floor(1 + log2 1000)
    assert quantile_bins(np.arange(12.0), 5).max() + 1 == 2          # no bin smaller than the folds
    assert set(quantile_bins(np.ones(30), 5)) == {0}                 # a constant


def test_labels_are_balanced_also_the_rare_ones():
    folds = make_folds(LABELS, "iterative")
    counts = np.stack([LABELS[validation].sum(axis=0) for _, validation in folds])
    assert (counts.max(axis=0) - counts.min(axis=0)).max() <= 2
    assert folds.balance()["validation"].between(58, 62).all()
    plain = np.stack([LABELS[validation].sum(axis=0) for _, validation in make_folds(N, "kfold")])
    assert counts.std(axis=0).sum() < plain.std(axis=0).sum() / 3


def test_rows_without_labels_are_dealt_out_too():
    labels = np.zeros((20, 2), dtype=int)
    labels[:4, 0] = 1
    assert make_folds(labels, "iterative", n_folds=4).balance()["validation"].tolist() == [5, 5, 5, 5]


def test_group_folds_are_of_even_size():
    groups = np.repeat(np.arange(12), [60, 40, 30, 30, 20, 20, 20, 20, 20, 20, 10, 10])
    assert make_folds(N, "group", n_folds=5, groups=groups).balance()["validation"].tolist() == [60] * 5


@pytest.mark.parametrize("targets", [N, CLASSES])
def test_repeats_differ_also_where_the_best_folds_are_one(targets):
    groups = np.repeat(np.arange(24), np.arange(1, 25))
    folds = make_folds(targets, "kfold" if targets is N else "stratified", repeats=4, n_folds=3, groups=groups)
    assert len({tuple(pd.factorize(of_row)[0]) for of_row in folds.assignment}) == 4
    assert folds.balance()["validation"].between(70, 130).all()


def test_time_goes_forward():
    order = RNG.permutation(N)
    folds = make_folds(N, "time_series", order=order)
    for train, validation in folds: assert order[train].max() < order[validation].min()
    sizes = [len(train) for train, _ in folds]
    assert sizes == sorted(sizes) and (folds.assignment[0] == -1).sum() == N // 6


def test_rows_of_one_moment_stay_on_one_side():
    order = pd.to_datetime("2024-01-01") + pd.to_timedelta(np.sort(RNG.integers(0, 30, N)), unit="D")
    folds = make_folds(N, "time_series", order=order)
    for train, validation in folds: assert order[train].max() < order[validation].min()


@pytest.mark.parametrize("order, message", [
    (None, "needs the time"),
    ([1.0, 2.0, np.nan, 4.0, 5.0, 6.0], "row 3: 'nan'"),
    (["2024-01-01", "03/04/2024", "2024-01-02", "2024-01-03", "2024-01-04", "2024-01-05"], "row 2: '03/04/2024'"),
    ([1, 1, 1, 1, 1, 2], "share one time"),
    ([1, 2], "2 times for 6 rows"),
])
def test_times_that_cannot_be_ordered(order, message):
    with pytest.raises(DataError, match=message): make_folds(6, "time_series", n_folds=3, order=order)


def test_auto_follows_the_task():
    assert make_folds(CLASSES, task="multiclass").strategy == "stratified"
    assert make_folds(CLASSES, task="multiclass", groups=GROUPS).strategy == "stratified_group"
    assert make_folds(NUMBERS, task="regression").strategy == "binned"
    assert make_folds(LABELS, task="multilabel").strategy == "iterative"
    assert make_folds(N).strategy == "kfold" and make_folds(N, duplicates=COPIES).strategy == "group"
    assert choose_strategy("auto", "binary", False) == "stratified"
    with pytest.raises(DataError, match="needs the task"): make_folds(CLASSES)


def test_groups_and_duplicates_join_by_way_of_other_rows():
    assert join_clusters(None, None) is None
    joined = join_clusters(np.array([5, 5, 1, 2, 3]), np.array([0, 9, 9, 4, 5]))
    assert joined is not None and joined.tolist() == [0, 0, 0, 1, 2]


def test_folds_are_what_scikit_learn_takes():
    x = RNG.normal(size=(N, 2))
    folds = make_folds(x[:, 0] > 0, "stratified", n_folds=4)
    assert (cross_val_score(LogisticRegression(), x, x[:, 0] > 0, cv=folds) > 0.9).all()
    assert (folds[-1][1] == folds[3][1]).all()
    with pytest.raises(IndexError): folds[4]


@pytest.mark.parametrize("ids", [None, [f"r, {i}\"\n" for i in range(N)], np.arange(N) * 7 - 50,
                                 ["007", *map(str, range(1, N))]])
@pytest.mark.parametrize("strategy, targets", ALL)
def test_a_file_keeps_folds_and_hash(strategy, targets, ids, tmp_path):
    groups = GROUPS if strategy in ("group", "stratified_group", "time_series") else None
    repeats = 1 if strategy == "time_series" else 2
    folds = made(strategy, targets, row_ids=ids, repeats=repeats, groups=groups)
    loaded = Folds.load(folds.save(tmp_path / "deep" / "folds.csv"))
    assert loaded.hash == folds.hash and loaded.strategy == folds.strategy
    assert loaded.row_ids.tolist() == folds.row_ids.tolist()
    for (train, validation), (train_again, validation_again) in zip(folds, loaded, strict=True):
        assert (train == train_again).all() and (validation == validation_again).all()


def test_the_hash_is_of_the_folds_and_not_of_the_order_of_rows():
    folds = make_folds(N, "kfold", row_ids=np.arange(N))
    turned = Folds.from_column(folds.assignment[0][::-1], row_ids=folds.row_ids[::-1])
    assert turned.hash == folds.hash
    moved = folds.assignment[0].copy()
    moved[5] = (moved[5] + 1) % 5
    assert Folds.from_column(moved).hash != folds.hash
    assert Folds.from_column(folds.assignment[0], row_ids=np.arange(1, N + 1)).hash != folds.hash
    assert Folds.from_column(folds.assignment[0], by_time=True).hash != folds.hash


def test_the_hash_of_a_time_series_knows_what_is_left_out():
    plain, grouped = made("time_series", N), made("time_series", N, duplicates=COPIES)
    assert (plain.assignment == grouped.assignment).all() and plain.hash != grouped.hash


def test_folds_made_elsewhere():
    folds = Folds.from_column(pd.Series([3.0, 1.0, -1.0, 2.0, 1.0], name="fold"), row_ids=list("abcde"))
    assert folds.assignment.tolist() == [[2, 0, -1, 1, 0]] and folds.n_folds == 3
    assert [train.tolist() for train, _ in folds] == [[0, 2, 3], [0, 1, 2, 4], [1, 2, 3, 4]]
    assert Folds.from_column(["9", "10", "x", "9"]).assignment.tolist() == [[0, 1, 2, 0]]
    hold_out = Folds.from_column([0, -1, -1])
    assert len(hold_out) == 1 and hold_out[0][0].tolist() == [1, 2]


@pytest.mark.parametrize("column, ids, message", [
    ([0, 1, None], None, "row 3: no fold"),
    ([1, 1, 1], None, "all rows are in one fold, '1'"),
    ([-1, -1], None, "no row has a fold"),
    ([0, 1, 0], ["a", "b", "a"], "row 3: the id 'a' stands twice"),
    ([0, 1, 0], [1, 2], "2 row ids for 3 rows"),
])
def test_fold_columns_that_cannot_be_used(column, ids, message):
    with pytest.raises(DataError, match=message): Folds.from_column(column, ids)


@pytest.mark.parametrize("text, message", [
    ("id,fold\n1,0\n", "no column 'row_id'"),
    ("row_id,fold,strategy\n", "no rows"),
    ("row_id,fold,strategy\n1,0,kfold\n2,,kfold\n", "row 2: no fold"),
    ("", "cannot be read as folds"),
])
def test_files_that_are_no_folds(text, message, tmp_path):
    (tmp_path / "folds.csv").write_text(text)
    with pytest.raises(DataError, match=message): Folds.load(tmp_path / "folds.csv")
    with pytest.raises(DataError, match="cannot be read"): Folds.load(tmp_path / "none.csv")


@pytest.mark.parametrize("arguments, message", [
    (dict(targets=3, n_folds=5), "5 folds need at least 5 rows, there are 3"),
    (dict(targets=10, n_folds=1), "at least 2 folds"),
    (dict(targets=10, repeats=0), "1 repeat"),
    (dict(targets=["a"] * 9 + ["b"] * 2, strategy="stratified", n_folds=3), "class 'b' has 2 rows.*n_folds=2"),
    (dict(targets=list("aaabbb"), strategy="stratified", groups=list("uvwxxx"), n_folds=3), "class 'b' has 1 group"),
    (dict(targets=6, groups=list("aabbbb"), n_folds=3), "at least 3 groups, there are 2. The largest holds 4 of 6"),
    (dict(targets=4, groups=["x", None, "y", None], n_folds=2), "groups, row 2: the value is missing .2 in all"),
    (dict(targets=4, groups=["x", "y"], n_folds=2), "2 groups for 4 rows"),
    (dict(targets=4, duplicates=pd.Series([1, 2, np.nan, 2]), n_folds=2), "duplicates, row 3"),
    (dict(targets=10, strategy="group"), "needs groups"),
    (dict(targets=10, strategy="stratified"), "needs the targets"),
    (dict(targets=[[0, 1]] * 10, strategy="stratified"), "use|need 'iterative'"),
    (dict(targets=[0, 1] * 10, strategy="iterative"), "needs labels"),
    (dict(targets=[[0, 2]] * 10, strategy="iterative"), "zeros and ones"),
    (dict(targets=["a", "b"] * 10, strategy="binned"), "needs numbers, and 'a' is none"),
    (dict(targets=[1.0, np.inf] * 10, strategy="binned"), "row 2: inf is not a finite number"),
    (dict(targets=["a", None] * 10, strategy="stratified"), "target, row 2: the value is missing"),
    (dict(targets=10, strategy="time_series", order=range(10), repeats=2), "has no seed"),
    (dict(targets=6, groups=list("aaabbc"), n_folds=3, repeats=2), "repeat 2 has the same folds as one before"),
])
def test_rows_that_cannot_be_split(arguments, message):
    with pytest.raises(DataError, match=message): make_folds(**arguments)


def test_an_unknown_strategy_has_a_nearest_name():
    with pytest.raises(UnknownNameError, match="Did you mean 'stratified_group'"): make_folds(9, "stratifiedgroup")


def test_a_cluster_over_all_times_leaves_nothing_to_train_on():
    with pytest.raises(DataError, match="fold 1 of 3 has no training rows"):
        make_folds(8, "time_series", n_folds=3, order=range(8), groups=[1] * 8)


def test_display():
    folds = make_folds(CLASSES, task="multiclass", repeats=2, n_folds=3)
    assert "3 folds, 2 times, stratified, 300 rows" in str(folds) and folds.hash[:12] in repr(folds)
    html = folds._repr_html_()
    assert html.count("<tr") >= 6 and "validation" in html
    assert len(folds.plot().axes[0].patches) == 18      # 6 folds of 3 classes
    assert make_folds(NUMBERS, task="regression").plot().axes[0].get_ylabel() == "target, mean ± sd"
    assert make_folds(N).plot().axes[0].get_ylabel() == "validation rows"
    assert "more columns" in make_folds(np.repeat(np.arange(20), 5), task="multiclass")._repr_html_()


class Weekly(TimeSeries):
    "Folds by time of one's own."


def test_a_file_of_folds_runs_no_code_that_it_names(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "stranger.py").write_text("raise SystemExit('a stranger was here')\n")
    path = tmp_path / "folds.csv"
    path.write_text("row_id,fold,strategy\n0,0,stranger:Mine\n1,1,stranger:Mine\n")
    with pytest.raises(DataError, match="'stranger:Mine' is code outside this package.* Add a column 'by_time'"):
        Folds.load(path)
    for said, train in (("true", [0, 1]), ("False", [0, 1, 3, 4])):
        path.write_text("row_id,fold,strategy,by_time\n" + "".join(f"{i},{f},stranger:Mine,{said}\n"
                                                                   for i, f in enumerate([-1, -1, 0, 1, 1])))
        folds = Folds.load(path)
        assert folds.hash and folds[0][0].tolist() == train
    path.write_text("row_id,fold,strategy,by_time\n0,0,x:Y,perhaps\n1,1,x:Y,perhaps\n")
    with pytest.raises(DataError, match="'perhaps' is neither true nor false"): Folds.load(path)


def test_folds_by_time_of_ones_own_are_the_same_from_their_file(tmp_path):
    folds = make_folds(30, f"{__name__}:Weekly", 3, order=np.arange(30))
    loaded = Folds.load(folds.save(tmp_path / "folds.csv"))
    assert loaded.by_time and loaded.hash == folds.hash and (loaded[1][0] == folds[1][0]).all()
    assert "by_time" not in make_folds(30, "time_series", 3, order=np.arange(30)).to_frame()


def test_given_folds_are_held_against_groups_and_times():
    folds = make_folds(CLASSES, task="multiclass", groups=GROUPS)
    check_sides(folds, groups=GROUPS)
    with pytest.raises(DataError, match=r"fold 1 of 5 is trained on row \d+ and validated on row \d+, .* one group"):
        check_sides(make_folds(CLASSES, task="multiclass"), groups=GROUPS)
    check_sides(make_folds(N, "time_series", order=RNG.random(N)), order=None)
    times = np.arange(N) // 7
    check_sides(make_folds(N, "time_series", order=times), order=times)
    with pytest.raises(DataError, match="which is no later"): check_sides(folds, order=times)
    with pytest.raises(DataError, match="groups, row 2: the value is missing"):
        check_sides(folds, groups=["a", None, *"b" * (N - 2)])
