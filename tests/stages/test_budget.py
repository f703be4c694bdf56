"The speed of a machine: what its very first update waits for is not what every shape of batch costs."
from contextlib import nullcontext

import numpy as np
import pytest
from tiny_competition import declaration

from mlx_bert_training.data.prepare import prepare
from mlx_bert_training.declaration.load import load_config
from mlx_bert_training.models.create import create_model
from mlx_bert_training.stages import budget

RATE, TRACED = 1000.0, 0.25       # tokens a second, and seconds to trace a shape


@pytest.fixture
def of_lengths(tmp_path):
    "A declaration whose batches have several shapes, its rows and a model."
    rng = np.random.default_rng(0)
    rows = [f"{i},{' '.join(['word'] * rng.integers(1, 60))},{i % 2}" for i in range(400)]
    (tmp_path / "train.csv").write_text("\n".join(["id,text,label", *rows]))
    config = load_config({**declaration(tmp_path), "data": {
        "train_path": str(tmp_path / "train.csv"), "text_column": "text", "target_column": "label", "id_column": "id",
        "max_length": 64, "batch_size": 16}})
    data = prepare(config)
    model = create_model(config={"vocab_size": data.tokenizer.vocab_size, "hidden_size": 16, "num_hidden_layers": 1,
                                 "num_attention_heads": 2, "intermediate_size": 16}, pooling="mean")
    return config, data, model


def on_a_machine(monkeypatch, compiler: float):
    "Updates take what their tokens take, a new shape more, and the very first what the compiler takes beside; a clock."
    now, seen = [0.0], set()

    def update(trainer, batch):
        shape = batch["input_ids"].shape
        taken = shape[0] * shape[1] / RATE + (0 if shape in seen else TRACED) + (0 if seen else compiler)
        seen.add(shape)
        now[0] += taken
        return taken

    monkeypatch.setattr(budget, "timed_update", update)
    monkeypatch.setattr(budget.time, "perf_counter", lambda: now[0])
    return seen


@pytest.mark.parametrize(("compiler", "limit"), [(0, 9), (2, 9), (20, 9), (20, 60)])
def test_a_machine_without_kernels_is_measured_as_one_that_has_them(of_lengths, monkeypatch, compiler, limit):
    config, data, model = of_lengths
    seen = on_a_machine(monkeypatch, compiler)
    speed = budget.measure_speed("m", model, config, data, limit)
    shapes = len(budget.padding_of(data.train).shapes)
    assert shapes > 2 and len(seen) > 1
    assert speed.tokens == pytest.approx(RATE) and speed.warm_up == pytest.approx(TRACED * shapes)


def test_a_machine_that_is_far_too_slow_is_not_waited_for(of_lengths, monkeypatch):
    config, data, model = of_lengths
    seen = on_a_machine(monkeypatch, 1000)
    speed = budget.measure_speed("m", model, config, data, 9)
    assert len(seen) == 1 and speed.warm_up > 1000


@pytest.mark.parametrize("error", [None, MemoryError])
def test_the_threads_of_a_measurement_end_with_it(of_lengths, monkeypatch, error):
    config, data, model = of_lengths
    closed = []

    class Measured(budget.Trainer):
        def prepare_training(self, *loaders):
            super().prepare_training(*loaders)
            self.parts.step.close = lambda: closed.append(self)

    def timed(trainer, batch):
        if error: raise error
        return 1.0
    monkeypatch.setattr(budget, "Trainer", Measured)
    monkeypatch.setattr(budget, "timed_update", timed)
    with pytest.raises(error) if error else nullcontext(): budget.measure_speed("m", model, config, data, 9)
    assert len(closed) == 1


def test_declared_techniques_are_measured_too(of_lengths, monkeypatch):
    config, data, model = of_lengths
    acting = []

    def timed(trainer, batch):
        acting.extend(type(t).__name__ for t in trainer.step.techniques if getattr(t, "active", True))
        return 1.0
    monkeypatch.setattr(budget, "timed_update", timed)
    later = {"type": "awp", "start": 3}
    budget.measure_speed("m", model, config.replace(callbacks=["rdrop", later, "learning_curve"]), data, 0)
    assert set(acting) == {"RDrop", "AWP"}
