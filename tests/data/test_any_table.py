"""Any table and any lengths: ids come back letter for letter, every row once in few shapes."""
from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from data.test_loader import dataset, rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_bert_training.data.frames import read_frame
from mlx_bert_training.data.loader import BucketedLoader
from mlx_bert_training.errors import DataError

CELLS = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\u2028\u2029\ufeff"), max_size=12)
IDS = st.lists(st.from_regex(r"[A-Za-z0-9_.:+-]{1,10}", fullmatch=True), min_size=1, max_size=12, unique=True)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ids=IDS, data=st.data(), separator=st.sampled_from([",", ";", "\t", "|"]))
def test_ids_and_cells_come_back_letter_for_letter(tmp_path, ids, data, separator):
    cells = data.draw(st.lists(CELLS.filter(str.strip), min_size=len(ids), max_size=len(ids)))
    written = io.StringIO()
    writer = csv.writer(written, delimiter=separator, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows([["id", "text"], *zip(ids, cells, strict=True)])
    (tmp_path / "table.csv").write_text(written.getvalue(), encoding="utf-8", newline="")
    frame = read_frame(tmp_path / "table.csv", separator=separator, as_text=("id", "text"))
    assert frame["id"].tolist() == ids and frame["text"].tolist() == cells


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300))
def test_any_bytes_are_a_table_or_a_typed_error(tmp_path, content):
    for name in ("any.csv", "any.jsonl", "any.parquet", "any.csv.gz", "any.csv.zip"):
        (tmp_path / name).write_bytes(content)
        try: read_frame(tmp_path / name)
        except DataError: pass


@settings(max_examples=60)
@given(lengths=st.lists(st.integers(1, 96), min_size=1, max_size=80), size=st.integers(1, 16),
       buckets=st.integers(1, 6), shuffle=st.booleans(), epoch=st.integers(0, 3))
def test_every_row_once_and_no_token_is_lost(lengths, size, buckets, shuffle, epoch):
    loader = BucketedLoader(dataset(lengths), size, shuffle=shuffle, length_buckets=buckets)
    batches = list(loader.batches(epoch))
    assert sorted(rows(batches)) == list(range(len(lengths))) and len(batches) == len(loader)
    assert len({batch["input_ids"].shape[1] for batch in batches}) <= buckets
    real = sum(int(np.asarray(batch["attention_mask"])[np.asarray(batch["row"]) >= 0].sum()) for batch in batches)
    assert real == sum(lengths)
    if len(batches) > 1:
        assert rows(loader.batches(epoch, 1)) == rows(batches[1:])


def test_a_table_without_rows_is_said(tmp_path):
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(DataError): read_frame(tmp_path / "empty.csv")
