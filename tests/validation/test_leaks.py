"""Planted leaks are found, with their rows; what is clean stays clean; an error stops unless there is a reason."""
import logging

import numpy as np
import pandas as pd
import pytest

from mlx_bert_training.data.frames import read_frame
from mlx_bert_training.errors import DataError
from mlx_bert_training.validation.folds import make_folds
from mlx_bert_training.validation.leaks import (
    LeakError,
    check_leaks,
    near_duplicates,
    normalize_text,
    single_column_score,
)

RNG = np.random.default_rng(0)
ENDS = "dan fel gor hist jun lam ret zuk".split()
WORDS = np.array([start + end for start in "ba ke li mo nu pra sto vi".split() for end in ENDS])
TEXTS = [" ".join(RNG.choice(WORDS, 14)) for _ in range(200)]
ANSWERS = RNG.integers(0, 2, 200)


def kinds(report): return sorted({finding.kind for finding in report.findings})


def only(report, kind):
    found = [finding for finding in report.findings if finding.kind == kind]
    assert len(found) == 1, (kind, kinds(report))
    return found[0]


@pytest.mark.parametrize("a, b, same", [
    ("Fire in TOWN!", "fire  in town", True),
    ("fire http://t.co/abc", "Fire https://t.co/xyz", True),
    ("ﬁre １２", "fire 12", True),
    ("Tom &amp; Jerry", "tom & jerry", True),
    ("at -5 degrees", "at 5 degrees", False),
    ("lost 5%", "lost 5", False),
    ("1.5 km", "15 km", False),
    (":-)", ":-(", False),
    ("naïve", "naive", False),
    ("日本語", "日本", False),
])
def test_what_counts_as_the_same_text(a, b, same):
    assert (normalize_text(a) == normalize_text(b)) is same


def test_clean_rows_have_no_findings():
    report = check_leaks(TEXTS, ANSWERS, [" ".join(RNG.choice(WORDS, 14)) for _ in range(50)])
    assert report.findings == () and report.duplicates is None
    assert "no leak found in 200 rows" in str(report) and "no leak found" in report._repr_html_()
    report.raise_if_leak()


def test_exact_copies_share_a_cluster_and_contradictions_are_named():
    texts = [*TEXTS, TEXTS[3].upper(), TEXTS[3] + "!", TEXTS[9]]
    answers = [*ANSWERS, ANSWERS[3], 1 - ANSWERS[3], ANSWERS[9]]
    report = check_leaks(texts, answers)
    assert kinds(report) == ["conflicting_labels", "exact_duplicates"]
    assert only(report, "exact_duplicates").rows == (3, 9, 200, 201, 202)
    conflict = only(report, "conflicting_labels")
    assert conflict.rows == (3, 200, 201) and "rows 4 and 202" in conflict.example
    assert report.clusters[3] == report.clusters[200] == report.clusters[201] != report.clusters[9]
    assert report.clusters[9] == report.clusters[202] and len(set(report.clusters)) == 200
    folds = make_folds(answers, task="binary", duplicates=report.duplicates)
    assert not check_leaks(texts, answers, folds=folds).errors
    assert len({folds.assignment[0][i] for i in (3, 200, 201)}) == 1


def test_near_copies_are_found_also_by_way_of_another():
    a = TEXTS[0]
    b = a.rsplit(" ", 1)[0] + " " + WORDS[0]
    c = b.split(" ", 1)[1] + " " + WORDS[1]
    report = check_leaks([*TEXTS, b, c], near=0.7)
    assert only(report, "near_duplicates").rows == (0, 200, 201)
    assert report.clusters[0] == report.clusters[200] == report.clusters[201]
    assert kinds(check_leaks([*TEXTS, b, c], near=None)) == []


def test_near_duplicates_are_those_of_a_comparison_of_all_pairs():
    texts = list(TEXTS)
    for i in range(60):     # copies with one to six words changed
        words = texts[i].split()
        for j in RNG.choice(len(words), 1 + i % 6, replace=False): words[j] = str(RNG.choice(WORDS))
        texts.append(" ".join(words))
    texts = list(dict.fromkeys(texts))
    sets = [{text[i:i + 5] for i in range(len(text) - 4)} for text in texts]
    wanted = {(i, j): len(a & b) / len(a | b) for i, a in enumerate(sets) for j, b in enumerate(sets) if i < j}
    found = near_duplicates(texts, 0.7)
    assert {tuple(pair) for pair in found.pairs.tolist()} == {pair for pair, s in wanted.items() if s >= 0.7}
    assert len(found.pairs) > 10
    assert np.allclose(found.similarity, [wanted[i, j] for i, j in found.pairs.tolist()])


@pytest.mark.parametrize("texts", [[], ["a"], ["", "a"], ["ab", "ac", "\ud800x"]])
def test_few_and_short_texts(texts):
    assert len(near_duplicates(texts).pairs) == 0


def test_texts_from_a_template_are_not_clustered():
    form = "a person of {} years asks the bank for a loan of {} euros, to be paid back within two years, in advance"
    texts = [form.format(20 + i % 60, 1000 + i) for i in range(300)]
    report = check_leaks(texts)
    assert kinds(report) == ["near_duplicates_everywhere"] and report.duplicates is None
    many = near_duplicates([f"{text} {i}" for i, text in enumerate(texts * 20)])
    assert not many.complete and len(many.pairs) == 0


def test_training_rows_in_the_test_file():
    report = check_leaks(TEXTS, ANSWERS, [TEXTS[7].title(), TEXTS[8] + " " + WORDS[5], "something else"])
    assert only(report, "train_rows_in_test").rows == (7,)
    assert only(report, "near_train_rows_in_test").rows == (8,)
    assert report.duplicates is None and not report.errors


def test_rows_of_a_frame_are_compared_without_id_and_target():
    b = RNG.random(39)
    frame = pd.DataFrame({"id": range(40), "a": [*range(39), 3], "b": [*b, b[3]], "y": [0, 1] * 20})
    test = pd.DataFrame({"id": [100], "a": [5.0], "b": [b[5]]})
    report = check_leaks(frame, "y", test)
    assert only(report, "exact_duplicates").rows == (3, 39)
    assert only(report, "train_rows_in_test").rows == (5,)
    assert only(report, "id_like_column").message.startswith("column 'id'")
    assert "id_like_column" not in kinds(check_leaks(frame, "y", test, ignore=["id"]))


def test_folds_that_split_copies_or_groups_are_an_error():
    texts, groups = [*TEXTS[:50], *TEXTS[:5]], np.arange(55) % 11
    report = check_leaks(texts, groups=groups, folds=make_folds(55, n_folds=5))
    assert [finding.kind for finding in report.errors] == ["duplicates_across_folds", "groups_across_folds"]
    kept = make_folds(55, n_folds=5, groups=groups, duplicates=report.duplicates)
    assert not check_leaks(texts, groups=groups, folds=kept).errors


def test_groups_in_both_files():
    frame = pd.DataFrame({"text": TEXTS[:40], "who": [f"p{i % 8}" for i in range(40)]})
    test = pd.DataFrame({"text": TEXTS[50:60], "who": ["p1", "p9"] * 5})
    finding = only(check_leaks(frame, None, test, text_column="text", groups="who"), "groups_in_test")
    assert "1 of 2 groups" in finding.message and finding.rows == (1, 9, 17, 25, 33)
    assert kinds(check_leaks(TEXTS, groups=ANSWERS, test_groups=[0, 5])) == ["groups_in_test"]


@pytest.mark.parametrize("groups, tested", [
    ([1, 2, 3, 4], ["1", "9", "1", "8"]),
    ([1.0, 2.0, np.nan, 4.0], [1, 9, 1, 8]),
    (["1", None, "3", "4"], np.array(["1", "9", None, "8"], dtype=object)),
    (pd.Series([1, None, 3, 4], dtype="Int64"), ["1", None, "9", "8"]),
])
def test_groups_are_compared_as_they_read_and_missing_ones_are_none(groups, tested):
    report = check_leaks(TEXTS[:4], None, TEXTS[4:8], groups=groups, test_groups=tested)
    finding = only(report, "groups_in_test")
    assert "1 of 3 groups" in finding.message and finding.rows == (0,)


def test_a_missing_group_is_on_no_side_of_a_fold():
    halves = [(np.arange(20), np.arange(20, 40)), (np.arange(20, 40), np.arange(20))]
    groups = np.array([None, *"abc"] * 10, dtype=object)
    finding, = check_leaks(TEXTS[:40], groups=groups, folds=halves).errors
    assert finding.kind == "groups_across_folds" and finding.rows == tuple(i for i in range(40) if i % 4)


@pytest.mark.parametrize("answers, column, head_type", [
    (ANSWERS, ANSWERS * 3.0 + RNG.random(200), "binary"),
    (ANSWERS, np.where(ANSWERS == 1, "approved", "refused"), "binary"),
    (ANSWERS, np.where(ANSWERS == 1, np.nan, 7.0), "binary"),
    (np.arange(200) % 3, np.array(list("xyz"))[np.arange(200) % 3], "multiclass"),
    (np.linspace(0, 9, 200), np.exp(np.linspace(0, 9, 200)), "regression"),
])
def test_a_column_that_tells_the_answer(answers, column, head_type):
    frame = pd.DataFrame({"noise": RNG.random(200), "code": RNG.choice(list("abcd"), 200), "told": column})
    report = check_leaks(frame, answers, task=head_type)
    assert "column 'told' alone" in only(report, "target_in_column").message and len(report.errors) == 1


def test_a_good_column_is_no_leak():
    frame = pd.DataFrame({"x": ANSWERS + RNG.normal(0, 0.5, 200), "name": [f"Mr {i}" for i in range(200)]})
    assert kinds(check_leaks(frame, ANSWERS)) == []
    assert 0.8 < single_column_score(frame["x"], pd.DataFrame({"0": 1 - ANSWERS, "1": ANSWERS})) < 0.99


@pytest.mark.parametrize("odd", [np.inf, -np.inf, 1e300])
def test_a_number_that_no_tree_can_hold_is_a_missing_one(odd):
    numbers = np.where(np.arange(200) % 9 == 0, odd, ANSWERS + 2 * RNG.random(200))
    check_leaks(pd.DataFrame({"text": TEXTS, "x": numbers}), ANSWERS, text_column="text", task="binary")
    frame, gone = pd.DataFrame({"y": ANSWERS, "n": 1 - ANSWERS}), np.where(np.arange(200) % 9 == 0, np.nan, numbers)
    assert single_column_score(pd.Series(numbers), frame) == single_column_score(pd.Series(gone), frame) > 0.6


def test_an_id_that_was_numbered_after_sorting():
    frame = pd.DataFrame({"id": np.argsort(np.argsort(ANSWERS, kind="stable")), "x": RNG.random(200)})
    assert "names the row and yet predicts" in only(check_leaks(frame, ANSWERS), "target_in_id").message


@pytest.mark.parametrize("marked, answers, head_type", [
    ([f"{t} {'#zz9' if y else ''}" for t, y in zip(TEXTS, ANSWERS, strict=True)], ANSWERS, "binary"),
    ([f"{t} qq{i % 3}" for i, t in enumerate(TEXTS)], np.arange(200) % 3, "multiclass"),
    ([f"{t} target {y}" for t, y in zip(TEXTS, ANSWERS, strict=True)], ANSWERS, "binary"),
    ([f"{t} sold for {1000 + i}" for i, t in enumerate(TEXTS)], np.arange(200) + 1000.0, "regression"),
    ([f"{t} sold for {i + 0.25}" for i, t in enumerate(TEXTS)], np.arange(200) + 0.25, "regression"),
])
def test_a_text_that_tells_the_answer(marked, answers, head_type):
    errors = check_leaks(marked, answers, near=None, task=head_type).errors
    assert errors and {finding.kind for finding in errors} == {"target_in_text"}
    assert not check_leaks(TEXTS, answers, task=head_type).errors


def test_class_names_in_half_of_the_texts():
    names = np.array(["very good", "bad"])[ANSWERS]
    texts = [f"{t} {name if i % 2 else ''}" for i, (t, name) in enumerate(zip(TEXTS, names, strict=True))]
    assert "the name of the class" in only(check_leaks(texts, names, near=None), "target_in_text").message
    mixed = [f"{t} not bad" if i % 9 == 0 else text for i, (t, text) in enumerate(zip(TEXTS, texts, strict=True))]
    assert not check_leaks(mixed, names, near=None).errors


def test_a_label_of_several_in_the_text():
    labels = np.stack([ANSWERS, RNG.integers(0, 2, 200)], axis=1)
    texts = [f"{t} {'flagged' if row[1] else ''}" for t, row in zip(TEXTS, labels, strict=True)]
    finding = only(check_leaks(texts, labels, near=None, task="multilabel"), "target_in_text")
    assert "'flagged'" in finding.message and "class '1'" in finding.message


def test_an_error_stops_unless_there_is_a_reason(caplog):
    report = check_leaks(pd.DataFrame({"told": np.where(ANSWERS == 1, "a", "b")}), ANSWERS)
    with pytest.raises(LeakError, match="column 'told'.*\n.*\n.*\n.*allow_leak") as caught: report.raise_if_leak()
    assert caught.value.report is report and isinstance(caught.value, DataError)
    for no_reason in ("", "  ", True):
        with pytest.raises(DataError, match="reason in words"): report.raise_if_leak(no_reason)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING): report.raise_if_leak("known before")
    assert "leak allowed (known before): column 'told'" in caplog.text


def test_report_is_a_table_and_escapes_texts():
    report = check_leaks(["<b>same & same</b>"] * 2 + TEXTS)
    html = report._repr_html_()
    assert "&lt;b&gt;same &amp; same" in html and "<b>same" not in html
    frame = report.to_frame()
    assert frame["kind"].tolist() == ["exact_duplicates"] and frame["rows"].tolist() == [2]
    assert "1 warning" in repr(report) and "rows 1 and 2" in str(report)


@pytest.mark.parametrize("arguments, message", [
    (dict(train=[]), "no training rows"),
    (dict(train=TEXTS, targets=[1, 2]), "2 targets for 200 rows"),
    (dict(train=["a", "b"], targets=[1, None]), "target, row 2: the value is missing"),
    (dict(train=TEXTS, test=pd.DataFrame({"a": [1]})), "both be frames"),
    (dict(train=pd.DataFrame({"text": ["a"]}), targets="txt"), "no column 'txt'. Did you mean 'text'"),
    (dict(train=pd.DataFrame({"text": ["a"]}), ignore=["id"]), "no column 'id'"),
])
def test_what_cannot_be_checked(arguments, message):
    with pytest.raises(DataError, match=message): check_leaks(**arguments)


def test_the_demo_is_clean():
    train, test = read_frame("demo:german_credit/train.csv"), read_frame("demo:german_credit/test.csv")
    assert check_leaks(train, "risk", test, ignore=["id"]).findings == ()
