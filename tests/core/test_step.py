"The norm of a gradient: of any shape and layout, and as exact for many entries as for few."
import mlx.core as mx
import numpy as np
import pytest

from mlx_bert_training.core.step import BLOCK, global_norm, sum_of_squares


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
