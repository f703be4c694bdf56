"""Live against torch and transformers: logits, gradients, and what we save read back by them.

    pip install torch transformers && python -m pytest tests/parity -s
"""
import os
import tempfile

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

os.environ["HF_MODULES_CACHE"] = tempfile.mkdtemp()  # where transformers puts the code of saved models
torch = pytest.importorskip("torch", reason="torch is not installed; it is the other side of this comparison")
transformers = pytest.importorskip("transformers", reason="transformers is not installed; it is what we compare with")

from mlx_bert_training.models import WeightsError, create_model, resolve_pretrained  # noqa: E402
from mlx_bert_training.models.text_model import PYTORCH_POOLINGS  # noqa: E402

transformers.utils.logging.disable_progress_bar()
SIZES = dict(vocab_size=90, hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96,
             max_position_embeddings=32, initializer_range=0.25)
HEADS = [dict(head_type="binary"), dict(head_type="multiclass", num_labels=5),
         dict(head_type="multilabel", num_labels=4), dict(head_type="regression")]
rng = np.random.default_rng(0)
LENGTHS = np.array([20, 13, 6, 2, 1])
MASK = (np.arange(20)[None] < LENGTHS[:, None]).astype(np.int64)
IDS = rng.integers(1, 90, (5, 20)) * MASK
TYPES = (np.arange(20)[None] >= LENGTHS[:, None] // 2) * MASK


def both(model, folder):
    "The same model here and in torch, by way of a saved folder; neither drops anything."
    model.eval().save_pretrained(folder)
    twin = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, trust_remote_code=model.pooling_name != "cls", attn_implementation="eager")
    return model, twin.eval()


def labels_for(model):
    rows, columns, kind = len(IDS), model.num_labels, model.head_type
    if kind == "regression": return rng.normal(size=rows).astype(np.float32)
    if kind == "multilabel_classification": return rng.integers(0, 2, (rows, columns)).astype(np.float32)
    return rng.integers(0, columns, rows)


def loss_here(model, arrays, labels):
    logits = model(*arrays)
    if model.head_type == "regression": return nn.losses.mse_loss(logits[:, 0], labels)
    if model.head_type == "multilabel_classification":
        return nn.losses.binary_cross_entropy(logits, labels, with_logits=True, reduction="mean")
    return nn.losses.cross_entropy(logits, labels, reduction="mean")


def compare(model, twin, ids=IDS, mask=MASK, types=TYPES):
    "Largest differences in logits, loss and gradients, the last relative to the largest gradient of the parameter."
    labels = labels_for(model)[: len(ids)]
    arrays = [mx.array(a) for a in (ids, mask, types)]
    out = twin(torch.tensor(ids), attention_mask=torch.tensor(mask), token_type_ids=torch.tensor(types),
               labels=torch.tensor(labels))
    out.loss.backward()
    loss, tree = nn.value_and_grad(model, lambda m: loss_here(m, arrays, mx.array(labels)))(model)
    gradients = dict(tree_flatten(tree))
    theirs = {name: p.grad.numpy() for name, p in twin.named_parameters() if p.grad is not None}
    assert set(theirs) <= set(gradients)
    norm = max(np.abs(g).max() for g in theirs.values())
    worst = max(np.abs(np.array(gradients[n]) - g).max() / max(np.abs(g).max(), 1e-3 * norm) for n, g in theirs.items())
    assert all(not gradients[n].any() for n in set(gradients) - set(theirs))
    logits = np.abs(np.array(model(*arrays)) - out.logits.detach().numpy()).max()
    return logits, abs(loss.item() - out.loss.item()), worst


@pytest.mark.parametrize("pooling", ["cls", *PYTORCH_POOLINGS])
@pytest.mark.parametrize("head", HEADS, ids=lambda head: head["head_type"])
def test_what_we_save_gives_the_same_in_transformers(tmp_path, pooling, head):
    model, twin = both(create_model(pooling=pooling, config=SIZES, seed=3, **head), tmp_path / "model")
    logits, loss, gradients = compare(model, twin)
    print(f"\n{pooling:14}{model.head_type:28} logits {logits:.1e}  loss {loss:.1e}  gradients {gradients:.1e}", end="")
    assert twin.config.id2label == {i: f"LABEL_{i}" for i in range(model.num_labels)}
    assert twin.config.problem_type and type(twin).__name__ == (
        "BertForSequenceClassification" if pooling == "cls" else "PooledBertForSequenceClassification")
    assert logits < 1e-4 and loss < 1e-4 and gradients < 1e-3


@pytest.mark.parametrize("pooling", ["cls", *PYTORCH_POOLINGS])
def test_a_row_of_padding_and_no_mask_at_all(tmp_path, pooling):
    model, twin = both(create_model(pooling=pooling, config=SIZES), tmp_path / "model")
    ids = np.concatenate([IDS[:2], np.zeros((1, 20), dtype=np.int64)])
    mask = np.concatenate([MASK[:2], np.zeros((1, 20), dtype=np.int64)])
    with torch.no_grad():
        padded = twin(torch.tensor(ids), attention_mask=torch.tensor(mask)).logits.numpy()
        plain = twin(torch.tensor(IDS[:1])).logits.numpy()
    np.testing.assert_allclose(np.array(model(mx.array(ids), mx.array(mask)))[:2], padded[:2], atol=1e-4)
    assert np.isfinite(padded).all()
    np.testing.assert_allclose(np.array(model(mx.array(IDS[:1]))), plain, atol=1e-4)


@pytest.mark.parametrize("activation", ["gelu_new", "relu"])
def test_other_activations(tmp_path, activation):
    model, twin = both(create_model(config=SIZES | {"hidden_act": activation}), tmp_path / "model")
    logits, _, gradients = compare(model, twin)
    assert logits < 1e-4 and gradients < 1e-3


@pytest.mark.parametrize("labels, problem", [
    (1, "regression"), (2, None), (6, None), (3, "multi_label_classification")])
def test_what_transformers_saves_gives_the_same_here(tmp_path, labels, problem):
    config = transformers.BertConfig(**SIZES, num_labels=labels, problem_type=problem, attn_implementation="eager")
    twin = transformers.BertForSequenceClassification(config).eval()
    twin.save_pretrained(tmp_path)
    model = create_model(pretrained=tmp_path).eval()
    if problem is None: twin.config.problem_type = "single_label_classification"
    logits, _, gradients = compare(model, twin)
    assert model.report.fresh == () and logits < 1e-4 and gradients < 1e-3


@pytest.mark.parametrize("kind", ["BertModel", "BertForPreTraining", "BertForMaskedLM"])
def test_encoders_of_other_tasks(tmp_path, kind):
    twin = getattr(transformers, kind)(transformers.BertConfig(**SIZES)).eval()
    twin.save_pretrained(tmp_path)
    if kind == "BertForMaskedLM":
        with pytest.raises(WeightsError, match="no pooler"): create_model(pretrained=tmp_path)
    core = create_model("bert_core", pretrained=tmp_path, pooling="mean").eval()
    encoder = twin if kind == "BertModel" else twin.bert
    with torch.no_grad():
        expected = encoder(torch.tensor(IDS), attention_mask=torch.tensor(MASK))[0].numpy()
    hidden = np.array(core(mx.array(IDS), mx.array(MASK)))
    np.testing.assert_allclose(hidden * MASK[..., None], expected * MASK[..., None], atol=1e-4)


def test_a_bare_encoder_is_read_by_automodel(tmp_path):
    core = create_model("bert_core", config=SIZES).eval()
    core.save_pretrained(tmp_path)
    twin = transformers.AutoModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        expected = twin(torch.tensor(IDS), attention_mask=torch.tensor(MASK)).pooler_output.numpy()
    np.testing.assert_allclose(np.array(core.embed(mx.array(IDS), mx.array(MASK))), expected, atol=1e-4)


def test_another_pooling_is_refused_without_trust(tmp_path):
    create_model(pooling="mean", config=SIZES).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="trust_remote_code"):
        transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path, trust_remote_code=False)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_pretrained_weights(tmp_path, pooling):
    try: folder = resolve_pretrained("all-MiniLM-L6-v2")
    except WeightsError: pytest.skip("all-MiniLM-L6-v2 is not in the weights cache; `mlx-bert fetch` brings it")
    ids = np.where(MASK > 0, rng.integers(999, 30522, MASK.shape), 0)
    ids[:, 0] = 101
    model = create_model(pretrained=folder, pooling=pooling, head_type="multiclass", num_labels=4)
    logits, loss, gradients = compare(model, both(model, tmp_path)[1], ids)
    print(f"\nall-MiniLM-L6-v2, {pooling}: logits {logits:.1e}  loss {loss:.1e}  gradients {gradients:.1e}", end="")
    assert logits < 1e-4 and loss < 1e-4 and gradients < 1e-3
