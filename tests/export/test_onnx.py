"""ONNX files of every architecture give what the model gives, computed by onnxruntime."""
import json
import sys

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten
from tiny_architectures import CASES, architecture, weight

onnx = pytest.importorskip("onnx", reason="onnx is not installed; it writes the files")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed; it computes the files")

from mlx_bert_training.data.tokenization import Tokenizer, tiny_tokenizer  # noqa: E402
from mlx_bert_training.errors import MissingExtraError  # noqa: E402
from mlx_bert_training.export import onnx as exporting  # noqa: E402
from mlx_bert_training.export.encoders import POOLINGS  # noqa: E402
from mlx_bert_training.export.graph import ExportError, linear  # noqa: E402
from mlx_bert_training.export.onnx import export_onnx, largest_difference  # noqa: E402
from mlx_bert_training.models import create_model  # noqa: E402


def wide(case, kind="with_head", **options):
    "A model with wide weights, so that a mistake shows."
    options = options if kind == "core" else {"head_type": "multiclass", "num_labels": 3, **options}
    model = create_model(kind, config={"model_type": architecture(case).name, **CASES[case][1]}, **options)
    model.update(tree_unflatten([(name, mx.array(weight(name, value.shape)))
                                 for name, value in tree_flatten(model.parameters())]))
    return model.eval()


@pytest.mark.parametrize("case", ["bert", *CASES])
def test_every_architecture(case, tmp_path, monkeypatch):
    if case == "bert": monkeypatch.setitem(CASES, "bert", ("bert:ARCHITECTURE", CASES["roberta"][1]))
    exported = export_onnx(wide(case), tmp_path)
    print(f"\n{case:16}onnx {exported.difference:.1e}", end="")
    assert exported.difference < 1e-4 and exported.output == "logits"
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == architecture(case).name
    onnx.checker.check_model(str(tmp_path / "model.onnx"), full_check=True)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_poolings_and_adapters(pooling, tmp_path):
    model = wide("roberta", pooling=pooling, adapter={"type": "lora", "rank": 2})
    model.update(tree_unflatten([(n, v + 0.1) for n, v in tree_flatten(model.trainable_parameters())]))
    assert export_onnx(model, tmp_path).difference < 1e-4


def test_a_bare_encoder_gives_hidden_states(tmp_path):
    exported = export_onnx(wide("modernbert", "core"), tmp_path)
    assert exported.output == "last_hidden_state" and exported.difference < 1e-4


def test_shared_layers_are_stored_once(tmp_path):
    export_onnx(wide("albert"), tmp_path)
    names = [tensor.name for tensor in onnx.load(str(tmp_path / "model.onnx")).graph.initializer]
    assert sum(name.endswith("ffn.weight.T") for name in names) == 1 and len(names) == len(set(names))


def test_the_file_stays_the_same_and_the_tokenizer_is_beside_it(tmp_path):
    tokenizer = tiny_tokenizer(["a cat sat"])
    tokenizer.save(tmp_path)
    model = wide("distilbert")
    first, second = (export_onnx(model, tmp_path / name, tokenizer_folder=tmp_path).file for name in "ab")
    assert first.read_bytes() == second.read_bytes() and Tokenizer.load(first.parent).vocab_size == tokenizer.vocab_size


def test_what_differs_is_not_written(tmp_path, monkeypatch):
    model = wide("roberta")
    monkeypatch.setattr(exporting, "linear", lambda g, x, path: g.node("Mul", linear(g, x, path), g.constant(1.01)))
    with pytest.raises(ExportError, match="would differ from the model by .*; nothing was written"):
        export_onnx(model, tmp_path / "new" / "out")
    assert list(tmp_path.iterdir()) == []       # no empty folder either


def test_an_export_stays_until_the_next_is_whole(tmp_path, monkeypatch):
    exported = export_onnx(wide("roberta"), tmp_path).file
    (tmp_path / "model.onnx.data").write_bytes(b"weights of a larger model")
    (tmp_path / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with monkeypatch.context() as broken:       # the last thing that is written
        broken.setattr(exporting, "write_text_files", lambda *_: (_ for _ in ()).throw(OSError(28, "disk full")))
        with pytest.raises(OSError, match="disk full"): export_onnx(wide("distilbert"), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    export_onnx(wide("distilbert"), tmp_path)
    assert exported.read_bytes() != before["model.onnx"] and (tmp_path / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "model.onnx.data").exists()


def test_what_has_no_graph_is_refused(monkeypatch, tmp_path):
    with pytest.raises(ExportError, match="pooling 'last' cannot be exported"):
        export_onnx(wide("roberta", pooling="last"), tmp_path)
    monkeypatch.delitem(exporting.ENCODERS, "albert")
    with pytest.raises(ExportError, match="no ONNX graph for the architecture 'albert'; there is one for bert, "):
        export_onnx(wide("albert"), tmp_path)


def test_without_the_library_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"mlx_bert_training\[onnx\]"): export_onnx(wide("roberta"), tmp_path)


def test_the_check_sees_a_small_change(tmp_path):
    model = wide("roberta")
    file = export_onnx(model, tmp_path).file
    model.update({"classifier": {"out_proj": {"bias": model.classifier.out_proj.bias + 0.01}}})
    assert largest_difference(model, file) > 1e-3 and np.isfinite(largest_difference(model, file))


@pytest.mark.parametrize("case", ["roberta", "electra", "deberta-v2", "modernbert"])
def test_a_head_for_words_answers_at_each_token(case, tmp_path):
    exported = export_onnx(wide(case, head_type="token_classification"), tmp_path)
    print(f"\n{case:16}onnx, words {exported.difference:.1e}", end="")
    shape = onnx.load(str(tmp_path / "model.onnx")).graph.output[0].type.tensor_type.shape.dim
    assert exported.difference < 1e-4 and [d.dim_param or d.dim_value for d in shape] == ["batch", "tokens", 3]
    assert json.loads((tmp_path / "config.json").read_text())["architectures"][0].endswith("ForTokenClassification")
