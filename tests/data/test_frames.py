"""Reading tables: types, missing values, and errors that say where."""
import gzip
import json
import sys
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pytest
from stopwatch import at_most

from mlx_bert_training.data.frames import read_frame, resolve_path, where
from mlx_bert_training.data.labels import fit_labels
from mlx_bert_training.errors import DataError, MissingExtraError


def write(folder, name, text, encoding="utf-8"):
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def fails(*parts, path, **kwargs):
    with pytest.raises(DataError) as caught: read_frame(path, **kwargs)
    for part in parts: assert part in str(caught.value), str(caught.value)


def test_numbers_are_numbers_and_words_stay_words(tmp_path):
    rows = ["age,n,text,zip,flag,empty", "22,1,None,007,True,", "NA,2,NA,94110,False,", "3.5,3,,1,True,"]
    path = write(tmp_path, "a.csv", "\n".join(rows))
    frame = read_frame(path)
    assert frame["age"].tolist()[::2] == [22.0, 3.5] and frame["age"].isna().tolist() == [False, True, False]
    assert frame["n"].dtype == "int64"
    assert frame["text"].tolist()[:2] == ["None", "NA"] and frame["text"].isna().tolist() == [False, False, True]
    assert frame["zip"].tolist() == ["007", "94110", "1"]
    assert frame["flag"].tolist() == ["True", "False", "True"]
    assert frame["empty"].isna().all()


def test_column_of_nothing_words_is_text(tmp_path):
    assert read_frame(write(tmp_path, "a.csv", "text,n\nNone,1\nnull,2\n"))["text"].tolist() == ["None", "null"]


def test_quotes_line_breaks_and_blank_lines(tmp_path):
    path = write(tmp_path, "a.csv", 'id,text\r\n1,"two\r\nlines, ""quoted"""\r\n\r\n2,b\r\n')
    frame = read_frame(path)
    assert frame["text"].tolist() == ['two\r\nlines, "quoted"', "b"]
    assert where(frame, 0, "text") == f"{path}, line 2, column 'text'"
    assert where(frame, 1) == f"{path}, line 5"


def test_a_file_without_a_last_line_break_is_whole(tmp_path):
    assert read_frame(write(tmp_path, "a.csv", "a,b\n1,x\n2,y"))["b"].tolist() == ["x", "y"]


def test_very_long_cell(tmp_path):
    assert len(read_frame(write(tmp_path, "a.csv", "a,b\n1," + "x" * 300_000))["b"].iloc[0]) == 300_000


def test_tsv_jsonl_parquet_and_gzip_agree(tmp_path):
    frame = pd.DataFrame({"id": [1, 2], "text": ["a, b", "NA"], "x": [0.5, None]})
    frame.to_csv(tmp_path / "a.tsv", sep="\t", index=False)
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    frame.to_parquet(tmp_path / "a.parquet")
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(b'id,text,x\n1,"a, b",0.5\n2,NA,\n'))
    for name in ("a.tsv", "a.jsonl", "a.parquet", "b.csv.gz"):
        read = read_frame(tmp_path / name)
        assert read["text"].tolist() == ["a, b", "NA"] and read["id"].dtype == "int64", name
        assert read["x"].tolist()[0] == 0.5 and read["x"].isna().tolist() == [False, True]


def test_jsonl_guesses_nothing_and_allows_absent_keys(tmp_path):
    path = write(tmp_path, "a.jsonl", '{"date": "007", "n": 1}\n\n{"n": 2, "extra": "x"}\n')
    frame = read_frame(path)
    assert frame["date"].tolist()[0] == "007" and frame["date"].isna().tolist() == [False, True]
    assert where(frame, 1) == f"{path}, line 3"


def test_decimals_of_a_database_are_the_numbers_that_a_csv_would_have(tmp_path):
    frame = pd.DataFrame({"id": ["1.10", "1.20"], "label": ["1", "0"], "price": ["2.50", "3.00"], "gap": ["1", None],
                          "large": ["1", "12345678901234567890"]}).map(lambda cell: cell and Decimal(cell))
    frame.to_parquet(tmp_path / "a.parquet")
    read = read_frame(tmp_path / "a.parquet", as_text=["id"])
    assert read["id"].tolist() == ["1.10", "1.20"] and read["price"].tolist() == [2.5, 3.0]
    assert [str(read[name].dtype) for name in ("label", "price", "gap", "large")] == ["int64", *["float64"] * 3]
    assert read["gap"].isna().tolist() == [False, True]
    assert fit_labels(read, "label", "binary").classes == (0, 1)


def test_parquet_index_comes_back_as_a_column(tmp_path):
    pd.DataFrame({"id": [5, 6], "x": [1, 2]}).set_index("id").to_parquet(tmp_path / "a.parquet")
    frame = read_frame(tmp_path / "a.parquet", required=["id"])
    assert frame["id"].tolist() == [5, 6]
    assert where(frame, 1, "x").endswith("a.parquet, row 2, column 'x'")


def test_byte_order_mark_encoding_unnamed_column_and_max_rows(tmp_path):
    assert list(read_frame(write(tmp_path, "a.csv", "\ufeffid,x\n1,2\n")).columns) == ["id", "x"]
    assert read_frame(write(tmp_path, "b.csv", "t\ncafé\n", "latin-1"), encoding="latin-1")["t"].tolist() == ["café"]
    assert list(read_frame(write(tmp_path, "c.csv", ",x\n0,2\n")).columns) == ["Unnamed: 0", "x"]
    assert len(read_frame(write(tmp_path, "d.csv", "x\n1\n2\n3\n"), max_rows=2)) == 2


def test_paths(tmp_path, monkeypatch):
    (tmp_path / "declared").mkdir()
    beside = write(tmp_path / "declared", "train.csv", "a\n1\n")
    monkeypatch.chdir(tmp_path)
    assert resolve_path("train.csv", source=tmp_path / "declared/config.yaml") == beside
    here = write(tmp_path, "train.csv", "a\n2\n")  # the working directory goes first
    assert resolve_path("train.csv", source=tmp_path / "declared/config.yaml").resolve() == here.resolve()
    fails("trian.csv", str(tmp_path), "Did you mean 'train.csv'?", path="trian.csv")
    fails("looked for", str(tmp_path / "nowhere/x.csv"), path="nowhere/x.csv")
    fails("is a folder", path="declared")
    fails("not inside the demo data", path="demo:../core/errors.py")
    fails("Did you mean 'german_credit'?", path="demo:german_credt/train.csv")


def test_demo_data():
    train = read_frame("demo:german_credit/train.csv", required=["id", "risk"])
    test = read_frame("demo:german_credit/test.csv", required=["id"])
    sample = read_frame("demo:german_credit/sample_submission.csv")
    answers = read_frame(Path(__file__).parents[1] / "fixtures/german_credit_solution.csv")
    assert (len(train), len(test)) == (800, 200) and "risk" not in test
    assert train["risk"].sum() == 560 and answers["risk"].sum() == 140  # UCI: 700 good, 300 bad
    assert sample["id"].tolist() == test["id"].tolist() == answers["id"].tolist()
    assert set(train["id"]) | set(test["id"]) == set(range(1, 1001))
    assert not train.isna().any().any()


@pytest.mark.parametrize("name, text, parts", [
    ("a.csv", "", ["a.csv is empty"]),
    ("a.csv", "\n\n", ["a.csv is empty"]),
    ("a.csv", "id,text\n", ["no rows below its header"]),
    ("a.csv", "id,id\n1,2\n", ["column 'id' appears twice"]),
    ("a.csv", "id,text\n1,a\n2,b,c\n", ["line 3", "3 cells where the header has 2"]),
    ("a.csv", 'id,text\n1,"a\nb"\n2\n', ["line 4", "1 cell where"]),
    ("a.csv", 'id,text\n1,a\n2,"b\n3,c\n', ["line 3", "never closed"]),
    ("a.jsonl", '{"a": 1}\n{"a": 1\n', ["line 2", "not valid JSON"]),
    ("a.jsonl", '{"a": 1}\n[1]\n', ["line 2", "list"]),
    ("a.jsonl", '{"a": 1, "a": 2}\n', ["line 1", "twice"]),
    ("a.parquet", "not parquet", ["cannot be read as Parquet"]),
    ("a.csv.gz", "not gzip", ["cannot be read"]),
    ("a.xlsx", "x", ["cannot read .xlsx", ".parquet"]),
])
def test_broken_files(tmp_path, name, text, parts):
    fails(str(tmp_path / name), *parts, path=write(tmp_path, name, text))


def test_byte_that_is_not_utf8(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"id,text\n1,ok\n2,caf\xe9\n")
    fails("a.csv, line 3", "0xe9", "offset 18", "latin-1", path=tmp_path / "a.csv")
    fails("unknown encoding 'utf-9'", path=tmp_path / "a.csv", encoding="utf-9")


def test_missing_column(tmp_path):
    path = write(tmp_path, "a.csv", "id,text\n1,a\n")
    fails(str(path), "no column 'txt'", "Did you mean 'text'?", "It has: id, text", path=path, required=["txt"])
    fails("separated by something else", path=write(tmp_path, "b.csv", "id:text\n1:a\n"), required=["text"])


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError, match=r"mlx_bert_training\[parquet\]"): read_frame(tmp_path / "a.parquet")


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_what_separates_cells_is_found_and_said(tmp_path, separator, caplog):
    caplog.set_level("INFO")
    rows = [["id", "text", "score"], ["1", "yes, so it is", "0"], ["2", "no", "1"]]
    path = write(tmp_path, "a.csv", "\n".join(separator.join(row) for row in rows))
    frame = read_frame(path)
    assert frame["text"].tolist() == ["yes, so it is", "no"] and frame["score"].tolist() == [0, 1]
    assert f"2 rows, 3 columns; found: cells separated by {separator!r}" in caplog.text
    assert where(frame, 1, "text") == f"{path}, line 3, column 'text'"
    assert read_frame(path, separator=separator).equals(frame)


def test_two_separators_that_fit_are_a_question(tmp_path):
    path = write(tmp_path, "a.csv", "a,b;c\n1,2;3\n")
    fails("may be separated by ',' and ';'", "data.separator", path=path)
    assert list(read_frame(path, separator=";").columns) == ["a,b", "c"]


def test_decimal_commas(tmp_path, caplog):
    caplog.set_level("INFO")
    frame = read_frame(write(tmp_path, "a.csv", "id;score;many;text\n1;0,5;1,000;a\n2;12;2,500;b\n3;;3,000;c\n"))
    assert frame["score"].tolist()[:2] == [0.5, 12] and frame["score"].isna().tolist() == [False, False, True]
    assert frame["many"].tolist() == ["1,000", "2,500", "3,000"]    # thousands, perhaps: nothing is guessed
    assert "numbers with a decimal comma" in caplog.text
    assert read_frame(tmp_path / "a.csv", decimal=",")["many"].tolist() == [1, 2.5, 3]
    assert read_frame(tmp_path / "a.csv", decimal=".")["score"].tolist()[:2] == ["0,5", "12"]


STRAY = 'id\ttext\n0\t"Open the window , she said\n1\tplain\n2\tand "quoted" in it\n'


def test_a_stray_quote_in_a_tsv_file_is_a_letter(tmp_path, caplog):
    caplog.set_level("INFO")
    frame = read_frame(write(tmp_path, "a.tsv", STRAY))
    assert frame["text"].tolist() == ['"Open the window , she said', "plain", 'and "quoted" in it']
    assert "3 rows" in caplog.text and "quotes are letters" in caplog.text
    assert where(frame, 1) == f"{tmp_path / 'a.tsv'}, line 3"


def test_quoted_cells_of_a_tsv_file_are_taken_out(tmp_path):
    text = 'id\ttext\n0\t"he said ""so"""\n1\tplain\n'
    assert read_frame(write(tmp_path, "a.tsv", text))["text"].tolist() == ['he said "so"', "plain"]
    assert read_frame(write(tmp_path, "b.tsv", 'id\ttext\n0\t"two\nlines"\n'))["text"].tolist() == ["two\nlines"]
    assert read_frame(tmp_path / "a.tsv", quoting="none")["text"].tolist()[0] == '"he said ""so"""'


def test_a_stray_quote_in_a_csv_file_is_an_error_with_a_way_out(tmp_path):
    path = write(tmp_path, "a.csv", 'id,text\n1,fine\n2,"he" said\n3,c\n')
    fails("line 3", "data.quoting: none", path=path)
    assert read_frame(path, quoting="none")["text"].tolist()[1] == '"he" said'


@pytest.mark.parametrize("cells", [["1.10", "2.0"], ["12e1", "1e0"], ["007", "8"], ["0x1F", "2"], ["9" * 30, "1"],
                                   ["NA", "null"], [" 1", "1 "]])
def test_ids_stay_as_they_stand_in_the_file(tmp_path, cells):
    frame = read_frame(write(tmp_path, "a.csv", "id,x\n" + "".join(f"{cell},1\n" for cell in cells)), as_text=["id"])
    assert frame["id"].tolist() == cells
    write(tmp_path, "a.jsonl", '{"id": 7}\n{"id": "08"}\n')
    assert read_frame(tmp_path / "a.jsonl", as_text=["id"])["id"].tolist() == ["7", "08"]
    pd.DataFrame({"id": [5, 6]}).to_parquet(tmp_path / "a.parquet")
    assert read_frame(tmp_path / "a.parquet", as_text=["id"])["id"].tolist() == ["5", "6"]


def test_zip_files(tmp_path):
    import zipfile
    with zipfile.ZipFile(tmp_path / "a.csv.zip", "w") as archive: archive.writestr("a.csv", "x\n1\n2\n")
    frame = read_frame(tmp_path / "a.csv.zip")
    assert frame["x"].tolist() == [1, 2] and where(frame, 1).endswith("a.csv.zip, line 3")
    with zipfile.ZipFile(tmp_path / "b.csv.zip", "w") as archive:
        for name in ("a.csv", "b.csv"): archive.writestr(name, "x\n1\n")
    fails("holds 2 files (a.csv, b.csv)", path=tmp_path / "b.csv.zip")
    fails("cannot be read", path=write(tmp_path, "c.csv.zip", "no zip"))


def test_a_file_that_unpacks_without_end_is_refused(tmp_path, monkeypatch):
    from mlx_bert_training.data import files
    monkeypatch.setattr(files, "LARGEST", 1 << 20)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"x\n" + b"1\n" * (1 << 20)))
    fails("unpacks to more than", path=tmp_path / "a.csv.gz")


def test_hostile_json_lines(tmp_path):
    half = write(tmp_path, "a.jsonl", '{"text": "a"}\n{"text": "\\ud83d"}\n')
    fails("line 2, column 'text'", "lone surrogate", path=half)
    deep = write(tmp_path, "b.jsonl", '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}")
    fails("line 1", "nested too deeply", path=deep)
    whole = write(tmp_path, "c.jsonl", '{"text": "\\ud83d\\ude00"}\n')     # both halves of one character
    assert read_frame(whole)["text"].tolist() == ["\U0001f600"]


def test_a_cell_does_not_end_the_file(tmp_path):
    assert len(read_frame(write(tmp_path, "a.csv", "x,y\n1,\0end of file\n2,b\n"))) == 2


def test_many_columns_are_read_in_seconds(tmp_path):
    names = [f"c{i}" for i in range(20_000)]
    path = write(tmp_path, "a.csv", ",".join(names) + "\n" + 3 * (",".join("1" for _ in names) + "\n"))
    frame = read_frame(path)
    assert frame.shape == (3, 20_000) and frame["c19999"].tolist() == [1, 1, 1]
    fails("no column 'nope'", "20000 columns", path=path, required=["nope"])


def test_too_many_columns_are_refused_at_once(tmp_path):
    names = [f"c{i}" for i in range(100_000)]
    wide = write(tmp_path, "a.csv", ",".join(names) + "\n" + ",".join("w" for _ in names) + "\n")
    lines = write(tmp_path, "b.jsonl", json.dumps(dict.fromkeys(names, 1)) + "\n")
    with at_most(2):
        fails("100,000 columns", "exchanged", path=wide)
        fails("columns, more than 20,000", path=lines)


def test_many_columns_stay_text_in_seconds(tmp_path):
    names = [f"c{i}" for i in range(5_000)]
    table = write(tmp_path, "a.csv", ",".join(names) + "\n" + ",".join("1" for _ in names) + "\n")
    lines = write(tmp_path, "b.jsonl", json.dumps(dict.fromkeys(names, 1)) + "\n")
    with at_most(5):
        for path in (table, lines): assert read_frame(path, as_text=names)["c4999"].tolist() == ["1"]


@pytest.mark.parametrize("encoding, cell", [("utf-7", "a+2AA-b"), ("unicode_escape", "a\\ud800b")])
def test_half_a_character_of_an_odd_encoding_is_named(tmp_path, encoding, cell):
    path = write(tmp_path, "a.csv", f"text,label\nx,0\n{cell},1\n")
    fails("line 3", "lone surrogate", path=path, encoding=encoding)
