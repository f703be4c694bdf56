"""PyTorch's files without PyTorch: what is read, and what is refused before anything runs."""
import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict

import mlx.core as mx
import numpy as np
import pytest
from stopwatch import at_most

from mlx_bert_training.models import WeightsError, architecture, create_model
from mlx_bert_training.models.architecture import check_memory, config_from_file
from mlx_bert_training.models.layers import ModelError
from mlx_bert_training.models.pickles import LEGACY_MAGIC, PickleError, read_pickled_tensors

SIZES = dict(vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)


def tensor(key="0", size=6, shape=(2, 3), strides=(3, 1), offset=0, kind=b"FloatStorage", legacy=False):
    "The opcodes of one tensor, in protocol 0 and 2."
    def whole(n): return b"L%dL\n" % n
    pid = (b"(" + b"Vstorage\nctorch\n" + kind + b"\nV" + key.encode() + b"\nVcpu\n" + whole(size)
           + (b"N" if legacy else b"") + b"tQ")
    sizes = b"(" + b"".join(map(whole, shape)) + b"t(" + b"".join(map(whole, strides)) + b"t"
    return (b"ctorch._utils\n_rebuild_tensor_v2\n(" + pid + whole(offset) + sizes
            + b"I00\nccollections\nOrderedDict\n(tRtR")


def state(**tensors):
    return b"(d" + b"".join(b"V" + name.encode() + b"\n" + code + b"s" for name, code in tensors.items()) + b"."


def write_zip(path, program, storages, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", program)
        for key, data in storages.items(): archive.writestr(f"archive/data/{key}", data)
    return path


def write_legacy(path, program, storages):
    start = [LEGACY_MAGIC, 1001, {"little_endian": True}]
    data = b"".join(struct.pack("<q", len(values)) + values.tobytes() for values in storages.values())
    path.write_bytes(b"".join(map(pickle.dumps, start)) + program + pickle.dumps(list(storages)) + data)
    return path


SIX = np.arange(6, dtype="<f4")


def test_both_formats_are_read(tmp_path):
    new = read_pickled_tensors(write_zip(tmp_path / "new.bin", state(w=tensor()), {"0": SIX.tobytes()}))
    old = read_pickled_tensors(write_legacy(tmp_path / "old.bin", state(w=tensor(legacy=True)), {"0": SIX}))
    assert new["w"].tolist() == old["w"].tolist() == SIX.reshape(2, 3).tolist()


def test_views_and_types(tmp_path):
    program = state(turned=tensor(shape=(3, 2), strides=(1, 3)), part=tensor(shape=(2,), strides=(1,), offset=4),
                    half=tensor("1", 2, (2,), (1,), kind=b"HalfStorage"),
                    brain=tensor("2", 2, (2,), (1,), kind=b"BFloat16Storage"),
                    double=tensor("3", 1, (1,), (1,), kind=b"DoubleStorage"),
                    long=tensor("4", 1, (), (), kind=b"LongStorage"))
    storages = {"0": SIX.tobytes(), "1": np.array([1, 2], "<f2").tobytes(), "2": struct.pack("<2H", 0x3F80, 0xC000),
                "3": np.array([0.5], "<f8").tobytes(), "4": np.array([7], "<i8").tobytes()}
    found = read_pickled_tensors(write_zip(tmp_path / "x.bin", program, storages))
    assert found["turned"].tolist() == SIX.reshape(2, 3).T.tolist() and found["part"].tolist() == [4, 5]
    assert found["half"].tolist() == [1, 2] and found["brain"].tolist() == [1, -2]
    assert found["double"].dtype == mx.float32 and found["long"].item() == 7


class Runs:
    "A pickle that makes a file."

    def __init__(self, path): self.path = path
    def __reduce__(self): return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_a_pickle_that_runs_something_is_refused_and_has_not_run(tmp_path, write):
    program = pickle.dumps(OrderedDict(w=Runs(tmp_path / "ran")))
    with pytest.raises(PickleError, match="mkdir, which is no part of a tensor"):
        read_pickled_tensors(write(tmp_path / "x.bin", program, {}))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("program", [
    b"cbuiltins\neval\n(V1\ntR.", b"cos\nsystem\n(Vtrue\ntR.",
    b"ctorch\nload\n(tR.", b"ctorch.storage\n_load_from_bytes\n.",
    b"cnumpy.core.multiarray\n_reconstruct\n.", b"c__main__\nX\n.", b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n.",
    b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93.", b"(S'os'\nS'system'\nios\nsystem\n.",
    b"ccollections\nnamedtuple\n.", b"\x80\x02\x82\x01.",
])
def test_every_other_name_is_refused(tmp_path, program):
    with pytest.raises(PickleError, match="refused"):
        read_pickled_tensors(write_zip(tmp_path / "x.bin", program, {}))


@pytest.mark.parametrize("wrong", [
    tensor(shape=(3, 3)), tensor(offset=1), tensor(offset=-1), tensor(strides=(-3, 1)), tensor(shape=(-2, 3)),
    tensor(shape=(10**9, 10**9), strides=(0, 0)), tensor(size=7), tensor("1"), tensor(strides=(3,)),
    tensor(kind=b"QInt8Storage"), b"I5\n", b"(d",
])
def test_a_tensor_that_is_none_is_refused(tmp_path, wrong):
    with pytest.raises(PickleError): read_pickled_tensors(
        write_zip(tmp_path / "x.bin", state(w=wrong), {"0": SIX.tobytes()}))


def test_damaged_files_are_refused(tmp_path):
    whole = write_legacy(tmp_path / "x.bin", state(w=tensor(legacy=True)), {"0": SIX}).read_bytes()
    for end in range(0, len(whole), 7):
        (tmp_path / "x.bin").write_bytes(whole[:end])
        with pytest.raises(PickleError): read_pickled_tensors(tmp_path / "x.bin")
    with pytest.raises(PickleError, match="compressed"):
        write_zip(tmp_path / "y.bin", state(w=tensor()), {"0": SIX.tobytes()}, zipfile.ZIP_DEFLATED)
        read_pickled_tensors(tmp_path / "y.bin")


def test_a_model_comes_from_a_pickle(tmp_path):
    model = create_model(config=SIZES)
    model.save_pretrained(tmp_path)
    tensors = {k: np.array(v) for k, v in mx.load(str(tmp_path / "model.safetensors")).items()}
    (tmp_path / "model.safetensors").unlink()
    code, storages = {}, {}
    for n, (name, value) in enumerate(tensors.items()):
        steps = tuple(s // value.itemsize for s in np.ascontiguousarray(value).strides)
        code[name], storages[str(n)] = tensor(str(n), value.size, value.shape, steps), value.tobytes()
    write_zip(tmp_path / "pytorch_model.bin", state(**code), storages)
    again, ids = create_model(pretrained=tmp_path).eval(), mx.array([[2, 5, 3]])
    assert mx.array_equal(again(ids), model.eval()(ids))
    write_zip(tmp_path / "pytorch_model.bin", b"cos\nsystem\n.", {})
    with pytest.raises(WeightsError, match="os.system"): create_model(pretrained=tmp_path)


@pytest.mark.parametrize("sizes", [{"num_hidden_layers": 10**7}, {"hidden_size": 10**9, "num_attention_heads": 1},
                                   {"vocab_size": 10**12}, {"intermediate_size": 2**40}])
def test_a_model_larger_than_the_memory_is_refused_before_it_is_built(sizes):
    with pytest.raises(ModelError, match="this machine has"): create_model(config=sizes)


@pytest.mark.parametrize("sizes, name", [
    ({"num_hidden_layers": 10**7}, "num_hidden_layers is 10,000,000"),
    ({"hidden_size": 10**9, "num_attention_heads": 1, "vocab_size": 40_000}, "hidden_size is 1,000,000,000"),
    ({"vocab_size": 10**9}, "vocab_size is 1,000,000,000"), ({"type_vocab_size": 10**9}, "type_vocab_size is 1,000"),
    ({"max_position_embeddings": 10**9}, "max_position_embeddings is 1,000,000,000"),
    ({"num_labels": 10**9, "architectures": ["BertForSequenceClassification"]}, "num_labels is 1,000,000,000"),
    ({"vocab_size": 10**4000}, r"vocab_size is 10\^(3999|4000)"),
    ({"model_type": "distilbert", "n_layers": 10**7}, "n_layers is 10,000,000"),
    ({"model_type": "albert", "hidden_size": 10**9, "num_attention_heads": 1}, "hidden_size is 1,000,000,000"),
    ({"model_type": "deberta-v2", "num_hidden_layers": 10**7}, "num_hidden_layers is 10,000,000"),
    ({"model_type": "modernbert", "num_hidden_layers": 10**7}, "num_hidden_layers is 10,000,000")])
def test_a_file_that_asks_for_too_much_is_refused_at_once_by_name(tmp_path, monkeypatch, sizes, name):
    monkeypatch.setattr(architecture, "total_memory", lambda: 8 << 30)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", **sizes}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    large = f"{name}.*bytes .*this machine has 8,589,934,592"
    with at_most(2), pytest.raises(ModelError, match=large) as refused: create_model(pretrained=tmp_path)
    assert len(str(refused.value)) < 500


def test_the_limit_of_a_container_counts(monkeypatch):
    create_model(config=SIZES)
    monkeypatch.setattr(architecture, "total_memory", lambda: 1 << 10)
    with pytest.raises(ModelError, match="this machine has 1,024"): create_model(config=SIZES)


def test_the_published_sizes_are_not_refused():
    from mlx_bert_training.models import ARCHITECTURES
    large = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    check_memory(ARCHITECTURES.get("bert"), config_from_file({"model_type": "bert", **large}))


def test_a_tokenizer_that_does_not_fit_is_refused():
    model = create_model(config=SIZES)
    model.check_tokenizer(30, 2)
    with pytest.raises(ModelError, match="31 ids"): model.check_tokenizer(31)
    with pytest.raises(ModelError, match="3 segments"): model.check_tokenizer(30, 3)
