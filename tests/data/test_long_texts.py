"""What is kept of a long text: special tokens in place, nothing lost in windows, a text counts once."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_bert_training.data.loader import BucketedLoader, TextDataset
from mlx_bert_training.data.tokenization import LONG_TEXTS, join_encoded, tiny_tokenizer
from mlx_bert_training.declaration.load import load_config
from mlx_bert_training.declaration.problems import ConfigError
from mlx_bert_training.errors import DataError, UnknownNameError
from mlx_bert_training.tasks.windows import mean_by_row

WORDS = "amber birch cedar delta ember fjord grove heath islet jetty".split()
TOKENIZER = tiny_tokenizer([" ".join(WORDS)])
CLS, SEP = (TOKENIZER.backend.token_to_id(token) for token in ("[CLS]", "[SEP]"))
TEXTS = st.lists(st.lists(st.sampled_from(WORDS), max_size=60).map(" ".join), min_size=1, max_size=6)


def whole(text): return TOKENIZER.encode([text], max_length=10**6)[0]


@given(TEXTS, st.sampled_from(LONG_TEXTS), st.integers(4, 30), st.data())
def test_each_row_is_a_text_of_its_own_that_fits(texts, long_texts, max_length, data):
    overlap = data.draw(st.integers(0, max_length - 3))
    encoded = TOKENIZER.encode(texts, max_length=max_length, long_texts=long_texts, overlap=overlap)
    assert (encoded.lengths <= max_length).all() and len(encoded.windows) == len(texts)
    for row in range(len(encoded)):
        ids = encoded[row]
        assert ids[0] == CLS and ids[-1] == SEP and not np.isin(ids[1:-1], (CLS, SEP)).any()


@given(TEXTS, st.integers(4, 30), st.data())
def test_windows_hold_every_token_and_share_what_they_should(texts, max_length, data):
    overlap = data.draw(st.integers(0, max_length - 3))
    encoded = TOKENIZER.encode(texts, max_length=max_length, long_texts="windows", overlap=overlap)
    assert not encoded.truncated.any() and (np.diff(encoded.text) >= 0).all()
    for number, text in enumerate(texts):
        inner = whole(text)[1:-1].tolist()
        rows = [encoded[row][1:-1].tolist() for row in np.flatnonzero(encoded.text == number)]
        joined = rows[0]
        for before, after in zip(rows, rows[1:], strict=False):
            assert before[len(before) - overlap:] == after[:overlap] and len(after) > overlap
            joined = joined + after[overlap:]
        assert joined == inner
        assert (len(rows) == 1) == (len(inner) <= max_length - 2)


@given(TEXTS, st.integers(4, 30))
def test_head_tail_and_both(texts, max_length):
    room = max_length - 2
    ways = ("head", "tail", "head_tail")
    kept = {way: TOKENIZER.encode(texts, max_length=max_length, long_texts=way) for way in ways}
    for number, text in enumerate(texts):
        inner = whole(text)[1:-1].tolist()
        head, tail, both = (kept[way][number][1:-1].tolist() for way in ("head", "tail", "head_tail"))
        assert head == inner[:room] and tail == inner[max(0, len(inner) - room):]
        assert len(both) == min(len(inner), room)
        first = round(room * 128 / 510)
        assert both == inner if len(inner) <= room else both == inner[:first] + inner[len(inner) - room + first:]
        assert all(kept[way].truncated[number] == (len(inner) > room) for way in kept)


def windows(texts, max_length=8, overlap=2, **options):
    encoded = TOKENIZER.encode(texts, max_length=max_length, long_texts="windows", overlap=overlap, **options)
    return TextDataset(encoded, np.arange(len(texts)), pad_id=TOKENIZER.pad_id)


@given(TEXTS, st.integers(1, 5), st.booleans(), st.data())
def test_a_text_counts_once_in_an_epoch(texts, batch_size, shuffle, data):
    dataset = windows(texts)
    rows = np.array(data.draw(st.permutations(range(len(texts)))))
    loader = BucketedLoader(dataset, batch_size, shuffle=shuffle).subset(rows)
    weights, seen = np.zeros(len(texts)), 0
    for batch in loader.batches(1):
        real = batch["example_weight"] > 0
        np.testing.assert_array_equal(batch["labels"][real], rows[batch["row"][real]])
        np.add.at(weights, batch["row"][real], batch["example_weight"][real])
        seen += real.sum()
    np.testing.assert_allclose(weights, 1, atol=1e-6)
    assert seen == loader.num_examples == dataset.encoded.windows.sum()


def test_workers_and_joining_change_nothing():
    texts = [" ".join(WORDS[i % 10:] * (i % 7)) for i in range(2500)]
    one, four = (windows(texts, num_workers=n).encoded for n in (1, 4))
    parts = [windows(texts[:1200]).encoded, windows(texts[1200:]).encoded]
    for other in (four, join_encoded(parts)):
        for name in ("ids", "type_ids", "offsets", "truncated", "text"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=20))
def test_means_are_those_of_each_row(rows):
    values, rows = np.random.default_rng(0).normal(size=(len(rows), 3)), np.array(rows)
    means, found = mean_by_row(values, rows)
    assert found.tolist() == sorted(set(rows.tolist()))
    for mean, row in zip(means, found, strict=True): np.testing.assert_allclose(mean, values[rows == row].mean(0))


def test_pairs():
    encoded = TOKENIZER.encode(["amber birch cedar delta"], ["ember fjord"], max_length=7, long_texts="tail")
    assert encoded[0].tolist() == TOKENIZER.encode(["cedar delta"], ["ember fjord"])[0].tolist()
    for way in ("head_tail", "windows"):
        with pytest.raises(DataError, match="one text a row"): TOKENIZER.encode(["a"], ["b"], long_texts=way)


def test_what_cannot_be_is_refused():
    with pytest.raises(UnknownNameError, match="head_tail"): TOKENIZER.encode(["a"], long_texts="head_tails")
    with pytest.raises(DataError, match="cannot share"):
        TOKENIZER.encode(["a"], max_length=10, long_texts="windows", overlap=8)
    with pytest.raises(DataError, match="balanced"):
        BucketedLoader(windows(["amber"] * 3), 2, shuffle=True, balanced=True)
    for wrong, message in (({"sampling": "balanced"}, "balanced"), ({"window_overlap": 127}, "as long as a window"),
                           ({"text_column": "a", "text_pair_column": "b"}, "one text a row")):
        with pytest.raises(ConfigError, match=message): load_config({"data": {"long_texts": "windows", **wrong}})
    with pytest.raises(ConfigError, match="beginning"):
        load_config({"data": {"long_texts": "tail"}, "kaggle": {"enable_tta": True}})
