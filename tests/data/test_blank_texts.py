"""Texts without a letter are said wherever they stand, and a declared default stands for them."""
from __future__ import annotations

import logging

import pandas as pd
import pytest
from tiny_competition import declaration

from mlx_bert_training.data.frames import read_frame, where
from mlx_bert_training.data.prepare import prediction_loader, prepare
from mlx_bert_training.declaration.load import load_config
from mlx_bert_training.declaration.problems import ConfigError
from mlx_bert_training.errors import DataError

BLANKS = ("   ", "\t", "\u200b\ufeff", "\u00a0\u3000")


def table(path, texts, labels=True):
    rows = {"id": range(len(texts)), "text": texts, **({"label": [i % 2 for i in range(len(texts))]} if labels else {})}
    pd.DataFrame(rows).to_csv(path, index=False)
    return str(path)


def declared(tmp_path, **data):
    path = table(tmp_path / "train.csv", [f"word {i}" for i in range(12)])
    return load_config(declaration(tmp_path, data={"train_path": path, "test_path": None, "text_column": "text",
                                                   "target_column": "label", "template": None, **data}))


@pytest.mark.parametrize("part", ["train", "validation", "test"])
@pytest.mark.parametrize("blank", BLANKS)
def test_a_blank_text_is_said_for_every_file(tmp_path, caplog, part, blank):
    path = table(tmp_path / "blank.csv", ["good", blank, "fine", blank, "poor", "bad"], part != "test")
    with caplog.at_level(logging.WARNING): prepare(declared(tmp_path, **{f"{part}_path": path}))
    assert f"{path}, line 3, column 'text': the text is blank, and 1 more of 6 rows are like this" in caplog.text


def test_a_default_stands_for_blank_and_for_missing_texts(tmp_path, caplog):
    path = table(tmp_path / "test.csv", ["good", " ", None], labels=False)
    with pytest.raises(DataError, match=r"line 4, column 'text': .*such as data.template_defaults: \{text: unknown\}"):
        prepare(declared(tmp_path, test_path=path))
    caplog.clear()
    config = declared(tmp_path, test_path=path, template_defaults={"text": "nothing written"})
    data = prepare(config)
    assert data.texts["test"].first == ["good", "nothing written", "nothing written"] and "blank" not in caplog.text
    again = prediction_loader(path, config, data.tokenizer, data.source)
    assert (again.dataset.encoded.lengths == data.test.dataset.encoded.lengths).all()


@pytest.mark.parametrize(("data", "message"), [
    ({"template_defaults": {"text": False}}, "is read as true or false"),
    ({"template_defaults": {"text": "x"}, "text_column": None}, "is for the values of data.template or"),
    ({"template_defaults": {"text": "x"}, "text_pair_column": "id"}, "for one text a row")])
def test_a_default_that_cannot_be_meant(tmp_path, data, message):
    with pytest.raises(ConfigError, match=message): declared(tmp_path, **data)


def test_a_frame_can_be_kept_as_parquet_and_still_knows_its_lines(tmp_path):
    frame = read_frame(table(tmp_path / "train.csv", ["a", "b", "c"]))
    frame.to_parquet(tmp_path / "kept.parquet")
    kept = pd.read_parquet(tmp_path / "kept.parquet")
    assert where(kept, 1, "text") == f"{tmp_path / 'train.csv'}, line 3, column 'text'" == where(frame, 1, "text")
    (tmp_path / "train.csv").unlink()
    assert where(kept, 1) == f"{tmp_path / 'train.csv'}, row 2"
