"""Rows drawn alike cannot be told apart, rows drawn otherwise can, by what was changed; the interval is honest."""
import numpy as np
import pandas as pd
import pytest

from mlx_bert_training.data.frames import read_frame
from mlx_bert_training.errors import DataError
from mlx_bert_training.validation.adversarial import adversarial_validation, delong_variance

RNG = np.random.default_rng(0)
N = 400
WORDS = np.array([start + end for start in "ba ke li mo nu pra".split() for end in "dan fel gor hist jun lam".split()])
TEXTS = [" ".join(RNG.choice(WORDS, 12)) for _ in range(N)]
FRAME = pd.DataFrame({"number": RNG.normal(size=N), "kind": RNG.choice(list("abc"), N), "gap": RNG.random(N),
                      "name": [f"n{i}" for i in RNG.integers(0, 150, N)], "flag": RNG.random(N) < 0.5,
                      "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(RNG.integers(0, 300, N), unit="D")})
FRAME.loc[::7, ["gap", "kind"]] = None


def half(): return FRAME.iloc[:250], FRAME.iloc[250:].copy()


def test_area_and_variance_on_a_case_done_by_hand():
    # test scores 1, 3, 5 against train scores 2, 3: placements 0, 0.75, 1 and 2/3, 0.5
    area, variance = delong_variance(np.array([True, False, True, False, True]), np.array([1.0, 2, 3, 3, 5]))
    assert area == pytest.approx(1.75 / 3)
    assert variance == pytest.approx(np.var([0, 0.75, 1], ddof=1) / 3 + np.var([2 / 3, 0.5], ddof=1) / 2)


def test_variance_is_that_of_a_bootstrap():
    kind = np.arange(300) < 120
    score = RNG.normal(size=300) + 0.7 * kind
    area, variance = delong_variance(kind, score)
    again = []
    for _ in range(1000):
        rows = np.concatenate([RNG.choice(np.flatnonzero(side), side.sum()) for side in (kind, ~kind)])
        again.append(delong_variance(kind[rows], score[rows])[0])
    assert np.std(again) == pytest.approx(np.sqrt(variance), rel=0.15)
    assert np.mean(again) == pytest.approx(area, abs=0.01)


@pytest.mark.long
@pytest.mark.parametrize("rows", [TEXTS, FRAME])
def test_rows_drawn_alike_cannot_be_told_apart(rows):
    reports = []
    for seed in range(12):
        order = np.random.default_rng(seed).permutation(N)
        shuffled = rows.iloc[order] if rows is FRAME else [rows[i] for i in order]
        reports.append(adversarial_validation(shuffled[:250], shuffled[250:], seed=seed))
    inside = [report.low < 0.5 < report.high for report in reports]     # an interval of 95 % may miss once
    assert sum(inside) >= 11 and not any(report.shifted for report in reports)
    assert "cannot be told apart" in str(reports[0])


def test_copies_on_both_sides_do_not_pull_the_area_down():
    report = adversarial_validation(TEXTS[:250], [*TEXTS[:120], *TEXTS[250:]])
    assert report.low < 0.5 < report.high


@pytest.mark.long
@pytest.mark.parametrize("column, change", [
    ("number", lambda c: c + 3),
    ("gap", lambda c: c.where(RNG.random(len(c)) < 0.3)),
    ("kind", lambda c: c.where(c != "a", "d")),
    ("name", lambda c: "n" + (c.str[1:].astype(int) // 5).astype(str)),
    ("flag", lambda c: c | True),
    ("day", lambda c: c + pd.Timedelta(days=250)),
])
def test_a_changed_column_is_found(column, change):
    train, test = half()
    test[column] = change(test[column])
    report = adversarial_validation(train, test)
    assert report.shifted and report.low > 0.55
    assert report.clues.index[0] == column and report.clues["weight"].iloc[0] > 0.05
    assert report.clues["train"].iloc[0] != report.clues["test"].iloc[0]
    assert f"{report.auc:.3f}" in str(report) and column in str(report) and column in report._repr_html_()
    assert not adversarial_validation(train, test, ignore=[column]).low > 0.55


def test_a_changed_word_is_found():
    report = adversarial_validation(TEXTS[:250], [text + " <amp>" for text in TEXTS[250:]])
    assert report.low > 0.95 and report.clues.index[0] == "'amp'"
    assert report.clues.loc["'amp'", "train"] == "in 0.0%" and report.clues.loc["'amp'", "test"] == "in 100.0%"
    assert "&#x27;amp&#x27;" in report._repr_html_() or "'amp'" in report._repr_html_()
    assert "<amp>" not in report._repr_html_()


def test_a_changed_spelling_is_found_by_its_characters():
    report = adversarial_validation(TEXTS[:250], [text.replace("dan", "dahn") for text in TEXTS[250:]])
    assert report.low > 0.8 and any("dah" in name for name in report.clues.index)


def test_training_rows_most_like_the_test_come_first():
    train, test = half()
    test["number"] += 3
    report = adversarial_validation(train, test)
    assert report.train_probability.shape == (250,) and report.test_probability.shape == (150,)
    chosen = report.most_test_like(0.1)
    assert len(chosen) == 25 and (np.diff(report.train_probability[chosen]) <= 0).all()
    assert train["number"].to_numpy()[chosen].mean() > train["number"].mean() + 1
    assert len(report.most_test_like(0.001)) == 1
    with pytest.raises(DataError, match="fraction=0"): report.most_test_like(0)


@pytest.mark.parametrize("rows", [TEXTS, FRAME])
def test_the_seed_decides(rows):
    reports = [adversarial_validation(rows[:250], rows[250:], seed=seed) for seed in (1, 1, 2)]
    assert (reports[0].train_probability == reports[1].train_probability).all()
    assert (reports[0].train_probability != reports[2].train_probability).any()


def test_columns_of_one_side_do_not_count():
    train, test = half()
    report = adversarial_validation(train.assign(target=1), test.assign(extra=2))
    assert not report.shifted and set(report.clues.index) == set(FRAME.columns)


def test_numbers_on_one_side_and_words_on_the_other_give_it_away():
    train, test = half()
    assert adversarial_validation(train, test.assign(number="unknown")).clues.index[0] == "number"


def test_texts_without_a_repeated_word_say_nothing():
    report = adversarial_validation([chr(0x4E00 + i) for i in range(20)], [chr(0x5E00 + i) for i in range(20)], folds=2)
    assert report.auc == 0.5 and len(report.clues) == 0 and report._repr_html_()


def test_pictures():
    train, test = half()
    test["number"] += 3
    curve, bars = adversarial_validation(train, test).plot().axes
    assert len(bars.patches) == len(FRAME.columns) and bars.get_yticklabels()[-1].get_text() == "number"
    assert len(curve.lines) == 2


@pytest.mark.parametrize("arguments, message", [
    (dict(train=TEXTS, test=TEXTS[:9]), "5 folds need at least 10 rows on either side, there are 400 and 9"),
    (dict(train=TEXTS, test=TEXTS, folds=1), "1 folds need"),
    (dict(train=TEXTS, test=FRAME), "both be frames"),
    (dict(train=FRAME, test=FRAME.rename(columns=str.upper)), "no column in common"),
    (dict(train=FRAME, test=FRAME, ignore=["numbr"]), "no column 'numbr'. Did you mean 'number'"),
    (dict(train=TEXTS, test=[TEXTS[0]] * 50), "class 'test' has 1 group"),
])
def test_what_cannot_be_compared(arguments, message):
    with pytest.raises(DataError, match=message): adversarial_validation(**arguments)


def test_the_demo_was_split_at_random():
    train, test = read_frame("demo:german_credit/train.csv"), read_frame("demo:german_credit/test.csv")
    report = adversarial_validation(train, test, ignore=["id"])
    assert report.low < 0.5 < report.high and report.high - report.low < 0.2
