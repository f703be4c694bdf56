"""Adapters: what is trained and what is not, in a whole training, a resume, and when saved."""
import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from tiny_architectures import CASES, architecture

from mlx_bert_training import Callback, create_model, create_trainer
from mlx_bert_training.models import ModelError, WeightsError
from mlx_bert_training.models.adapters.lora import adapted, load_adapter, new_parts, save_adapter, trained

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
IDS = mx.array(np.random.default_rng(0).integers(5, 60, (3, 9)))


def tensors(model): return dict(tree_flatten(model.parameters()))
def trainable(model): return dict(tree_flatten(model.trainable_parameters()))


def shaken(model):
    "The model with other values of everything that is trained."
    mx.random.seed(3)
    other = [(name, value + 0.1 * mx.random.normal(value.shape)) for name, value in trainable(model).items()]
    model.load_weights(other, strict=False)
    return model.eval()


@pytest.mark.long
@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_every_architecture(tmp_path, case, kind, pooling):
    config = {"model_type": architecture(case).name, **CASES[case][1]}
    plain = create_model(config=config, pooling=pooling).eval()
    model = create_model(config=config, pooling=pooling, adapter=kind).eval()
    np.testing.assert_allclose(np.array(model(IDS)), np.array(plain(IDS)), atol=1e-5)
    parts = tuple(f"{part}." for part in new_parts(model))
    assert adapted(model) and all("lora_" in name or name.startswith(parts) for name in trainable(model))
    expected = np.array(shaken(model)(IDS))
    assert np.abs(expected - np.array(plain(IDS))).max() > 1e-3
    model.save_pretrained(tmp_path / "merged")
    merged = create_model(pretrained=tmp_path / "merged").eval()
    assert set(tensors(merged)) == set(tensors(plain))
    np.testing.assert_allclose(np.array(merged(IDS)), expected, atol=1e-5)
    save_adapter(model, tmp_path / "kept")
    again = load_adapter(create_model(config=config, pooling=pooling), tmp_path / "kept").eval()
    assert mx.array_equal(again(IDS), model(IDS))


def test_presets_go_from_few_to_all():
    counts = [trained(create_model(adapter={"type": "lora", "options": {"preset": preset}}))
              for preset in ("efficient", "balanced", "expressive")]
    assert sorted(counts) == counts and counts[-1][0] < 0.1 * counts[-1][1]
    assert trained(create_model("bert_with_head_with_lora")) == counts[1]
    assert "trained: " in repr(create_model(adapter="lora")) and "trained: " not in repr(create_model())


def test_modules_are_chosen_by_pattern():
    model = create_model(adapter={"type": "lora", "options": {"modules": r"layer\.1\.attention\.self\.(query|key)"}})
    assert list(adapted(model)) == [f"bert.encoder.layer.1.attention.self.{name}" for name in ("key", "query")]


def test_freezing_by_pattern():
    model = create_model(freeze=["embeddings", r"layer\.0"])
    frozen = set(tensors(model)) - set(trainable(model))
    assert frozen and all("embeddings" in name or "layer.0." in name for name in frozen)
    assert trained(create_model(adapter="lora", freeze=["pooler"]))[0] < trained(create_model(adapter="lora"))[0]


def test_what_does_not_fit_is_refused(tmp_path):
    model = create_model(adapter="lora")
    with pytest.raises(ModelError, match="has an adapter"): load_adapter(model, save_adapter(model, tmp_path))
    with pytest.raises(WeightsError, match="expected"):
        load_adapter(create_model(config={"hidden_size": 64}), tmp_path)
    with pytest.raises(ModelError, match="no adapter"): save_adapter(create_model(), tmp_path / "none")
    with pytest.raises(WeightsError, match="no adapter"): load_adapter(create_model(), tmp_path / "none")


class StopAt(Callback):
    "Ctrl-C after an update."
    def __init__(self, step): self.step = step

    def on_batch_end(self, trainer, state):
        if state.step == self.step: raise KeyboardInterrupt


def declaration(folder, name, kind):
    return {
        "model": {"config": SMALL, "adapter": kind},
        "data": {"train_path": "demo:german_credit/train.csv", "target_column": "risk", "id_column": "id",
                 "max_length": 24, "max_train_rows": 120, "template": "{purpose} of {credit_amount}"},
        "optimizer": {"learning_rate": 1e-2}, "training": {"num_epochs": 2, "save_strategy": "steps", "save_steps": 2},
        "environment": {"output_dir": str(folder), "run_name": name, "device": "cpu", "compile": True}}


@pytest.mark.long
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_training_changes_the_adapter_alone_and_resumes_with_the_same_bits(tmp_path, kind):
    whole = create_trainer(config=declaration(tmp_path, "whole", kind))
    before, parts = {name: mx.array(value) for name, value in tensors(whole.model).items()}, trainable(whole.model)
    whole.train()
    after = tensors(whole.model)
    assert all(mx.array_equal(after[name], before[name]) for name in before if name not in parts)
    assert any(not mx.array_equal(after[name], before[name]) for name in parts if name.endswith("lora_B"))
    assert set(trainable(whole.model)) == set(parts)        # the best weights came back, and are as frozen
    with pytest.raises(KeyboardInterrupt):
        create_trainer(config=declaration(tmp_path, "broken", kind), callbacks=[StopAt(5)]).train()
    resumed = create_trainer(config=declaration(tmp_path, "broken", kind))
    resumed.train(resume_from="latest")
    assert all(mx.array_equal(value, after[name]) for name, value in tensors(resumed.model).items())
