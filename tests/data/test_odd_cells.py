"""Cells that are no texts, objects in cells, ids that are odd, and columns that look like another one."""
from __future__ import annotations

import json
import logging

import pandas as pd
import pytest
from tiny_competition import declaration

from mlx_bert_training.data.frames import read_frame, require_columns
from mlx_bert_training.data.labels import fit_labels
from mlx_bert_training.data.prepare import prediction_loader, prepare
from mlx_bert_training.data.templates import RowTemplate, read_texts
from mlx_bert_training.declaration.load import load_config, parse_overrides
from mlx_bert_training.errors import DataError

TEXTS = (["text"], RowTemplate("{text}"))


def cells(tmp_path, values):
    path = tmp_path / "x.parquet"
    pd.DataFrame({"text": values}).to_parquet(path)
    return read_frame(path)


@pytest.mark.parametrize("source", TEXTS, ids=["column", "template"])
def test_bytes_are_read_as_letters(tmp_path, source):
    assert read_texts(cells(tmp_path, ["é".encode(), b"a"]), source).first == ["é", "a"]


@pytest.mark.parametrize("source", TEXTS, ids=["column", "template"])
@pytest.mark.parametrize(("value", "message"), [
    (b"\xff\xfe1", "is no text in UTF-8"), (["a", "b"], "a list where a text is needed"),
    ([], "a list where a text is needed")])
def test_what_is_no_text_names_its_cell(tmp_path, source, value, message):
    other = b"fine" if isinstance(value, bytes) else ["x"]
    frame = cells(tmp_path, [other, value] if isinstance(value, bytes) else [value, other])
    row = 2 if isinstance(value, bytes) else 1
    with pytest.raises(DataError, match=f"x.parquet, row {row}, column 'text': .*{message}"): read_texts(frame, source)


def test_the_parts_of_an_object_are_columns(tmp_path):
    path = tmp_path / "x.jsonl"
    rows = [{"key": {"n": "07"}, "text": {"body": "hi", "meta": {"score": 1.50, "tags": ["a"]}}},
            {"text": {"body": "ho"}}]
    path.write_text("\n".join(map(json.dumps, rows)).replace('"07"', "1.10"))
    frame = read_frame(path, required=["text.body"], as_text=["key.n"])
    assert frame["text.body"].tolist() == ["hi", "ho"] and frame["key.n"].tolist()[0] == "1.10"
    assert frame["text.meta.score"].tolist()[0] == 1.5
    assert read_texts(frame, RowTemplate("{text.body}!")).first == ["hi!", "ho!"]
    with pytest.raises(DataError, match="line 1, column 'text': an object where a text is needed.*such as 'body'"):
        read_texts(frame, ["text"])
    parquet = tmp_path / "x.parquet"
    pd.DataFrame({"text": [{"body": "hi", "n": 1}, {"body": "ho", "n": 2}]}).to_parquet(parquet)
    assert read_frame(parquet)["text.body"].tolist() == ["hi", "ho"]


def test_objects_of_many_keys_stay_as_they_are(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(json.dumps({"bag": {f"w{i}-{j}": 1 for j in range(600)}}) for i in range(2)))
    assert list(read_frame(path)) == ["bag"]


@pytest.mark.parametrize("text", ['[{"text": "a"},\n{"text": "b"}]', '{\n"text": "a"\n}', '[\n]'])
def test_other_forms_of_json_are_told_apart(tmp_path, text):
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(DataError, match="line 1: .*(an object of its own|where a JSON object is needed)"):
        read_frame(tmp_path / "x.jsonl")


@pytest.mark.parametrize(("header", "wanted", "said"), [
    ("te\u0301xt", "t\u00e9xt", "looks the same and is written otherwise: 'te\\u0301xt', not 't\\xe9xt'"),
    ("\u200btext", "text", "Did you mean '\\u200btext'? It has: '\\u200btext'"),
    ("te\0xt", "text", "It has: 'te\\x00xt'"), ("great film,1", "label", "looks like a row"),
    ("good,-0.5", "text", "looks like a row"), ("Text", "text", "Did you mean 'Text'")])
def test_a_column_that_is_not_quite_there(tmp_path, header, wanted, said):
    (tmp_path / "x.csv").write_text(f"{header},other\na,b,c\n" if "," in header else f"{header},other\na,b\n")
    with pytest.raises(DataError) as refused: require_columns(read_frame(tmp_path / "x.csv"), [wanted])
    assert said in str(refused.value)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "train.csv").write_text("key,text,target\n" + "".join(f"k{i},word {i},{i % 2}\n" for i in range(12)))
    return tmp_path


def settings(folder, **data):
    sections = declaration(folder)
    sections["data"] = {"train_path": str(folder / "train.csv"), "text_column": "text", "target_column": "target",
                        "num_workers": 0, **data}
    return load_config({name: sections[name] for name in ("model", "data", "training", "environment")})


@pytest.mark.parametrize(("ids", "said"), [
    (["1", "1", "2"], "line 3, column 'key': the id '1' appears twice"),
    (["1", "", "2"], "line 3, column 'key': the id is missing"), (["a", "b", "a"], "line 4, column 'key': the id 'a'")])
def test_odd_ids_are_said_where_a_file_is_predicted_and_refused_where_it_is_declared(files, caplog, ids, said):
    path = files / "test.csv"
    path.write_text("key,text\n" + "".join(f"{i},some\n" for i in ids))
    data = prepare(settings(files, id_column="key"))
    assert len(prediction_loader(str(path), data.config, data.tokenizer)) == 1 and said in caplog.text
    with pytest.raises(DataError, match=said): prepare(settings(files, id_column="key", test_path=str(path)))


def test_a_column_of_ids_that_is_not_declared_is_mentioned(files, caplog):
    caplog.set_level(logging.INFO)
    path = files / "test.csv"
    path.write_text("ID,text\nx,some\ny,other\n")
    data = prepare(settings(files))
    loader = prediction_loader(str(path), data.config, data.tokenizer)
    assert list(loader.row_ids) == [0, 1] and "not by the column 'ID': data.id_column is not set" in caplog.text


@pytest.mark.parametrize(("text", "value"), [
    ("1", "1"), ("[a, b]", ["a", "b"]), ("'1'", "1"), ("null", None), ("true", "true"), ("a", "a")])
def test_a_column_may_be_called_as_a_number(text, value):
    assert parse_overrides([f"target_column={text}"]) == {"target_column": value}


@pytest.mark.parametrize("source", [[], (), pd.Series([], dtype=object)])
def test_nothing_to_predict_is_a_typed_error(files, source):
    data = prepare(settings(files))
    with pytest.raises(DataError, match="nothing to predict"): prediction_loader(source, data.config, data.tokenizer)


@pytest.mark.parametrize("value", ["1e300", "-1e300", "3.5e38"])
def test_a_target_that_is_too_large_is_not_called_infinite(tmp_path, value):
    (tmp_path / "x.csv").write_text(f"text,y\na,{value}\nb,1\n")
    with pytest.raises(DataError, match="line 2, column 'y': .* is beyond 3.40282e"):
        fit_labels(read_frame(tmp_path / "x.csv"), "y", "regression")
