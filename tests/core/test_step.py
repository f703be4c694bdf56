"A step: the norm of a gradient, of any shape and as exact for many entries as for few; and what it leaves to read."
from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import numpy as np
import pytest
from toys import ToyLoader, ToyModel

from mlx_bert_training.core.config import OptimizerConfig
from mlx_bert_training.core.optimization import create_optimizer
from mlx_bert_training.core.step import BLOCK, TrainingStep, global_norm, sum_of_squares
from mlx_bert_training.tasks.losses import create_loss


@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (BLOCK,), (BLOCK + 1,), (7, BLOCK), (3, 700, 2)])
def test_squares_are_added_up_whatever_the_shape(shape):
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    exact = np.square(values, dtype=np.float64).sum()
    assert sum_of_squares(mx.array(values)).item() == pytest.approx(exact, rel=1e-5)


def test_squares_of_a_transposed_array():
    values = np.random.default_rng(0).normal(size=(90, 70)).astype(np.float32)
    exact = np.square(values, dtype=np.float64).sum()
    assert sum_of_squares(mx.array(values).T).item() == pytest.approx(exact, rel=1e-5)


def test_the_norm_of_a_table_of_words_is_not_short():
    table = mx.random.normal((30522, 384), key=mx.random.key(0))
    exact = np.sqrt(np.square(np.array(table), dtype=np.float64).sum())
    assert global_norm({"table": table}).item() == pytest.approx(exact, rel=1e-5)


def test_what_is_not_finite_stays_so():
    assert np.isnan(global_norm([mx.array([1.0, float("nan")]), mx.zeros((BLOCK,))]).item())
    assert np.isinf(global_norm([mx.full((BLOCK,), float("inf"))]).item())


def test_the_rate_of_an_update_under_way_can_be_read_in_another_thread():
    model = ToyModel()
    optimizer = create_optimizer(OptimizerConfig(), model.trainable_parameters())
    step = TrainingStep(model, create_loss(task="binary"), optimizer)
    batch = next(iter(ToyLoader().batches(0)))
    for rate in (1e-3, 2e-3):
        mx.eval(step.update(batch, rate)[2])
        step.update(batch, rate)        # not evaluated
        with ThreadPoolExecutor(1) as others:
            assert others.submit(lambda: float(optimizer.learning_rate)).result() == pytest.approx(rate)
