"""Tables as people hand them over: stray quotes, odd encodings, broken rows, numbers that are not quite numbers."""
from __future__ import annotations

import re

import pandas as pd
import pytest
from stopwatch import at_most

from mlx_bert_training.data.frames import read_frame
from mlx_bert_training.errors import DataError

ROWS = "id,text,label\n" + "".join(f"{i},yes no,{i % 2}\n" for i in range(3))


def write(folder, name, content):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder / name


@pytest.mark.parametrize("letter", ["\u2028", "\x85", "\x0b", "\x1c"])
def test_no_other_letter_ends_a_line_of_a_tsv_file(tmp_path, letter):
    path = write(tmp_path, "a.tsv", f'id\ttext\n0\t"aa{letter}bb\n1\tcc" dd\n2\tee\n3\t"ff\n')
    assert read_frame(path)["text"].tolist() == [f'"aa{letter}bb', 'cc" dd', "ee", '"ff']


def test_two_stray_quotes_never_swallow_rows_of_a_csv_file(tmp_path):
    path = write(tmp_path, "a.csv", 'id,text,label\n0,fine,1\n1,"he said,0\n2,b,1\n3,c",0\n4,d,1\n')
    with pytest.raises(DataError, match="line 3: .* 3 lines.*data.quoting: none") as refused: read_frame(path)
    assert read_frame(path, quoting="none")["text"].tolist() == ["fine", '"he said', "b", 'c"', "d"], refused
    assert len(read_frame(path, quoting="standard")) == 3


@pytest.mark.parametrize("text", [
    'id,text\n1,"two, so\nlines, yes"\n2,one\n', 'id,text\n1,"a\nb"\n', 'a,b\n"x\ny,z",1\n"p\nq,r",2\n',
    'id,text,label\n1,"dear all,\nsee you, soon,\nbye",0\n2,x,1\n'])
def test_cells_of_several_lines_are_no_rows(tmp_path, text):
    frame = read_frame(write(tmp_path, "a.csv", text))
    assert "\n" in "".join(frame.iloc[0].astype(str))


def test_a_broken_row_of_a_tsv_file_is_named_in_spite_of_quotes(tmp_path):
    path = write(tmp_path, "a.tsv", 'id\ttext\n0\t"aa\n1\tbb"\tx\n2\tee\n')
    with pytest.raises(DataError, match="line 3: 3 cells where the header has 2"): read_frame(path)


@pytest.mark.parametrize("text, said", [
    ("id;text;label\n0;a, b;0\n1;c, d;1\n2;x\n", "line 4: 2 cells .* cut off"),
    ("id,text,label\n0,a,0,\n1,b,1,\n", "line 2: 4 cells .* ends with ','"),
    ('id,text,label\n0, "a, b",0\n', "line 2: 4 cells .* blank between"),
    ("# made on Monday\nid,text\n0,a\n", "line 2: 2 cells .*'# made on Monday'.* remove it"),
    ("text\na\nb, c\n", r"line 3: 2 cells .* data.separator: '\\t'"),
    ("id,text,label\n0,a,0\n   \n", "line 3: 1 cell where"),
    ('id,text\n0,"he said \\"hi\\""\n', "line 2: .* a quote is written twice"),
])
def test_a_broken_row_says_what_is_wrong_with_it(tmp_path, text, said):
    with pytest.raises(DataError, match=said): read_frame(write(tmp_path, "a.csv", text))


def test_one_column_of_texts_is_read_as_the_error_says(tmp_path):
    assert read_frame(write(tmp_path, "a.csv", "text\na\nb, c\n"), separator="\t")["text"].tolist() == ["a", "b, c"]


@pytest.mark.parametrize("separator", ["::", '"', "\n"])
def test_what_cannot_separate_cells_is_refused(tmp_path, separator):
    with pytest.raises(DataError, match="cannot be separated"):
        read_frame(write(tmp_path, "a.csv", ROWS), separator=separator)


def test_the_first_line_of_excel_says_what_separates_cells(tmp_path):
    frame = read_frame(write(tmp_path, "a.csv", "sep=;\r\nid;text\r\n0;a, b\r\n"))
    assert frame.to_dict("list") == {"id": [0], "text": ["a, b"]}
    with pytest.raises(DataError, match="line 4: 1 cell "):
        read_frame(write(tmp_path, "b.csv", "sep=;\nid;text\n0;a, b\nx\n"))


@pytest.mark.parametrize("name, cells, read", [
    ("a.csv", ['"1,5"', '"2,25"'], [1.5, 2.25]), ("a.csv", ['"1,234.5"', "80"], [1234.5, 80]),
    ("a.tsv", ["1.234,5", "2.000,0"], [1234.5, 2000]), ("a.csv", ['"1,234"', '"2,000"'], ["1,234", "2,000"]),
    ("a.tsv", ["1.5", "2,5"], ["1.5", "2,5"])])
def test_marks_in_numbers_are_read_where_there_is_one_way_to(tmp_path, name, cells, read):
    lines = [f"{i}\t{cell}" if name == "a.tsv" else f"{i},{cell}" for i, cell in enumerate(cells)]
    text = "\n".join(["id\tx" if name == "a.tsv" else "id,x", *lines])
    assert read_frame(write(tmp_path, name, text))["x"].tolist() == read


@pytest.mark.parametrize("decimal, read", [(".", [1234, 2000]), (",", [1.234, 2.0])])
def test_a_declared_decimal_point_settles_thousands(tmp_path, decimal, read):
    path = write(tmp_path, "a.csv", 'id;x\n1;1,234\n2;2,000\n')
    assert read_frame(path, decimal=decimal)["x"].tolist() == read


@pytest.mark.parametrize("written", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("declared", ["utf-8", "cp1252", "latin-1", "utf-16"])
def test_a_file_is_read_in_the_encoding_that_its_bytes_say(tmp_path, written, declared):
    if (declared, written) in [("cp1252", "utf-16-le"), ("cp1252", "utf-16-be"), ("latin-1", "utf-16-le"),
                               ("latin-1", "utf-16-be"), ("utf-16", "utf-8")]: pytest.skip("nothing says which")
    path = write(tmp_path, "a.csv", ROWS.replace("yes", "déjà – vu").encode(written))
    assert read_frame(path, encoding=declared)["text"].tolist() == ["déjà – vu no"] * 3


def test_files_of_two_encodings_in_one_declaration_are_each_read_as_they_are(tmp_path, caplog):
    old = write(tmp_path, "old.csv", "text\ndéjà vu\n".encode("cp1252"))
    new = write(tmp_path, "new.csv", "text\ndéjà vu\n".encode())
    with pytest.raises(DataError, match="cp1252"): read_frame(old)
    assert read_frame(old, encoding="cp1252")["text"][0] == read_frame(new, encoding="cp1252")["text"][0] == "déjà vu"
    assert "new.csv: read as utf-8, which its bytes say, not as cp1252" in caplog.text


@pytest.mark.parametrize("content, encoding, said", [
    ("text\ndéjà\n".encode("cp1252") + "naïveté ü\n".encode(), "cp1252", "line 3: reads as UTF-8, other lines do not"),
    ("text\na – b\n".encode("cp1252"), "latin-1", "line 2: byte 0x96 .* '–' in cp1252")])
def test_bytes_that_are_hardly_meant_so_are_warned_of(tmp_path, content, encoding, said, caplog):
    read_frame(write(tmp_path, "a.csv", content), encoding=encoding)
    assert re.search(said, caplog.text), caplog.text


@pytest.mark.parametrize("encoding", ["base64", "rot13", "undefined", "zlib", "utf-9"])
def test_what_is_no_encoding_of_text_is_refused(tmp_path, encoding):
    path = write(tmp_path, "a.csv", ROWS)
    with pytest.raises(DataError, match="unknown encoding"): read_frame(path, encoding=encoding)


@pytest.mark.parametrize("written", ["1.10", "1e5", "2.0", "9007199254740993", "123456789012345678901234567890"])
def test_an_id_of_json_lines_is_what_stands_there(tmp_path, written):
    path = write(tmp_path, "a.jsonl", f'{{"id": {written}, "x": 1.50}}\n{{"id": "007", "x": 2}}\n')
    frame = read_frame(path, as_text=["id"])
    assert frame["id"].tolist() == [written, "007"] and frame["x"].tolist() == [1.5, 2.0]


@pytest.mark.parametrize("values, text", [
    (pd.Series([1.0, 2.0]), ["1", "2"]), (pd.Series([0.1], dtype="float32"), ["0.1"]), (pd.Series([b"a"]), ["a"]),
    (pd.to_datetime(pd.Series(["2026-01-31"])), ["2026-01-31"]), (pd.Series(["01"], dtype="category"), ["01"]),
    (pd.Series([1, None], dtype="Int64"), ["1", None])])
def test_an_id_of_parquet_is_written_as_people_do(tmp_path, values, text):
    pd.DataFrame({"id": values}).to_parquet(tmp_path / "a.parquet")
    found = read_frame(tmp_path / "a.parquet", as_text=["id"])["id"]
    assert [None if pd.isna(value) else value for value in found] == text


@pytest.mark.long
def test_sparse_json_lines_of_many_keys_are_read_in_seconds(tmp_path):
    import json
    lines = [json.dumps({f"c{i * 20 + j}": i for j in range(20)}) for i in range(1000)]
    path = write(tmp_path, "a.jsonl", "\n".join(lines))
    with at_most(10): frame = read_frame(path)
    assert frame.shape == (1000, 20_000) and frame["c19999"].tolist()[-1] == 999
