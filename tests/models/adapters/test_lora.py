"""Adapters: what is trained and what is not, in a whole training, a resume, and when saved."""
import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from tiny_architectures import CASES, architecture

from mlx_bert_training import Callback, create_model, create_trainer
from mlx_bert_training.models import ModelError, WeightsError
from mlx_bert_training.models.adapters.lora import (
    adapted,
    linear_layers,
    load_adapter,
    merge_adapter,
    new_parts,
    save_adapter,
    stored,
    trained,
)
from mlx_bert_training.models.ops import same_draws

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
IDS = mx.array(np.random.default_rng(0).integers(5, 60, (3, 9)))


def tensors(model): return dict(tree_flatten(model.parameters()))
def trainable(model): return dict(tree_flatten(model.trainable_parameters()))


def shaken(model):
    "The model with other values of everything that is trained."
    mx.random.seed(3)
    other = [(name, value + 0.1 * mx.random.normal(value.shape)) for name, value in trainable(model).items()]
    model.load_weights(other, strict=False)
    return model.eval()


@pytest.mark.long
@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_every_architecture(tmp_path, case, kind, pooling):
    config = {"model_type": architecture(case).name, **CASES[case][1]}
    plain = create_model(config=config, pooling=pooling).eval()
    model = create_model(config=config, pooling=pooling, adapter=kind).eval()
    np.testing.assert_allclose(np.array(model(IDS)), np.array(plain(IDS)), atol=1e-5)
    parts = tuple(f"{part}." for part in new_parts(model))
    assert adapted(model) and all("lora_" in name or name.startswith(parts) for name in trainable(model))
    expected = np.array(shaken(model)(IDS))
    assert np.abs(expected - np.array(plain(IDS))).max() > 1e-3
    model.save_pretrained(tmp_path / "merged")
    merged = create_model(pretrained=tmp_path / "merged").eval()
    assert set(tensors(merged)) == set(tensors(plain))
    np.testing.assert_allclose(np.array(merged(IDS)), expected, atol=1e-5)
    save_adapter(model, tmp_path / "kept")
    again = load_adapter(create_model(config=config, pooling=pooling), tmp_path / "kept").eval()
    assert mx.array_equal(again(IDS), model(IDS))


def test_presets_go_from_few_to_all():
    counts = [trained(create_model(adapter={"type": "lora", "options": {"preset": preset}}))
              for preset in ("efficient", "balanced", "expressive")]
    assert sorted(counts) == counts and counts[-1][0] < 0.1 * counts[-1][1]
    assert trained(create_model("bert_with_head_with_lora")) == counts[1]
    assert "trained: " in repr(create_model(adapter="lora")) and "trained: " not in repr(create_model())


def wide(case):
    "A tiny architecture whose rows groups of 32 numbers fill."
    name, config = architecture(case).name, dict(CASES[case][1])
    for size in ("hidden_size", "dim", "intermediate_size", "hidden_dim", "embedding_size",
                 "pooler_hidden_size"):
        if size in config: config[size] = 32 * max(1, config[size] // 16)
    return {"model_type": name, **config}


def on_rounded_base(config, **options):
    return create_model(config=config, adapter={"type": "lora", "options": {"preset": "expressive", **options}})


@pytest.mark.parametrize("case", CASES)
def test_a_base_in_few_bits_in_every_architecture(tmp_path, case):
    config = wide(case)
    full, model = create_model(config=config), on_rounded_base(config, base_bits=4, dropout=0.0)
    lora_on_it = create_model(config=config, adapter={"type": "lora", "options": {"preset": "expressive"}}).eval()
    assert stored(model) < stored(lora_on_it) and trained(model) == trained(lora_on_it)
    names = [name for name in trainable(model) if "lora_" not in name]
    assert all(name.startswith(tuple(f"{part}." for part in new_parts(model))) for name in names)
    merged = merge_adapter(on_rounded_base(config, base_bits=4)).eval()
    np.testing.assert_allclose(np.array(model.eval()(IDS)), np.array(merged(IDS)), atol=1e-5)
    assert np.abs(np.array(merged(IDS)) - np.array(full.eval()(IDS))).max() > 1e-7     # it was rounded
    rounded = {name: value for name, value in tensors(merged).items() if name in tensors(lora_on_it)}
    lora_on_it.load_weights(list(rounded.items()), strict=False)
    loss = lambda m: lambda p: (m.update(p), mx.square(m(IDS)).sum())[1]    # noqa: E731
    ours, theirs = (dict(tree_flatten(mx.grad(loss(m))(m.trainable_parameters()))) for m in (model, lora_on_it))
    assert set(ours) == set(theirs)
    for name in ours: np.testing.assert_allclose(np.array(ours[name]), np.array(theirs[name]), atol=1e-5, rtol=1e-4)
    expected = np.array(shaken(model)(IDS))
    model.save_pretrained(tmp_path / "merged")
    np.testing.assert_allclose(np.array(create_model(pretrained=tmp_path / "merged").eval()(IDS)), expected, atol=1e-4)
    save_adapter(model, tmp_path / "kept")
    again = load_adapter(create_model(config=config), tmp_path / "kept").eval()
    assert np.array_equal(np.array(again(IDS)), expected)


def test_more_bits_are_nearer():
    config = wide("roberta")
    exact = np.array(create_model(config=config).eval()(IDS))
    off = [np.abs(np.array(on_rounded_base(config, base_bits=bits).eval()(IDS)) - exact).max() for bits in (8, 4)]
    assert 0 < off[0] < 0.5 * off[1]


def test_presets_have_a_twin_of_four_bits():
    plain, twin = (create_model(adapter={"type": "dora", "options": {"preset": preset}})
                   for preset in ("efficient", "efficient_4bit"))
    assert trained(plain) == trained(twin) and list(adapted(plain)) == list(adapted(twin))
    assert all(layer.bits == 4 and layer.use_dora for layer in adapted(twin).values())
    quantized = {name.rpartition(".")[0] for name in tensors(twin) if name.endswith(".scales")}
    assert quantized == set(linear_layers(create_model()))
    assert "MiB instead of" in repr(twin) and stored(twin) < stored(plain)


def test_bits_that_cannot_be_are_refused_by_name():
    with pytest.raises(ModelError, match="base_bits of an adapter is 5; it can be 8 or 4"):
        create_model(adapter={"type": "lora", "options": {"base_bits": 5}})
    with pytest.raises(ModelError, match=r"query \(16\).*Leave base_bits out"): on_rounded_base(SMALL, base_bits=4)


def test_modules_are_chosen_by_pattern():
    model = create_model(adapter={"type": "lora", "options": {"modules": r"layer\.1\.attention\.self\.(query|key)"}})
    assert list(adapted(model)) == [f"bert.encoder.layer.1.attention.self.{name}" for name in ("key", "query")]


def test_freezing_by_pattern():
    model = create_model(freeze=["embeddings", r"layer\.0"])
    frozen = set(tensors(model)) - set(trainable(model))
    assert frozen and all("embeddings" in name or "layer.0." in name for name in frozen)
    assert trained(create_model(adapter="lora", freeze=["pooler"]))[0] < trained(create_model(adapter="lora"))[0]


def test_what_does_not_fit_is_refused(tmp_path):
    model = create_model(adapter="lora")
    with pytest.raises(ModelError, match="has an adapter"): load_adapter(model, save_adapter(model, tmp_path))
    with pytest.raises(WeightsError, match="expected"):
        load_adapter(create_model(config={"hidden_size": 64}), tmp_path)
    with pytest.raises(ModelError, match="no adapter"): save_adapter(create_model(), tmp_path / "none")
    with pytest.raises(WeightsError, match="no adapter"): load_adapter(create_model(), tmp_path / "none")


class StopAt(Callback):
    "Ctrl-C after an update."
    def __init__(self, step): self.step = step

    def on_batch_end(self, trainer, state):
        if state.step == self.step: raise KeyboardInterrupt


def declaration(folder, name, kind, **training):
    sizes = {**SMALL, "hidden_size": 32} if "4bit" in str(kind) else SMALL
    return {
        "model": {"config": sizes, "adapter": kind},
        "data": {"train_path": "demo:german_credit/train.csv", "target_column": "risk", "id_column": "id",
                 "max_length": 24, "max_train_rows": 120, "template": "{purpose} of {credit_amount}"},
        "optimizer": {"learning_rate": 1e-2}, "training": {"num_epochs": 2, "save_strategy": "steps", "save_steps": 2,
                                                               **training},
        "environment": {"output_dir": str(folder), "run_name": name, "device": "cpu", "compile": True}}


@pytest.mark.long
@pytest.mark.parametrize("kind", ["lora", "dora", {"type": "lora", "options": {"preset": "balanced_4bit"}}],
                         ids=["lora", "dora", "4bit"])
def test_training_changes_the_adapter_alone_and_resumes_with_the_same_bits(tmp_path, kind):
    whole = create_trainer(config=declaration(tmp_path, "whole", kind))
    before, parts = {name: mx.array(value) for name, value in tensors(whole.model).items()}, trainable(whole.model)
    whole.train()
    after = tensors(whole.model)
    assert all(mx.array_equal(after[name], before[name]) for name in before if name not in parts)
    assert any(not mx.array_equal(after[name], before[name]) for name in parts if name.endswith("lora_B"))
    assert set(trainable(whole.model)) == set(parts)        # the best weights came back, and are as frozen
    with pytest.raises(KeyboardInterrupt):
        create_trainer(config=declaration(tmp_path, "broken", kind), callbacks=[StopAt(5)]).train()
    resumed = create_trainer(config=declaration(tmp_path, "broken", kind))
    resumed.train(resume_from="latest")
    assert all(mx.array_equal(value, after[name]) for name, value in tensors(resumed.model).items())


def test_an_average_of_weights_leaves_a_rounded_base_alone(tmp_path):
    kind = {"type": "lora", "options": {"preset": "efficient_4bit"}}
    made = declaration(tmp_path, "averaged", kind, num_epochs=1, mixed_precision=True)
    trainer = create_trainer(config={**made, "callbacks": [{"type": "ema", "decay": 0.5}]})
    before = {name: mx.array(value) for name, value in tensors(trainer.model).items()}
    trainer.train()
    after, learned = tensors(trainer.model), trainable(trainer.model)
    assert all(mx.array_equal(after[name], before[name]) for name in before if name not in learned)
    assert any(value.dtype == mx.uint32 for value in after.values())


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("case", ["bert", "deberta-v2"])
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_a_recomputed_layer_drops_the_same_inputs_of_its_adapter(case, kind, compiled):
    model = create_model(config=SMALL | {"model_type": case, "vocab_size": 60}, dropout_rate=0.0,
                         adapter={"type": kind, "options": {"dropout": 0.5}})
    shaken(model).train()
    weights = model.trainable_parameters()

    def loss(parameters):
        model.update(parameters)
        with same_draws([]): return model(IDS).square().sum()   # as a recomputed layer draws, on every device

    def gradients(recompute):
        model.gradient_checkpointing = recompute
        measured, random = mx.grad(loss), mx.random.state
        if compiled: measured = mx.compile(measured, inputs=random, outputs=random)
        mx.random.seed(7)
        found = dict(tree_flatten(measured(weights)))
        mx.eval(found)
        model.update(weights)
        return found
    plain, again = gradients(False), gradients(True)
    assert any(mx.abs(value).max().item() > 1e-3 for name, value in plain.items() if name.endswith("lora_B"))
    for name, value in plain.items(): assert mx.allclose(value, again[name], rtol=1e-4, atol=1e-6), name
