"""Optimizers and schedules against their published formulas."""
from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest

from mlx_bert_training.core.config import OptimizerConfig, SchedulerConfig
from mlx_bert_training.core.optimization import create_optimizer, create_schedule, decays, optimizer_arrays

RNG = np.random.default_rng(0)
W, B = RNG.normal(size=(3, 4)), RNG.normal(size=4)
GRADIENTS = [(RNG.normal(size=(3, 4)), RNG.normal(size=4)) for _ in range(5)]


def run(config: OptimizerConfig) -> tuple[np.ndarray, np.ndarray]:
    params = {"weight": mx.array(W, mx.float32), "bias": mx.array(B, mx.float32)}
    optimizer = create_optimizer(config, params)
    for gw, gb in GRADIENTS:
        grads = {"weight": mx.array(gw, mx.float32), "bias": mx.array(gb, mx.float32)}
        params = optimizer.apply_gradients(grads, params)
    return np.array(params["weight"]), np.array(params["bias"])


def adam(p, gradients, lr, wd, b1=0.9, b2=0.999, eps=1e-8):
    "Kingma & Ba 2015, algorithm 1, with decoupled decay (Loshchilov & Hutter 2019, algorithm 2)."
    m = v = np.zeros_like(p)
    for t, g in enumerate(gradients, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        p = p - lr * wd * p - lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
    return p


@pytest.mark.parametrize(("kind", "decay"), [("adam", 0.0), ("adamw", 0.1)])
def test_adam_is_bias_corrected_and_decays_matrices_only(kind, decay):
    weight, bias = run(OptimizerConfig(type=kind, learning_rate=0.01, weight_decay=0.1))
    assert np.allclose(weight, adam(W, [g for g, _ in GRADIENTS], 0.01, decay), atol=1e-6)
    assert np.allclose(bias, adam(B, [g for _, g in GRADIENTS], 0.01, 0.0), atol=1e-6)


def test_sgd_with_momentum():
    weight, _ = run(OptimizerConfig(type="sgd", learning_rate=0.1, momentum=0.9, weight_decay=0.0))
    p, v = W, np.zeros_like(W)
    for g, _ in GRADIENTS: v = 0.9 * v + g; p = p - 0.1 * v
    assert np.allclose(weight, p, atol=1e-5)


def test_nesterov_is_read():
    plain = run(OptimizerConfig(type="sgd", learning_rate=0.1))[0]
    assert not np.allclose(plain, run(OptimizerConfig(type="sgd", learning_rate=0.1, nesterov=True))[0])


def test_lion():
    "Chen et al. 2023, algorithm 2."
    config = OptimizerConfig(type="lion", learning_rate=0.01, weight_decay=0.1, lion_beta1=0.8, lion_beta2=0.95)
    weight, bias = run(config)
    for result, start, gradients, decay in ((weight, W, 0, 0.1), (bias, B, 1, 0.0)):
        p, m = start, np.zeros_like(start)
        for pair in GRADIENTS:
            g = pair[gradients]
            p = p - 0.01 * (np.sign(0.8 * m + 0.2 * g) + decay * p)
            m = 0.95 * m + 0.05 * g
        assert np.allclose(result, p, atol=1e-6)


def test_adafactor_takes_the_rate_of_the_schedule():
    small, large = (run(OptimizerConfig(type="adafactor", learning_rate=rate, weight_decay=0.0))[0]
                    for rate in (1e-4, 1e-2))
    assert 0 < np.abs(small - W).max() < 1e-3 < np.abs(large - W).max()


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd", "lion", "adafactor"])
def test_state_survives_a_checkpoint(kind):
    from mlx.utils import tree_unflatten
    params = {"weight": mx.array(W, mx.float32), "bias": mx.array(B, mx.float32)}
    grads = {"weight": mx.array(GRADIENTS[0][0], mx.float32), "bias": mx.array(GRADIENTS[0][1], mx.float32)}
    config = OptimizerConfig(type=kind, learning_rate=0.01)
    one, two = create_optimizer(config, params), create_optimizer(config, params)
    params = one.apply_gradients(grads, params)
    two.state = tree_unflatten(list(optimizer_arrays(one).items()))
    a, b = one.apply_gradients(grads, params), two.apply_gradients(grads, params)
    assert mx.array_equal(a["weight"], b["weight"]) and mx.array_equal(a["bias"], b["bias"])


def test_real_parameter_names():
    assert decays("embeddings.word_embeddings.weight", mx.zeros((4, 4)))
    assert not decays("encoder.layer.3.attention.output.LayerNorm.weight", mx.zeros(4))
    assert not decays("pooling.bias", mx.zeros((1, 4)))


# ---- schedules


def rates(total=100, per_epoch=10, rate=1.0, **options):
    schedule = create_schedule(SchedulerConfig(min_lr=0.0, **options), rate, total, per_epoch)
    return [schedule(step) for step in range(total)]


def test_none_is_constant_after_its_warm_up():
    assert rates(10, type="none", warmup_steps=4) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1])


def test_warm_up_by_ratio_counts_updates_of_the_run():
    assert rates(20, type="none", warmup_ratio=0.2)[:5] == pytest.approx([0.25, 0.5, 0.75, 1, 1])


@pytest.mark.parametrize(("kind", "options", "curve"), [
    ("linear", {}, lambda x: 1 - x),
    ("cosine", {}, lambda x: 0.5 * (1 + math.cos(math.pi * x))),
    ("polynomial", {"power": 3.0}, lambda x: (1 - x) ** 3),
    ("exponential", {"gamma": 0.5}, lambda x: 0.5 ** (10 * x)),     # ten epochs
    ("cosine_with_restarts", {"num_restarts": 1}, lambda x: 0.5 * (1 + math.cos(math.pi * (2 * x % 1)))),
])
def test_curves(kind, options, curve):
    assert rates(type=kind, **options) == pytest.approx([curve(step / 100) for step in range(100)])


def test_restarts_jump_back_up_so_many_times():
    values = rates(90, type="cosine_with_restarts", num_restarts=2)
    assert sum(b > a for a, b in zip(values, values[1:], strict=False)) == 2
    assert values[0] == values[30] == values[60] == 1.0


def test_no_schedule_falls_below_min_lr_or_ends_above_it():
    for kind in ("linear", "cosine", "polynomial", "cosine_with_restarts"):
        schedule = create_schedule(SchedulerConfig(type=kind, min_lr=0.1), 1.0, 100, 10)
        assert min(schedule(step) for step in range(101)) == pytest.approx(0.1) == schedule(100) == schedule(500)


def test_plateau_waits_for_patience_and_knows_the_direction():
    config = SchedulerConfig(type="reduce_on_plateau", patience=2, factor=0.1, min_lr=0.0)
    down = create_schedule(config, 1.0, 100, 10)
    for value in (1.0, 0.9, 0.95, 0.95): down.observe(value)
    assert down(0) == pytest.approx(0.1)
    up = create_schedule(config, 1.0, 100, 10, maximize=True)
    for value in (0.7, 0.8, 0.9, 0.95): up.observe(value)
    assert up(0) == 1.0
    up.observe(math.nan); up.observe(math.nan)
    assert up(0) == pytest.approx(0.1)
    other = create_schedule(SchedulerConfig(type="reduce_on_plateau"), 1.0, 100, 10, maximize=True)
    other.load_state_dict(up.state_dict())
    assert other.state_dict() == up.state_dict()


def test_plateau_without_patience_cuts_after_the_first_evaluation_that_is_no_better():
    schedule = create_schedule(SchedulerConfig(type="reduce_on_plateau", patience=0, factor=0.1, min_lr=0.0), 1.0, 9, 3)
    for value in (1.0, 0.9, 0.8): schedule.observe(value)
    assert schedule(0) == 1.0
    schedule.observe(0.8)
    assert schedule(0) == pytest.approx(0.1)
