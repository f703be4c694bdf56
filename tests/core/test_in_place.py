"""Adam that writes new weights and moments over the old ones: the same bits, less memory."""
from __future__ import annotations

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map

from mlx_bert_training import create_model
from mlx_bert_training.core.config import OptimizerConfig
from mlx_bert_training.core.optimization import (
    IN_PLACE_FROM,
    InPlaceAdam,
    InPlaceAdamW,
    create_optimizer,
    optimizer_arrays,
    optimizer_class,
)
from mlx_bert_training.core.step import TrainingStep
from mlx_bert_training.tasks.losses import create_loss

TINY = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def trained(in_place: bool, **options) -> dict[str, np.ndarray]:
    "Weights and moments after four updates, whole ones and those of a window in turns."
    mx.random.seed(3)
    model = create_model(config=TINY, dropout_rate=0.0)
    rng = np.random.default_rng(1)
    values = {name: mx.array(rng.normal(0, 0.1, value.shape).astype(np.float32))
              for name, value in tree_flatten(model.parameters())}
    model.load_weights(list(values.items()))
    config = OptimizerConfig(in_place=in_place, learning_rate=0.01, weight_decay=0.1, **options)
    optimizer = create_optimizer(config, model.trainable_parameters(), model.parameter_depths())
    step = TrainingStep(model, create_loss(task="binary"), optimizer, max_grad_norm=0.5)
    model.train()
    for number in range(4):
        ids = np.random.default_rng(number).integers(1, 40, (4, 6)).astype(np.int32)
        batch = {"input_ids": ids, "attention_mask": np.ones_like(ids), "labels": np.array([0, 1, 1, 0], np.int32)}
        if number % 2: mx.eval(step.update(batch, 0.01))
        else:
            step.accumulate(batch)
            mx.eval(step.apply(0.01))
    return {name: np.array(value) for name, value in {**dict(tree_flatten(model.parameters())),
                                                      **optimizer_arrays(optimizer)}.items()}


@pytest.mark.parametrize("options", [
    {}, {"type": "adam"}, {"layer_decay": 0.8, "head_learning_rate": 0.05}, {"options": {"bias_correction": False}}],
    ids=["adamw", "adam", "rates by depth", "no correction"])
def test_every_bit_is_the_same(options):
    there, usual = trained(True, **options), trained(False, **options)
    assert there.keys() == usual.keys() and any(name.endswith(".m") for name in there)
    for name, value in there.items(): np.testing.assert_array_equal(value, usual[name], err_msg=name)


def more_memory(in_place: bool) -> float:
    "How much more there is during an update than before it, in arrays of the size of the weights."
    weights = {f"w{i}": mx.ones((256, 256)) for i in range(40)}
    optimizer = create_optimizer(OptimizerConfig(in_place=in_place), weights)
    state = [weights, optimizer.state]

    def apply(slopes): weights.update(optimizer.apply_gradients(slopes, weights))

    update = mx.compile(apply, inputs=state, outputs=state)
    for _ in range(2):
        slopes = tree_map(mx.ones_like, weights)
        mx.eval(state, slopes)
        mx.synchronize()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        update(slopes)
        del slopes
        mx.eval(state)
    return (mx.get_peak_memory() - before) / (40 * 256 * 256 * 4)


def test_new_arrays_take_the_place_of_the_old_ones():
    assert more_memory(True) <= 0.1 and more_memory(False) > 1


def test_by_default_it_depends_on_what_is_trained():
    small, large = {"w": mx.zeros((2, 2))}, {"w": mx.zeros((IN_PLACE_FROM // 1000, 1000))}
    assert optimizer_class(OptimizerConfig(), small) is optim.AdamW
    assert optimizer_class(OptimizerConfig(), large) is InPlaceAdamW
    assert optimizer_class(OptimizerConfig(type="adam"), large) is InPlaceAdam
    assert optimizer_class(OptimizerConfig(in_place=False), large) is optim.AdamW
    assert optimizer_class(OptimizerConfig(type="lion"), large) is optim.Lion
