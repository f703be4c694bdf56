"""Live against torch and transformers: what a discriminator thinks of each token, and its gradients.

    pip install torch transformers && python -m pytest tests/parity/test_replaced.py -s
"""
import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten
from tiny_architectures import CASES, texts, weight

torch = pytest.importorskip("torch", reason="torch is not installed; it is the other side of this comparison")
transformers = pytest.importorskip("transformers", reason="transformers is not installed; it is what we compare with")

from mlx_bert_training.pretraining.replaced import create_replaced_model, save_replaced_model, told  # noqa: E402

transformers.utils.logging.disable_progress_bar()


@pytest.mark.parametrize("case", ["electra", "electra-wide"])
def test_decisions_about_tokens_and_their_gradients_are_those_of_electra(tmp_path, case):
    model = create_replaced_model(config={"model_type": "electra", **CASES[case][1]}, dropout_rate=0.0)
    model.update(tree_unflatten([(name, mx.array(weight(name, value.shape)))
                                 for name, value in tree_flatten(model.parameters())]))
    save_replaced_model(model.eval(), tmp_path)
    twin = transformers.ElectraForPreTraining.from_pretrained(tmp_path, attn_implementation="eager").eval()
    ids, mask, types = texts(case)
    replaced = (ids % 3 == 0) & (mask > 0)
    out = twin(torch.tensor(ids).long(), attention_mask=torch.tensor(mask).long(),
               token_type_ids=torch.tensor(types).long(), labels=torch.tensor(replaced).float())
    out.loss.backward()
    given = [mx.array(part) for part in (ids, mask, types)]

    def loss(parameters):
        model.update(parameters)
        likely, tokens, *_ = told(model.detector(model.encoder(*given)), mx.array(replaced), given[1])
        return -likely.sum() / tokens.sum()
    value, gradients = mx.value_and_grad(loss)(model.parameters())
    gradients = dict(tree_flatten(gradients))
    worst = np.abs((np.array(model.detector(model.encoder(*given))) - out.logits.detach().numpy()) * mask).max()
    name = "electra.encoder.layer.0.attention.self.query.weight"
    expected = twin.get_parameter(name).grad.numpy()
    error = np.abs(np.array(gradients[name]) - expected).max() / np.abs(expected).max()
    print(f"\n{case:16}replaced tokens: scores {worst:.1e}  loss {abs(value.item() - out.loss.item()):.1e}  "
          f"gradient of the first layer {error:.1e}", end="")
    assert worst < 1e-4 and abs(value.item() - out.loss.item()) < 1e-5 and error < 1e-3
