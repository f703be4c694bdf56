"""Live against torch and transformers: every architecture's hidden states, classifier and gradients.

    pip install torch transformers && python -m pytest tests/parity/test_architectures.py -s
"""
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from tiny_architectures import CASES, architecture, configuration, texts, weight

torch = pytest.importorskip("torch", reason="torch is not installed; it is the other side of this comparison")
transformers = pytest.importorskip("transformers", reason="transformers is not installed; it is what we compare with")

TEXTS = {"right": dict(), "left": dict(left=True), "short": dict(lengths=(1, 1)), "long": dict(lengths=(130, 64)),
         "512 tokens": dict(lengths=(512, 300))}


class Classifier(nn.Module):
    "Encoder, pooler and last layer, as parts of one module."

    def __init__(self, arch, config, labels):
        super().__init__()
        self.encoder, self.pooler = arch.encoder(config), arch.pooler(config)
        self.output = nn.Linear(arch.size(config, "hidden_size"), labels)

    def __call__(self, ids, mask, types):
        hidden = self.encoder(ids, mask, types, first_token_only=getattr(self.pooler, "first_token_only", False))
        return self.output(self.pooler(hidden, mask))


def ours(arch, name):
    "The name in `Classifier` of a parameter of transformers' model."
    for path, part in ((arch.output_path, "output"), (arch.pooler_path, "pooler"), (arch.prefix, "encoder")):
        if name.startswith(path + "."): return part + name.removeprefix(path)
    raise AssertionError(f"{name} has no place")


@pytest.fixture(scope="module", params=CASES)
def pair(request):
    "The same random model here and there, without dropout."
    arch, config = architecture(request.param), configuration(request.param)
    theirs = getattr(transformers, f"{arch.hub}Config")(**CASES[request.param][1], num_labels=3,
                                                        attn_implementation="eager")
    twin = getattr(transformers, f"{arch.hub}ForSequenceClassification")(theirs).eval()
    with torch.no_grad():   # wide weights, so that attention and GELU are far from linear and a mistake shows
        for n, p in twin.named_parameters(): p.copy_(torch.tensor(weight(n, tuple(p.shape))))
    model = Classifier(arch, config, 3)
    model.load_weights([(ours(arch, n), mx.array(p.detach().numpy())) for n, p in twin.named_parameters()], strict=True)
    return request.param, model.eval(), twin


def arguments(ids, mask, types):
    given = dict(input_ids=torch.tensor(ids).long(), attention_mask=torch.tensor(mask).long())
    return given if types is None else {**given, "token_type_ids": torch.tensor(types).long()}


def test_hidden_states_logits_and_gradients(pair):
    case, model, twin = pair
    worst = dict(hidden=0.0, logits=0.0, gradients=0.0)
    for kind in TEXTS.values():
        ids, mask, types = texts(case, **kind)
        here = [None if a is None else mx.array(a) for a in (ids, mask, types)]
        there = arguments(ids, mask, types)
        with torch.no_grad():
            hidden = getattr(twin, architecture(case).prefix)(**there)[0].numpy()
        difference = (np.array(model.encoder(*here)) - hidden) * mask[..., None]
        assert hidden[mask > 0].std(axis=0).max() > 0.1 or mask.sum() < 3    # tokens differ
        worst["hidden"] = max(worst["hidden"], np.abs(difference).max())
        out = twin(**there).logits
        worst["logits"] = max(worst["logits"], np.abs(np.array(model(*here)) - out.detach().numpy()).max())
        twin.zero_grad()
        if kind.get("left"):    # the classifier reads padding there, so the states of real tokens are differentiated
            direction = np.linspace(-1, 1, hidden.size, dtype=np.float32).reshape(hidden.shape) * mask[..., None]
            (getattr(twin, architecture(case).prefix)(**there)[0] * torch.tensor(direction)).sum().backward()
            loss = nn.value_and_grad(model, lambda m, a=here, d=direction: (m.encoder(*a) * mx.array(d)).sum())
        else:
            direction = np.linspace(-1, 1, out.numel(), dtype=np.float32).reshape(out.shape)
            (out * torch.tensor(direction)).sum().backward()
            loss = nn.value_and_grad(model, lambda m, a=here, d=direction: (m(*a) * mx.array(d)).sum())
        gradients = dict(tree_flatten(loss(model)[1]))
        expected = {ours(architecture(case), n): p.grad.numpy() for n, p in twin.named_parameters()
                    if p.grad is not None}
        largest = max(np.abs(g).max() for g in expected.values())
        for name, g in expected.items():
            # a key's bias has no gradient in exact arithmetic, so there is a floor; torch gives padding's rows none
            g_here = np.array(gradients[name])
            if name.endswith("word_embeddings.weight" if "roberta" not in case and case != "mpnet" else
                             ("word_embeddings.weight", "position_embeddings.weight")):
                pad = model.encoder.config.pad_token_id
                g_here[pad] = g[pad]
            floor = max(np.abs(g).max(), 1e-3 * largest)
            worst["gradients"] = max(worst["gradients"], np.abs(g_here - g).max() / floor)
    print(f"\n{case:16}" + "".join(f"{what} {value:.1e}  " for what, value in worst.items()), end="")
    assert worst["hidden"] < 1e-4 and worst["logits"] < 1e-4 and worst["gradients"] < 1e-3


def test_no_mask_and_no_token_types(pair):
    case, model, twin = pair
    ids = texts(case, lengths=(7, 7))[0]
    with torch.no_grad(): expected = twin(input_ids=torch.tensor(ids).long()).logits.numpy()
    np.testing.assert_allclose(np.array(model(mx.array(ids), None, None)), expected, atol=1e-4)
