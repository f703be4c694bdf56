"""Every architecture's scores of words against those of torch, which stand in a fixture."""
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from tiny_architectures import MASKED, architecture, configuration, texts, weight

from mlx_bert_training.pretraining.model import MaskedWordModel, create_masked_model, file_names, save_masked_model

REFERENCE = np.load(Path(__file__).parent.parent / "fixtures" / "masked.npz")


def filled(case):
    "Our model, with the weights that their names in Hugging Face's file give."
    model = MaskedWordModel(architecture(case), configuration(case))
    named = {name: name for name, _ in tree_flatten(model.parameters())}
    shapes = dict(tree_flatten(model.parameters()))
    theirs = file_names(model.architecture, named)
    model.load_weights([(mine, mx.array(weight(name, shapes[mine].shape))) for name, mine in theirs.items()])
    return model.eval()


@pytest.mark.parametrize("case", MASKED)
def test_logits_equal_those_of_transformers(case):
    ids, mask, types = texts(case)
    given = [None if a is None else mx.array(a) for a in (ids, mask, types)]
    logits = np.array(filled(case).logits(*given)) * mask[..., None]
    assert logits.std() > 0.1
    np.testing.assert_allclose(logits, REFERENCE[case], atol=1e-4)


@pytest.mark.parametrize("case", MASKED)
def test_the_answers_and_the_logits_say_the_same(case):
    model, (ids, mask, types) = filled(case), texts(case)
    given = [None if a is None else mx.array(a) for a in (ids, mask, types)]
    places = np.array([[1, 3], [5, 0], [0, 0]], np.int32)
    answers = np.array([[7, 9], [11, -1], [-1, -1]], np.int32)
    found = np.array(model(*given, positions=mx.array(places), answers=mx.array(answers)))
    scores = np.array(model.logits(*given), np.float64)
    chances = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    asked = [[(row, place, answer) for place, answer in zip(places[row], answers[row], strict=True) if answer >= 0]
             for row in range(3)]
    expected = [[sum(chances[one] for one in row), sum(scores[r, p].argmax() == a for r, p, a in row)] for row in asked]
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("case", MASKED)
def test_a_folder_is_read_back_whole(case, tmp_path):
    model, (ids, mask, types) = filled(case), texts(case)
    save_masked_model(model, tmp_path)
    again = create_masked_model(tmp_path).eval()
    assert not again.report.fresh
    given = [None if a is None else mx.array(a) for a in (ids, mask, types)]
    assert mx.array_equal(model.logits(*given), again.logits(*given))
