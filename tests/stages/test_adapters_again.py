"""A finished fold of a model with an adapter is read again: the adapter was merged into the weights that were kept."""
from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from tiny_competition import SMALL

from mlx_bert_training.models.create import create_model
from mlx_bert_training.stages.model_source import ModelSource


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"base_bits": 4}], ids=["lora", "dora", "4bit"])
def test_what_a_fold_kept_computes_the_same_again(tmp_path, options):
    sizes = {**SMALL, "hidden_size": 32, "intermediate_size": 32}
    made = create_model(config=sizes, pooling="mean", adapter={"type": "lora", "options": options})
    source = ModelSource.of(made)
    trained = source.build()
    mx.random.seed(3)
    weights = {name: mx.random.normal(value.shape) for name, value in tree_flatten(trained.parameters())
               if "lora_" in name}
    trained.load_weights(list(weights.items()), strict=False)
    trained.save_pretrained(tmp_path)
    again, tokens = source.load(tmp_path).eval(), mx.array([[2, 5, 6, 3]])
    expected = np.array(trained.eval()(tokens, mx.ones_like(tokens)))
    assert np.allclose(np.array(again(tokens, mx.ones_like(tokens))), expected, atol=1e-4)
    assert not np.allclose(np.array(source.build().eval()(tokens, mx.ones_like(tokens))), expected, atol=1e-3)
