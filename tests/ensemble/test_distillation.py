"""A student of out-of-fold predictions: what it learns, what it refuses, and whole runs."""
import json
from types import SimpleNamespace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from toys import Breaks, ToyLoader, ToyModel, same, toy_config

from mlx_bert_training.callbacks import ModelCheckpoint
from mlx_bert_training.callbacks.base import CallbackError, create_callback
from mlx_bert_training.core.base import Trainer
from mlx_bert_training.core.step import Passes
from mlx_bert_training.core.weights import model_weights
from mlx_bert_training.ensemble.distillation import Distillation, divergence, softened
from mlx_bert_training.factory import create_kaggle_trainer
from mlx_bert_training.tasks.task import get_task
from mlx_bert_training.validation.oof import OOF, load_oof
from tests.tiny_competition import SMALL, declaration, write_files


def teacher_file(path, n=40, task="binary", seed=0, folds=None, **changes):
    "A teacher of the toy rows: right in four of five."
    labels = ToyLoader(n).labels
    p = np.where(labels == 1, 0.8, 0.2)
    p[np.random.default_rng(seed).random(n) < 0.2] = 0.5
    oof = OOF(name="teacher", task=get_task(task), row_ids=np.arange(n), targets=labels, folds_hash="",
              folds=np.arange(n) % 4 if folds is None else folds,
              **{"predictions": np.stack([1 - p, p], axis=1), "class_names": ["no", "yes"], **changes})
    return str(oof.save(path))


def run(tmp_path, name, technique=None, breaks=None, resume=None, **settings):
    config = toy_config(tmp_path, run_name=name, num_epochs=4, gradient_accumulation_steps=2, load_best_at_end=False,
                        **settings)
    callbacks = [ModelCheckpoint("steps", 2), *([create_callback(technique)] if technique else [])]
    if breaks: callbacks.append(Breaks(breaks))
    trainer = Trainer(ToyModel(dropout=0.3), config, callbacks=callbacks)
    trainer.train(ToyLoader(), ToyLoader(seed=1), resume_from=resume)
    return trainer


@pytest.mark.parametrize("compiled", [False, True])
def test_a_killed_student_goes_on_bit_for_bit(tmp_path, compiled):
    taught = {"type": "distillation", "teacher": teacher_file(tmp_path / "t.npz"), "temperature": 2.0}
    whole = run(tmp_path, "whole", taught, compile=compiled)
    with pytest.raises(KeyboardInterrupt): run(tmp_path, "broken", taught, breaks=7, compile=compiled)
    resumed = run(tmp_path, "broken", taught, resume="latest", compile=compiled)
    assert same(model_weights(whole.model), model_weights(resumed.model))
    assert not same(model_weights(whole.model), model_weights(run(tmp_path, "plain", compile=compiled).model))


def test_another_teacher_is_noticed_on_resume(tmp_path):
    taught = {"type": "distillation", "teacher": teacher_file(tmp_path / "t.npz")}
    with pytest.raises(KeyboardInterrupt): run(tmp_path, "broken", taught, breaks=7)
    teacher_file(tmp_path / "t.npz", seed=1)
    with pytest.raises(CallbackError, match="something else"): run(tmp_path, "broken", taught, resume="latest")


def test_a_fresh_run_of_the_same_callback_takes_the_teacher_as_it_is_now(tmp_path):
    taught = Distillation(teacher_file(tmp_path / "t.npz"))
    config = toy_config(tmp_path, num_epochs=2, load_best_at_end=False)
    trainer = Trainer(ToyModel(), config, callbacks=[ModelCheckpoint("epoch"), taught])
    first = trainer.train(ToyLoader(), ToyLoader(seed=1))
    trainer.train(ToyLoader(), ToyLoader(seed=1), resume_from=first.last_checkpoint)
    teacher_file(tmp_path / "t.npz", seed=1)
    said = np.array(taught.captured["soft"])
    trainer.train(ToyLoader(), ToyLoader(seed=1))
    assert not np.array_equal(said, np.array(taught.captured["soft"]))


@pytest.mark.parametrize("trial", ["fast_dev_run", "overfit_batches"])
def test_a_trial_of_few_batches_hears_the_teacher_of_every_row_in_them(tmp_path, trial):
    taught = Distillation(teacher_file(tmp_path / "t.npz"))
    Trainer(ToyModel(), toy_config(tmp_path, num_epochs=1, **{trial: 1}), callbacks=[taught]).train(
        ToyLoader(), ToyLoader(seed=1))
    assert len(taught.captured["soft"]) == 41       # rows of a batch are numbered among all


def test_what_is_divided_by_the_temperature():
    rng = np.random.default_rng(0)
    z, t = rng.normal(size=(5, 3)), 3.0
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    q = np.exp(z / t) / np.exp(z / t).sum(1, keepdims=True)
    assert np.allclose(softened(p, get_task("multiclass"), t), q)
    s = 1 / (1 + np.exp(-z))
    assert np.allclose(softened(s, get_task("multilabel"), t), 1 / (1 + np.exp(-z / t)))
    for columns, soft in ((False, q), (True, 1 / (1 + np.exp(-z / t)))):
        logits = mx.array(z.astype(np.float32))
        assert mx.abs(divergence(logits, mx.array(soft.astype(np.float32)), t, columns)).max().item() < 1e-5
        slope = mx.grad(lambda x: divergence(x, mx.array(soft[::-1].astype(np.float32)), t, columns).sum())(logits)  # noqa: B023
        size = 3 if columns else 1      # of columns the mean; the slope is T (q - p)
        student = soft if columns else q
        assert np.allclose(np.array(slope), t * (student - soft[::-1]) / size, atol=1e-5)


def test_with_all_the_weight_the_labels_do_not_matter(tmp_path):
    taught = Distillation(teacher_file(tmp_path / "t.npz"), weight=1.0)
    trainer = Trainer(ToyModel(), toy_config(tmp_path, num_epochs=1), callbacks=[taught])
    trainer.train(ToyLoader())
    passes = Passes(trainer.model, lambda z, y: (nn.losses.cross_entropy(z, y), mx.ones(len(y))), techniques=[taught])
    logits, row = mx.random.normal((3, 2)), mx.array([4, 2, -1])
    found = [passes.score(logits, {"labels": mx.array(labels), "row": row, "example_weight": mx.array([1.0, 1, 0])})[0]
             for labels in ([0, 0, 0], [1, 1, 1])]
    assert found[0].item() == pytest.approx(found[1].item())


def test_a_row_that_no_fold_validated_has_its_label_alone(tmp_path):
    folds = np.where(np.arange(40) < 10, -1, 0)
    taught = Distillation(teacher_file(tmp_path / "t.npz", folds=folds))
    Trainer(ToyModel(), toy_config(tmp_path, num_epochs=1), callbacks=[taught]).train(ToyLoader())
    share = np.array(taught.captured["share"])
    assert share.tolist() == [0.0] * 10 + [0.5] * 30 + [0.0]


@pytest.mark.parametrize(("options", "message"), [
    ({"weight": 0}, "weight is 0"), ({"weight": 1.5}, "weight is 1.5"), ({"temperature": 0}, "temperature is 0")])
def test_options_out_of_range(options, message):
    with pytest.raises(CallbackError, match=message): Distillation("t.npz", **options)


def test_a_teacher_of_something_else_is_refused(tmp_path):
    def learn(path, **options):
        Trainer(ToyModel(), toy_config(tmp_path, num_epochs=1), callbacks=[Distillation(path, **options)]).train(
            ToyLoader())
    with pytest.raises(CallbackError, match="none of them is trained on"):
        learn(other_ids(tmp_path))
    values = OOF(name="values", task=get_task("regression"), row_ids=np.arange(40), targets=np.zeros(40), folds_hash="",
                 folds=np.zeros(40, int), predictions=np.ones(40)).save(tmp_path / "values.npz")
    with pytest.raises(CallbackError, match="is of a regression"): learn(str(values))


def test_tasks_whose_predictions_are_no_targets_are_refused(tmp_path):
    def begin(name, predictions, targets, labels):
        task, rows = get_task(name), np.arange(4)
        path = OOF(name="t", task=task, row_ids=rows, targets=targets, folds_hash="", folds=rows // 2,
                   predictions=predictions).save(tmp_path / "t.npz")
        loader = SimpleNamespace(labels=labels, num_examples=4)
        Distillation(str(path)).on_train_begin(SimpleNamespace(task=task, train_loader=loader, data=None), None)

    with pytest.raises(CallbackError, match="words, not for rows"):
        Distillation("none.npz").on_train_begin(SimpleNamespace(task=get_task("token_classification")), None)
    two = np.stack([np.arange(4.0), np.array([0, 0, 1, 1])], axis=1)
    with pytest.raises(CallbackError, match="ranking predicts what is no"): begin("ranking", np.zeros(4), two, two)
    with pytest.raises(CallbackError, match="quantile.* predicts what is no"):
        begin("quantile", np.tile([0.0, 1.0, 2.0], (4, 1)), np.zeros(4), np.zeros(4))


def other_ids(tmp_path):
    oof = load_oof(teacher_file(tmp_path / "ids.npz"))
    oof.row_ids = np.array([f"row {i}" for i in range(40)])
    return str(oof.save(tmp_path / "ids.npz"))


@pytest.mark.long
@pytest.mark.parametrize("head", ["binary", "multilabel", "regression", "ordinal"])
def test_each_task_has_students_in_a_cross_validation(tmp_path, head):
    targets = {"binary": None, "regression": lambda rng, kinds, frame: kinds * 10.0 + rng.normal(size=len(kinds)),
               "ordinal": lambda rng, kinds, frame: kinds % 3, "multilabel": lambda rng, kinds, frame: kinds % 2}
    metric = {"binary": "auc", "multilabel": "auc", "regression": "rmse", "ordinal": "qwk"}[head]
    frame = write_files(tmp_path, target=targets[head])
    column = ["target"]
    if head == "multilabel":
        frame["other"] = (frame["size"] % 2).astype(int)
        frame[:90].to_csv(tmp_path / "train.csv", index=False)
        (tmp_path / "sample_submission.csv").unlink()
        column = ["target", "other"]

    def trained(name, *callbacks):
        return create_kaggle_trainer(config=dict(callbacks=list(callbacks), **declaration(
            tmp_path, model={"config": SMALL, "pooling": "mean", "dropout_rate": 0.0, "head_type": head},
            data={"target_column": column if len(column) > 1 else "target"}, environment={"run_name": name},
            kaggle={"competition_metric": metric, "allow_leak": "made up"}))).train_with_cv()
    first = trained("teacher")
    path = tmp_path / "runs" / "teacher" / "oof" / "teacher.npz"
    assert path.is_file()
    taught = {"type": "distillation", "teacher": str(path), "weight": 0.7}
    second = trained("student", taught)
    assert np.isfinite(second.mean) and not np.array_equal(second.oof.predictions, first.oof.predictions)
    assert json.loads((tmp_path / "runs" / "student" / "cv.json").read_text())["identity"] != json.loads(
        (tmp_path / "runs" / "teacher" / "cv.json").read_text())["identity"]
    if head != "regression" and head != "ordinal": return
    with pytest.raises(CallbackError, match="leave it at 1"):
        trained("hot", {**taught, "temperature": 2.0})


@pytest.mark.long
def test_finished_folds_are_run_again_where_the_teacher_changed(tmp_path):
    write_files(tmp_path)

    def trained(*callbacks, name="student"):
        return create_kaggle_trainer(config=dict(callbacks=list(callbacks), **declaration(
            tmp_path, environment={"run_name": name}, kaggle={"allow_leak": "made up"}))).train_with_cv()
    path = tmp_path / "teacher.npz"
    teacher = trained(name="teacher").oof
    teacher.save(path)
    taught = {"type": "distillation", "teacher": str(path), "weight": 0.9}
    first = trained(taught)
    assert all(run.skipped for run in trained(taught).run.runs)     # the same teacher: all of it is there
    teacher.predictions = teacher.predictions[:, ::-1].copy()
    teacher.save(path)
    again = trained(taught)
    assert not any(run.skipped for run in again.run.runs)
    assert not np.array_equal(first.oof.predictions, again.oof.predictions)
