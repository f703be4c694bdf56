"""Live against torch and transformers: what `create_model` saves of each architecture, read by them and by us.

    pip install torch transformers && python -m pytest tests/parity/test_saved.py -s
"""
import os
import tempfile

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten
from tiny_architectures import CASES, architecture, texts, weight

os.environ.setdefault("HF_MODULES_CACHE", tempfile.mkdtemp())   # where transformers puts the code of saved models
torch = pytest.importorskip("torch", reason="torch is not installed; it is the other side of this comparison")
transformers = pytest.importorskip("transformers", reason="transformers is not installed; it is what we compare with")

from mlx_bert_training.models import create_model  # noqa: E402

transformers.utils.logging.disable_progress_bar()
POOLINGS = ("cls", "mean")


def saved(case, pooling, folder):
    "A model with wide weights, saved."
    model = create_model(config={"model_type": architecture(case).name, **CASES[case][1]}, pooling=pooling,
                         head_type="multiclass", num_labels=3)
    model.update(tree_unflatten([(name, mx.array(weight(name, value.shape)))
                                 for name, value in tree_flatten(model.parameters())]))
    model.eval().save_pretrained(folder)
    return model


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("case", CASES)
def test_saved_models_give_the_same_there_and_the_same_bits_here(tmp_path, case, pooling):
    model = saved(case, pooling, tmp_path)
    twin = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path, trust_remote_code=pooling != "cls", attn_implementation="eager").eval()
    worst = 0.0
    for kind in (dict(), dict(left=True), dict(lengths=(130, 64))):
        ids, mask, types = texts(case, **kind)
        given = dict(input_ids=torch.tensor(ids).long(), attention_mask=torch.tensor(mask).long())
        if types is not None: given["token_type_ids"] = torch.tensor(types).long()
        with torch.no_grad(): expected = twin(**given).logits.numpy()
        found = np.array(model(*(None if a is None else mx.array(a) for a in (ids, mask, types))))
        worst = max(worst, np.abs(found - expected).max())
    again = dict(tree_flatten(create_model(pretrained=tmp_path).parameters()))
    here = dict(tree_flatten(model.parameters()))
    same = set(again) == set(here) and all(bool(mx.array_equal(again[n], here[n])) for n in here)
    print(f"\n{case:16}{pooling:6}saved, logits there {worst:.1e}  read back {'bit for bit' if same else 'DIFFERENT'}",
          end="")
    assert worst < 1e-4 and same
