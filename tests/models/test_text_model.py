"""Architectures and poolings from outside the package, by their place alone."""
import mlx.core as mx
import mlx.nn as nn
import pytest

from mlx_bert_training.errors import UnknownNameError
from mlx_bert_training.models import ModelError, WeightsError, create_model
from mlx_bert_training.models.architecture import Architecture
from mlx_bert_training.models.architectures.bert import BertConfig, BertEncoder
from mlx_bert_training.models.layers import Linear
from mlx_bert_training.registry import RegistryError

SIZES = dict(vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
IDS, MASK = mx.array([[2, 5, 3, 0]]), mx.array([[1, 1, 1, 0]])


class Both(nn.Module):
    "The first token and the scaled mean, side by side."

    def __init__(self, hidden_size, scale=1.0):
        super().__init__()
        self.dense, self.scale = Linear(hidden_size, 3), scale

    def __call__(self, hidden, attention_mask=None):
        return mx.concatenate([self.dense(hidden[:, 0]), self.scale * hidden.mean(axis=1)], axis=1)


def flat(hidden, attention_mask=None): return hidden.sum()


class ToyPooler(Linear):
    first_token_only = True

    def __init__(self, config): super().__init__(config.hidden_size, config.hidden_size)
    def __call__(self, hidden, attention_mask=None): return mx.tanh(super().__call__(hidden[:, 0]))


TOY = Architecture(name="toy", config=BertConfig, encoder=BertEncoder, prefix="core", hub="Toy", pooler=ToyPooler,
                   pooler_path="classifier", output_path="classifier.out_proj", segments=lambda config: 0,
                   attribute_map={"width": "hidden_size"}, refused={"hidden_act": ("gelu",)})
PLACE = f"{__name__}:TOY"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    import sys
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or __import__("types").ModuleType(__name__))
    for name in ("TOY", "Both", "flat"):
        monkeypatch.setattr(sys.modules[__name__], name, globals()[name], raising=False)


def test_a_pooling_by_its_place_with_options_of_another_size(tmp_path):
    place = f"{__name__}:Both"
    model = create_model(pooling=place, pooling_options={"scale": 2.0}, config=SIZES).eval()
    assert model.classifier.weight.shape == (2, 3 + 8) and model(IDS, MASK).shape == (1, 2)
    model.save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="code outside this package"): create_model(pretrained=tmp_path)
    again = create_model(pretrained=tmp_path, pooling=place).eval()
    assert mx.array_equal(again(IDS, MASK), model(IDS, MASK)) and again.pooling.scale == 2.0


@pytest.mark.parametrize(("pooling", "error"), [
    ("meen", UnknownNameError), ("os:system", RegistryError), ("os:nothing", RegistryError),
    ("no_such_module_at_all:X", RegistryError), (f"{__name__}:flat", ModelError)])
def test_what_is_no_pooling_is_refused(pooling, error):
    with pytest.raises(error): create_model(pooling=pooling, config=SIZES)


def test_an_unknown_option_of_a_pooling_is_named():
    with pytest.raises(UnknownNameError, match="scal"):
        create_model(pooling=f"{__name__}:Both", pooling_options={"scal": 1}, config=SIZES)


def test_an_architecture_by_its_place(tmp_path):
    sizes = {k: v for k, v in SIZES.items() if k != "hidden_size"} | {"width": 8}
    model = create_model("with_head", config={"model_type": PLACE, **sizes}).eval()
    names = dict(nn.utils.tree_flatten(model.parameters()))
    assert {"core.embeddings.LayerNorm.weight", "classifier.weight", "classifier.out_proj.weight"} <= set(names)
    model.check_tokenizer(30, 2)
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="toy"): create_model(pretrained=tmp_path)
    again = create_model(pretrained=tmp_path, config={"model_type": PLACE}).eval()
    assert mx.array_equal(again(IDS, MASK), model(IDS, MASK))
    with pytest.raises(WeightsError, match="holds a toy model"):
        create_model(pretrained=tmp_path, config={"model_type": "bert"})


def test_a_core_whose_pooler_is_of_the_head_takes_the_first_token():
    model = create_model("core", config={"model_type": PLACE, **SIZES}).eval()
    assert mx.allclose(model.embed(IDS, MASK), model(IDS, MASK)[:, 0], atol=1e-6)
