"""Tokens on disk: the same batches, found again, whole or not there, and memory that does not grow with the table."""
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from tiny_competition import declaration, write_files

from mlx_bert_training import create_kaggle_trainer, create_trainer
from mlx_bert_training.data import token_store
from mlx_bert_training.data.prepare import prepare
from mlx_bert_training.data.templates import Texts
from mlx_bert_training.data.token_store import StoredTokens, content_hash, write_tokens
from mlx_bert_training.data.tokenization import Tokenizer, tiny_tokenizer
from mlx_bert_training.declaration.load import load_config
from mlx_bert_training.errors import DataError
from mlx_bert_training.files import OutputError

WORDS = ["one two three", "two", "", "three one one two", "two two"] * 700


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MLX_BERT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


@pytest.fixture
def files(tmp_path):
    write_files(tmp_path)
    return tmp_path


def config_of(files, tokens, **sections):
    base = declaration(files, **sections)
    return {**base, "data": {**base["data"], "tokens": tokens}}


def batches_of(loader): return [{name: value.tolist() for name, value in batch.items()} for batch in loader]


def test_the_same_batches_from_disk(files, cache):
    config = config_of(files, "memory")
    memory, disk = (prepare(load_config({**config, "data": {**config["data"], "tokens": tokens}}))
                    for tokens in ("memory", "disk"))
    assert isinstance(disk.train.dataset.encoded, StoredTokens) and len(list(cache.iterdir())) == 3
    for part in ("train", "validation", "test"):
        assert batches_of(memory.loaders[part]) == batches_of(disk.loaders[part])
    some = np.array([5, 1, 8, 30])
    assert batches_of(memory.train.subset(some)) == batches_of(disk.train.subset(some))
    assert isinstance(disk.train.subset(some).subset(np.array([2])).dataset.encoded, StoredTokens)


def test_they_are_found_again(files, monkeypatch):
    config = load_config(config_of(files, "disk"))
    first = prepare(config)
    monkeypatch.setattr(Tokenizer, "encode_parts", lambda *_, **__: pytest.fail("made again"))
    assert prepare(config).train.dataset.encoded.files.folder == first.train.dataset.encoded.files.folder
    with pytest.raises(pytest.fail.Exception, match="made again"): prepare(config.replace(max_length=12))


@pytest.mark.long
def test_a_run_and_folds_in_processes_have_the_same_bits(files):
    runs = [create_trainer(config=config_of(files, tokens, environment={"run_name": tokens}))
            for tokens in ("memory", "disk")]
    losses = [trainer.train().metrics["eval_loss"] for trainer in runs]
    assert losses[0] == losses[1]
    here = create_kaggle_trainer(config=config_of(files, "memory", environment={"run_name": "here"})).train_with_cv()
    apart = create_kaggle_trainer(config=config_of(files, "disk", parallel={"executor": "processes"})).train_with_cv()
    assert np.array_equal(here.oof.predictions, apart.oof.predictions)


@pytest.mark.parametrize("workers", [0, 3])
def test_parts_are_the_whole(tmp_path, workers):
    tokenizer = tiny_tokenizer(WORDS)
    whole = tokenizer.encode(WORDS, WORDS[::-1], 6)
    stored = StoredTokens(write_tokens(tmp_path / "store", tokenizer.encode_parts(WORDS, WORDS[::-1], 6, workers)))
    for name in ("ids", "type_ids", "offsets", "truncated", "lengths"):
        assert np.array_equal(getattr(whole, name), getattr(stored, name)), name
    rows = np.array([3000, 4, 4, 0])
    for name in ("ids", "type_ids", "offsets", "truncated"):
        assert np.array_equal(getattr(whole.take(rows), name), getattr(stored.take(rows), name)), name
        assert np.array_equal(getattr(whole.take(rows), name), getattr(stored.select(rows), name)), name


def test_what_fails_half_way_leaves_nothing(tmp_path, cache):
    def parts():
        yield tiny_tokenizer(["a"]).encode(["a"])
        raise DataError("row 1 is no text")
    with pytest.raises(DataError): write_tokens(tmp_path / "stores" / "one", parts())
    assert list((tmp_path / "stores").iterdir()) == []


def test_a_disk_that_was_full_keeps_no_later_texts_waiting(monkeypatch):
    tokenizer, data = tiny_tokenizer(["one two three"]), load_config({"data": {"tokens": "disk"}}).data
    with monkeypatch.context() as full:
        full.setattr(token_store.np, "asarray", lambda values: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(OutputError) as kept: token_store.encode_texts(tokenizer, Texts(WORDS), data)
    assert kept.traceback       # which holds every frame that the error went through, as a notebook does
    later = threading.Thread(target=tokenizer.encode, args=(["one"],), daemon=True)
    later.start()
    later.join(60)
    assert not later.is_alive()


def test_two_writers_leave_one_store(tmp_path):
    part = tiny_tokenizer(["a"]).encode(["a", "a a"])
    for _ in range(2): write_tokens(tmp_path / "stores" / "one", [part])
    assert [path.name for path in (tmp_path / "stores").iterdir()] == ["one"]
    assert len(StoredTokens(tmp_path / "stores" / "one")) == 2


def test_the_hash_knows_what_tokens_depend_on():
    tokenizer = tiny_tokenizer(["a b"])
    short, long = {"max_length": 8}, {"max_length": 9}
    two = Texts(["a", "b"], None)
    hashes = [content_hash(tokenizer, two, short), content_hash(tokenizer, two, long),
              content_hash(tokenizer, Texts(["ab", ""], None), short),
              content_hash(tokenizer, Texts(["a"], ["b"]), short), content_hash(tiny_tokenizer(["a c"]), two, short)]
    assert len(set(hashes)) == 5 and hashes[0] == content_hash(tokenizer, two, short)


def test_auto_goes_by_size(monkeypatch):
    monkeypatch.setattr(token_store, "DISK_FROM", 10)
    assert token_store.on_disk(Texts(["12345", "67890"], None), "auto")
    assert token_store.on_disk(Texts(["12345"], ["67890"]), "auto")
    assert not token_store.on_disk(Texts(["12345"], None), "auto")


FLAT = """
import sys, numpy as np
from pathlib import Path
from mlx_bert_training.data.loader import BucketedLoader, TextDataset
from mlx_bert_training.data.token_store import StoredTokens, write_tokens
from mlx_bert_training.data.tokenization import Encoded

def own_memory():
    "MB of this process that no file backs."
    lines = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
    return int(lines["RssAnon"].split()[0]) / 1024

def parts(rng):
    for _ in range(150):
        ids = rng.integers(5, 900, 1000 * 200).astype(np.int32)
        yield Encoded(ids, np.zeros(len(ids), np.uint8), np.arange(0, len(ids) + 1, 200), np.zeros(1000, bool))

before = own_memory()
stored = StoredTokens(write_tokens(Path(sys.argv[1]), parts(np.random.default_rng(0))))
written = own_memory()
data = TextDataset(stored, np.zeros(len(stored), np.int32))
loader = BucketedLoader(data, 32, shuffle=True).subset(np.arange(0, len(stored), 2))
for number, batch in zip(range(200), loader): pass
print(written - before, own_memory() - before, 5 * len(stored.ids) / 2**20)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads Linux's figures of memory")
def test_memory_does_not_grow_with_the_tokens(tmp_path):
    done = subprocess.run([sys.executable, "-c", FLAT, str(tmp_path / "store")], capture_output=True, text=True)
    written, read, tokens = map(float, done.stdout.split())
    assert tokens > 140 and written < 30 and read < 45, done.stderr
