"""Each architecture against numbers of torch and transformers; fixtures/make_architecture_reference.py made them."""
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from tiny_architectures import CASES, architecture, configuration, texts, their_name, weight

from mlx_bert_training.models.layers import ModelError

FIXTURES = Path(__file__).parents[2] / "fixtures" / "architectures"


@pytest.fixture(scope="module", params=CASES)
def model(request):
    arch, config = architecture(request.param), configuration(request.param)
    model = nn.Module()
    model.encoder, model.pooler = arch.encoder(config), arch.pooler(config)
    model.output = nn.Linear(arch.size(config, "hidden_size"), 3)
    model.load_weights([(name, mx.array(weight(their_name(arch, name), value.shape)))
                        for name, value in tree_flatten(model.parameters())])
    model.case = request.param
    return model.eval()


@pytest.mark.parametrize("side", ["right", "left"])
def test_hidden_states_and_logits(model, side):
    ids, mask, types = (None if a is None else mx.array(a) for a in texts(model.case, left=side == "left"))
    hidden = model.encoder(ids, mask, types)
    with np.load(FIXTURES / f"{model.case}.npz") as expected:
        np.testing.assert_allclose(np.array(hidden * mask[..., None]), expected[f"{side}_hidden"], atol=1e-4)
        np.testing.assert_allclose(np.array(model.output(model.pooler(hidden, mask))), expected[f"{side}_logits"],
                                   atol=1e-4)
        assert expected[f"{side}_hidden"][0].std(axis=0).max() > 0.1    # among equal tokens it would mean little


def test_the_first_token_alone(model):
    ids, mask, types = (None if a is None else mx.array(a) for a in texts(model.case))
    alone = model.encoder(ids, mask, types, first_token_only=True)
    np.testing.assert_allclose(np.array(alone), np.array(model.encoder(ids, mask, types)[:, :1]), atol=1e-4)


def test_recomputing_changes_no_gradient(model):
    ids, mask, types = (None if a is None else mx.array(a) for a in texts(model.case))
    encoder, results = model.encoder, []
    encoder.train()
    for encoder.gradient_checkpointing in (False, True):
        mx.random.seed(1)   # dropout included
        loss = nn.value_and_grad(encoder, lambda: (encoder(ids, mask, types) * mx.arange(16)).mean())
        results.append(dict(tree_flatten(loss()[1])))
    encoder.gradient_checkpointing = False
    encoder.eval()
    for name, gradient in results[0].items():
        np.testing.assert_allclose(np.array(results[1][name]), np.array(gradient), atol=1e-6, rtol=1e-3, err_msg=name)


def test_a_text_that_is_too_long_is_refused(model):
    if not getattr(model.encoder.config, "position_biased_input", True): pytest.skip("distances alone set no limit")
    limit = architecture(model.case).max_tokens(model.encoder.config)
    with pytest.raises(ModelError, match=f"at most {limit}"):
        model.encoder(mx.full((1, limit + 1), 7, dtype=mx.int32))
