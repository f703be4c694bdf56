"""Tokens: no padding, our own truncation, the same numbers for any number of workers."""
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tokenizers

from mlx_bert_training.data.tokenization import Tokenizer, tiny_tokenizer
from mlx_bert_training.errors import DataError

TEXTS = ["the cat sat on the mat", "a dog, a mat", "x"]


@pytest.fixture
def tokenizer():
    return tiny_tokenizer(TEXTS)


def same(a, b):
    return all(np.array_equal(getattr(a, k), getattr(b, k)) for k in ("ids", "type_ids", "offsets", "truncated"))


def test_padding_and_truncation_of_a_file_are_not_taken_over(tmp_path, tokenizer):
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    backend.enable_padding(length=128, pad_id=0, pad_token="[PAD]")
    backend.enable_truncation(5)
    backend.save(str(tmp_path / "tokenizer.json"))
    encoded = Tokenizer.load(tmp_path).encode(TEXTS)
    assert encoded.lengths.tolist() == [8, 7, 3] and not encoded.truncated.any()
    assert backend.truncation["max_length"] == 5  # the caller's own object is left as it was


def test_truncation_and_its_report(tokenizer):
    encoded = tokenizer.encode(TEXTS, max_length=7)
    assert encoded.lengths.tolist() == [7, 7, 3] and encoded.truncated.tolist() == [True, False, False]
    assert tokenizer.decode(encoded[0], skip_special_tokens=False) == "[CLS] the cat sat on the [SEP]"
    assert not tokenizer.encode(TEXTS, max_length=8).truncated.any()  # the earlier length is forgotten


def test_pairs_cut_the_longer_text_first(tokenizer):
    encoded = tokenizer.encode(["a mat"], ["the cat sat on the mat"], max_length=8)
    assert tokenizer.decode(encoded[0], skip_special_tokens=False) == "[CLS] a mat [SEP] the cat sat [SEP]"
    assert encoded.type_ids.tolist() == [0, 0, 0, 0, 1, 1, 1, 1] and encoded.truncated.tolist() == [True]
    with pytest.raises(DataError, match="2 texts, 1 pairs"): tokenizer.encode(["a", "b"], ["c"])


@pytest.mark.parametrize("workers", [0, 2, 5])
def test_any_number_of_workers_gives_the_same(tokenizer, workers):
    texts = [f"the cat {'sat ' * (i % 7)} {i}" for i in range(3100)]
    assert same(tokenizer.encode(texts, max_length=6), tokenizer.encode(texts, max_length=6, num_workers=workers))


def test_two_threads_with_different_lengths_do_not_mix(tokenizer):
    texts = ["the cat sat on the mat"] * 1500
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda n: tokenizer.encode(texts, max_length=n), [4, 8] * 4))
    assert [int(r.lengths.max()) for r in results] == [4, 8] * 4


def test_environment_is_left_as_it_was(tokenizer, monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    tokenizer.encode(TEXTS)
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"
    monkeypatch.delenv("TOKENIZERS_PARALLELISM")
    tokenizer.encode(TEXTS)
    assert "TOKENIZERS_PARALLELISM" not in os.environ


def test_take_and_nothing(tokenizer):
    encoded = tokenizer.encode(TEXTS)
    taken = encoded.take(np.array([2, 0, 2]))
    assert same(taken, tokenizer.encode([TEXTS[2], TEXTS[0], TEXTS[2]]))
    assert len(encoded.take(np.array([], dtype=int))) == 0 and len(tokenizer.encode([])) == 0
    assert tokenizer.encode([""])[0].tolist() == [2, 3]  # [CLS] [SEP]


def test_max_length_must_leave_room(tokenizer):
    with pytest.raises(DataError, match="max_length 2 leaves no room beside 2"): tokenizer.encode(TEXTS, max_length=2)
    assert tokenizer.encode(TEXTS, max_length=3).lengths.tolist() == [3, 3, 3]


def test_save_and_load(tmp_path, tokenizer):
    tokenizer.save(tmp_path)
    assert same(Tokenizer.load(tmp_path).encode(TEXTS), tokenizer.encode(TEXTS))


def test_vocab_txt(tmp_path, tokenizer):
    vocab = tokenizer.backend.get_vocab()
    (tmp_path / "vocab.txt").write_text("\n".join(sorted(vocab, key=vocab.__getitem__)) + "\n")
    upper = [text.upper() for text in TEXTS]
    assert same(Tokenizer.load(tmp_path).encode(upper), tokenizer.encode(TEXTS))
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert Tokenizer.load(tmp_path).encode(["THE"])[0].tolist() == [2, vocab["[UNK]"], 3]


def test_folders_without_a_usable_tokenizer(tmp_path):
    with pytest.raises(DataError, match="no tokenizer.json and no vocab.txt"): Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="damaged"): Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match=r"lacks \[PAD\]"): Tokenizer.load(tmp_path)


def test_pad_id_is_the_tokenizers_own(tokenizer):
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    backend.enable_padding(pad_id=4, pad_token="[MASK]")
    assert Tokenizer(backend).pad_id == 4 and tokenizer.pad_id == 0


def test_tiny_tokenizer_is_the_same_every_time_and_knows_its_words():
    tokenizer = tiny_tokenizer(TEXTS, vocab_size=60)
    assert tokenizer.backend.get_vocab() == tiny_tokenizer(list(reversed(TEXTS)), vocab_size=60).backend.get_vocab()
    assert tokenizer.vocab_size <= 60
    encoded = tokenizer.encode([*TEXTS, "tacos"])  # a new word from known letters
    assert 1 not in encoded.ids and [tokenizer.decode(encoded[i]) for i in range(4)] == [*TEXTS, "tacos"]


def test_against_transformers_format(tmp_path, tokenizer):
    tokenizer.save(tmp_path)
    shutil.copy(tmp_path / "tokenizer.json", tmp_path / "copy.json")
    plain = tokenizers.Tokenizer.from_file(str(tmp_path / "copy.json"))
    assert plain.encode(TEXTS[0]).ids == tokenizer.encode(TEXTS)[0].tolist()


@pytest.mark.parametrize("bad, why", [("a \ud800", "lone surrogate"), (None, "is no text"), (3.5, "is no text")])
def test_what_is_no_text_is_named(bad, why):
    tokenizer = tiny_tokenizer(["a b"])
    with pytest.raises(DataError, match=why): tokenizer.encode(["a", bad])
    with pytest.raises(DataError, match=why): tokenizer.encode(["a", "b"], ["a", bad])
    assert tokenizer.encode(["a\0b"]).lengths.tolist() == [4]       # BERT drops control characters


def test_a_letter_that_the_tokenizer_cannot_write_is_an_error_with_a_type():
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="[UNK]"))
    with pytest.raises(DataError, match="Missing"): Tokenizer(backend).encode(["b"])
