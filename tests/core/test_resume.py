"""What a resume refuses, what it takes, and that a run which diverged leaves nothing that is not a number."""
from __future__ import annotations

import json
import math
import warnings
from hashlib import sha256

import mlx.core as mx
import numpy as np
import pytest
from toys import ToyLoader, ToyModel, toy_config

from mlx_bert_training.callbacks import Callback, LearningRateScheduler, MetricsLogger, ModelCheckpoint
from mlx_bert_training.core.base import Trainer
from mlx_bert_training.core.checkpoint import latest_checkpoint, read_checkpoint
from mlx_bert_training.core.weights import check_finite, model_weights
from mlx_bert_training.declaration.load import load_config
from mlx_bert_training.declaration.problems import ConfigError
from mlx_bert_training.errors import CheckpointError, TrainingError
from mlx_bert_training.tasks.metrics import compute_metrics


def same_bits(a, b) -> bool:
    a, b = model_weights(a), model_weights(b)
    return a.keys() == b.keys() and all(mx.array_equal(a[name], b[name]).item() for name in a)


def steady(tmp_path, name, epochs, resume=None, **overrides):
    config = toy_config(tmp_path, run_name=name, num_epochs=epochs, load_best_at_end=False,
                        **{"scheduler.type": "none", **overrides})
    trainer = Trainer(ToyModel(dropout=0.3), config, callbacks=[ModelCheckpoint("epoch")])
    return trainer, trainer.train(ToyLoader(), ToyLoader(seed=1), resume_from=resume)


# ---- changed declarations


@pytest.mark.parametrize(("key", "value", "said"), [
    ("learning_rate", 0.5, "optimizer.learning_rate was 0.01 and is 0.5"),
    ("scheduler.type", "linear", "scheduler.type was 'none' and is 'linear'"),
    ("seed", 7, "environment.seed was 42 and is 7"),
    ("label_smoothing", 0.1, "training.label_smoothing was 0.0 and is 0.1"),
    ("max_length", 99, "data.max_length"),
    ("eval_strategy", "no", "training.eval_strategy was 'epoch' and is 'no'"),
])
def test_a_change_of_what_is_computed_is_refused_with_both_values_and_writes_nothing(tmp_path, key, value, said):
    steady(tmp_path, "run", 1)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError) as refusal: steady(tmp_path, "run", 2, "latest", **{key: value})
    assert said in str(refusal.value) and "num_epochs was" not in str(refusal.value)
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


def test_what_is_not_part_of_the_result_may_change(tmp_path):
    class Breaks(Callback):
        def on_batch_begin(self, trainer, state):
            if state.step == 7: raise KeyboardInterrupt

    whole, _ = steady(tmp_path, "whole", 3)
    config = toy_config(tmp_path, run_name="broken", load_best_at_end=False, **{"scheduler.type": "none"})
    with pytest.raises(KeyboardInterrupt):
        Trainer(ToyModel(dropout=0.3), config, callbacks=[ModelCheckpoint("epoch"), Breaks()]).train(
            ToyLoader(), ToyLoader(seed=1))
    changes = {"logging_steps": 5, "save_steps": 2, "save_total_limit": 9, "early_stopping_patience": 8}
    elsewhere = {"optimizer.in_place": True, "data.prefetch_size": 5}
    resumed, result = steady(tmp_path, "broken", 3, "latest", **changes, **elsewhere)
    assert same_bits(whole.model, resumed.model)
    assert set(result.resumed[0]["changed"]) == {f"training.{name}" for name in changes} | elsewhere.keys()


# ---- more epochs


def test_more_epochs_go_on_under_a_longer_plan_and_the_record_says_so(tmp_path, caplog):
    whole, _ = steady(tmp_path, "whole", 4)
    steady(tmp_path, "short", 2)
    longer, result = steady(tmp_path, "short", 4, "latest")
    assert same_bits(whole.model, longer.model) and result.steps == 20
    rule = "the schedule is computed over 20 updates, from update 10 on"
    assert rule in caplog.text
    assert json.loads((tmp_path / "short" / "result.json").read_text())["resumed"] == [
        {"step": 10, "rule": rule, "changed": {"training.num_epochs": [2, 4]}}]
    assert load_config(tmp_path / "short" / "config.yaml").training.num_epochs == 4


def test_the_schedule_of_a_longer_plan_is_that_of_its_total(tmp_path):
    steady(tmp_path, "short", 2, **{"scheduler.type": "linear"})
    longer, _ = steady(tmp_path, "short", 4, "latest", **{"scheduler.type": "linear"})
    assert longer.schedule(10) == pytest.approx(0.01 / 2, rel=1e-3)


def test_fewer_epochs_are_refused(tmp_path):
    steady(tmp_path, "run", 3)
    with pytest.raises(CheckpointError, match="planned for 15 updates and cannot be resumed for 10"):
        steady(tmp_path, "run", 2, "latest")
    assert load_config(tmp_path / "run" / "config.yaml").training.num_epochs == 3


# ---- which run


def test_a_second_run_of_a_name_is_never_taken_for_the_first(tmp_path):
    steady(tmp_path, "run", 1)
    steady(tmp_path, "run", 1)
    with pytest.raises(CheckpointError, match=r"more than one run named 'run'.*run, .*run-2"):
        steady(tmp_path, "run", 2, "latest")
    _, result = steady(tmp_path, "run", 2, tmp_path / "run-2")
    assert result.output_dir == tmp_path / "run-2" and result.steps == 10
    assert load_config(tmp_path / "run" / "config.yaml").training.num_epochs == 1


def test_another_run_whose_name_ends_in_a_number_is_no_second_run(tmp_path):
    steady(tmp_path, "run", 1)
    steady(tmp_path, "run-2", 1)
    assert steady(tmp_path, "run", 2, "latest")[1].output_dir == tmp_path / "run"


# ---- divergence


class Explode(Callback):
    "Make the weights infinite by one update, as a rate far too high does."
    order = -1

    def __init__(self, step): self.step = step

    def on_step(self, trainer, state):
        if state.step == self.step: trainer.model.out.weight = trainer.model.out.weight * math.inf


def finite(checkpoint) -> None:
    arrays, _ = read_checkpoint(checkpoint)
    for group in arrays.values(): check_finite(group, "in a checkpoint")


@pytest.mark.parametrize("saving", [True, False])
@pytest.mark.parametrize(("step", "noticed"), [(1, (1, 2)), (7, (7, 8)), (15, (15,))])
def test_a_run_that_diverges_ends_and_keeps_its_last_good_checkpoint(tmp_path, step, noticed, saving):
    "The first update, one in the middle, and the last, whose loss was still a number."
    config = toy_config(tmp_path, run_name="run", eval_strategy="no", logging_steps=1000)
    callbacks = [Explode(step), *([ModelCheckpoint("steps", save_steps=1, save_total_limit=1)] if saving else [])]
    with pytest.raises(TrainingError, match=f"update ({'|'.join(map(str, noticed))})\\b"):
        Trainer(ToyModel(), config, callbacks=callbacks).train(ToyLoader())
    kept = sorted(path.name for path in (tmp_path / "run").glob("checkpoints/step-*"))
    assert kept == ([f"step-{step - 1:06d}"] if saving and step > 1 else [])
    for name in kept: finite(tmp_path / "run" / "checkpoints" / name)
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_last_update_with_a_rate_far_too_high_is_not_silent_even_if_the_best_is_kept(tmp_path):
    config = toy_config(tmp_path, best_metric="eval_loss", load_best_at_end=True)
    rates = LearningRateScheduler(lambda step: 0.01 if step < 14 else 1e39)
    with pytest.raises(TrainingError, match="update 15"):
        Trainer(ToyModel(), config, callbacks=[rates]).train(ToyLoader(), ToyLoader(seed=1))


def test_nothing_is_predicted_with_weights_that_are_not_finite(tmp_path):
    model = ToyModel()
    model.out.bias = mx.array([0.0, math.nan])
    with pytest.raises(TrainingError, match="out.bias"): Trainer(model, toy_config(tmp_path)).predict(ToyLoader())
    check_finite(model_weights(ToyModel()), "at the beginning")


@pytest.mark.parametrize(("part", "changed"), [
    ("training", lambda train, held: (train.labels.__setitem__(0, 1 - train.labels[0]), held)),
    ("validation", lambda train, held: (train, held.labels.__setitem__(3, 1 - held.labels[3])))])
def test_rows_that_changed_under_the_same_name_are_refused(tmp_path, part, changed):
    def run(epochs):
        return Trainer(ToyModel(), toy_config(tmp_path, num_epochs=epochs), callbacks=[ModelCheckpoint("epoch")])

    train, held = ToyLoader(), ToyLoader(seed=1)
    run(2).train(train, held)
    changed(train, held)
    with pytest.raises(CheckpointError, match=f"rows of the {part} part are no longer those"):
        run(3).train(train, held, resume_from="latest")


def test_a_checkpoint_without_hashes_of_rows_goes_on(tmp_path):
    def run(epochs):
        return Trainer(ToyModel(), toy_config(tmp_path, num_epochs=epochs), callbacks=[ModelCheckpoint("epoch")])

    run(2).train(ToyLoader(), ToyLoader(seed=1))
    newest = latest_checkpoint(tmp_path / "toy" / "checkpoints")
    values = json.loads((newest / "state.json").read_text())
    del values["rows"]
    (newest / "state.json").write_text(json.dumps(values))
    sums = json.loads((newest / "manifest.json").read_text())
    sums["state.json"] = sha256((newest / "state.json").read_bytes()).hexdigest()
    (newest / "manifest.json").write_text(json.dumps(sums))
    assert run(3).train(ToyLoader(), ToyLoader(seed=1), resume_from="latest").steps == 15


@pytest.mark.parametrize(("metric", "labels", "said"), [
    ("auc", [0] * 40, True), ("eval_auc", [1] * 40, True), ("auc", [0, 1] * 20, False), ("f1", [0] * 40, False),
    ("eval_loss", [0] * 40, False)])
def test_a_best_metric_that_has_no_value_is_known_before_the_first_update(tmp_path, caplog, metric, labels, said):
    class First(Callback):
        def on_train_begin(self, trainer, state):
            assert ("has no value on the 40 rows of the validation part" in caplog.text) is said
            raise KeyboardInterrupt

    held = ToyLoader(seed=1)
    held.labels = np.array(labels, np.int32)
    with pytest.raises(KeyboardInterrupt):
        Trainer(ToyModel(), toy_config(tmp_path, best_metric=metric), callbacks=[First()]).train(ToyLoader(), held)


def test_a_best_metric_of_another_task_names_those_that_fit(tmp_path):
    with pytest.raises(ConfigError, match="does not fit a binary_classification head; these do: accuracy"):
        Trainer(ToyModel(), toy_config(tmp_path, best_metric="rmse")).train(ToyLoader(), ToyLoader(seed=1))


def test_a_metric_without_a_value_is_said_without_a_line_of_code():
    with pytest.warns(RuntimeWarning, match="all labels are the same") as said:
        compute_metrics(["auc"], "binary", np.array([[0.5, 0.5]] * 3), np.array([1, 1, 1]))
    shown = warnings.formatwarning(said[0].message, said[0].category, said[0].filename, said[0].lineno)
    assert len(shown.splitlines()) == 1 and "mlx_bert_training:1" in shown


def test_a_trainer_that_trains_again_says_so_and_leaves_the_first_record(tmp_path, caplog):
    trainer = Trainer(ToyModel(), toy_config(tmp_path), callbacks=[ModelCheckpoint("epoch"), MetricsLogger()])
    first = trainer.train(ToyLoader(), ToyLoader(seed=1))
    record = {path: path.read_bytes() for path in first.output_dir.rglob("*") if path.is_file()}
    assert "trained before" not in caplog.text
    second = trainer.train(ToyLoader(), ToyLoader(seed=1))
    assert "this trainer has trained before" in caplog.text
    assert second.output_dir.name == "toy-2" and second.metrics["eval_loss"] < first.metrics["eval_loss"]
    assert {path: path.read_bytes() for path in first.output_dir.rglob("*") if path.is_file()} == record
    third = trainer.train(ToyLoader(), ToyLoader(seed=1), resume_from=second.output_dir)    # this is no other run
    assert third.output_dir == second.output_dir


@pytest.mark.parametrize(("steps", "said"), [(1000, True), (15, True), (14, False), (0, False)])
def test_a_warm_up_longer_than_the_run_is_said(tmp_path, caplog, steps, said):
    config = toy_config(tmp_path, **{"scheduler.type": "linear", "scheduler.warmup_steps": steps})
    Trainer(ToyModel(), config).train(ToyLoader(), ToyLoader(seed=1))
    assert ("the warm-up takes" in caplog.text) is said
