"""The encoder against numbers that torch and transformers gave; fixtures/make_bert_reference.py made them."""
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_bert_training.models import WeightsError, create_model, resolve_pretrained

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(scope="module")
def reference():
    with np.load(FIXTURES / "bert_reference.npz") as arrays:
        return {name: mx.array(value) for name, value in arrays.items()}


@pytest.fixture
def model():
    model = create_model(pretrained=FIXTURES / "tiny_bert")
    model.eval()
    return model


def largest(difference):
    return mx.abs(difference).max().item()


def test_a_folder_written_by_transformers_says_what_it_is(model):
    assert (model.head_type, model.num_labels, model.pooling_name) == ("multiclass_classification", 3, "cls")
    assert model.label_names is None and model.report.fresh == () and model.report.ignored == {}


def test_logits(model, reference):
    logits = model(reference["ids"], reference["mask"], reference["types"])
    assert largest(logits - reference["logits"]) < 1e-4
    assert mx.abs(reference["logits"]).max() > 0.5  # the comparison would mean little among zeros


def test_logits_without_mask_and_segments(model, reference):
    assert largest(model(reference["ids"][:, :5]) - reference["plain"]) < 1e-4


def test_hidden_states_of_real_tokens(reference):
    core = create_model("bert_core", pretrained=FIXTURES / "tiny_bert")
    core.eval()
    hidden = core(reference["ids"], reference["mask"], reference["types"])
    assert largest((hidden - reference["hidden"]) * reference["mask"][..., None]) < 1e-4


def test_loss_and_gradients(model, reference):
    def loss(model):
        logits = model(reference["ids"], reference["mask"], reference["types"])
        return nn.losses.cross_entropy(logits, reference["labels"], reduction="mean")

    value, gradients = nn.value_and_grad(model, loss)(model)
    assert abs(value.item() - reference["loss"].item()) < 1e-4
    gradients = dict(tree_flatten(gradients))
    compared = [name for name in reference if name.startswith("grad:")]
    assert len(compared) == 12
    norm = max(largest(reference[name]) for name in compared)
    for name in compared:
        expected = reference[name]
        # a key's bias has no gradient in exact arithmetic, so there is a floor to what can be relative
        assert largest(gradients[name[5:]] - expected) < 1e-3 * max(largest(expected), 1e-3 * norm), name


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_pretrained_sentence_vectors(pooling):
    try: folder = resolve_pretrained("all-MiniLM-L6-v2")
    except WeightsError: pytest.skip("all-MiniLM-L6-v2 is not in the weights cache; `mlx-bert fetch` brings it")
    model = create_model("bert_core", pretrained=folder, pooling=pooling)
    model.eval()
    with np.load(FIXTURES / "minilm_reference.npz") as expected:
        vectors = model.embed(mx.array(expected["ids"]), mx.array(expected["mask"]))
        assert largest(vectors - mx.array(expected[pooling])) < 1e-4
    cats, rates = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert pooling == "cls" or cats > rates  # two cats on two mats are nearer than a cat and an interest rate
