"""Model folders that mean harm or are of another program: each a typed error within two seconds of work."""
from __future__ import annotations

import json
import shutil
import struct

import mlx.core as mx
import numpy as np
import pytest
from stopwatch import at_most

from mlx_bert_training import create_model
from mlx_bert_training.data.tokenization import Tokenizer, tiny_tokenizer
from mlx_bert_training.errors import MLXBertError

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 40,
         "max_position_embeddings": 32}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    create_model(config=SIZES, num_labels=2).save_pretrained(folder)
    tiny_tokenizer(["some words to begin with", "and others"]).save(folder)
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "model")


def typed(count, kind, make):
    "That it is a typed error, and at once."
    with at_most(2), pytest.raises(MLXBertError) as refused: make()
    assert len(str(refused.value)) < 3000
    count(kind, typed=1)


def model_of(folder): return create_model(pretrained=str(folder), num_labels=2)


def safetensors(header, body=b"", size=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + body


NAME = "bert.embeddings.word_embeddings.weight"
FILES = {
    "empty": b"", "short": b"\x05\0\0", "header of 2^60": safetensors({}, size=2**60),
    "header of 2^64 - 1": b"\xff" * 8,
    "no json": safetensors(b"not json"),
    "a list": safetensors([]), "deep": safetensors(b'{"a":' * 50_000),
    "not utf-8": safetensors(b'{"\xff": 1}'), "no offsets": safetensors({NAME: {"dtype": "F32", "shape": [1]}}),
    "wrong dtype": safetensors({NAME: {"dtype": "F3", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    "dtype a number": safetensors({NAME: {"dtype": 3, "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    "negative shape": safetensors({NAME: {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, bytes(4)),
    "huge shape": safetensors({NAME: {"dtype": "F32", "shape": [2**31, 2**31], "data_offsets": [0, 4]}}, bytes(4)),
    "shape of 2^64": safetensors({NAME: {"dtype": "F32", "shape": [2**64], "data_offsets": [0, 4]}}, bytes(4)),
    "beyond the end": safetensors({NAME: {"dtype": "F32", "shape": [40, 16], "data_offsets": [0, 2560]}}, bytes(4)),
    "offsets turned": safetensors({NAME: {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, bytes(4)),
    "offsets negative": safetensors({NAME: {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}, bytes(4)),
    "offsets too small": safetensors({NAME: {"dtype": "F32", "shape": [40, 16], "data_offsets": [0, 4]}}, bytes(4)),
    "overlapping": safetensors({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                                NAME: {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, bytes(12)),
    "another shape": safetensors({NAME: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, bytes(8)),
    "nothing in it": safetensors({}), "a null": safetensors({NAME: None}),
}


@pytest.mark.parametrize("name", FILES)
def test_hostile_safetensors(folder, count, name):
    (folder / "model.safetensors").write_bytes(FILES[name])
    typed(count, "hostile safetensors", lambda: model_of(folder))


@pytest.mark.parametrize("change", ["missing", "shape", "integers", "rank", "nan"])
def test_tensors_of_another_model(folder, count, change):
    arrays = dict(mx.load(str(folder / "model.safetensors")))
    name = next(name for name in arrays if "word_embeddings" in name)
    if change == "missing": del arrays[name]
    elif change == "shape": arrays[name] = arrays[name][:3]
    elif change == "rank": arrays[name] = arrays[name][None]
    elif change == "nan": arrays[name] = arrays[name] * np.nan
    else: arrays[name] = mx.zeros(arrays[name].shape, mx.int32)
    mx.save_safetensors(str(folder / "model.safetensors"), arrays)
    typed(count, "tensors of another model", lambda: model_of(folder))


CONFIG = [
    "", "null", "[]", "3", '"x"', "{", "[" * 100_000, '{"a": 1, "a": 2', "\0", "{}",
    {"model_type": 3}, {"model_type": "nonsense"}, {"model_type": ["bert"]},
    {"model_type": "x" * 5000},
    {"hidden_size": None}, {"hidden_size": "16"}, {"hidden_size": -1}, {"hidden_size": 0}, {"hidden_size": 10**9},
    {"hidden_size": 16.5},
    {"hidden_size": [16]}, {"hidden_size": {"a": 1}}, {"hidden_size": 2**70}, {"hidden_size": True},
    {"num_hidden_layers": -1}, {"num_hidden_layers": 10**7}, {"num_hidden_layers": None}, {"num_hidden_layers": "many"},
    {"num_attention_heads": 0}, {"num_attention_heads": 3}, {"num_attention_heads": -2}, {"num_attention_heads": None},
    {"vocab_size": -5}, {"vocab_size": 10**12}, {"vocab_size": "40"}, {"max_position_embeddings": 0},
    {"max_position_embeddings": 10**12}, {"intermediate_size": None}, {"intermediate_size": 1e300},
    {"hidden_act": "nonsense"}, {"hidden_act": 3}, {"hidden_act": None}, {"layer_norm_eps": "tiny"},
    {"layer_norm_eps": None}, {"type_vocab_size": -1}, {"hidden_dropout_prob": "x"}]


@pytest.mark.parametrize("content", CONFIG, ids=range(len(CONFIG)))
def test_hostile_config(folder, count, content):
    file = folder / "config.json"
    if isinstance(content, dict): content = json.dumps({**json.loads(file.read_text()), **content})
    file.write_text(content)
    typed(count, "hostile config.json", lambda: model_of(folder))


TOKENIZER = [
    "", "null", "[]", "3", "{", "{}", "[" * 100_000, "\0", {"model": None}, {"model": []}, {"model": {}},
    {"model": "x"},
    {"model": {"type": "nonsense"}}, {"model": {"type": None, "vocab": None}}, {"added_tokens": 3},
    {"added_tokens": [None]}, {"added_tokens": [{"id": -1, "content": "x"}]}, {"added_tokens": [{"id": "a"}]},
    {"normalizer": 3}, {"normalizer": {"type": "nonsense"}}, {"pre_tokenizer": []}, {"post_processor": {"type": 3}},
    {"decoder": "x"}, {"truncation": "x"}, {"padding": 3}, {"version": None}, {"version": "99"}]


@pytest.mark.parametrize("content", TOKENIZER, ids=range(len(TOKENIZER)))
def test_hostile_tokenizer(folder, count, content):
    file = folder / "tokenizer.json"
    if isinstance(content, dict): content = json.dumps({**json.loads(file.read_text()), **content})
    file.write_text(content)
    typed(count, "hostile tokenizer.json", lambda: Tokenizer.load(folder))


@pytest.mark.parametrize("vocab", [
    None, 3, [], {}, {"[UNK]": -1}, {"[UNK]": "0"}, {"[UNK]": 2**40}, {"[UNK]": 0, "a": 0}, {"a": 0}, {"[UNK]": None}])
def test_hostile_vocabularies(folder, count, vocab):
    file = folder / "tokenizer.json"
    state = json.loads(file.read_text())
    state["model"]["vocab"], state["added_tokens"] = vocab, []
    file.write_text(json.dumps(state))
    typed(count, "hostile vocabulary", lambda: Tokenizer.load(folder))


@pytest.mark.parametrize("words", ["", "\n", "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nb\na\n", "a\nb\n", "[PAD]\n[PAD]\n"])
def test_hostile_word_lists(folder, count, words):
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text(words)
    typed(count, "hostile vocab.txt", lambda: Tokenizer.load(folder))
