"""The target by column and by words: every kind of task, gaps, odd columns, many rows."""
from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from stopwatch import at_most

from mlx_bert_training import CompetitionExplorer
from mlx_bert_training.data.prepare import prepare
from mlx_bert_training.declaration.load import load_config
from mlx_bert_training.errors import DataError, MLXBertError
from mlx_bert_training.widgets.keywords import keywords_section
from mlx_bert_training.widgets.section import page_html
from mlx_bert_training.widgets.target_columns import (
    HOLM,
    Outcome,
    association_table,
    chance,
    column_kind,
    compared_columns,
    explained,
    group_rows,
    holm,
    intervals,
    outcome_table,
)
from mlx_bert_training.widgets.target_sections import columns_section

KINDS = {
    "binary_classification": lambda warm, rng: np.where(warm, "yes", "no"),
    "multiclass_classification": lambda warm, rng: np.where(warm, "hot", rng.choice(["mild", "cold"], len(warm))),
    "multilabel_classification": lambda warm, rng: [" ".join(["sun"] * bool(w) + ["wind"] * bool(rng.random() < .5))
                                                    or "none" for w in warm],
    "regression": lambda warm, rng: 20.0 * warm + rng.normal(0, 3, len(warm)),
    "ordinal_regression": lambda warm, rng: 3 * warm + rng.choice([1, 2], len(warm)),
}


def made(folder, kind, n=300):
    "Rows whose target goes with a word, a category and a number, and not with another category."
    rng = np.random.default_rng(0)
    warm = rng.random(n) < 0.5
    frame = pd.DataFrame({
        "id": np.arange(n), "text": [f"the day {i} was {'lovely' if w else 'grey'} again" for i, w in enumerate(warm)],
        "season": np.where(warm, "summer", rng.choice(["winter", "autumn"], n)),
        "degrees": np.where(rng.random(n) < 0.1, np.nan, 15 * warm + rng.normal(10, 3, n)),
        "weekday": np.array(["Mon", "Tue", "Wed"])[pd.Series(warm).groupby(warm).cumcount() % 3],     # even in both
        "target": KINDS[kind](warm, rng)})
    frame.to_csv(folder / "train.csv", index=False)
    return prepare(load_config({
        "model": {"head_type": kind},
        "data": {"train_path": str(folder / "train.csv"), "text_column": "text", "target_column": "target",
                 "id_column": "id", "max_length": 16}}))


@pytest.mark.parametrize("kind", KINDS)
def test_columns_and_words_of_every_kind_of_task(tmp_path, kind):
    data = made(tmp_path, kind)
    section = columns_section(data, ["id"])
    table = section.tables["How much each column says by itself"].set_index("column")
    assert {"season", "degrees"} <= set(table.index[:2]) and table.loc["weekday", HOLM] > 0.05
    assert "corrected by Holm" in str(section)
    words = keywords_section(data, ["id"])
    (table,) = words.tables.values()
    assert {"lovely", "grey"} <= set(table["word"]) and "the" not in set(table["word"])
    assert "Benjamini" in str(words)
    assert all(draw()._repr_png_() for part in (section, words) for draw in part.pictures.values())


def test_the_mean_of_a_group_is_that_of_the_file_and_its_interval_that_of_scipy(tmp_path):
    data = made(tmp_path, "binary_classification")
    frame = pd.read_csv(tmp_path / "train.csv")
    hot = Outcome("yes", (frame["target"] == "yes").to_numpy(float))
    table = outcome_table(group_rows(frame["weekday"]), [hot])
    for day, rows in frame.groupby("weekday"):
        count = int((rows["target"] == "yes").sum())
        assert table.loc[day, "rows"] == len(rows)
        assert table.loc[day, "share of yes"] == pytest.approx(count / len(rows))
        right = binomtest(count, len(rows)).proportion_ci(method="wilson")
        assert table.loc[day, "share, from"] == pytest.approx(right.low)
        assert table.loc[day, "share, to"] == pytest.approx(right.high)
    crossed = CompetitionExplorer(data).columns("weekday", "season").tables["share of yes"]
    assert crossed["rows"].sum() == len(data.frames["train"]) and {"weekday", "season"} <= set(crossed)


def test_gaps_are_a_group_of_their_own_and_rare_values_go_together():
    column = pd.Series([f"v{i}" for i in range(12)] * 20 + [None] * 30)
    groups = group_rows(column)
    assert groups.cat.categories.tolist()[-2:] == ["5 others", "missing"] and (groups == "missing").sum() == 30
    numbers = group_rows(pd.Series([*np.arange(100.0), np.nan]))
    assert numbers.cat.categories[0] == "0 to 12" and numbers.value_counts().drop("missing").between(12, 13).all()
    assert group_rows(pd.Series(["missing", None, "there"])).value_counts()["missing"] == 2


@pytest.mark.parametrize(("values", "kind"), [
    ([None] * 9, "empty"), ([True, False] * 9, "category"), (list(range(60)), "number"), ([1, 2] * 30, "category"),
    ([f"file{i}.png" for i in range(90)], "words"), ([f"Mr. {i} of B" for i in range(90)], "text"),
    (pd.Timestamp("2024-01-01") + pd.to_timedelta(range(90), "D"), "text")])
def test_kinds_of_column(values, kind): assert column_kind(pd.Series(values)) in (kind, "words")


def test_constant_columns_and_targets_are_not_compared():
    frame = pd.DataFrame({"same": [1] * 40, "none": [None] * 40, "two": ["a", "b"] * 20})
    grouped = compared_columns(frame)
    assert list(grouped) == ["two"]
    flat = Outcome("value", np.ones(40), share=False)
    assert association_table(grouped, [flat])[HOLM].tolist() == [1.0]
    perfect = Outcome("value", np.tile([1.0, 2.0], 20), share=False)
    codes = grouped["two"].cat.codes.to_numpy()
    assert explained(codes, [perfect]) == pytest.approx(1) and chance(codes, [perfect]) == 0


def test_a_mean_of_one_row_has_no_interval():
    low, high = intervals(np.array([5.0]), np.array([25.0]), np.array([1]), share=False)
    assert np.isnan(low[0]) and np.isnan(high[0])


def test_corrected_p_values_keep_false_finds_rare():
    rng = np.random.default_rng(0)
    finds = [(holm(rng.random(20)) < 0.05).any() for _ in range(2000)]
    assert 0.03 < np.mean(finds) < 0.07
    assert holm([]).tolist() == [] and holm([0.5, 0.9]).max() == 1


def test_a_wrong_name_and_missing_texts_are_told(tmp_path):
    data = made(tmp_path, "regression")
    explorer = CompetitionExplorer(data)
    with pytest.raises(DataError, match="did you mean 'season'"): explorer.columns("seasn")
    with pytest.raises(DataError, match="target"): explorer.columns("target")
    with pytest.raises(DataError, match="name one, or two"): explorer.columns("season", "weekday", "degrees")
    data.frames["train"] = data.frames["train"].drop(columns="text")
    with pytest.raises(MLXBertError, match="column of texts"): explorer.keywords()


def test_twenty_thousand_rows_are_quick(tmp_path):
    data = made(tmp_path, "regression", n=20_000)
    with at_most(10):
        columns_section(data, ["id"])
        keywords_section(data, ["id"])


def test_a_report_folds_and_links_unfold_it(tmp_path):
    explorer = CompetitionExplorer(made(tmp_path, "binary_classification"))
    html, page = explorer._repr_html_(), page_html("A page", explorer.sections()[0])
    assert html.count("<details") == len(explorer.sections()[0]) + 1
    assert html.rindex("Not here yet") > html.rindex("png")
    assert page.index("<details open") < page.index("id='s0'") < page.index("</details>") and "Without" not in html
