"""Rates by depth, layers that begin anew and averaged dropout masks: for every architecture, from a declaration."""
import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten
from toys import ToyLoader, ToyModel, toy_config

from mlx_bert_training.callbacks import ModelCheckpoint
from mlx_bert_training.core.base import Trainer
from mlx_bert_training.core.optimization import ParameterGroups, create_optimizer
from mlx_bert_training.core.section import OptimizerConfig
from mlx_bert_training.core.weights import model_weights
from mlx_bert_training.declaration.problems import ConfigError
from mlx_bert_training.models import create_model
from mlx_bert_training.models.layers import ModelError
from mlx_bert_training.models.registry import ARCHITECTURES


class Deep(ToyModel):
    "A toy that says how deep it is."

    def parameter_depths(self):
        depth = {"embedding": 0, "hidden": 1, "norm": 1, "out": 2}
        return {name: depth[name.split(".")[0]] for name, _ in tree_flatten(self.parameters())}


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_every_architecture_says_how_deep_its_parameters_are(name):
    kind = {"modernbert": "modernbert_with_head"}.get(name, "with_head")
    model = create_model(kind, config={"model_type": name, "num_hidden_layers": 2}, pooling="mean")
    depths = model.parameter_depths()
    top = 1 if name == "albert" else 2       # whose layers share their parameters
    assert set(depths.values()) == set(range(top + 2))
    assert {path for path, depth in depths.items() if depth == top + 1} == {
        path for path in depths if not path.startswith(f"{model.architecture.prefix}.")}
    assert all(depth == 0 for path, depth in depths.items() if "embeddings" in path and "final" not in path)


def test_the_rate_of_an_update_is_that_of_its_depth():
    model = create_model(config={"num_hidden_layers": 2})
    before = model_weights(model)
    config = OptimizerConfig(learning_rate=0.1, layer_decay=0.5, head_learning_rate=0.4, weight_decay=0.0)
    optimizer = create_optimizer(config, model.trainable_parameters(), model.parameter_depths())
    assert isinstance(optimizer, ParameterGroups)
    optimizer.learning_rate = 0.2       # what a schedule does
    gradients = {name: mx.ones_like(value) for name, value in before.items()}
    optimizer.update(model, tree_unflatten(list(gradients.items())))
    moved = {name: float(mx.abs(value - before[name]).max()) for name, value in model_weights(model).items()}
    assert moved["bert.embeddings.word_embeddings.weight"] == pytest.approx(0.2 * 0.25, rel=1e-4)
    assert moved["bert.encoder.layer.0.output.dense.weight"] == pytest.approx(0.2 * 0.5, rel=1e-4)
    assert moved["bert.encoder.layer.1.output.dense.weight"] == pytest.approx(0.2, rel=1e-4)
    assert moved["classifier.weight"] == moved["classifier.bias"] == pytest.approx(0.8, rel=1e-4)
    assert float(optimizer.learning_rate) == pytest.approx(0.2)


def test_weight_decay_and_other_optimizers_keep_to_the_groups():
    parameters = {"low": {"weight": mx.ones((2, 2)), "bias": mx.ones(2)}, "high": {"weight": mx.ones((2, 2))}}
    depths = {"low.weight": 0, "low.bias": 0, "high.weight": 1}
    nothing = {"low": {"weight": mx.zeros((2, 2)), "bias": mx.zeros(2)}, "high": {"weight": mx.zeros((2, 2))}}
    for kind in ("adamw", "sgd", "lion"):
        config = OptimizerConfig(type=kind, learning_rate=0.1, layer_decay=1.0, head_learning_rate=0.2,
                                 weight_decay=0.5)
        after = create_optimizer(config, parameters, depths).apply_gradients(nothing, parameters)
        if kind != "sgd": assert mx.allclose(after["low"]["weight"], mx.full((2, 2), 0.95))
        assert mx.array_equal(after["low"]["bias"], mx.ones(2))
    plain = create_optimizer(OptimizerConfig(type="adam", layer_decay=0.5), parameters, depths)
    assert plain.apply_gradients(nothing, parameters)["low"]["weight"].shape == (2, 2)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_run_with_rates_by_depth_goes_on_bit_for_bit(tmp_path, compiled):
    def run(name, epochs, resume=None):
        config = toy_config(tmp_path, run_name=name, num_epochs=epochs, load_best_at_end=False, layer_decay=0.5,
                            head_learning_rate=0.05, compile=compiled)
        trainer = Trainer(Deep(dropout=0.3), config, callbacks=[ModelCheckpoint("epoch")])
        trainer.train(ToyLoader(), ToyLoader(seed=1), resume_from=resume)
        return model_weights(trainer.model)

    whole = run("whole", 3)
    run("broken", 1)
    resumed = run("broken", 3, "latest")
    assert all(mx.array_equal(value, resumed[name]) for name, value in whole.items())


def test_a_model_without_depths_is_refused_with_the_key(tmp_path):
    with pytest.raises(ConfigError, match="layer_decay.*parameter_depths"):
        Trainer(ToyModel(), toy_config(tmp_path, layer_decay=0.9)).train(ToyLoader(), ToyLoader(seed=1))


def test_only_the_top_layers_and_the_pooler_begin_anew(tmp_path):
    create_model(seed=1, config={"num_hidden_layers": 3}).save_pretrained(tmp_path / "saved")
    old = create_model(pretrained=tmp_path / "saved")
    new = create_model(pretrained=tmp_path / "saved", reinit_layers=2, seed=5)
    kept, made = model_weights(old), model_weights(new)
    changed = {name for name in kept if not mx.array_equal(kept[name], made[name])}
    assert {name.rsplit(".", 1)[0] for name in changed} == {
        name.rsplit(".", 1)[0] for name in kept if ("layer.1." in name or "layer.2." in name or "pooler" in name)
        and name.endswith("weight") and kept[name].ndim == 2}
    with pytest.raises(ModelError, match="3 layers"): create_model(pretrained=tmp_path / "saved", reinit_layers=4)
    with pytest.raises(ModelError, match="1 layers"):
        create_model("with_head", config={"model_type": "albert", "num_hidden_layers": 4}, reinit_layers=2)


def test_averaged_masks_are_for_training_only():
    model = create_model(dropout_samples=5, head_dropout=0.5, dropout_rate=0.0)
    ids = mx.array([[1, 2, 3]])
    assert not mx.array_equal(model(ids), model(ids))
    model.eval()
    assert mx.array_equal(model(ids), model(ids))
    assert np.isclose(model.output_layer.rate, 0.5)
