"""Encoder, poolings, heads and create_model: the edges that the notebooks do not show."""
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_bert_training.errors import UnknownNameError
from mlx_bert_training.models import ModelError, create_model
from mlx_bert_training.models.architecture import config_from_file
from mlx_bert_training.models.architectures.bert import BertConfig, BertLayer
from mlx_bert_training.models.layers import additive_mask, recomputed
from mlx_bert_training.models.registry import POOLINGS
from mlx_bert_training.tasks.registry import TASKS
from mlx_bert_training.tasks.task import get_task

SIZES: dict[str, Any] = dict(vocab_size=40, hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
                             intermediate_size=32, max_position_embeddings=20, initializer_range=0.3)
IDS = np.array([[2, 5, 6, 7, 3, 0], [2, 8, 3, 0, 0, 0], [0, 0, 0, 0, 0, 0]])
MASK = (IDS > 0).astype(np.int32)  # the last row is filler
TYPES = np.array([[0, 0, 0, 1, 1, 0]] * 3)
POOLING_OPTIONS = {"concat_last": {"last": 2}}  # its default reads more layers than this encoder has


def make(evaluation=True, **changes):
    arguments: dict[str, Any] = dict(config=SIZES, head_type="binary", dropout_rate=0.0 if evaluation else 0.5)
    options = POOLING_OPTIONS.get(changes.get("pooling"))
    model = create_model(pooling_options=options, **arguments | changes)
    return model.eval() if evaluation else model


def run(model, ids=IDS, mask=MASK, types=None):
    return model(mx.array(ids), None if mask is None else mx.array(mask), None if types is None else mx.array(types))


def stream():
    return mx.array(mx.random.state[0])  # type: ignore[index]


def gradients(model, seed=0, first_rows=slice(None)):
    mx.random.seed(seed)
    value, tree = nn.value_and_grad(model, lambda m: (run(m)[first_rows] ** 2).sum())(model)
    mx.eval(value, tree)
    return value.item(), dict(tree_flatten(tree))


@pytest.mark.long
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("head_type", list(TASKS))
def test_every_pooling_and_head_goes_forward_and_backward(pooling, head_type):
    labels = {"binary_classification": 2, "regression": 1, "quantile_regression": 1, "ranking": 1}.get(head_type, 4)
    # one for each class but the last; the three quantiles
    columns = 3 if head_type in ("ordinal_regression", "quantile_regression") else labels
    if get_task(head_type).per_word:    # it reads every token, and a pooling is refused
        with pytest.raises(ModelError, match="reads every token"):
            make(pooling=pooling, head_type=head_type, num_labels=labels)
        pooling = None
    model = make(evaluation=False, pooling=pooling, head_type=head_type, num_labels=labels)
    logits = run(model)
    shape = (3, IDS.shape[1], columns) if pooling is None else (3, columns)
    assert logits.shape == shape and logits.dtype == mx.float32
    value, grads = gradients(model)
    assert all(mx.isfinite(g).all() for g in grads.values())  # the filler row included
    assert np.isfinite(value) and set(grads) == set(dict(tree_flatten(model.trainable_parameters())))
    # softmax forgets a constant, so neither a key's bias nor the score's has a gradient; all else must
    still = [name for name, g in grads.items() if not g.any()]
    assert all(name.endswith((".key.bias", "pooling.score.bias")) for name in still)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_padding_makes_no_difference(pooling):
    model = make(pooling=pooling)
    padded, padded_mask = (np.pad(a, ((0, 0), (0, 9))) for a in (IDS, MASK))
    garbage = np.where(padded_mask > 0, padded, 33)
    for ids in (padded, garbage):
        assert mx.allclose(run(model, ids, padded_mask)[:2], run(model)[:2], atol=1e-5)
    alone = run(model, IDS[1:2, :3], None)  # no padding, no mask
    assert mx.allclose(alone[0], run(model)[1], atol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_filler_row_changes_no_gradient(pooling):
    model = make(pooling=pooling)
    _, with_filler = gradients(model, first_rows=slice(2))
    mx.random.seed(0)
    _, without = nn.value_and_grad(model, lambda m: (run(m, IDS[:2], MASK[:2]) ** 2).sum())(model)
    for name, g in tree_flatten(without):
        assert mx.allclose(g, with_filler[name], atol=1e-5), name


@pytest.mark.parametrize("pooling", POOLINGS)
def test_poolings_by_hand(pooling):
    model = create_model("bert_core", pooling=pooling, pooling_options=POOLING_OPTIONS.get(pooling),
                         config=SIZES).eval()
    hidden, pooled = np.array(run(model)), np.array(model.embed(mx.array(IDS), mx.array(MASK)))
    layers = np.array(model.bert(mx.array(IDS), mx.array(MASK), last=3))    # (3 texts, 3 layers, 6, 16)
    np.testing.assert_allclose(layers[:, -1], hidden, atol=1e-6)
    for row, length in ((0, 5), (1, 3)):
        h = hidden[row, :length]
        if pooling == "cls":
            expected = np.tanh(np.array(model.bert.pooler.dense.weight) @ h[0] + np.array(model.bert.pooler.dense.bias))
        elif pooling == "attention":
            d, s = model.pooling.dense, model.pooling.score
            scores = np.tanh(h @ np.array(d.weight).T + np.array(d.bias)) @ np.array(s.weight)[0] + np.array(s.bias)
            weights = np.exp(scores) / np.exp(scores).sum()
            expected = weights @ h
        else:
            places = np.arange(1, length + 1)
            expected = {"mean": h.mean(0), "max": h.max(0), "last": h[-1],
                        "weighted_mean": places @ h / places.sum(),
                        "weighted_cls": layers[row, :, 0].mean(0),      # shares are equal at first
                        "concat_last": layers[row, -2:, :length].mean(1).ravel()}[pooling]
        np.testing.assert_allclose(pooled[row], expected, atol=1e-5)


def test_segments_matter_and_default_to_zero():
    model = make()
    assert mx.array_equal(run(model), run(model, types=np.zeros_like(IDS)))
    assert not mx.allclose(run(model)[:2], run(model, types=TYPES)[:2], atol=1e-3)


def test_positions_matter():
    model = make(pooling="mean")
    swapped = IDS[:, [0, 2, 1, 3, 4, 5]]
    assert not mx.allclose(run(model)[0], run(model, swapped)[0], atol=1e-3)


def test_dropout_is_on_in_training_and_off_in_evaluation():
    model = make(evaluation=False)
    mx.random.seed(1)
    first, second = run(model), run(model)
    assert not mx.allclose(first, second)
    mx.random.seed(1)
    assert mx.array_equal(run(model), first)
    state = stream()
    model.eval()
    assert mx.array_equal(run(model), run(model))
    assert mx.array_equal(state, stream())  # evaluation draws nothing
    assert not mx.array_equal(run(model), first)


@pytest.mark.parametrize("place", ["hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"])
def test_each_dropout_rate_is_used(place):
    model = make(evaluation=False, dropout_rate=0.0, config=SIZES | {place: 0.5})
    mx.random.seed(0)
    assert not mx.allclose(run(model)[:2], run(model)[:2])
    still = make(evaluation=False, dropout_rate=0.0)
    assert mx.array_equal(run(still), run(still))


@pytest.mark.parametrize("place", ["bert.embeddings", "bert.encoder.layer.1.attention.self", "classifier",
                                   "bert.encoder.layer.1.attention.output", "bert.encoder.layer.1.output"])
def test_dropout_happens_at_each_place(place):
    model = make(evaluation=False)
    rated = {name: module for name, module in model.named_modules() if hasattr(module, "rate")}
    assert len(rated) == 1 + 3 * 3 + 1
    for name, module in rated.items():
        if name != place: module.rate = 0.0
    assert not mx.allclose(run(model)[:2], run(model)[:2])


def test_dropout_rate_sets_all_three():
    config = make(dropout_rate=0.3).config
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob, config.classifier_dropout) == (0.3,) * 3
    assert create_model().config.hidden_dropout_prob == 0.1


def test_dropout_keeps_the_mean():
    model = make(evaluation=False, dropout_rate=0.0, config=SIZES | {"classifier_dropout": 0.5}, pooling="mean")
    mx.random.seed(0)
    mean = run(model, np.tile(IDS[:1], (2000, 1)), np.tile(MASK[:1], (2000, 1))).mean(axis=0)
    assert mx.allclose(mean, run(model.eval())[0], atol=0.1)


def test_first_token_shortcut_is_exact():
    bert = make().bert
    arrays = mx.array(IDS), mx.array(MASK), mx.array(TYPES)
    whole, first = bert(*arrays), bert(*arrays, first_token_only=True)
    assert first.shape == (3, 1, 16) and mx.allclose(whole[:, :1], first, atol=1e-5)
    weights = mx.random.normal((16,), key=mx.random.key(0))

    def grads(shortcut):
        loss = nn.value_and_grad(bert, lambda b: (b(*arrays, first_token_only=shortcut)[:, 0] * weights).sum())
        return tree_flatten(loss(bert)[1])
    for (name, a), (_, b) in zip(grads(False), grads(True), strict=True):
        assert mx.allclose(a, b, atol=1e-4), name


@pytest.mark.parametrize("pooling", POOLINGS)
def test_only_cls_takes_the_shortcut_and_only_in_the_last_layer(pooling, monkeypatch):
    lengths = []
    call = BertLayer.__call__

    def watched(*arguments):
        out = call(*arguments)
        lengths.append(out.shape[1])
        return out
    monkeypatch.setattr(BertLayer, "__call__", watched)
    run(make(pooling=pooling))
    assert lengths == [6, 6, 1 if pooling == "cls" else 6]


def test_recomputation_leaves_the_layer_its_own_parameters():
    layer = make().bert.encoder.layer[0]
    before = dict(tree_flatten(layer.parameters()))
    mx.grad(lambda x: recomputed(layer)(x, None, None, False).sum())(mx.ones((1, 2, 16)))
    after = dict(tree_flatten(layer.parameters()))
    assert all(after[name] is value for name, value in before.items())


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_checkpointing_gives_the_same_gradients_with_dropout(pooling):
    model = make(evaluation=False, pooling=pooling)
    value, plain = gradients(model, seed=3)
    model.gradient_checkpointing = True
    before = dict(tree_flatten(model.parameters()))
    again, recomputed = gradients(model, seed=3)
    assert again == value
    for name, g in plain.items():
        assert mx.allclose(g, recomputed[name], atol=1e-5), name
    after = dict(tree_flatten(model.parameters()))
    assert all(mx.array_equal(before[name], after[name]) for name in before)


def test_checkpointing_runs_each_layer_twice_in_training_only(monkeypatch):
    runs = []
    call = BertLayer.__call__

    def counted(*arguments):
        runs.append(1)
        return call(*arguments)
    monkeypatch.setattr(BertLayer, "__call__", counted)
    model = make(evaluation=False)
    gradients(model)
    assert len(runs) == 3
    model.gradient_checkpointing = True
    gradients(model)
    assert len(runs) == 3 + 6
    run(model.eval())
    assert len(runs) == 3 + 6 + 3


@pytest.mark.long
def test_checkpointing_needs_less_memory():
    sizes = SIZES | dict(num_hidden_layers=12, hidden_size=64, intermediate_size=256, max_position_embeddings=64)
    model = make(evaluation=False, config=sizes, pooling="mean", dropout_rate=0.0)
    ids = mx.random.randint(1, 40, (16, 64), key=mx.random.key(0))

    def peak():
        mx.clear_cache()
        mx.reset_peak_memory()
        mx.eval(nn.value_and_grad(model, lambda m: m(ids).sum())(model))
        return mx.get_peak_memory()
    plain = peak()
    model.gradient_checkpointing = True
    assert peak() < 0.6 * plain


def test_a_compiled_step_gives_the_same_numbers():
    model = make(evaluation=False)
    model.gradient_checkpointing = True
    state = [model.state, mx.random.state]
    step = nn.value_and_grad(model, lambda m: (run(m) ** 2).sum())
    compiled = mx.compile(lambda: step(model), inputs=state, outputs=state)
    mx.random.seed(5)
    expected, grads = step(model)
    mx.random.seed(5)
    value, compiled_grads = compiled()
    assert abs(value.item() - expected.item()) < 1e-3 * abs(expected.item())
    for (name, a), (_, b) in zip(tree_flatten(grads), tree_flatten(compiled_grads), strict=True):
        assert mx.allclose(a, b, atol=1e-3, rtol=1e-3), name
    assert compiled()[0].item() != value.item()  # the next step drops other units


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32])
def test_the_mask_is_finite_and_a_row_of_padding_is_too(dtype):
    mask = additive_mask(mx.array(MASK), dtype)
    assert mask.shape == (3, 1, 1, 6) and mask.dtype == dtype and mx.isfinite(mask).all()
    assert mx.isfinite(mx.softmax(mask + mx.array(-40, dtype), axis=-1)).all()


@pytest.mark.parametrize("pooling", POOLINGS)
def test_half_precision_stays_in_its_type(pooling):
    model = make(pooling=pooling)
    expected = run(model)
    model.set_dtype(mx.bfloat16)
    logits = run(model)
    assert logits.dtype == mx.bfloat16 and mx.isfinite(logits).all()
    assert mx.allclose(logits[:2].astype(mx.float32), expected[:2], atol=0.5, rtol=0.2)


def test_a_text_that_is_too_long():
    with pytest.raises(ModelError, match="21 tokens is longer than the 20 positions"):
        run(make(), np.ones((1, 21), dtype=np.int32), None)
    with pytest.raises(ModelError, match="batch, tokens"):
        make()(mx.array([1, 2, 3]))


def test_the_seed_decides_and_nothing_else_does():
    state = stream()
    first = dict(tree_flatten(make(seed=4).parameters()))
    assert mx.array_equal(state, stream())
    mx.random.normal((3,))
    same, other = (dict(tree_flatten(make(seed=s, pooling="mean").parameters())) for s in (4, 5))
    for name, value in same.items():
        assert mx.array_equal(value, first[name]), name
    assert not mx.array_equal(first["classifier.weight"], other["classifier.weight"])


def test_a_new_model_can_be_used_in_another_thread():
    model = make()
    with ThreadPoolExecutor(1) as pool:
        logits = pool.submit(lambda: np.array(run(model))).result()
    np.testing.assert_allclose(logits, np.array(run(model)), atol=1e-6)


def test_first_values_follow_the_paper():
    parameters = dict(tree_flatten(create_model(config={"initializer_range": 0.05}).parameters()))
    for name, value in parameters.items():
        if name.endswith("bias"): assert not value.any(), name
        elif "LayerNorm" in name: assert (value == 1).all(), name
        elif value.size > 5000: assert abs(value.std().item() - 0.05) < 2e-3 and abs(value.mean().item()) < 2e-3, name


def test_names_are_those_of_hugging_face():
    names = set(dict(tree_flatten(make().parameters())))
    assert {"bert.embeddings.word_embeddings.weight", "bert.encoder.layer.2.attention.self.query.weight",
            "bert.encoder.layer.0.attention.output.LayerNorm.bias", "bert.encoder.layer.1.intermediate.dense.bias",
            "bert.encoder.layer.1.output.dense.weight", "bert.pooler.dense.weight", "classifier.weight"} <= names
    assert len(names) == 5 + 3 * 16 + 2 + 2
    assert not any("pooler" in name for name, _ in tree_flatten(make(pooling="mean").parameters()))


def test_what_a_model_tells_of_itself():
    model = create_model(head_type="multilabel", label_names=["a<b", "c"], config=SIZES, pooling="max")
    assert (model.head_type, model.num_labels, model.label_names) == ("multilabel_classification", 2, ["a<b", "c"])
    assert model.num_parameters == sum(v.size for _, v in tree_flatten(model.parameters()))
    assert "max" in repr(model) and "random" in repr(model) and len(repr(model)) < 300
    assert "a&lt;b" in model._repr_html_()
    assert model.gradient_checkpointing is False


@pytest.mark.parametrize("arguments, error, words", [
    (dict(model_type="bert_with_hed"), UnknownNameError, "bert_with_head"),
    (dict(model_type="bert_with_head_with_lore"), UnknownNameError, "with_lora"),
    (dict(adapter="lore"), UnknownNameError, "lora"),
    (dict(adapter={"type": "lora", "options": {"preset": "ballanced"}}), UnknownNameError, "balanced"),
    (dict(adapter={"type": "lora", "options": {"rang": 3}}), UnknownNameError, "rank"),
    (dict(adapter={"type": "lora", "options": {"rank": 0}}), ModelError, "above 0"),
    (dict(adapter={"type": "lora", "options": {"modules": "qwery"}}), ModelError, "there are: .*query"),
    (dict(adapter={"type": "lora", "options": {"modules": "("}}), ModelError, "regular expressions"),
    (dict(freeze=["embedings"]), ModelError, "embeddings"),
    (dict(pooling="avg"), UnknownNameError, "pooling 'avg'"),
    (dict(head_type="multi"), UnknownNameError, "task 'multi'"),
    (dict(head_type="multiclass"), ModelError, "needs num_labels"),
    (dict(head_type="multiclass", num_labels=1), ModelError, "at least 2"),
    (dict(head_type="binary", num_labels=3), ModelError, "2 outputs"),
    (dict(head_type="regression", num_labels=2), ModelError, "1 output,"),
    (dict(head_type="binary", label_names=["yes"]), ModelError, "cannot be 1"),
    (dict(head_type="multiclass", num_labels=3, label_names=["a", "b", "b"]), ModelError, "3 different names"),
    (dict(model_type="bert_core", head_type="binary"), ModelError, "has no head"),
    (dict(config={"hiden_size": 8}), ModelError, "did you mean 'hidden_size'"),
    (dict(config={"hidden_size": 9, "num_attention_heads": 2}), ModelError, "no multiple"),
    (dict(config={"hidden_size": 0}), ModelError, "whole number above 0"),
    (dict(config={"num_hidden_layers": 2.0}), ModelError, "whole number above 0"),
    (dict(config={"hidden_act": "swish"}), ModelError, "swish"),
    (dict(dropout_rate=1.0), ModelError, r"must be in \[0, 1\)"),
])
def test_what_cannot_be_made_is_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        create_model(**arguments)


@pytest.mark.parametrize("setting", [
    {"model_type": "gpt2"}, {"position_embedding_type": "relative_key_query"}, {"is_decoder": True},
    {"add_cross_attention": True}, {"hidden_act": "silu"}, {"quantization_config": {"bits": 4}},
])
def test_settings_that_would_change_the_arithmetic_are_refused(setting):
    with pytest.raises(ModelError, match=str(next(iter(setting)))):
        config_from_file({"model_type": "bert", **setting})


def test_settings_that_do_not_matter_are_left_aside():
    config = config_from_file({"model_type": "bert", "use_cache": True, "position_embedding_type": "absolute",
                               "is_decoder": False, "vocab_size": 77, "_name_or_path": "x"})
    assert config == BertConfig(vocab_size=77)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_activations_differ(activation):
    logits = run(make(config=SIZES | {"hidden_act": activation}))
    others = [run(make(config=SIZES | {"hidden_act": a})) for a in ("gelu", "gelu_new", "relu") if a != activation]
    assert not any(mx.array_equal(logits, other) for other in others)


def test_a_task_of_the_package_named_by_its_place_is_saved_by_its_name(tmp_path):
    place = "mlx_bert_training.tasks.multiclass:Multiclass"
    create_model(head_type=place, num_labels=3, config=SIZES).save_pretrained(tmp_path)
    model = create_model(pretrained=tmp_path)
    assert (model.head_type, model.num_labels) == ("multiclass_classification", 3)
