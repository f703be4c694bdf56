"""Live against torch and transformers: heads that answer for each token, or with several numbers a text.

    pip install torch transformers && python -m pytest tests/parity/test_tokens.py -s
"""
import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten
from tiny_architectures import CASES, architecture, texts, weight

torch = pytest.importorskip("torch", reason="torch is not installed; it is the other side of this comparison")
transformers = pytest.importorskip("transformers", reason="transformers is not installed; it is what we compare with")

from mlx_bert_training.models import create_model  # noqa: E402

transformers.utils.logging.disable_progress_bar()
IGNORED = -100      # torch's label of a token that is not counted


def saved(case, folder, **head):
    "A model with wide weights, saved."
    model = create_model(config={"model_type": architecture(case).name, **CASES[case][1]}, dropout_rate=0.0, **head)
    model.update(tree_unflatten([(name, mx.array(weight(name, value.shape)))
                                 for name, value in tree_flatten(model.parameters())]))
    model.eval().save_pretrained(folder)
    return model


def there(ids, mask, types):
    "A batch as torch takes it."
    given = dict(input_ids=torch.tensor(ids).long(), attention_mask=torch.tensor(mask).long())
    return given if types is None else {**given, "token_type_ids": torch.tensor(types).long()}


def here(batch):
    "The same for MLX."
    return [None if part is None else mx.array(part) for part in batch]


@pytest.mark.parametrize("case", CASES)
def test_tags_of_tokens_have_the_same_logits_loss_and_gradients(tmp_path, case):
    from mlx_bert_training.tasks.token_classification import token_cross_entropy
    model = saved(case, tmp_path, head_type="token_classification", num_labels=5)
    twin = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path, attn_implementation="eager").eval()
    worst = 0.0
    for kind in (dict(), dict(left=True), dict(lengths=(130, 64))):
        ids, mask, types = batch = texts(case, **kind)
        with torch.no_grad(): expected = twin(**there(*batch)).logits.numpy()
        found = np.array(model(*here(batch)))
        worst = max(worst, np.abs((found - expected) * mask[..., None]).max())
    ids, mask, types = batch = texts(case)
    labels = np.where((mask > 0) & (np.arange(ids.shape[1]) % 2 == 0), ids % 5, IGNORED)
    twin(**there(*batch), labels=torch.tensor(labels).long()).loss.backward()

    def loss(parameters):
        model.update(parameters)
        each, count = token_cross_entropy(model(*here(batch)), mx.array(labels))
        return (each * count).sum() / count.sum()       # of all tokens, as torch's mean
    gradients = dict(tree_flatten(mx.grad(loss)(model.parameters())))
    name = f"{model._output_path}.weight"
    expected = twin.get_parameter(name).grad.numpy()
    error = np.abs(np.array(gradients[name]) - expected).max() / np.abs(expected).max()
    print(f"\n{case:16}tags: logits {worst:.1e}  gradient of the last layer {error:.1e}", end="")
    assert worst < 1e-4 and error < 1e-3


@pytest.mark.parametrize("head", [dict(head_type="quantile"), dict(head_type="ranking"),
                                  dict(head_type="ordinal", num_labels=4),
                                  dict(head_type="multi_regression", num_labels=3)], ids=lambda h: h["head_type"])
@pytest.mark.parametrize("case", ["roberta", "modernbert"])
def test_heads_of_several_numbers_have_the_same_logits(tmp_path, case, head):
    model = saved(case, tmp_path, **head)
    twin = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path, attn_implementation="eager").eval()
    batch = texts(case)
    with torch.no_grad(): expected = twin(**there(*batch)).logits.numpy()
    found = np.array(model(*here(batch)))
    worst = np.abs(found - expected).max()
    print(f"\n{case:12}{head['head_type']:18}{found.shape[1]} outputs, logits {worst:.1e}", end="")
    assert found.shape == expected.shape == (len(found), model.head_spec.outputs) and worst < 1e-4
