"""Trials before a run: few batches, one batch by heart, the rate, the batch size, and classes drawn evenly."""
import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from toys import ToyLoader, ToyModel, toy_config

from mlx_bert_training.callbacks import AWP, FGM, Callback, Mixout, NonFinite, RDrop, SupCon
from mlx_bert_training.callbacks.base import CallbackError
from mlx_bert_training.core.base import Trainer
from mlx_bert_training.core.trials import FirstBatches, LearningRateSweep, find_batch_size, find_learning_rate
from mlx_bert_training.core.weights import model_weights
from mlx_bert_training.data.loader import BucketedLoader, TextDataset
from mlx_bert_training.data.tokenization import Encoded
from mlx_bert_training.declaration.load import load_config
from mlx_bert_training.declaration.problems import ConfigError
from mlx_bert_training.ensemble.distillation import Distillation
from mlx_bert_training.errors import MLXBertError
from mlx_bert_training.tasks.task import get_task
from mlx_bert_training.validation.oof import OOF


def test_a_fast_run_does_few_updates_and_saves_nothing(tmp_path):
    config = toy_config(tmp_path, fast_dev_run=2, save_strategy="epoch", save_best_only=True,
                        gradient_accumulation_steps=2)
    trainer = Trainer(ToyModel(), config)
    result = trainer.train(ToyLoader(), ToyLoader(seed=1))
    assert result.steps == 2 and "eval_loss" in result.metrics
    assert len(trainer.val_loader) == 2 and trainer.state.examples == 32
    assert not list(tmp_path.rglob("*.safetensors"))
    assert load_config(tmp_path / "toy" / "config.yaml").training == config.training


def test_one_batch_is_learnt_by_heart(tmp_path):
    config = toy_config(tmp_path, overfit_batches=1, num_epochs=60, learning_rate=0.05)
    result = Trainer(ToyModel(), config).train(ToyLoader(), ToyLoader(seed=1))
    assert result.steps == 60 and result.metrics["eval_loss"] < 0.01 and result.metrics["eval_accuracy"] == 1


def test_first_batches_go_on_in_the_middle():
    few = FirstBatches(ToyLoader(), 3)
    assert len(few) == 3 and few.num_examples == 24 and len(list(few.batches(1, 1))) == 2
    assert np.array_equal(list(few.batches(1, 2))[0]["input_ids"], list(ToyLoader().batches(1))[2]["input_ids"])
    assert np.array_equal(few.labels, ToyLoader().labels)


def test_the_sweep_finds_a_rate_and_leaves_the_trainer_as_it_was(tmp_path):
    trainer = Trainer(ToyModel(), toy_config(tmp_path))
    trainer.train_loader, trainer.val_loader = ToyLoader(), ToyLoader(seed=1)
    before = model_weights(trainer.model)
    sweep = find_learning_rate(trainer, 1e-5, 10, updates=60)
    assert 1e-4 < sweep.suggestion < 3 and len(sweep.rates) <= 60
    assert all(mx.array_equal(before[name], value) for name, value in model_weights(trainer.model).items())
    assert sweep.rates == find_learning_rate(trainer, 1e-5, 10, updates=60).rates
    assert trainer.train(ToyLoader(), ToyLoader(seed=1)).steps == 15
    with pytest.raises(MLXBertError, match="have to grow"): find_learning_rate(trainer, 1, 1)
    assert LearningRateSweep([1e-3, 1e-2, 1e-1], [1.0, 2.0, 3.0]).suggestion is None


@pytest.mark.long
def test_the_batch_size_follows_the_limit(tmp_path):
    trainer = Trainer(ToyModel(), toy_config(tmp_path))
    trainer.train_loader = ToyLoader()
    before = model_weights(trainer.model)
    limit = mx.get_active_memory() + 1e8
    found = find_batch_size(trainer, limit, sizes=(2, 128))
    assert 0 < found.per_example < 1e5 and found.fixed > 0
    assert (found.fixed + found.largest * found.per_example <= limit
            < found.fixed + 2 * found.largest * found.per_example)
    assert all(mx.array_equal(before[name], value) for name, value in model_weights(trainer.model).items())


def test_a_measurement_that_was_disturbed_is_an_error(tmp_path, monkeypatch):
    trainer = Trainer(ToyModel(), toy_config(tmp_path))
    trainer.train_loader = ToyLoader()
    monkeypatch.setattr("mlx_bert_training.core.trials._passing", lambda *_: 1000)
    with pytest.raises(MLXBertError, match="in a fresh one"): find_batch_size(trainer)


def balanced_loader(labels, **options):
    n = len(labels)
    texts = Encoded(np.arange(n, dtype=np.int32), np.zeros(n, np.uint8), np.arange(n + 1), np.zeros(n, bool))
    return BucketedLoader(TextDataset(texts, np.asarray(labels)), 10, shuffle=True, balanced=True, **options)


def test_balanced_epochs_draw_each_class_as_often_and_repeat_by_seed_and_epoch():
    loader = balanced_loader([0] * 190 + [1] * 10)
    drawn = [np.concatenate([batch["labels"] for batch in loader.batches(epoch)]) for epoch in (0, 1, 0)]
    assert 0.4 < drawn[0].mean() < 0.6 and len(drawn[0]) == 200
    assert np.array_equal(drawn[0], drawn[2]) and not np.array_equal(drawn[0], drawn[1])
    later = np.concatenate([batch["labels"] for batch in loader.batches(0, 5)])
    assert np.array_equal(later, drawn[0][50:])
    assert loader.subset(np.arange(180, 200)).balanced and not loader.subset(np.arange(20), shuffle=False).balanced


def test_balanced_sampling_is_declared_for_classes_only():
    assert load_config({"data": {"sampling": "balanced"}}).data.sampling == "balanced"
    with pytest.raises(ConfigError, match="no single class a row"):
        load_config({"data": {"sampling": "balanced"}, "model": {"head_type": "regression"}})
    with pytest.raises(ConfigError, match="shuffle_train is false"):
        load_config({"data": {"sampling": "balanced", "shuffle_train": False}})


def test_a_batch_size_that_could_not_be_measured_leaves_the_trainer_as_it_was(tmp_path, monkeypatch):
    trainer = Trainer(ToyModel(), toy_config(tmp_path))
    trainer.train_loader = ToyLoader()
    before = model_weights(trainer.model)

    def breaks(trainer, batch, size):
        trainer.step.update(batch, 0.1)
        raise MemoryError
    monkeypatch.setattr("mlx_bert_training.core.trials._passing", breaks)
    with pytest.raises(MemoryError): find_batch_size(trainer)
    assert all(mx.array_equal(before[name], value) for name, value in model_weights(trainer.model).items())


class Embeds(ToyModel):
    def embed(self, input_ids, attention_mask=None, token_type_ids=None):
        return self.dropout(self.norm(self.hidden(self.embedding(input_ids).mean(axis=1))))


def teacher(tmp_path):
    p = np.tile([0.3, 0.7], (40, 1))
    return str(OOF(name="t", task=get_task("binary"), row_ids=np.arange(40), targets=ToyLoader().labels, predictions=p,
                   folds=np.arange(40) % 4, folds_hash="", class_names=["no", "yes"]).save(tmp_path / "t.npz"))


TECHNIQUES = {"distillation": lambda path: Distillation(teacher(path)),
              "mixout": lambda _: Mixout(0.9, "hidden.weight"),
              "rdrop": lambda _: RDrop(50.0), "supcon": lambda _: SupCon(), "fgm": lambda _: FGM(9.0, "embedding")}


def ready(tmp_path, *callbacks, model=Embeds, **settings):
    trainer = Trainer(model(dropout=0.3), toy_config(tmp_path, **settings), callbacks=callbacks)
    trainer.train_loader, trainer.val_loader = ToyLoader(), ToyLoader(seed=1)
    return trainer


@pytest.mark.parametrize("name", list(TECHNIQUES))
def test_techniques_take_part_in_a_sweep_and_leave_no_trace(tmp_path, name):
    plain, callback = ready(tmp_path), TECHNIQUES[name](tmp_path)
    trainer = ready(tmp_path, callback)
    trainer.model.eval()
    held, before, mine = dict(vars(trainer)), model_weights(trainer.model), dict(vars(callback))
    sweep = find_learning_rate(trainer, 1e-4, 1, updates=20)
    assert sweep.losses[:5] != find_learning_rate(plain, 1e-4, 1, updates=20).losses[:5]
    assert vars(callback) == mine and vars(trainer) == held and not trainer.model.training
    assert all(mx.array_equal(before[part], value) for part, value in model_weights(trainer.model).items())


def test_what_a_technique_refuses_it_refuses_in_a_sweep_too(tmp_path):
    trainer = ready(tmp_path, Mixout(parameters="nothing"))
    held = dict(vars(trainer))
    with pytest.raises(CallbackError, match="say with"): find_learning_rate(trainer)
    assert vars(trainer) == held


def test_a_sweep_ends_where_the_loss_explodes_also_with_a_policy_for_that(tmp_path):
    def explodes(logits, labels):
        losses = nn.losses.cross_entropy(logits, labels)
        return mx.where(mx.abs(logits).max(-1) > 4, mx.inf, losses), mx.ones(len(labels))

    sweeps = []
    for callbacks in ([], [NonFinite("skip")]):
        trainer = ready(tmp_path, *callbacks)
        trainer.given = explodes, None, None
        sweeps.append(find_learning_rate(trainer, 1e-4, 100, updates=40))
    assert 0 < len(sweeps[0].rates) < 40 and sweeps[0].losses == sweeps[1].losses


def test_callbacks_that_only_listen_are_not_asked(tmp_path):
    class Listens(Callback):
        def on_train_begin(self, trainer, state): raise AssertionError
    assert find_learning_rate(ready(tmp_path, Listens()), 1e-4, 1e-2, updates=3).rates


def test_a_batch_without_weight_is_no_point_of_a_sweep(tmp_path):
    class HalfEmpty(ToyLoader):
        def batches(self, epoch, start=0):
            for number, batch in enumerate(super().batches(epoch, start), start):
                yield {**batch, "example_weight": batch["example_weight"] * (number != 1)}

    trainer = ready(tmp_path)
    trainer.train_loader = HalfEmpty()
    sweep = find_learning_rate(trainer, 1e-5, 1e-4, updates=10)
    assert len(sweep.rates) == 8 and min(sweep.losses) > 0.1


def test_a_sweep_learns_from_the_targets_that_a_run_learns_from(tmp_path):
    class Values(ToyModel):
        head_type, num_labels = "regression", 1
        def __call__(self, *given): return super().__call__(*given)[:, :1]

    loader = ToyLoader()
    loader.labels = (1000 + 100 * np.random.default_rng(0).normal(size=40)).astype(np.float32)
    trainer = ready(tmp_path, model=Values, target_transform="standardize", **{"model.head_type": "regression"})
    trainer.train_loader = loader
    assert find_learning_rate(trainer, 1e-6, 1e-5, updates=5).losses[0] < 10     # of a million, in the file's unit


def test_an_optimizer_of_ones_own_is_left_as_it_was(tmp_path):
    adam = optim.Adam(0.01)
    trainer = Trainer(ToyModel(), toy_config(tmp_path), optimizer=adam)
    trainer.train_loader = ToyLoader()
    find_learning_rate(trainer, 1e-4, 1e-2, updates=3)
    assert adam.step.item() == 0
    trainer.train()
    weights, steps = model_weights(trainer.model), adam.step.item()
    find_learning_rate(trainer, 1e-4, 1e-2, updates=3)
    assert adam.step.item() == steps == 15 and trainer.state.step == 15
    assert all(mx.array_equal(weights[part], value) for part, value in model_weights(trainer.model).items())


def test_the_batch_size_holds_for_techniques_that_begin_later(tmp_path, monkeypatch):
    seen = []

    def passing(trainer, batch, size):
        seen.extend(t for t in trainer.callbacks if t.active)
        return 1000 * size
    monkeypatch.setattr("mlx_bert_training.core.trials._passing", passing)
    later = AWP(start=2.0)
    find_batch_size(ready(tmp_path, later))
    assert len(seen) == 6 and not later.active
