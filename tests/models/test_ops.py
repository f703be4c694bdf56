"""The fast operations against plain ones: values, gradients, types, compilation, checkpointing, threads."""
import threading

import mlx.core as mx
import numpy as np
import pytest
from scipy.special import ndtr

from mlx_bert_training.models.ops import attention, dropout, gelu, gelu_by_tanh, layer_norm

FLOATS = [mx.float32, mx.bfloat16, mx.float16]


def plain_gelu(x):
    return x * 0.5 * (1 + mx.erf(x * 0.5 ** 0.5))


def plain_layer_norm(x, weight, bias, eps=1e-12):
    centred = x - x.mean(-1, keepdims=True)
    return centred * mx.rsqrt((centred * centred).mean(-1, keepdims=True) + eps) * weight + bias


def plain_attention(q, k, v, mask=None, scale=None):
    scores = (q @ k.swapaxes(-1, -2)) * (q.shape[-1] ** -0.5 if scale is None else scale)
    return mx.softmax(scores if mask is None else scores + mask, axis=-1) @ v


def normal(*shape, seed=0, scale=1.0):
    return mx.array(np.random.default_rng(seed).normal(size=shape) * scale, dtype=mx.float32)


def gradients(function, *arrays):
    "Value of a fixed weighting of the outputs, and its gradient in every argument."
    def weighted(*args):
        out = function(*args).astype(mx.float32)
        return (out * mx.cos(mx.arange(out.size)).reshape(out.shape)).sum()
    return mx.value_and_grad(weighted, tuple(range(len(arrays))))(*arrays)


def assert_near(got, want, tolerance):
    "The largest deviation, relative to the largest entry."
    got, want = np.array(got.astype(mx.float32)), np.array(want.astype(mx.float32))
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= tolerance * max(np.abs(want).max(), 1e-6)


def assert_same_gradients(function, plain, *arrays, tolerance=1e-4):
    for wrap in (lambda f: f, mx.compile):
        _, got = wrap(lambda *a: gradients(function, *a))(*arrays)
        _, want = gradients(plain, *arrays)
        for g, w in zip(got, want, strict=True): assert_near(g, w, tolerance)


def test_gelu_in_double_precision():
    x = np.concatenate([np.linspace(-40, 40, 200_001), [-1e5, -1e4, 0, 1e4, 1e5]]).astype(np.float32)
    got, exact = np.array(gelu(mx.array(x))), x.astype(float) * ndtr(x.astype(float))
    assert (np.abs(got - exact) <= 3e-6 + 3e-7 * np.abs(x)).all()


def test_gelu_slope_in_double_precision():
    x = np.linspace(-30, 30, 100_001).astype(np.float32)
    wide = x.astype(float)
    exact = ndtr(wide) + wide * np.exp(-wide ** 2 / 2) / np.sqrt(2 * np.pi)
    got = np.array(mx.grad(lambda x: gelu(x).sum())(mx.array(x)))
    assert np.abs(got - exact).max() < 4e-6


def by_tanh(x): return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x ** 3)))


def test_gelu_by_tanh_and_its_slope_in_double_precision():
    x = np.concatenate([np.linspace(-12, 12, 4001), [0, -1e-8, 1e-8, -100, 100, 1e4]]).astype(np.float32)
    exact, step = by_tanh(x.astype(float)), 1e-5
    assert np.abs(np.array(gelu_by_tanh(mx.array(x))) - exact).max() < 1e-5 + 1e-6 * 1e4
    assert np.abs(np.array(gelu_by_tanh(mx.array(x[:4001]))) - exact[:4001]).max() < 1e-5
    slope = (by_tanh(x.astype(float) + step) - by_tanh(x.astype(float) - step)) / (2 * step)
    got = np.array(mx.grad(lambda x: gelu_by_tanh(x).sum())(mx.array(x)))
    assert np.isfinite(got).all() and np.abs(got - slope)[:4001].max() < 2e-5


def test_gelu_passes_nan_on():
    assert np.isnan(np.array(gelu(mx.array([float("nan"), 1.0])))).tolist() == [True, False]


def test_gelu_gradient():
    assert_same_gradients(gelu, plain_gelu, normal(6, 33, scale=3))


@pytest.mark.parametrize("shape", [(5, 64), (2, 7, 384), (2, 3, 4, 16), (1, 8), (8,)])
def test_layer_norm(shape):
    x, weight, bias = normal(*shape, scale=4) + 3, normal(shape[-1], seed=1), normal(shape[-1], seed=2)
    assert_near(layer_norm(x, weight, bias), plain_layer_norm(x, weight, bias), 1e-5)
    assert_same_gradients(layer_norm, plain_layer_norm, x, weight, bias)


def test_layer_norm_of_a_constant_row_is_the_bias():
    x = mx.full((2, 16), 3.0)
    assert_near(layer_norm(x, mx.ones(16), mx.full((16,), 0.5), 1e-5), mx.full((2, 16), 0.5), 1e-6)


MASKS = {
    "none": None,
    "keys": np.where(np.arange(9) < np.array([[9], [4]]), 0, -1e9)[:, None, None, :],
    "full": np.where(np.tril(np.ones((9, 9))), 0, -1e9)[None, None],
    "heads": np.random.default_rng(5).normal(size=(2, 3, 9, 9)),
}


@pytest.mark.parametrize("mask", MASKS)
def test_attention(mask):
    bias = None if MASKS[mask] is None else mx.array(MASKS[mask], dtype=mx.float32)
    arrays = normal(2, 3, 9, 8), normal(2, 3, 9, 8, seed=1), normal(2, 3, 9, 8, seed=2)
    assert_near(attention(*arrays, bias), plain_attention(*arrays, bias), 1e-5)
    assert_same_gradients(lambda *a: attention(*a, bias), lambda *a: plain_attention(*a, bias), *arrays)


def test_attention_of_one_query_and_of_transposed_heads():
    q, k, v = (normal(2, t, 3, 8, seed=t + i).transpose(0, 2, 1, 3) for i, t in enumerate((1, 9, 9)))
    mask = mx.array(MASKS["keys"], dtype=mx.float32)
    assert attention(q, k, v, mask).shape == (2, 3, 1, 8)
    assert_same_gradients(lambda *a: attention(*a, mask, 0.7), lambda *a: plain_attention(*a, mask, 0.7), q, k, v)


def test_attention_with_peaked_scores():
    arrays = normal(1, 2, 16, 8, scale=12), normal(1, 2, 16, 8, seed=1, scale=12), normal(1, 2, 16, 8, seed=2)
    assert_near(attention(*arrays), plain_attention(*arrays), 1e-5)
    assert_same_gradients(attention, plain_attention, *arrays)


@pytest.mark.parametrize("dtype", FLOATS)
def test_half_precision_keeps_its_type_and_its_accuracy(dtype):
    x, weight, bias = arrays = [normal(*shape).astype(dtype) for shape in ((4, 32), (32,), (32,))]
    heads = normal(2, 2, 6, 8).astype(dtype)
    wide = heads.astype(mx.float32)
    for got, want in ((gelu(x), plain_gelu(x.astype(mx.float32))),
                      (layer_norm(x, weight, bias), plain_layer_norm(*(a.astype(mx.float32) for a in arrays))),
                      (attention(heads, heads, heads), plain_attention(wide, wide, wide))):
        assert got.dtype == dtype
        assert_near(got, want, 1e-2 if dtype != mx.float32 else 1e-5)
    assert dropout(x, 0.5).dtype == dtype
    assert mx.grad(lambda x: attention(x, x, x).astype(mx.float32).sum())(heads).dtype == dtype


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_rate_and_mean(rate):
    x = np.array(dropout(mx.ones((1000, 999)), rate, mx.random.key(3)))     # an odd number of elements
    assert abs((x == 0).mean() - rate) < 2.5e-3
    assert np.allclose(np.unique(x), [0, 1 / (1 - rate)], rtol=1e-3)
    assert abs(x.mean() - 1) < 5e-3 / (1 - rate)


def test_dropout_masks_of_near_keys_and_near_elements_are_unrelated():
    masks = [np.array(dropout(mx.ones(1 << 18), 0.5, mx.random.key(k))) - 1 for k in range(4)]
    limit = 5 / np.sqrt(1 << 18)
    for i, a in enumerate(masks):
        for b in masks[i + 1:]: assert abs((a * b).mean()) < limit
        for lag in (1, 2, 64, 384, 4096): assert abs((a[lag:] * a[:-lag]).mean()) < limit


def test_dropout_is_reproducible_and_follows_the_seed():
    x = mx.ones((64, 64))
    mx.random.seed(1); first, second = dropout(x, 0.5), dropout(x, 0.5)
    mx.random.seed(1); again = dropout(x, 0.5)
    assert mx.array_equal(first, again) and not mx.array_equal(first, second)
    assert mx.array_equal(dropout(x, 0.5, mx.random.key(7)), dropout(x, 0.5, mx.random.key(7)))


def test_dropout_gradient_uses_the_same_mask():
    x = normal(50, 50)
    out, (gradient,) = mx.vjp(lambda x: dropout(x, 0.3), [x], [mx.ones(x.shape)])
    assert_near(out[0], x * gradient, 1e-6)


def test_dropout_edges():
    x = normal(3, 3)
    assert dropout(x, 0.0) is x
    with pytest.raises(ValueError, match="below 1"): dropout(x, 1.0)


def test_compiled_dropout_draws_anew_every_call():
    state = [mx.random.state]
    step = mx.compile(lambda x: dropout(x, 0.5), inputs=state, outputs=state)
    x = mx.ones((64, 64))
    assert not mx.array_equal(step(x), step(x))


def test_attention_dropout_only_in_training():
    q = normal(2, 2, 8, 8)
    assert mx.array_equal(attention(q, q, q, dropout_rate=0.5), attention(q, q, q))
    assert not mx.allclose(attention(q, q, q, dropout_rate=0.5, training=True), attention(q, q, q))


def test_attention_dropout_has_the_mean_of_no_dropout():
    q, k, v = (mx.broadcast_to(normal(1, 1, 8, 8, seed=s), (600, 4, 8, 8)) for s in range(3))
    mean = np.array(attention(q, k, v, dropout_rate=0.2, training=True, key=mx.random.key(0))).mean((0, 1))
    assert np.abs(mean - np.array(attention(q, k, v))[0, 0]).max() < 0.05


def test_attention_dropout_gradient_by_finite_differences():
    key = mx.random.key(5)
    arrays = [normal(1, 2, 6, 4, seed=s) for s in range(3)]

    def total(*a):
        out = attention(*a, dropout_rate=0.4, training=True, key=key)
        return (out * mx.cos(mx.arange(out.size)).reshape(out.shape)).sum()

    for index in range(3):
        direction = normal(1, 2, 6, 4, seed=9 + index)
        slope = (mx.grad(total, index)(*arrays) * direction).sum().item()
        up, down = (total(*(a + h * direction if i == index else a for i, a in enumerate(arrays))).item()
                    for h in (1e-2, -1e-2))
        assert slope == pytest.approx((up - down) / 2e-2, rel=2e-2, abs=2e-3)


def test_gradient_checkpointing_repeats_the_mask_of_a_key():
    key, q = mx.random.key(2), normal(2, 2, 6, 8)

    def layer(q):
        out = attention(q, q, q, dropout_rate=0.5, training=True, key=key)
        return dropout(gelu(out), 0.5, key)

    plain, checkpointed = (mx.grad(lambda q, f=f: (f(q) ** 2).sum())(q) for f in (layer, mx.checkpoint(layer)))
    assert_near(checkpointed, plain, 1e-5)


def test_several_threads_at_once():
    results, x = {}, np.random.default_rng(0).normal(size=(2, 2, 32, 8)).astype(np.float32)

    def work(name):
        a = mx.array(x)
        out = mx.grad(lambda a: dropout(gelu(attention(a, a, a)), 0.5, mx.random.key(1)).sum())(a)
        results[name] = np.array(out)
        mx.synchronize(); mx.clear_streams()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert len(results) == 4 and all(np.array_equal(results[0], r) for r in results.values())
