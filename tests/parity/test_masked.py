"""Live against torch and transformers: scores of words, and a saved folder in `AutoModelForMaskedLM`.

    pip install torch transformers && python -m pytest tests/parity/test_masked.py -s
"""
import sys
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from tiny_architectures import MASKED, architecture, configuration, texts

from mlx_bert_training.pretraining.model import HEAD, create_masked_model, save_masked_model

torch = pytest.importorskip("torch", reason="torch is not installed; it is the other side of this comparison")
transformers = pytest.importorskip("transformers", reason="transformers is not installed; it is what we compare with")
sys.path.insert(0, str(Path(__file__).parent.parent / "fixtures"))
from make_masked_reference import logits, twin  # noqa: E402


@pytest.fixture(scope="module", params=MASKED)
def pair(request, tmp_path_factory):
    "Their random model, and ours read from the folder that theirs was saved in."
    model, folder = twin(request.param), tmp_path_factory.mktemp("theirs")
    model.save_pretrained(folder)
    return request.param, create_masked_model(folder).eval(), model


def test_our_scores_of_their_file(pair):
    case, ours, theirs = pair
    ids, mask, types = texts(case)
    given = [None if a is None else mx.array(a) for a in (ids, mask, types)]
    difference = np.abs(np.array(ours.logits(*given)) * mask[..., None] - logits(case, theirs)).max()
    print(f"\n{case:16} logits {difference:.1e}", end="")
    assert difference < 1e-4
    assert not [name for name in ours.report.fresh if name.startswith(HEAD)]


def test_their_scores_of_our_file(pair, tmp_path):
    case, ours, theirs = pair
    save_masked_model(ours, tmp_path)
    again, report = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True,
                                                                      attn_implementation="eager")
    assert not report["missing_keys"] and not report["mismatched_keys"]
    assert all("pooler" in name for name in report["unexpected_keys"])
    assert np.abs(logits(case, again.eval()) - logits(case, theirs)).max() < 1e-4


def test_gradients_reach_the_table_from_both_sides(pair):
    case, ours, theirs = pair
    if case not in ("bert", "roberta", "modernbert"): pytest.skip("three of them are enough")
    ids, mask, types = texts(case)
    place = np.array([[1], [2], [0]])
    answers = np.array([[7], [9], [-1]])
    labels = np.full(ids.shape, -100)
    for row in (0, 1): labels[row, place[row, 0]] = answers[row, 0]
    given = dict(input_ids=torch.tensor(ids).long(), attention_mask=torch.tensor(mask).long())
    if types is not None: given["token_type_ids"] = torch.tensor(types).long()
    theirs.zero_grad()
    theirs(**given, labels=torch.tensor(labels)).loss.backward()
    here = [None if a is None else mx.array(a) for a in (ids, mask, types)]
    asked = {"positions": mx.array(place), "answers": mx.array(answers)}
    loss = nn.value_and_grad(ours, lambda model: -model(*here, **asked)[:, 0].sum() / 2)
    gradients = dict(tree_flatten(loss(ours)[1]))
    table = f"{architecture(case).prefix}.{architecture(case).word_head.table}.weight"
    expected = dict(theirs.named_parameters())[table].grad.numpy()
    mine, pad = np.array(gradients[table]), configuration(case).pad_token_id
    mine[pad] = expected[pad]       # torch gives padding's row none from the reading side
    np.testing.assert_allclose(mine, expected, atol=1e-3 * np.abs(expected).max())
