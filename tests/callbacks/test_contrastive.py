"""The supervised contrastive loss by its formula, and as a stage of a run that a kill does not change."""
import math

import mlx.core as mx
import numpy as np
import pytest
from toys import Breaks, ToyLoader, ToyModel, same, toy_config

from mlx_bert_training.callbacks import Callback, Mixout, ModelCheckpoint, NEFTune, SupCon
from mlx_bert_training.callbacks.base import CallbackError
from mlx_bert_training.callbacks.contrastive import batch_contrast, contrast
from mlx_bert_training.core.base import Trainer
from mlx_bert_training.core.step import Passes, batch_arrays
from mlx_bert_training.core.weights import model_weights


class Embeds(ToyModel):
    "The toy model with a vector of a text."

    def embed(self, input_ids, attention_mask=None, token_type_ids=None):
        mask = mx.ones(input_ids.shape) if attention_mask is None else attention_mask
        x = (self.embedding(input_ids) * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
        return self.dropout(self.norm(self.hidden(x)))


def run(tmp_path, name, *callbacks, resume=None, model=Embeds, **settings):
    config = toy_config(tmp_path, run_name=name, num_epochs=4, gradient_accumulation_steps=2, load_best_at_end=False,
                        **settings)
    trainer = Trainer(model(dropout=0.3), config, callbacks=[ModelCheckpoint("steps", 2), *callbacks])
    trainer.train(ToyLoader(), ToyLoader(seed=1), resume_from=resume)
    return trainer


def test_the_formula_of_khosla_and_others():
    rng, t = np.random.default_rng(0), 0.3
    x, y, real = rng.normal(size=(7, 4)), np.array([0, 0, 1, 1, 1, 2, 0]), np.array([1, 1, 1, 1, 1, 1, 0])
    z = x / np.linalg.norm(x, axis=1, keepdims=True)
    expected = np.zeros(7)
    for i in range(6):
        others = [a for a in range(6) if a != i]
        alike = [p for p in others if y[p] == y[i]]
        total = sum(math.exp(z[i] @ z[a] / t) for a in others)
        if alike: expected[i] = -np.mean([math.log(math.exp(z[i] @ z[p] / t) / total) for p in alike])
    losses, paired = contrast(mx.array(x.astype(np.float32)), mx.array(y), mx.array(real), t)
    assert np.allclose(np.array(losses), expected, atol=1e-5) and paired.tolist() == [1, 1, 1, 1, 1, 0, 0]


@pytest.mark.long
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("options", [{"epochs": 2}, {"epochs": None, "weight": 0.3, "views": 1}])
def test_a_run_that_was_killed_goes_on_bit_for_bit(tmp_path, options, compiled):
    whole = run(tmp_path, "whole", SupCon(**options), compile=compiled)
    with pytest.raises(KeyboardInterrupt): run(tmp_path, "broken", SupCon(**options), Breaks(5), compile=compiled)
    resumed = run(tmp_path, "broken", SupCon(**options), resume="latest", compile=compiled)
    assert same(model_weights(whole.model), model_weights(resumed.model))
    assert not same(model_weights(whole.model), model_weights(run(tmp_path, "plain", compile=compiled).model))


def test_the_head_waits_until_the_warm_up_is_over(tmp_path):
    class Watches(Callback):
        def __init__(self): self.heads = []
        def on_epoch_end(self, trainer, state): self.heads.append(trainer.model.out.weight + 0)

    watches, plain = Watches(), {"optimizer.weight_decay": 0.0}
    run(tmp_path, "warm", SupCon(epochs=2), watches, **plain)
    first = Embeds(dropout=0.3).out.weight
    moved = [not mx.array_equal(head, first).item() for head in watches.heads]
    assert moved == [False, False, True, True]


def test_what_is_refused(tmp_path):
    with pytest.raises(CallbackError, match="no method embed"): run(tmp_path, "a", SupCon(), model=ToyModel)
    with pytest.raises(CallbackError, match="trains no head"): SupCon(epochs=None)
    for options in ({"weight": 0}, {"temperature": 0}, {"views": 0}):
        with pytest.raises(CallbackError, match=next(iter(options))): SupCon(**options)


@pytest.mark.parametrize("perturbs", [Mixout(0.9, "hidden.weight"), NEFTune(50.0, "embedding$")],
                         ids=["mixout", "neftune"])
def test_what_stands_round_the_forward_pass_stands_round_the_contrast(perturbs):
    model, arrays = Embeds(), batch_arrays(next(iter(ToyLoader())))
    perturbs.first = {"hidden.weight": mx.zeros((16, 16))}
    table, parameters = model.embedding, model.trainable_parameters()
    plain, found = (batch_contrast(Passes(model, None, techniques=techniques), parameters, arrays, 2, 0.1)[0].item()
                    for techniques in ([], [perturbs, SupCon()]))
    assert abs(plain - found) > 0.1 and model.embedding is table


def test_the_logits_are_those_of_the_model_after_its_vectors():
    model, arrays = Embeds(), batch_arrays(next(iter(ToyLoader())))
    passes, parameters = Passes(model, None), model.trainable_parameters()
    before, vectors = passes.forward(parameters, arrays), passes.vectors(parameters, arrays)
    assert vectors.shape == (8, 16) and mx.array_equal(before, passes.forward(parameters, arrays))
