"""Which tokens are hidden: never special ones, whole words, as many as asked for, the same ones again."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_bert_training.data.loader import BucketedLoader, TextDataset
from mlx_bert_training.data.tokenization import Tokenizer, tiny_tokenizer
from mlx_bert_training.pretraining.masking import (
    MaskedLoader,
    PretrainingError,
    choose_places,
    hidden,
    vocabulary_of,
    word_numbers,
)
from mlx_bert_training.pretraining.model import create_masked_model, fill_mask

TOKENIZER = tiny_tokenizer(["the quick brown fox jumps over the lazy dog, twice."], vocab_size=40)
VOCABULARY = vocabulary_of(TOKENIZER)
# At most fifteen words fit the 128 tokens of a text.
WORDS = st.lists(st.sampled_from("quick brown foxes jumping over lazy dogs , . a".split()), max_size=15)


def encoded(words):
    return TOKENIZER.encode([" ".join(words)])[0]


@given(WORDS, st.floats(0.01, 0.9), st.integers(0, 9))
def test_whole_words_and_no_special_tokens(words, probability, seed):
    ids = encoded(words)
    places = choose_places(ids, VOCABULARY, probability, np.random.default_rng(seed))
    numbers = word_numbers(ids, VOCABULARY)
    assert (numbers[places] >= 0).all() and (len(places) > 0) == (len(words) > 0)
    assert len(places) <= max(1, np.ceil(probability * (numbers >= 0).sum()))
    taken = set(numbers[places].tolist())
    if len(taken) > 1: assert set(places.tolist()) == set(np.flatnonzero(np.isin(numbers, list(taken))).tolist())


@given(WORDS)
def test_words_are_those_of_the_text(words):
    numbers = word_numbers(encoded(words), VOCABULARY)
    assert len(set(numbers.tolist()) - {-1}) == len(words)


@pytest.mark.parametrize(("tokens", "words"), [
    (["Ġthe", "Ġfox", "es", ",", "Ġran"], [0, 1, 1, 2, 3]), (["The", "Ġfox", ".", "es"], [0, 1, 2, 3]),
    (["▁the", "▁fox", "es", "."], [0, 1, 1, 2]), (["M", "K", "V", "L"], [0, 1, 2, 3])])
def test_words_of_other_tokenizers(tokens, words):
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import WordLevel
    names = ["<s>", "</s>", "<pad>", "<unk>", "<mask>", *dict.fromkeys(tokens)]
    numbers = {name: i for i, name in enumerate(names)}
    vocabulary = vocabulary_of(Tokenizer(Backend(WordLevel(numbers, unk_token="<unk>"))))
    ids = np.array([0, *(names.index(token) for token in tokens), 1])
    assert word_numbers(ids, vocabulary).tolist() == [-1, *words, -1]


def test_a_tokenizer_without_a_mask_is_refused():
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import WordLevel
    with pytest.raises(PretrainingError, match="no token that hides"):
        vocabulary_of(Tokenizer(Backend(WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))))


def test_shares_of_masks_other_tokens_and_the_same():
    ids = np.repeat(encoded(["fox"])[1], 20_000)
    shown = hidden(ids, VOCABULARY, np.random.default_rng(0))
    ordinary = len(VOCABULARY.ordinary)
    assert abs((shown == VOCABULARY.mask_id).mean() - 0.8) < 0.01
    assert abs((shown == ids).mean() - (0.1 + 0.1 / ordinary)) < 0.01
    assert not VOCABULARY.special[shown[shown != VOCABULARY.mask_id]].any()


def masked(n=37, **options):
    rng = np.random.default_rng(1)
    texts = [" ".join(rng.choice("quick brown fox jumps over lazy dog".split(), rng.integers(1, 30))) for _ in range(n)]
    dataset = TextDataset(TOKENIZER.encode(texts), pad_id=TOKENIZER.pad_id)
    return MaskedLoader(BucketedLoader(dataset, 8, shuffle=True, seed=3), VOCABULARY, seed=3, **options), dataset


@pytest.mark.parametrize("whole_words", [True, False])
def test_what_is_asked_for_is_what_was_there(whole_words):
    loader, dataset = masked(whole_words=whole_words)
    total = hidden_tokens = 0
    for epoch in (0, 1):
        plain = loader.loader.batches(epoch)
        for batch, before in zip(loader.batches(epoch), plain, strict=True):
            real = batch["answers"] >= 0
            rows, columns = np.nonzero(real)
            places = batch["positions"][real]
            np.testing.assert_array_equal(batch["answers"][real], before["input_ids"][rows, places])
            changed = batch["input_ids"] != before["input_ids"]
            changed[rows, places] = False
            assert not changed.any() and not VOCABULARY.special[batch["answers"][real]].any()
            np.testing.assert_array_equal(batch["labels"], real.sum(1))
            assert (batch["labels"][batch["example_weight"] == 0] == 0).all()
            hidden_tokens += real.sum()
            total += (~VOCABULARY.special[before["input_ids"]])[before["example_weight"] > 0].sum()
    assert 0.08 < hidden_tokens / total < 0.2


def test_a_later_start_gives_the_same_batches_and_another_epoch_others():
    loader, _ = masked()
    whole, rest = list(loader.batches(2)), list(loader.batches(2, 3))
    for a, b in zip(whole[3:], rest, strict=True): assert all(np.array_equal(a[name], b[name]) for name in a)
    assert not np.array_equal(next(loader.batches(2))["answers"], next(loader.batches(3))["answers"])
    assert loader.subset(np.arange(8)).num_examples == 8


def test_guesses_for_each_mask_are_the_likeliest_tokens():
    sizes = {"vocab_size": TOKENIZER.vocab_size, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
             "intermediate_size": 32}
    model = create_masked_model(config=sizes, seed=3)
    found = fill_mask(model, TOKENIZER, "the [MASK] fox jumps over the [MASK] dog", top=3)
    assert found["mask"].tolist() == [1, 1, 1, 2, 2, 2] and set(found["token"]) <= set(TOKENIZER.backend.get_vocab())
    for _, guesses in found.groupby("mask"): assert guesses["probability"].is_monotonic_decreasing
    everything = fill_mask(model, TOKENIZER, "the [MASK] fox", top=TOKENIZER.vocab_size)
    assert everything["probability"].sum() == pytest.approx(1, abs=1e-4)
    with pytest.raises(PretrainingError, match="nothing to guess"): fill_mask(model, TOKENIZER, "the quick fox")
