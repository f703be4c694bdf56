"""Batches: every row once, few shapes, the same order every time, threads that end."""
import gc
import subprocess
import sys
import threading
import time
from itertools import combinations, islice

import numpy as np
import pytest

from mlx_bert_training.data.loader import BucketedLoader, TextDataset, bucket_widths, collate, padding_of
from mlx_bert_training.data.tokenization import Encoded
from mlx_bert_training.errors import DataError
from mlx_bert_training.protocols import DataLoader


def dataset(lengths, labels=True, **kwargs):
    lengths = np.asarray(lengths, dtype=np.int64)
    ids = np.repeat(np.arange(len(lengths), dtype=np.int32) + 1, lengths)  # every token says whose it is
    encoded = Encoded(ids, (ids % 2).astype(np.uint8), np.concatenate([[0], np.cumsum(lengths)]),
                      np.zeros(len(lengths), bool))
    return TextDataset(encoded, np.arange(len(lengths), dtype=np.int32) if labels else None, **kwargs)


def varied(n=203, seed=0):
    return dataset(np.clip(np.random.default_rng(seed).lognormal(3, 0.7, n).astype(int), 2, 96))


def same(first, second):
    first, second = list(first), list(second)
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for key in a: np.testing.assert_array_equal(a[key], b[key])
    return True


def rows(batches):
    return [row for batch in batches for row in batch["row"].tolist() if row >= 0]


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_row_once_in_full_batches_of_few_shapes(shuffle):
    data = varied()
    loader = BucketedLoader(data, 16, shuffle=shuffle, length_buckets=4)
    assert isinstance(loader, DataLoader) and len(loader) == 13 and loader.num_examples == 203
    batches = list(loader)
    assert len(batches) == 13 and sorted(rows(batches)) == list(range(203))
    shapes = {batch["input_ids"].shape for batch in batches}
    assert len(shapes) <= 4 and all(b == 16 and t % 8 == 0 for b, t in shapes)
    assert shapes == set(padding_of(loader).shapes)
    for batch in batches:
        lengths = batch["attention_mask"].sum(axis=1)
        real = batch["row"] >= 0
        np.testing.assert_array_equal(lengths[real], data.encoded.lengths[batch["row"][real]])
        np.testing.assert_array_equal(batch["example_weight"], real.astype(np.float32))
        np.testing.assert_array_equal(batch["labels"][real], batch["row"][real])
        mask = batch["attention_mask"] == 1  # tokens first, each its own row's; padding after
        assert (np.diff(batch["attention_mask"], axis=1) <= 0).all()
        assert (batch["input_ids"] == np.where(mask, batch["labels"][:, None] + 1, 0)).all()
        assert (batch["token_type_ids"] == np.where(mask, batch["input_ids"] % 2, 0)).all()


def test_types_are_those_of_the_protocol():
    batch = next(iter(BucketedLoader(dataset([3, 4], weights=np.array([0.5, 2])), 3)))
    types = {key: str(value.dtype) for key, value in batch.items()}
    assert types == {"input_ids": "int32", "attention_mask": "int32", "token_type_ids": "int32", "labels": "int32",
                     "example_weight": "float32", "row": "int64"}
    assert batch["example_weight"].tolist() == [0.5, 2, 0] and batch["row"].tolist() == [0, 1, -1]
    assert batch["attention_mask"][2].sum() == 3  # the filler is a copy of a real row
    assert "labels" not in next(iter(BucketedLoader(dataset([3], labels=False), 2)))


def test_pad_id_is_used():
    assert collate(dataset([2], pad_id=7), np.array([0]), 1, 4)["input_ids"].tolist() == [[1, 1, 7, 7]]


def test_order_comes_from_seed_and_epoch():
    data = varied()
    loader = BucketedLoader(data, 16, shuffle=True, seed=1)
    assert same(loader.batches(3), BucketedLoader(data, 16, shuffle=True, seed=1).batches(3))
    orders = [tuple(rows(loader.batches(epoch))) for epoch in range(3)]
    orders.append(tuple(rows(BucketedLoader(data, 16, shuffle=True, seed=2))))
    assert len(set(orders)) == 4
    np.random.seed(0)  # the global generator plays no part
    assert tuple(rows(loader.batches(0))) == orders[0]
    plain = BucketedLoader(data, 16)
    assert same(plain.batches(0), plain.batches(5))


def test_company_changes_from_epoch_to_epoch():
    loader = BucketedLoader(dataset([8] * 64), 8, shuffle=True)
    pairs = [{pair for batch in loader.batches(e) for pair in combinations(sorted(batch["row"].tolist()), 2)}
             for e in (0, 1)]
    assert len(pairs[0] & pairs[1]) < len(pairs[0]) / 2


@pytest.mark.parametrize("workers, prefetch", [(1, 1), (3, 2), (4, 50), (2, 0)])
def test_any_number_of_workers_gives_the_same(workers, prefetch):
    data = varied()
    loader = BucketedLoader(data, 16, shuffle=True, num_workers=workers, prefetch_size=prefetch)
    assert same(loader.batches(2), BucketedLoader(data, 16, shuffle=True).batches(2))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_later_start_is_the_rest_of_the_same_epoch(workers):
    loader = BucketedLoader(varied(), 16, shuffle=True, num_workers=workers)
    whole = list(loader.batches(4))
    for start in (0, 5, 12, 13): assert same(loader.batches(4, start), whole[start:])
    with pytest.raises(DataError, match="13 batches; cannot start at 14"): loader.batches(4, 14)
    with pytest.raises(DataError, match="counted from 0"): loader.batches(-1)


def test_what_is_skipped_is_not_made(monkeypatch):
    made = []
    monkeypatch.setattr("mlx_bert_training.data.loader.collate", lambda data, rows, size, width: made.append(1))
    list(BucketedLoader(varied(), 16).batches(0, 10))
    assert len(made) == 3


def test_drop_last_leaves_out_other_rows_each_epoch():
    loader = BucketedLoader(varied(), 16, shuffle=True, drop_last=True)
    assert len(loader) == 12 and loader.num_examples == 192
    left_out = []
    for epoch in range(3):
        seen = rows(loader.batches(epoch))
        assert len(seen) == len(set(seen)) == 192
        left_out.append(frozenset(range(203)) - set(seen))
    assert len(set(left_out)) == 3
    with pytest.raises(DataError, match="leaves no batch"): BucketedLoader(dataset([3]), 2, drop_last=True)


def test_unshuffled_is_widest_first_and_rows_put_predictions_back():
    data = varied()
    loader = BucketedLoader(data, 16)
    widths = [batch["input_ids"].shape[1] for batch in loader]
    assert widths == sorted(widths, reverse=True)
    back = np.full(203, -1)
    for batch in loader:
        real = batch["row"] >= 0
        back[batch["row"][real]] = batch["input_ids"][real, 0]
    assert back.tolist() == list(range(1, 204))


def test_bucketed_batches_are_padded_less_than_random_ones():
    data = varied(2000)
    lengths = data.encoded.lengths
    summary = padding_of(BucketedLoader(data, 32, shuffle=True))
    order = np.random.default_rng(0).permutation(2000)
    random = sum(len(part) * lengths[part].max() for part in np.array_split(order, 63))
    assert summary.padded_tokens < 0.7 * random and summary.real_tokens == lengths.sum()
    assert summary.overhead == summary.padded_tokens / summary.real_tokens < 1.3 and summary.batches == 63


def test_subset():
    data = varied()
    loader = BucketedLoader(data, 16, shuffle=True, drop_last=True, num_workers=2)
    some = np.array([5, 200, 7, 9] + list(range(20, 60)))
    part = loader.subset(some)
    assert part.num_examples == 32 and part.labels.tolist() == some.tolist() and part.widths == loader.widths
    whole = loader.subset(some, shuffle=False)
    assert whole.row_ids.tolist() == list(range(44))
    assert whole.num_examples == 44 and sorted(rows(whole)) == list(range(44))  # positions in the subset
    for batch in whole:
        real = batch["row"] >= 0
        assert (some[batch["row"][real]] == batch["labels"][real]).all()


@pytest.mark.parametrize("indices, message", [
    ([0, 203], "row 203 does not exist; there are 203 rows"), ([-1], "row -1"), ([], "list of row positions"),
    ([0.5], "float64"), ([[0]], "shape"), (np.ones(203, bool), "bool"),
])
def test_wrong_indices(indices, message):
    with pytest.raises(DataError, match=message): BucketedLoader(varied(), 16).subset(indices)


@pytest.mark.parametrize("setting", [
    {"batch_size": 0}, {"num_workers": -1}, {"prefetch_size": -1}, {"seed": -1}, {"length_buckets": 0},
    {"max_length": 4}, {"widths": [8]},
])
def test_wrong_settings(setting):
    with pytest.raises(DataError): BucketedLoader(dataset([9, 3]), **setting)
    with pytest.raises(DataError, match="no texts"): BucketedLoader(dataset([]))
    with pytest.raises(DataError, match="1 labels for 2 texts"): TextDataset(dataset([1, 2]).encoded, np.zeros(1))


def test_widths_are_the_best_there_are():
    def padded(widths): return int(np.asarray(widths)[np.searchsorted(widths, lengths)].sum())
    lengths = np.random.default_rng(3).integers(2, 70, 300)
    sizes = np.unique(-(-lengths // 8) * 8)
    best = min(padded([*others, sizes[-1]]) for others in combinations(sizes[:-1], 2))
    assert len(bucket_widths(lengths, 3)) == 3 and padded(bucket_widths(lengths, 3)) == best
    assert bucket_widths(lengths, 1) == (72,)


def test_widths_are_few_when_more_would_not_help_and_never_above_max_length():
    assert bucket_widths(np.full(100, 50)) == (56,)
    assert bucket_widths(np.array([50] * 1000 + [41]), 8) == (56,)  # 8 tokens are not worth compiling a shape
    assert bucket_widths(np.array([3, 100]), 8, max_length=100) == (8, 100)
    assert bucket_widths(np.array([0])) == (8,)
    for k in range(1, 9): assert len(bucket_widths(np.arange(2, 512), k)) <= k


def ours():
    return [t for t in threading.enumerate() if t.name.startswith("batches")]


def test_threads_make_a_bounded_number_of_batches_ahead(monkeypatch):
    made = []
    def count(*args):
        made.append(1)
        return collate(*args)
    monkeypatch.setattr("mlx_bert_training.data.loader.collate", count)
    iterator = BucketedLoader(dataset([4] * 200), 2, num_workers=2, prefetch_size=3).batches(0)
    next(iterator)
    while len(made) < 7: time.sleep(0.001)  # 6 at the start, 1 more when the first was taken
    time.sleep(0.05)
    assert len(made) == 7 and 1 <= len(ours()) <= 2
    iterator.close()
    assert not ours()


def test_an_abandoned_iterator_stops_its_threads():
    loader = BucketedLoader(varied(), 4, num_workers=3)
    for batch in loader:
        assert batch and ours()
        break
    del batch
    gc.collect()
    assert not ours()
    assert len(list(islice(loader, 3))) == 3
    gc.collect()
    assert not ours()
    list(loader)
    assert not ours()


def test_an_error_in_a_thread_reaches_the_reader(monkeypatch):
    def broken(data, rows, size, width):
        if 150 in rows: raise RuntimeError("row 150 is broken")
        return collate(data, rows, size, width)
    monkeypatch.setattr("mlx_bert_training.data.loader.collate", broken)
    seen = []
    with pytest.raises(RuntimeError, match="row 150"):
        for batch in BucketedLoader(dataset([4] * 200), 10, num_workers=2): seen.append(batch)
    assert len(seen) == 15 and not ours()


def test_a_forgotten_iterator_does_not_keep_the_interpreter_alive():
    code = """
import numpy as np
from mlx_bert_training.data.loader import BucketedLoader, TextDataset
from mlx_bert_training.data.tokenization import Encoded
encoded = Encoded(np.ones(400, np.int32), np.zeros(400, np.uint8), np.arange(0, 401, 4), np.zeros(100, bool))
iterator = BucketedLoader(TextDataset(encoded), 2, num_workers=2).batches(0)
next(iterator)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
