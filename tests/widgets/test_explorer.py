"""What people look at before and after training: every task, parts that are not there yet, a page that stands alone."""
from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from mlx_bert_training import CompetitionExplorer, create_kaggle_trainer, create_trainer
from mlx_bert_training.cli import main
from mlx_bert_training.data.frames import read_frame
from mlx_bert_training.data.loader import padding_of
from mlx_bert_training.declaration.problems import ConfigError
from mlx_bert_training.errors import DataError, MLXBertError
from mlx_bert_training.kaggle.ledger import Ledger, LedgerEntry
from mlx_bert_training.validation.oof import load_oof
from mlx_bert_training.widgets import ErrorReport
from mlx_bert_training.widgets.data_sections import (
    balance_table,
    bucket_table,
    drift_table,
    pairs_table,
    together_table,
    whole_lengths,
)
from mlx_bert_training.widgets.explorer import PARTS
from mlx_bert_training.widgets.target_columns import HOLM

WORDS = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "islet", "jetty"]
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def write_files(folder, target=None, n=90, m=40):
    "train.csv and test.csv with a text, a number and gaps; by default the class follows from the text."
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 10, n + m)
    frame = pd.DataFrame({
        "id": np.arange(100, 100 + n + m),
        "text": [" ".join([WORDS[k], f"row{i}", *rng.choice(WORDS, rng.integers(0, 12))]) for i, k in enumerate(kinds)],
        "size": rng.integers(1, 50, n + m), "note": np.where(rng.random(n + m) < 0.3, None, "seen")})
    frame["target"] = kinds % 2 if target is None else target(rng, kinds)
    frame[:n].to_csv(folder / "train.csv", index=False)
    frame[n:].drop(columns="target").to_csv(folder / "test.csv", index=False)
    return frame


def declaration(folder, **sections):
    base = {
        "model": {"config": TINY, "pooling": "mean", "dropout_rate": 0.0},
        "data": {"train_path": str(folder / "train.csv"), "test_path": str(folder / "test.csv"), "id_column": "id",
                 "target_column": "target", "text_column": "text", "max_length": 16, "batch_size": 16,
                 "num_workers": 0},
        "optimizer": {"learning_rate": 0.01}, "training": {"num_epochs": 1, "save_strategy": "no"},
        "environment": {"output_dir": str(folder / "runs"), "run_name": "run", "device": "cpu", "compile": False},
        "kaggle": {"competition_metric": "auc", "cv_folds": 3, "submission_dir": str(folder / "submissions"),
                   "save_fold_models": False}}
    return {name: {**base.get(name, {}), **sections.get(name, {})} for name in base.keys() | sections.keys()}


@pytest.fixture
def files(tmp_path):
    write_files(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    "A trainer after cross-validation with an ensemble, and a submission in the ledger."
    folder = tmp_path_factory.mktemp("finished")
    write_files(folder)
    trainer = create_kaggle_trainer(config=declaration(folder, kaggle={"enable_ensemble": True}))
    trainer.train_with_cv()
    trainer.create_submission()
    return trainer


def all_pictures(section):
    return [draw()._repr_png_() for draw in section.pictures.values()]


# ---- before training


def test_a_declaration_is_explored_before_anything_is_trained(files):
    explorer = CompetitionExplorer(declaration(files))
    sections, missing = explorer.sections()
    assert [s.title for s in sections] == ["Overview", "Leaks", "Targets", "Target by column", "Keywords", "Lengths",
                                           "Drift"]
    assert len(missing) == 4 and all("train_with_cv" in text or "submission" in text for text in missing)
    assert "90 train rows, 40 test rows" in str(explorer) and not (files / "runs").exists()
    for part in ("folds", "ensemble", "errors"):
        with pytest.raises(MLXBertError, match=r"call train_with_cv\(\)"): getattr(explorer, part)()
    with pytest.raises(MLXBertError, match="no submission yet"): explorer.leaderboard()


def test_columns_say_what_the_model_reads_and_what_is_missing(files):
    table = CompetitionExplorer(declaration(files)).overview().tables["Columns"].set_index("column")
    assert table["role"].to_dict() == {"id": "id", "text": "read by the model", "size": "not used", "note": "not used",
                                       "target": "target"}
    frame = pd.read_csv(files / "train.csv")
    gaps = frame["note"].isna().mean()
    assert table.loc["note", "missing in train"] == pytest.approx(gaps) and gaps > 0
    assert np.isnan(table.loc["target", "missing in test"])


def test_lengths_are_those_of_the_whole_texts(files):
    explorer = CompetitionExplorer(declaration(files, data={"max_length": 10}))
    loader = explorer.data.train
    whole = whole_lengths(explorer.data)["train"]
    free = CompetitionExplorer(declaration(files, data={"max_length": 400}))
    assert not free.data.train.dataset.encoded.truncated.any()
    np.testing.assert_array_equal(whole, free.data.train.dataset.encoded.lengths)
    assert (whole > 10).sum() == loader.dataset.encoded.truncated.sum() > 0
    section = explorer.lengths()
    assert section.tables["Tokens"]["rows cut"].tolist()[0] == (whole > 10).sum()
    kept = section.tables["What max_length keeps"].set_index("max_length")
    assert kept.loc["10 (in use)", "share of rows whole"] == pytest.approx((whole <= 10).mean())
    assert "No text is cut" in str(free.lengths())
    assert all_pictures(section)


def test_buckets_add_up_to_what_the_loader_computes(files):
    loader = CompetitionExplorer(declaration(files)).data.train
    table, padding = bucket_table(loader), padding_of(loader)
    assert table["rows"].sum() == 90 and table["tokens"].sum() == padding.real_tokens
    assert (table["tokens"] + table["padding"]).sum() == padding.padded_tokens
    assert table["batches"].sum() == len(loader)


def test_class_balance_counts_the_file(files):
    explorer = CompetitionExplorer(declaration(files))
    counts = pd.read_csv(files / "train.csv")["target"].value_counts()
    assert balance_table(explorer.data)["train"].tolist() == [counts[0], counts[1]]
    assert f"{counts.max() / 90:.1%}" in str(explorer.targets()) and all_pictures(explorer.targets())


def test_targets_of_a_regression(tmp_path):
    write_files(tmp_path, lambda rng, kinds: np.exp(kinds / 2 + rng.normal(size=len(kinds))))
    config = declaration(tmp_path, model={"head_type": "regression"}, kaggle={"competition_metric": "rmse"})
    section = CompetitionExplorer(config).targets()
    values = pd.read_csv(tmp_path / "train.csv")["target"]
    assert section.tables["Values"]["median"][0] == pytest.approx(values.median(), rel=1e-4)
    assert "log1p" in str(section) and len(section.plot().axes) == 2 and all_pictures(section)


def test_targets_of_many_labels_and_how_they_occur_together(tmp_path):
    def weather(rng, kinds):
        return [" ".join(["warm"] * int(k < 6) + ["wet"] * int(k % 3 == 0)) or "dry" for k in kinds]
    write_files(tmp_path, weather)
    config = declaration(tmp_path, model={"head_type": "multilabel"}, kaggle={"competition_metric": "macro_f1"})
    explorer = CompetitionExplorer(config)
    y, names = np.asarray(explorer.data.train.labels), explorer.data.labels.label_names
    both = together_table(y, names)
    warm, wet = y[:, names.index("warm")], y[:, names.index("wet")]
    assert both.loc["wet", "warm"] == pytest.approx(warm[wet == 1].mean()) and both.loc["dry", "wet"] == 0
    pair = pairs_table(y, names).iloc[0]
    assert {pair["label"], pair["with"]} == {"warm", "wet"} and pair["rows"] == (warm * wet).sum()
    assert pair["times chance"] == pytest.approx((warm * wet).mean() / (warm.mean() * wet.mean()))
    section = explorer.targets()
    assert len(all_pictures(section)) == 2 and section.tables["Labels of a row"]["rows"].sum() == 90


def test_many_classes_are_drawn_in_one_picture(tmp_path):
    write_files(tmp_path, lambda rng, kinds: [f"class {i % 45}" for i in range(len(kinds))], n=180)
    config = declaration(tmp_path, model={"head_type": "multiclass"}, kaggle={"competition_metric": "accuracy"})
    figure = CompetitionExplorer(config).targets().plot()
    assert len(figure.axes[0].get_yticklabels()) == 30 and "30 most frequent of 45" in figure.axes[0].get_xlabel()


# ---- drift


def test_drift_names_the_column_that_moved_and_only_that():
    rng = np.random.default_rng(1)

    def side(n, shift):
        return pd.DataFrame({"id": np.arange(n), "age": rng.normal(40 + shift, 5, n), "same": rng.normal(size=n),
                             "town": rng.choice(["Bonn", "Kiel"], n), "name": [f"n{i}{shift}" for i in range(n)],
                             "gap": np.where(rng.random(n) < (0.5 if shift else 0.1), np.nan, 1.0)})
    table = drift_table(side(400, 0), side(300, 6), ignore=("id",)).set_index("column")
    sure = table.index[table[HOLM] < 0.01 / len(table)]
    assert set(sure) == {"age", "gap"} and table.index[0] in sure
    assert table.loc["name", "kind"] == "words" and table.loc["name", "test"] == "100% not in train"
    assert table.loc["gap", "distance"] == pytest.approx(
        abs(table.loc["gap", "missing in train"] - table.loc["gap", "missing in test"]))


@pytest.mark.parametrize("values", [[None] * 30, [1.5] * 30, ["x"] * 30, [True, False] * 15, ["a"] * 15 + [None] * 15])
def test_columns_of_one_value_or_none_are_no_drift(values):
    frame = pd.DataFrame({"column": values})
    table = drift_table(frame, frame)
    assert table[HOLM].tolist() == [1.0] and table["distance"].tolist() == [0.0]


def test_columns_of_other_types_in_the_two_files_are_compared_as_words():
    table = drift_table(pd.DataFrame({"c": [1, 2, 3] * 10}), pd.DataFrame({"c": ["1", "2", "4"] * 10}))
    assert table["kind"][0] == "category" and table["distance"][0] == pytest.approx(1 / 3)


def test_drift_asks_adversarial_validation_once_and_shows_it(files):
    explorer = CompetitionExplorer(declaration(files, data={"text_column": None, "template": "{text} {size}"}))
    section = explorer.drift()
    assert "AUC" in str(section) and len(all_pictures(section)) == 2
    assert explorer.drift() is section


def test_too_few_rows_for_adversarial_validation_are_said(tmp_path):
    write_files(tmp_path, n=30, m=6)
    section = CompetitionExplorer(declaration(tmp_path)).drift()
    assert "No adversarial validation" in str(section) and "6" in section.notes[-1] and "Columns" in section.tables


def test_without_a_test_file_there_is_no_drift_and_the_rest_is_shown(files):
    config = declaration(files)
    config["data"]["test_path"] = None
    sections, missing = CompetitionExplorer(config).sections()
    assert [s.title for s in sections] == ["Overview", "Leaks", "Targets", "Target by column", "Keywords", "Lengths"]
    assert any("drift" in text and "data.test_path" in text for text in missing)


def test_a_leak_is_shown_and_does_not_stop_the_explorer(files):
    frame = pd.read_csv(files / "train.csv")
    frame.assign(answer=frame["target"].map({0: "no", 1: "yes"})).to_csv(files / "train.csv", index=False)
    test = pd.read_csv(files / "test.csv")
    test.assign(answer="no").to_csv(files / "test.csv", index=False)
    config = declaration(files, data={"text_column": None, "template": "{text} {answer}"})
    assert "error" in CompetitionExplorer(config).leaks().tables["Findings"]["severity"].tolist()


# ---- after training


def test_a_trainer_brings_its_cross_validation_along(finished):
    explorer = CompetitionExplorer(finished)
    sections, missing = explorer.sections()
    assert len(sections) == len(PARTS) and not missing
    errors, cv = explorer.errors(), finished.cv
    assert isinstance(errors, ErrorReport) and len(errors.targets) == 90
    np.testing.assert_allclose(errors.predictions, cv.oof.predictions)
    frame = pd.read_csv(finished.config.data.train_path).set_index("id")
    hardest = errors.hardest(5)
    assert all(row.text == frame.loc[int(row.row), "text"] for row in hardest.itertuples())
    assert hardest["true"].tolist() == [str(frame.loc[int(row), "target"]) for row in hardest["row"]]


def test_folds_and_members_are_the_figures_of_the_result(finished):
    explorer, cv = CompetitionExplorer(finished), finished.cv
    folds, ensemble = explorer.folds(), explorer.ensemble()
    assert f"{cv.mean:.4f} ± {cv.standard_error:.4f}" in str(folds)
    assert folds.tables["Folds"]["auc"].tolist() == pytest.approx(list(cv.run.oof.score("auc").values))
    pd.testing.assert_frame_equal(ensemble.tables["Correlation of their predictions"], cv.ensemble.correlations,
                                  check_names=False)
    assert all(all_pictures(section) for section in (folds, ensemble))


def test_the_leaderboard_is_that_of_the_ledger(finished, tmp_path):
    assert "no submission has both" in str(CompetitionExplorer(finished).leaderboard())
    ledger = Ledger(tmp_path / "ledger.jsonl")
    name = finished.config.environment.experiment_name
    for i in range(3): ledger.append(LedgerEntry(name, "auc", 0.7 + i / 100, 0.02, 0.69 + i / 90, ref=i + 1))
    ledger.append(LedgerEntry("another", "auc", 0.1, 0.02, 0.9, ref=9))
    section = CompetitionExplorer(finished, ledger=tmp_path / "ledger.jsonl").leaderboard()
    assert "3 scored submissions" in str(section) and len(section.tables["Submissions"]) == 3
    assert all_pictures(section)


def test_a_file_of_out_of_fold_predictions_will_do(finished):
    path = finished.cv.output_dir / "oof" / "run.npz"
    explorer = CompetitionExplorer(finished.config, path)
    assert explorer.errors().losses.mean() == pytest.approx(
        CompetitionExplorer(finished.config, load_oof(path)).errors().losses.mean())
    assert "auc" in str(explorer.folds())
    with pytest.raises(MLXBertError, match="no ensemble"): explorer.ensemble()


def test_predictions_of_other_rows_are_refused(finished, tmp_path):
    write_files(tmp_path, n=60)
    with pytest.raises(DataError, match="id 160 is not in the train part"):
        CompetitionExplorer(declaration(tmp_path), finished.cv.model).errors()


def test_the_threshold_of_the_submission_decides_what_is_wrong(files):
    config = declaration(files, kaggle={"competition_metric": "f1", "threshold_search": True})
    trainer = create_kaggle_trainer(config=config)
    cv = trainer.train_with_cv()
    errors = CompetitionExplorer(trainer).errors()
    assert cv.use_threshold and errors.threshold == cv.threshold.value
    np.testing.assert_array_equal(errors.decided, cv.threshold.apply(cv.oof.predictions))


def test_a_single_run_has_the_errors_of_its_validation_part(files):
    config = declaration(files)
    del config["kaggle"]
    trainer = create_trainer(config=config, validation_fraction=0.3)
    with pytest.raises(MLXBertError, match="train_with_cv"): CompetitionExplorer(trainer).errors()
    trainer.train()
    errors = CompetitionExplorer(trainer).errors()
    assert len(errors.targets) == len(trainer.data.validation.dataset) and "validation part" in errors.title
    assert errors.hardest(1)["text"].iloc[0] in trainer.data.texts["validation"].first


# ---- the whole


class Links(HTMLParser):
    "What a page loads, and the alternative texts of its pictures."

    def __init__(self):
        super().__init__()
        self.loaded, self.alts, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append(tag)
        self.loaded += [found[name] for name in ("src", "href") if name in found]
        if tag == "img": self.alts.append(found.get("alt"))


def test_the_page_stands_alone_and_every_picture_has_words(finished, tmp_path):
    path = CompetitionExplorer(finished).save_html(tmp_path / "made" / "explore.html")
    page, links = path.read_text(encoding="utf-8"), Links()
    links.feed(page)
    assert all(link.startswith(("data:image/png;base64,", "#s")) for link in links.loaded)
    assert len(links.alts) >= 8 and all(links.alts) and "script" not in links.tags
    assert links.tags.count("section") == len(PARTS)
    words = re.sub(r"<style>.*?</style>|<[^>]*>", " ", page)
    assert not re.search(r"\bnan\b|\binf\b|NaN", words)
    assert [p.name for p in path.parent.iterdir()] == ["explore.html"]


def test_prepared_data_alone_is_explored(finished):
    explorer = CompetitionExplorer(finished.data)
    sections, missing = explorer.sections()
    assert [s.title for s in sections] == ["Overview", "Leaks", "Targets", "Target by column", "Keywords", "Lengths",
                                           "Drift"]
    assert any("ledger=" in text for text in missing)
    with pytest.raises(MLXBertError, match="can override a declaration"):
        CompetitionExplorer(finished.data, max_length=8)


def test_data_without_targets_says_so(files, finished):
    config = declaration(files)
    config["data"] |= {"train_path": None, "target_column": None}
    del config["kaggle"]
    sections, missing = CompetitionExplorer(config).sections()
    assert [s.title for s in sections] == ["Overview", "Lengths"] and any("target_column" in m for m in missing)
    trainer = create_trainer(model=finished.model, config={"environment": {"device": "cpu"}})
    with pytest.raises(MLXBertError, match="without data.train_path"): CompetitionExplorer(trainer)


def test_pairs_of_texts_are_explored(tmp_path):
    write_files(tmp_path)
    for name in ("train", "test"):
        frame = read_frame(tmp_path / f"{name}.csv")
        frame.assign(other=frame["text"].str[::-1]).to_csv(tmp_path / f"{name}.csv", index=False)
    explorer = CompetitionExplorer(declaration(tmp_path, data={"text_pair_column": "other"}))
    characters = read_frame(tmp_path / "train.csv")[["text", "other"]].map(len).sum(axis=1).mean()
    assert explorer.lengths().tables["Tokens"]["characters (mean)"][0] == pytest.approx(characters)


def test_the_command_writes_a_page(finished, files, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finished.config.save(tmp_path / "run.yaml")
    oof = finished.cv.output_dir / "oof" / "run.npz"
    assert main(["explore", "run.yaml", "data.max_length=12", "-o", "page.html", "--oof", str(oof)]) == 0
    assert capsys.readouterr().out.strip().endswith("page.html")
    page = (tmp_path / "page.html").read_text()
    assert "12 (in use)" in page and "Errors out of fold of run" in page
    assert main(["explore", "run.yaml", "data.train_path=nowhere.csv"]) == 2
    assert "nowhere.csv" in capsys.readouterr().err and not (tmp_path / "explore.html").exists()


def test_a_wrong_key_is_answered_as_everywhere(files):
    with pytest.raises(ConfigError, match="Did you mean max_length"):
        CompetitionExplorer(declaration(files), max_lenght=4)
