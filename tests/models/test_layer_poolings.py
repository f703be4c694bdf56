"""Poolings that read several layers: every architecture hands them out, they train, and they are saved."""
import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from mlx_bert_training.models import create_model
from mlx_bert_training.models.layers import ModelError
from mlx_bert_training.models.registry import ARCHITECTURES

IDS, MASK = mx.array([[2, 5, 7, 9], [2, 6, 0, 0]]), mx.array([[1, 1, 1, 1], [1, 1, 0, 0]])


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_every_architecture_gives_the_states_of_its_last_layers(name):
    kind = "modernbert_with_head" if name == "modernbert" else "with_head"
    model = create_model(kind, config={"model_type": name, "num_hidden_layers": 3}, pooling="concat_last",
                         pooling_options={"last": 2}, dropout_rate=0.0)
    model.eval()
    states = model.encoder(IDS, MASK, last=3)
    assert states.shape[:3] == (2, 3, 4) and mx.allclose(states[:, -1], model.encoder(IDS, MASK), atol=1e-5)
    assert not mx.allclose(states[:, 0], states[:, 1], atol=1e-4)
    assert model.embed(IDS, MASK).shape == (2, 2 * states.shape[-1]) and model(IDS, MASK).shape == (2, 2)


@pytest.mark.parametrize(("pooling", "options"), [("weighted_cls", None), ("concat_last", {"last": 2}),
                                                  ("concat_last", {"last": 1, "tokens": "first"})])
def test_they_are_saved_and_read(tmp_path, pooling, options):
    model = create_model(pooling=pooling, pooling_options=options)
    model.save_pretrained(tmp_path / "saved")
    again = create_model(pretrained=tmp_path / "saved")
    for one in (model, again): one.eval()
    assert again.pooling_name == pooling and mx.allclose(model(IDS, MASK), again(IDS, MASK), atol=1e-6)


def test_shares_of_layers_are_trained():
    model = create_model(pooling="weighted_cls", dropout_rate=0.0)
    _, gradients = mx.value_and_grad(lambda p: (model.update(p), model(IDS, MASK)[:, 0].sum())[1])(
        model.trainable_parameters())
    assert mx.abs(dict(tree_flatten(gradients))["pooling.bias"]).max().item() > 0


def test_more_layers_than_there_are_is_an_error():
    with pytest.raises(ModelError, match="reads the last 4 layers, and the encoder has 2"):
        create_model(pooling="concat_last")
    with pytest.raises(ModelError, match="tokens is 'last'"):
        create_model(pooling="concat_last", pooling_options={"tokens": "last"})
