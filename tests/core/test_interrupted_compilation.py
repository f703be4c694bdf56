"""An error while a step is compiled: model, optimizer and random numbers are as before, and the next call works."""
import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from toys import ToyLoader, ToyModel, toy_config

from mlx_bert_training import create_model
from mlx_bert_training.callbacks import Callback
from mlx_bert_training.core.base import Trainer
from mlx_bert_training.core.batch_parts import training_step_of
from mlx_bert_training.core.config import OptimizerConfig
from mlx_bert_training.core.optimization import create_optimizer
from mlx_bert_training.core.step import InferenceStep, TrainingStep
from mlx_bert_training.tasks.losses import create_loss

SMALL = {"vocab_size": 100, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
         "intermediate_size": 32}
IDS = np.arange(16).reshape(4, 4)
BATCH = {"input_ids": IDS, "attention_mask": np.ones_like(IDS), "labels": np.arange(4) % 2}


class Mine:
    "A loss of one's own that is not right yet."

    def __init__(self, error: BaseException):
        self.error: BaseException | None = error
        self.inner = create_loss(task="binary")

    def __call__(self, logits, labels):
        if self.error is not None: raise self.error
        return self.inner(logits, labels)


def values(tree) -> dict[str, np.ndarray]:
    "All arrays by name, but the rate, which is set before each update."
    return {name: np.array(value) for name, value in tree_flatten(tree)
            if isinstance(value, mx.array) and not name.endswith("learning_rate")}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()], ids=["error", "interrupt"])
@pytest.mark.parametrize("use", ["update", "accumulate", "infer", "parts"])
def test_all_is_as_it_was_and_works_when_the_loss_does(use, error):
    loss = Mine(error)
    mx.random.seed(7 << 32 | 11)
    model = create_model(config=SMALL, dropout_rate=0.1)
    optimizer = create_optimizer(OptimizerConfig(), model.trainable_parameters())
    if use == "parts": step = training_step_of(2, 0, model, loss, optimizer, max_grad_norm=1.0)
    else: step = TrainingStep(model, loss, optimizer, max_grad_norm=1.0)
    inference = InferenceStep(model, loss)
    run = {"update": lambda: step.update(BATCH, 1e-3), "accumulate": lambda: step.accumulate(BATCH),
           "infer": lambda: inference(BATCH), "parts": lambda: step.update(BATCH, 1e-3)}[use]
    before, key = values([model.parameters(), optimizer.state]), np.array(mx.random.state[0])
    with pytest.raises(type(error)): run()
    assert same(values([model.parameters(), optimizer.state]), before)
    if use != "parts":      # which draw a seed for each part first
        assert np.array_equal(np.array(mx.random.state[0]), key)
    loss.error = None
    assert all(np.isfinite(np.array(value)).all() for _, value in tree_flatten(run()[1:]))
    mx.eval(model.parameters(), optimizer.state, mx.random.uniform())
    step.close()


def test_a_trainer_goes_on_after_a_technique_that_failed_in_its_first_update(tmp_path):
    class Fails(Callback):
        def __init__(self): self.fails = True

        def around_gradient(self, gradient, passes):
            def failing(parameters, arrays):
                if self.fails: raise ValueError("mine")
                return gradient(parameters, arrays)
            return failing

    technique, model = Fails(), ToyModel()
    before = values(model.parameters())
    trainer = Trainer(model, toy_config(tmp_path), callbacks=[technique])
    with pytest.raises(ValueError, match="mine"): trainer.train(ToyLoader())
    assert same(values(model.parameters()), before)
    technique.fails = False
    trainer.train(ToyLoader())
    assert not same(values(model.parameters()), before)
