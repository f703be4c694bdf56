"""Techniques of training: each changes a run, goes on bit for bit after a kill, and does what its formula says."""
import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from toys import Breaks, ToyLoader, ToyModel, same, toy_config

from mlx_bert_training.callbacks import FGM, Callback, ExponentialAverage, ModelCheckpoint, NonFinite, create_callback
from mlx_bert_training.callbacks.base import CallbackError
from mlx_bert_training.callbacks.nonfinite import only_finite
from mlx_bert_training.callbacks.soup import averaged
from mlx_bert_training.core.base import Trainer
from mlx_bert_training.core.step import Passes, batch_arrays
from mlx_bert_training.core.weights import model_weights
from mlx_bert_training.errors import TrainingError
from mlx_bert_training.runtime.ranks import Ranks

TECHNIQUES = [
    {"type": "ema", "decay": 0.9}, {"type": "swa", "start": 0.3, "every": 2}, {"type": "greedy_soup"},
    {"type": "fgm", "parameters": "embedding", "start": 0.5}, {"type": "awp", "eps": 0.1, "lr": 1.0, "start": 1},
    {"type": "rdrop", "alpha": 2.0}, {"type": "neftune", "modules": "embedding$"},
    {"type": "mixout", "parameters": "hidden.weight"}, {"type": "nonfinite", "policy": "rollback", "every": 2},
]
KINDS = [entry["type"] for entry in TECHNIQUES]


class Spoilt(ToyLoader):
    "A loader in which one batch of each epoch is no number."
    spoilt = (2,)

    def batches(self, epoch, start=0):
        for number, batch in enumerate(super().batches(epoch, start), start):
            if number in self.spoilt: batch = {**batch, "example_weight": batch["example_weight"] * math.nan}
            yield batch


def run(tmp_path, name, technique=None, breaks=None, resume=None, loader=None, **settings):
    config = toy_config(tmp_path, run_name=name, **{"num_epochs": 4, "gradient_accumulation_steps": 2, **settings})
    callbacks = [ModelCheckpoint("steps", 2)]
    if technique: callbacks.append(create_callback(technique))
    if breaks: callbacks.append(Breaks(breaks))
    trainer = Trainer(ToyModel(dropout=0.3), config, callbacks=callbacks)
    result = trainer.train(loader or ToyLoader(), ToyLoader(seed=1), resume_from=resume)
    return trainer, result


@pytest.mark.long
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("technique", TECHNIQUES, ids=KINDS)
def test_a_run_that_was_killed_goes_on_bit_for_bit(tmp_path, technique, compiled):
    settings = {"load_best_at_end": technique["type"] == "greedy_soup", "compile": compiled}
    if technique["type"] == "nonfinite": settings["loader"] = Spoilt()
    whole, expected = run(tmp_path, "whole", technique, **settings)
    with pytest.raises(KeyboardInterrupt): run(tmp_path, "broken", technique, breaks=7, **settings)
    resumed, found = run(tmp_path, "broken", technique, resume="latest", **settings)
    assert same(model_weights(whole.model), model_weights(resumed.model))
    assert expected.metrics == found.metrics and whole.state.learning_rate_factor == resumed.state.learning_rate_factor
    assert whole.callbacks.state_dict().keys() == resumed.callbacks.state_dict().keys()
    assert same(whole.callbacks.array_state(), resumed.callbacks.array_state())


@pytest.mark.long
@pytest.mark.parametrize("technique", [t for t in TECHNIQUES if t["type"] not in ("greedy_soup", "nonfinite")],
                         ids=[kind for kind in KINDS if kind not in ("greedy_soup", "nonfinite")])
def test_each_changes_what_is_learnt(tmp_path, technique):
    plain, _ = run(tmp_path, "plain", load_best_at_end=False)
    with_it, result = run(tmp_path, "with", technique, load_best_at_end=False)
    assert not same(model_weights(plain.model), model_weights(with_it.model))
    assert math.isfinite(result.metrics["eval_loss"])
    assert with_it.averaged_weights() is None       # what predicts after the run is the model


def test_before_its_start_a_technique_changes_nothing(tmp_path):
    plain, _ = run(tmp_path, "plain", num_epochs=2, load_best_at_end=False)
    later, _ = run(tmp_path, "later", {"type": "awp", "start": 2}, num_epochs=2, load_best_at_end=False)
    assert same(model_weights(plain.model), model_weights(later.model))


def test_fgm_adds_the_gradient_at_the_moved_embeddings():
    model, loss = ToyModel(), lambda logits, labels: (nn.losses.cross_entropy(logits, labels), mx.ones(len(labels)))
    arrays = batch_arrays(next(iter(ToyLoader())))
    start = dict(tree_flatten(model.trainable_parameters()))
    plain = Passes(model, loss)
    clean, _, _ = plain.gradient(model.trainable_parameters(), arrays)
    slope = clean["embedding"]["weight"]
    moved = model.trainable_parameters()
    moved["embedding"]["weight"] = start["embedding.weight"] + 0.5 * slope / mx.linalg.norm(slope)
    other, _, _ = plain.gradient(moved, arrays)
    both, total, weight = Passes(model, loss, techniques=[FGM(0.5, "embedding")]).gradient(
        model.trainable_parameters(), arrays)
    for (name, found), (_, a), (_, b) in zip(*map(tree_flatten, (both, clean, other)), strict=True):
        assert mx.allclose(found, a + b, atol=1e-4), name
    assert weight.item() == 8 and same(start, model_weights(model))


def test_techniques_stand_round_one_another(tmp_path):
    config = toy_config(tmp_path, num_epochs=1, load_best_at_end=False, compile=True)
    callbacks = [create_callback(entry) for entry in TECHNIQUES]
    result = Trainer(ToyModel(dropout=0.3), config, callbacks=callbacks).train(ToyLoader(), ToyLoader(seed=1))
    assert math.isfinite(result.metrics["eval_loss"])


def test_two_passes_stand_inside_what_others_put_round_the_loss(tmp_path):
    class Doubles(Callback):
        def around_loss(self, loss, passes):
            return lambda parameters, arrays: (2 * loss(parameters, arrays)[0], loss(parameters, arrays)[1])

    model, loss = ToyModel(), lambda logits, labels: (nn.losses.cross_entropy(logits, labels), mx.ones(len(labels)))
    parameters, arrays = model.trainable_parameters(), batch_arrays(next(iter(ToyLoader())))
    rdrop = create_callback({"type": "rdrop"})
    alone, before, behind = (Passes(model, loss, techniques=found).loss(parameters, arrays)[0].item()
                             for found in ([rdrop], [Doubles(), rdrop], [rdrop, Doubles()]))
    assert before == behind == pytest.approx(2 * alone)


def test_a_moving_average_is_what_is_evaluated_and_kept(tmp_path):
    class Watches(Callback):
        seen: list = []
        def on_evaluate_end(self, trainer, state): self.seen.append(trainer.evaluation_weights())

    config = toy_config(tmp_path, num_epochs=2, load_best_at_end=False)
    ema, watches = ExponentialAverage(0.9), Watches()
    trainer = Trainer(ToyModel(), config, callbacks=[ema, watches])
    trainer.train(ToyLoader(), ToyLoader(seed=1))
    assert same(dict(watches.seen[-1]), model_weights(trainer.model)) and ema.count == 10


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_a_bad_batch_counts_for_nothing(tmp_path, policy):
    spoilt = {"type": "nonfinite", "policy": policy, "every": 3}
    settings = {"num_epochs": 2, "gradient_accumulation_steps": 1, "load_best_at_end": False,
                "optimizer.type": "sgd", "optimizer.weight_decay": 0.0, "optimizer.momentum": 0.0}
    trainer, result = run(tmp_path, policy, spoilt, loader=Spoilt(), **settings)
    callback = trainer.callbacks.find(NonFinite)
    assert callback.skipped == 2 and math.isfinite(result.metrics["eval_loss"])
    assert all(math.isfinite(row["loss"]) for row in result.history if "loss" in row)
    assert trainer.state.learning_rate_factor == (1.0 if policy == "skip" else 0.25)
    if policy == "skip": return
    with pytest.raises(TrainingError, match="gradient norm is nan"): run(tmp_path, "stop", loader=Spoilt(), **settings)


def test_a_run_that_is_bad_throughout_stops_all_the_same(tmp_path):
    loader = Spoilt()
    loader.spoilt = tuple(range(99))
    with pytest.raises(TrainingError, match="were not finite"):
        run(tmp_path, "bad", {"type": "nonfinite"}, loader=loader, gradient_accumulation_steps=1)


def test_a_soup_is_kept_only_where_it_is_better(tmp_path):
    trainer, result = run(tmp_path, "soup", {"type": "greedy_soup", "top": 4}, load_best_at_end=True,
                          learning_rate=0.05, num_epochs=6)
    plain, best = run(tmp_path, "plain", load_best_at_end=True, learning_rate=0.05, num_epochs=6)
    assert result.metrics["eval_loss"] <= best.metrics["eval_loss"]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(result.metrics["eval_loss"])
    with pytest.raises(CallbackError, match="differ in b"): averaged([{}, {"b": mx.ones(1)}])


@pytest.mark.parametrize(("spec", "said"), [
    ({"type": "ema", "decay": 1.5}, "decay is 1.5"), ({"type": "swa", "start": 1}, "start is 1"),
    ({"type": "fgm", "eps": 0}, "eps is 0"), ({"type": "awp", "lr": -1}, "lr is -1"),
    ({"type": "mixout", "p": 1}, "p is 1"),
    ({"type": "rdrop", "alpha": 0}, "alpha is 0"), ({"type": "neftune", "alpha": 0}, "alpha is 0"),
    ({"type": "greedy_soup", "top": 1}, "top is 1"), ({"type": "nonfinite", "policy": "hope"}, "policy is 'hope'")])
def test_wrong_arguments_are_refused(spec, said):
    with pytest.raises(CallbackError, match=said): create_callback(spec)


@pytest.mark.parametrize("technique", ["fgm", "neftune", "mixout"])
def test_a_pattern_that_fits_nothing_is_an_error_before_the_first_update(tmp_path, technique):
    with pytest.raises(CallbackError, match="say with"): run(tmp_path, "none", {"type": technique})


def test_distances_do_not_depend_on_the_rows_beside():
    from mlx_bert_training.callbacks.rdrop import DISTANCES
    rng = np.random.default_rng(0)
    a, b = (mx.array(rng.normal(size=(4, 3)).astype(np.float32)) for _ in range(2))
    assert set(DISTANCES) == {"classes", "columns", "values", "steps"}
    for distance in DISTANCES.values():
        whole = distance(a, b)
        assert whole.shape == (4,) and (whole > 0).all() and mx.allclose(whole, distance(b, a), atol=1e-6)
        assert mx.allclose(whole[1:2], distance(a[1:2], b[1:2]))


def test_two_passes_of_classes_in_an_order_differ_in_their_steps(tmp_path):
    class Ordered(ToyModel):
        head_type, num_labels = "ordinal", 2
        def __call__(self, *given): return super().__call__(*given)[:, :1]     # one step between two classes

    rdrop = create_callback("rdrop")
    config = toy_config(tmp_path, num_epochs=1, load_best_at_end=False, **{"model.head_type": "ordinal"})
    Trainer(Ordered(dropout=0.3), config, callbacks=[rdrop]).train(ToyLoader(), ToyLoader(seed=1))
    low, high = mx.array([[-3.0, -3.0]]), mx.array([[3.0, 3.0]])        # the lowest class, and the highest
    assert rdrop.distance(low, high).item() == pytest.approx(2 * 3 * math.tanh(1.5), rel=1e-5)


class Weights(Callback):
    "The weights and the optimizer after each update."
    order = 50

    def __init__(self): self.seen = []

    def on_step(self, trainer, state):
        arrays = {**model_weights(trainer.model), **dict(tree_flatten(trainer.optimizer.state))}
        self.seen.append({name: np.array(value) for name, value in arrays.items() if name != "learning_rate"})


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("method", ["sgd", "adamw"])
def test_an_update_of_nothing_but_bad_batches_changes_nothing(tmp_path, method, compiled):
    watch = Weights()
    config = toy_config(tmp_path, num_epochs=1, callbacks=[{"type": "nonfinite"}], **{
        "optimizer.type": method, "environment.compile": compiled})
    Trainer(ToyModel(), config, callbacks=[create_callback({"type": "nonfinite"}), watch]).train(Spoilt())
    before, bad, after = watch.seen[1:4]
    assert [name for name in before if (before[name] != bad[name]).any()] == []
    assert any((bad[name] != after[name]).any() for name in before)


def test_a_resume_from_before_the_first_mean_takes_none_of_a_run_that_failed(tmp_path):
    swa = create_callback({"type": "swa", "start": 0.5})
    before = swa.state_dict()
    swa.mean, swa.count = {"weight": mx.ones(2)}, 3
    swa.load_state_dict(before)     # its checkpoint has no arrays, so that nothing follows
    assert swa.evaluation_weights(None, None) is None and swa.count == 0


class Empty(ToyLoader):
    "A loader in which nothing in most batches has a weight."
    def batches(self, epoch, start=0):
        for number, batch in enumerate(super().batches(epoch, start), start):
            yield {**batch, "example_weight": batch["example_weight"] * (number == 0)}


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_batches_without_weight_are_no_bad_ones(tmp_path, policy):
    config = toy_config(tmp_path, num_epochs=3, load_best_at_end=False)
    callback = create_callback({"type": "nonfinite", "policy": policy})
    result = Trainer(ToyModel(), config, callbacks=[callback]).train(Empty(), ToyLoader(seed=1))
    assert result.steps == 15 and callback.skipped == 0 and callback.returns == 0


def test_what_came_out_of_a_batch_without_weight_does_not_matter():
    gradient = {"w": mx.array([mx.nan])}, mx.array(mx.nan), mx.array(0.0)
    gradients, loss, weight = only_finite(lambda parameters, arrays: gradient)({}, {})
    assert gradients["w"].item() == loss.item() == weight.item() == 0


def test_a_batch_is_bad_if_the_share_of_any_rank_is():
    class Other(Ranks):     # another rank, whose share was not finite
        def sum(self, array): return array + 1
    gradients, loss, weight = only_finite(
        lambda parameters, arrays: ({"w": mx.ones(1)}, mx.array(1.0), mx.array(8.0)), Other())({}, {})
    assert gradients["w"].item() == weight.item() == 0 and math.isnan(loss.item())


def test_a_contrast_without_pairs_is_no_divergence(tmp_path):
    class Embeds(ToyModel):
        def embed(self, input_ids, attention_mask=None, token_type_ids=None):
            return self.dropout(self.norm(self.hidden(self.embedding(input_ids).mean(axis=1))))

    config = toy_config(tmp_path, num_epochs=1, load_best_at_end=False)
    callbacks = [create_callback({"type": "supcon", "views": 1}), create_callback({"type": "nonfinite"})]
    Trainer(Embeds(), config, callbacks=callbacks).train(ToyLoader(batch_size=1), ToyLoader(seed=1))
    assert callbacks[1].skipped == 0


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("settings", [{}, {"layer_decay": 0.9}, {"gradient_accumulation_steps": 2},
                                      {"optimizer.type": "sgd"}], ids=["adamw", "groups", "window", "sgd"])
def test_a_window_without_weight_is_no_update(tmp_path, compiled, settings):
    class Depths(ToyModel):
        def parameter_depths(self):
            return {name: int("out" in name) for name, _ in tree_flatten(self.parameters())}

    watch = Weights()
    config = toy_config(tmp_path, num_epochs=1, eval_strategy="no", compile=compiled, **settings)
    result = Trainer(Depths(), config, callbacks=[watch]).train(Empty())
    first, *others = watch.seen
    names = [name for name, _ in tree_flatten(ToyModel().parameters())]
    assert all((first[name] == other[name]).all() for other in others for name in names)
    assert all(math.isfinite(row["loss"]) for row in result.history)


def test_the_loss_of_what_weighs_nothing_may_be_anything(tmp_path):
    def undefined(logits, labels):
        losses = nn.losses.cross_entropy(logits, labels)
        return mx.where(labels == 1, mx.nan, losses), (labels == 0).astype(mx.float32)

    config = toy_config(tmp_path, num_epochs=1, load_best_at_end=False)
    result = Trainer(ToyModel(), config, loss=undefined).train(ToyLoader(), ToyLoader(seed=1))
    losses = [row.get("loss", row.get("eval_loss")) for row in result.history]
    assert losses and all(map(math.isfinite, losses))


def test_mixout_that_is_added_to_a_run_begins_where_it_is_added(tmp_path):
    first, _ = run(tmp_path, "run", num_epochs=2)
    checkpoint = tmp_path / "run" / "checkpoints" / "step-000004"
    mixout = create_callback({"type": "mixout", "parameters": "hidden.weight"})
    config = toy_config(tmp_path, run_name="run", num_epochs=4, gradient_accumulation_steps=2)
    trainer = Trainer(ToyModel(dropout=0.3), config, callbacks=[ModelCheckpoint("steps", 2), mixout])
    trainer.train(ToyLoader(), ToyLoader(seed=1), resume_from=checkpoint)
    assert list(mixout.first) == ["hidden.weight"]


@pytest.mark.parametrize("breaks", [None, 7])
def test_copies_of_the_weights_are_let_go_at_the_end(tmp_path, breaks):
    soup = create_callback({"type": "greedy_soup", "top": 4})
    guard = create_callback({"type": "nonfinite", "policy": "rollback"})
    callbacks = [soup, guard, *([Breaks(breaks)] if breaks else [])]
    trainer = Trainer(ToyModel(), toy_config(tmp_path), callbacks=callbacks)
    try: trainer.train(ToyLoader(), ToyLoader(seed=1))
    except KeyboardInterrupt: assert breaks
    assert soup.members == [] and guard.good == {} and (breaks or trainer.best.weights is None)


@pytest.mark.parametrize("keep", ["last", None])
def test_a_stop_that_keeps_the_last_weights_makes_no_soup(tmp_path, keep):
    class Stops(Callback):
        order = 99
        def on_epoch_end(self, trainer, state):
            self.last = model_weights(trainer.model)
            if state.epoch == 5: trainer.control.stop(keep=keep)

    stops, config = Stops(), toy_config(tmp_path, num_epochs=9, learning_rate=0.05)
    soup = create_callback({"type": "greedy_soup", "top": 4})
    trainer = Trainer(ToyModel(dropout=0.3), config, callbacks=[soup, stops])
    result = trainer.train(ToyLoader(), ToyLoader(seed=1))
    assert any("soup" in row for row in result.history) == (keep is None)
    if keep: assert result.weights == "last" and trainer.keep_weights == "last"
