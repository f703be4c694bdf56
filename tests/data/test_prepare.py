"""From a declaration to loaders: texts, an honest split, and errors that name the cell."""
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlx_bert_training.core.config import BaseTrainerConfig, DataConfig, EnvironmentConfig, ModelConfig
from mlx_bert_training.data.baselines import baseline_scores
from mlx_bert_training.data.frames import read_frame
from mlx_bert_training.data.labels import LabelMap
from mlx_bert_training.data.loader import BucketedLoader
from mlx_bert_training.data.prepare import Texts, prepare, split_rows
from mlx_bert_training.data.tokenization import tiny_tokenizer
from mlx_bert_training.declaration.load import load_config
from mlx_bert_training.errors import DataError
from mlx_bert_training.tasks.task import get_task


@pytest.fixture
def declare(tmp_path, monkeypatch):
    "A function that writes files and gives a declaration of them."
    monkeypatch.chdir(tmp_path)

    def make(files, head_type="binary_classification", num_labels=None, seed=42, **data):
        for name, frame in files.items(): pd.DataFrame(frame).to_csv(f"{name}.csv", index=False)
        paths = {f"{name}_path": f"{name}.csv" for name in files}
        return BaseTrainerConfig(model=ModelConfig(head_type=head_type, num_labels=num_labels),
                                 data=DataConfig(**{"batch_size": 4, **paths, **data}),
                                 environment=EnvironmentConfig(seed=seed))
    return make


def rows(n=40):
    return {"id": [f"r{i}" for i in range(n)], "text": [f"text number {i}" for i in range(n)],
            "label": ["yes" if i % 4 == 0 else "no" for i in range(n)]}


def test_text_column_split_ids_and_labels(declare):
    config = declare({"train": rows(), "test": {"id": ["a", "b"], "text": ["x", "y"]}}, text_column="text",
                     target_column="label", id_column="id", validation_fraction=0.25)
    prepared = prepare(config)
    assert (prepared.train.num_examples, prepared.validation.num_examples, prepared.test.num_examples) == (30, 10, 2)
    assert prepared.labels.classes == ("no", "yes")
    assert prepared.validation.labels.tolist().count(1) in (2, 3)  # a quarter of ten "yes", stratified
    assert not set(prepared.train.row_ids) & set(prepared.validation.row_ids)
    for part in ("train", "validation"):
        loader, frame = prepared.loaders[part], prepared.frames[part]
        assert loader.row_ids.tolist() == frame["id"].tolist()
        assert prepared.labels.decode(loader.labels).tolist() == frame["label"].tolist()
        assert prepared.texts[part].first == frame["text"].tolist()
        first = prepared.tokenizer.decode(loader.dataset.encoded[0])
        assert first == frame["text"].iloc[0]
    assert prepared.train.widths == prepared.validation.widths == prepared.test.widths
    assert prepared.train.shuffle and not prepared.validation.shuffle


def test_same_seed_same_split(declare):
    files = {"train": rows()}
    ids = [set(prepare(declare(files, text_column="text", target_column="label", id_column="id", seed=seed))
               .validation.row_ids) for seed in (1, 1, 2)]
    assert ids[0] == ids[1] != ids[2]


def test_loader_settings_reach_the_loaders(declare):
    config = declare({"train": rows()}, text_column="text", target_column="label", batch_size=8, eval_batch_size=3,
                     num_workers=1, prefetch_size=5, shuffle_train=False, drop_last=True, max_length=4)
    prepared = prepare(config)
    train, validation = prepared.train, prepared.validation
    assert isinstance(train, BucketedLoader) and (train.batch_size, validation.batch_size) == (8, 3)
    assert (train.num_workers, train.prefetch_size, train.shuffle, train.drop_last) == (1, 5, False, True)
    assert not validation.drop_last and train.widths == (4,)
    assert prepared.train.dataset.encoded.truncated.all() and "100.0%" in repr(prepared)


def test_template_and_its_defaults(declare):
    files = {"train": {"age": [1, None, 3, 4], "y": [0, 1, 0, 1]}}
    config = declare(files, template="age {age}", template_defaults={"age": "unknown"}, target_column="y")
    config.data.validation_fraction = 0
    prepared = prepare(config)
    assert prepared.texts["train"].first == ["age 1", "age unknown", "age 3", "age 4"]
    assert prepared.validation is None and prepared.source.columns == ["age"]
    assert prepared.train.row_ids.tolist() == [0, 1, 2, 3]


def test_pairs(declare):
    frame = {"a": ["x y"] * 6, "b": [f"z{i}" for i in range(6)], "y": range(6)}
    prepared = prepare(declare({"train": frame}, "regression", text_column="a", text_pair_column="b",
                               target_column="y"))
    assert prepared.train.dataset.encoded.type_ids.max() == 1 and prepared.train.labels.dtype == np.float64
    assert prepared.labels.num_labels == 1 and "±" in repr(prepared)


def test_the_only_text_column_is_found(declare):
    frame = rows() | {"label": [0, 1] * 20}
    prepared = prepare(declare({"train": frame}, target_column="label", id_column="id"))
    assert prepared.source == ["text"]
    with pytest.raises(DataError, match="which column is the text.*id, text"):
        prepare(declare({"train": frame}, target_column="label"))


def test_several_target_columns(declare):
    frame = {"text": [f"t{i}" for i in range(10)], "a": [0, 1] * 5, "b": [1, 1] * 5}
    config = declare({"train": frame}, "multilabel_classification", text_column="text", validation_fraction=0.2)
    config.data.target_column = ["a", "b"]
    prepared = prepare(config)
    assert prepared.train.labels.shape == (8, 2) and prepared.validation.labels.shape == (2, 2)


def test_validation_file_and_what_was_seen_in_training(declare):
    judged = {"text": ["text number 1", "new"], "label": ["no", "yes"]}
    config = declare({"train": rows(), "validation": judged}, text_column="text", target_column="label")
    prepared = prepare(config)
    assert prepared.train.num_examples == 40 and prepared.validation.num_examples == 2
    assert prepared.summary().loc["validation", "seen in train"] == "50.0%"


def test_max_train_rows_leaves_the_validation_part_alone(declare):
    few, whole = (prepare(declare({"train": rows()}, text_column="text", target_column="label", max_train_rows=n))
                  for n in (7, None))
    assert few.train.num_examples == 7 and set(few.train.row_ids) < set(whole.train.row_ids)
    assert few.validation.row_ids.tolist() == whole.validation.row_ids.tolist()


def test_predicting_with_the_labels_and_tokenizer_of_a_model(declare, tmp_path):
    labels = LabelMap(get_task("binary"), ("label",), ("no", "yes"))
    tiny_tokenizer(["text number 1"]).save(tmp_path)
    config = declare({"test": {"text": ["text", "number"]}}, text_column="text", target_column="label")
    prepared = prepare(config, tmp_path, labels=labels)
    assert prepared.train is None and prepared.test.num_examples == 2 and prepared.labels is labels
    assert prepared.tokenizer.vocab_size == tiny_tokenizer(["text number 1"]).vocab_size
    assert "test" in repr(prepared) and "<table" in prepared._repr_html_()


def test_files_beside_the_declaration(declare, tmp_path, monkeypatch):
    config = declare({"train": rows()}, text_column="text", target_column="label")
    config.source = tmp_path / "config.yaml"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert prepare(config).train.num_examples == 32


def test_equal_texts_stay_on_one_side():
    texts = Texts([f"t{i % 60}" for i in range(100)], [f"p{i % 3}" for i in range(100)])
    train, held_out = split_rows(texts, np.arange(100) % 2, 0.3, seed=3)
    keys = [set(zip(*texts.take(part), strict=True)) for part in (train, held_out)]
    assert not keys[0] & keys[1] and sorted([*train, *held_out]) == list(range(100))
    assert 25 <= len(held_out) <= 30


def test_split_is_stratified_and_no_class_loses_its_last_row():
    strata = np.array([0] * 80 + [1] * 18 + [2] * 2)
    texts = Texts([f"t{i}" for i in range(100)])
    train, held_out = split_rows(texts, strata, 0.5)
    assert np.bincount(strata[held_out], minlength=3).tolist() == [40, 9, 1]
    many = np.arange(100) // 2  # fifty classes of two rows: no class has a share of its own
    train, held_out = split_rows(texts, many, 0.2)
    assert len(held_out) == 20 and len(set(many[train])) == 50


def test_a_text_that_is_too_frequent_to_hold_out_stays_in_training():
    texts = Texts(["same"] * 40 + [f"t{i}" for i in range(60)])
    train, held_out = split_rows(texts, np.zeros(100, int), 0.2)
    assert len(held_out) == 20 and held_out.min() >= 40


def test_rows_of_a_small_table_are_held_out_one_by_one():
    texts = Texts([f"kind {i % 4}" for i in range(100)])
    train, held_out = split_rows(texts, np.arange(100) % 2, 0.2)
    assert len(held_out) == 20 and len(set(texts.take(held_out).first)) == 4
    with pytest.raises(DataError, match="holds nothing out"): split_rows(Texts(["a", "b"]), np.zeros(2, int), 0.2)


@pytest.mark.parametrize("change, message", [
    ({"text_column": "txt"}, "train.csv: no column 'txt'. Did you mean 'text'"),
    ({"target_column": "lable"}, "no column 'lable'. Did you mean 'label'"),
    ({"id_column": "idd"}, "no column 'idd'"),
    ({"target_column": None}, "needs data.target_column"),
    ({"text_column": "label"}, "contain the target, column 'label'"),
    ({"text_column": None, "template": "{text} {label}"}, "contain the target, column 'label'"),
    ({"train_path": "trian.csv"}, "Did you mean 'train.csv'"),
    ({"train_path": None}, "names no data"),
    ({"max_length": 2}, "leaves no room"),
    ({"encoding": "ascii"}, "line 2: byte 0xc3"),
])
def test_declarations_that_do_not_fit(declare, change, message):
    frame = rows() | {"text": [f"é {i}" for i in range(40)]}
    with pytest.raises(DataError, match=message):
        prepare(declare({"train": frame}, **{"text_column": "text", "target_column": "label", **change}))


def test_cells_that_do_not_fit(declare):
    base = {"text_column": "text", "target_column": "label", "id_column": "id"}
    def fails(column, value, message):
        frame = rows()
        frame[column][2] = value
        with pytest.raises(DataError, match=message): prepare(declare({"train": frame}, **base))
    fails("text", None, "train.csv, line 4, column 'text': the text is missing")
    fails("label", None, "train.csv, line 4, column 'label': the target is missing")
    fails("label", "maybe", "2 classes are needed, found 3")
    fails("id", "r1", "train.csv, line 4, column 'id': the id 'r1' appears twice")
    fails("id", None, "train.csv, line 4, column 'id': the id is missing")


def test_labels_and_classes_that_do_not_fit(declare):
    settings = {"text_column": "text", "target_column": "label"}
    judged = {"text": ["a"], "label": ["yse"]}
    with pytest.raises(DataError, match="validation.csv, line 2, column 'label': 'yse'.*mean 'yes'"):
        prepare(declare({"train": rows(), "validation": judged}, **settings))
    with pytest.raises(DataError, match="num_labels is 3, the data has 2: no, yes"):
        prepare(declare({"train": rows()}, "multiclass_classification", 3, **settings))
    config = declare({"train": rows(), "validation": judged}, **settings)
    config.data.train_path = None
    with pytest.raises(DataError, match="needs the labels of a trained model"): prepare(config)


def test_the_demo_competition_as_declared():
    config = load_config(Path(__file__).parents[2] / "configs/competitions/german_credit.yaml")
    prepared = prepare(config)
    assert [loader.num_examples for loader in prepared.loaders.values()] == [600, 200, 200]
    assert prepared.summary().loc["train", "1"] == prepared.summary().loc["validation", "1"] == "70.0%"
    sample = read_frame("demo:german_credit/sample_submission.csv")
    assert prepared.test.row_ids.tolist() == sample["id"].astype(str).tolist()
    assert not any(loader.dataset.encoded.truncated.any() for loader in prepared.loaders.values())
    assert baseline_scores(prepared, ["auc"]).loc["logistic regression", "auc"] > 0.65
