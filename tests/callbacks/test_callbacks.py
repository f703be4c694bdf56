"""Each callback alone, with an object that has just what it asks of a trainer."""
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from mlx_bert_training.callbacks import (
    EarlyStopping,
    LearningCurve,
    LearningRateScheduler,
    MetricsLogger,
    ModelCheckpoint,
    read_metrics,
)
from mlx_bert_training.callbacks.base import CallbackError
from mlx_bert_training.callbacks.checkpoint import delete_checkpoint, list_checkpoints
from mlx_bert_training.core.state import TrainerState
from mlx_bert_training.errors import DataError, TrainingError, UnknownNameError
from mlx_bert_training.figures import new_figure


class Stand:
    "Has what callbacks ask of a trainer, and writes its state as a checkpoint."

    def __init__(self, output_dir=Path("."), best_metric="eval_loss", mode="auto", load_best=False):
        self.output_dir, self.state, self.rates, self.saves = Path(output_dir), TrainerState(), [], []
        self.config = SimpleNamespace(training=SimpleNamespace(
            best_metric=best_metric, best_metric_mode=mode, load_best_at_end=load_best))

    def save_checkpoint(self, path):
        path.mkdir(parents=True)
        self.state.last_checkpoint = str(path)
        (path / "state.json").write_text(json.dumps(self.state.to_dict()))
        self.saves.append(self.state.step)

    def set_learning_rate(self, rate): self.rates.append(rate)

    def kept(self) -> list[int]:
        return [int(p.name[5:]) for p in list_checkpoints(self.output_dir / "checkpoints")]


# ---- early stopping


def run_stopping(stopping, values, trainer=None, name="eval_loss", state=None):
    "Feed evaluations until it stops; the number of evaluations it saw."
    trainer, state = trainer or Stand(), state or TrainerState()
    stopping.on_train_begin(trainer, state)
    for n, value in enumerate(values, 1):
        state.step += 10
        state.metrics = {"eval_loss": 1.0, name: value}
        stopping.on_evaluate_end(trainer, state)
        if state.should_stop: return n, state
    return None, state


def test_stops_after_patience_evaluations_without_improvement():
    n, state = run_stopping(EarlyStopping(patience=2), [0.9, 0.8, 0.85, 0.81, 0.7])
    assert n == 4
    assert "eval_loss has not improved on 0.8 of update 20 by more than 0.0001 in 2 evaluations" in state.stop_reason


def test_goes_on_while_it_improves():
    assert run_stopping(EarlyStopping(patience=1), [0.9, 0.8, 0.7])[0] is None


def test_smaller_steps_than_the_threshold_do_not_count_but_add_up():
    values = [1 - 0.004 * n for n in range(10)]
    assert run_stopping(EarlyStopping(patience=3, threshold=0.01), values)[0] is None  # 0.012 in three steps
    assert run_stopping(EarlyStopping(patience=2, threshold=0.0), values)[0] is None
    assert run_stopping(EarlyStopping(patience=2, threshold=0.5), values)[0] == 3


@pytest.mark.parametrize(("options", "trainer", "name", "stops"), [
    (dict(metric="auc"), Stand(), "eval_auc", None),                            # rising, and more is better
    (dict(metric="eval_auc", mode="min"), Stand(), "eval_auc", 2),
    (dict(), Stand(best_metric="eval_auc"), "eval_auc", None),
    (dict(), Stand(best_metric="eval_auc", mode="min"), "eval_auc", 2),
    (dict(mode="max"), Stand(best_metric="eval_auc", mode="min"), "eval_auc", None),
    (dict(metric="rmse"), Stand(best_metric="eval_auc", mode="max"), "eval_rmse", 2),  # own metric, own direction
    (dict(), Stand(), "eval_loss", 2),
])
def test_direction(options, trainer, name, stops):
    assert run_stopping(EarlyStopping(patience=1, **options), [0.6, 0.7, 0.8], trainer, name)[0] == stops


def test_nan_is_no_improvement():
    assert run_stopping(EarlyStopping(patience=2), [0.5, math.nan, math.nan])[0] == 3
    n, state = run_stopping(EarlyStopping(patience=2), [math.nan, math.nan])
    assert n == 2 and "has never been a number" in state.stop_reason


def test_a_second_evaluation_of_the_same_weights_does_not_count():
    stopping, state = EarlyStopping(patience=1), TrainerState(step=5, metrics={"eval_loss": 0.5})
    for _ in range(5): stopping.on_evaluate_end(Stand(), state)
    assert not state.should_stop and stopping.waited == 0


def test_the_end_of_the_plan_is_not_called_early():
    state = TrainerState(total_steps=30)
    assert run_stopping(EarlyStopping(patience=1), [0.5, 0.4, 0.6], state=state)[0] is None
    assert state.step == 30 and state.stop_reason == ""


def test_a_resumed_run_stops_where_the_whole_one_does():
    values = [0.9, 0.8, 0.85, 0.84, 0.83, 0.7]
    whole, _ = run_stopping(EarlyStopping(patience=3), values)
    first = EarlyStopping(patience=3)
    _, state = run_stopping(first, values[:4])
    second = EarlyStopping(patience=3)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    n, _ = run_stopping(second, values[4:], state=state)
    assert whole == 5 and n == 1


def test_a_second_run_starts_afresh():
    stopping = EarlyStopping(patience=2)
    assert [run_stopping(stopping, [0.5, 0.6, 0.6])[0] for _ in range(2)] == [3, 3]


def test_a_metric_that_is_not_reported():
    with pytest.raises(CallbackError, match="Did you mean 'eval_loss'"):
        run_stopping(EarlyStopping(metric="eval_los"), [0.5])


@pytest.mark.parametrize(("options", "error"), [(dict(patience=0), CallbackError), (dict(threshold=-1), CallbackError),
                                                (dict(mode="maximum"), UnknownNameError)])
def test_early_stopping_options(options, error):
    with pytest.raises(error): EarlyStopping(**options)


# ---- checkpoints


def run_saving(callback, trainer, losses, steps_per_epoch=2, evaluate="epoch"):
    "A run of one update a loss; evaluations after each epoch or each update."
    state = trainer.state
    callback.on_train_begin(trainer, state)

    def evaluate_now(loss):
        state.metrics = {"eval_loss": loss}
        if state.best_metric is None or loss < state.best_metric:
            state.best_metric, state.best_step, state.best_checkpoint = loss, state.step, None

    for loss in losses:
        state.step += 1
        if evaluate == "steps": evaluate_now(loss)
        callback.on_step_end(trainer, state)
        if state.step % steps_per_epoch == 0:
            if evaluate == "epoch": evaluate_now(loss)
            callback.on_epoch_end(trainer, state)


FALL_THEN_RISE = [9, 8, 7, 6, 5, 6, 7, 8, 9, 10]


@pytest.mark.parametrize(("options", "evaluate", "saves"), [
    (dict(save_strategy="no"), "steps", []),
    (dict(save_strategy="epoch"), "epoch", [2, 4, 6, 8, 10]),
    (dict(save_strategy="steps", save_steps=3), "epoch", [3, 6, 9]),
    (dict(save_strategy="best"), "steps", [1, 2, 3, 4, 5]),
    (dict(save_strategy="best"), "epoch", [2, 4]),
    (dict(save_strategy="all", save_steps=3), "steps", [1, 2, 3, 4, 5, 6, 8, 9, 10]),
    (dict(save_strategy="steps", save_steps=2), "epoch", [2, 4, 6, 8, 10]),
    (dict(save_strategy="all", save_steps=2), "epoch", [2, 4, 6, 8, 10]),  # no step twice
    (dict(save_strategy="epoch", save_best_only=True), "epoch", [2, 4]),
    (dict(save_strategy="no", save_best_only=True), "epoch", []),
])
def test_when_it_saves(tmp_path, options, evaluate, saves):
    trainer = Stand(tmp_path)
    run_saving(ModelCheckpoint(save_total_limit=None, **options), trainer, FALL_THEN_RISE, evaluate=evaluate)
    assert trainer.saves == saves
    if not options.get("save_best_only"): assert trainer.kept() == saves


def test_ending_with_the_best_needs_the_best_on_disk(tmp_path):
    trainer = Stand(tmp_path, load_best=True)
    run_saving(ModelCheckpoint("epoch", save_total_limit=1), trainer, FALL_THEN_RISE, evaluate="steps")
    assert trainer.state.best_checkpoint == str(tmp_path / "checkpoints/step-000005") and trainer.kept() == [5, 10]


def test_rotation_keeps_the_newest_and_the_best(tmp_path):
    trainer = Stand(tmp_path)
    run_saving(ModelCheckpoint("steps", save_steps=1, save_total_limit=3), trainer, FALL_THEN_RISE, evaluate="steps")
    assert trainer.kept() == [5, 8, 9, 10]
    trainer = Stand(tmp_path / "one")
    run_saving(ModelCheckpoint("steps", save_steps=1, save_total_limit=1), trainer, FALL_THEN_RISE, evaluate="steps")
    assert trainer.kept() == [5, 10]


def test_best_only_keeps_nothing_else(tmp_path):
    trainer = Stand(tmp_path)
    run_saving(ModelCheckpoint("all", save_best_only=True), trainer, FALL_THEN_RISE, evaluate="steps")
    assert trainer.kept() == [5] and trainer.saves == [1, 2, 3, 4, 5]


def test_what_is_written_knows_that_it_is_the_best(tmp_path):
    trainer = Stand(tmp_path)
    run_saving(ModelCheckpoint("all", save_steps=1), trainer, FALL_THEN_RISE, evaluate="steps")
    best = tmp_path / "checkpoints/step-000005"
    assert json.loads((best / "state.json").read_text())["best_checkpoint"] == str(best)


def test_a_step_that_was_saved_and_then_turns_out_best_is_the_best_checkpoint(tmp_path):
    trainer = Stand(tmp_path)
    run_saving(ModelCheckpoint("steps", save_steps=2), trainer, [9, 8], evaluate="epoch")
    assert trainer.saves == [2] and trainer.state.best_checkpoint == str(tmp_path / "checkpoints/step-000002")


def test_a_resumed_run_does_not_save_its_first_step_again(tmp_path):
    trainer, first, second = Stand(tmp_path), ModelCheckpoint(), ModelCheckpoint()
    run_saving(first, trainer, [9, 8])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    second.on_train_begin(trainer, trainer.state)
    second.on_epoch_end(trainer, trainer.state)
    assert trainer.saves == [2]


def test_a_moved_run_still_protects_its_best(tmp_path):
    trainer = Stand(tmp_path / "old")
    run_saving(ModelCheckpoint("epoch", save_total_limit=1), trainer, [9, 5])
    trainer.output_dir = (tmp_path / "old").rename(tmp_path / "new")
    run_saving(ModelCheckpoint("epoch", save_total_limit=1), trainer, [6, 7, 8, 9])
    assert trainer.kept() == [2, 6]


def test_an_interrupted_deletion_is_finished(tmp_path):
    home = tmp_path / "checkpoints"
    for name in (".deleted-step-000001", "step-000002", "step-odd", "notes"): (home / name).mkdir(parents=True)
    assert [p.name for p in list_checkpoints(home)] == ["step-000002"]
    ModelCheckpoint().on_train_begin(Stand(tmp_path), TrainerState())
    assert sorted(p.name for p in home.iterdir()) == ["notes", "step-000002", "step-odd"]


def test_a_deletion_that_fails_half_way_leaves_nothing_that_looks_whole(tmp_path, monkeypatch):
    path = tmp_path / "step-000001"
    path.mkdir()
    monkeypatch.setattr("shutil.rmtree", lambda p: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt): delete_checkpoint(path)
    assert list_checkpoints(tmp_path) == [] and (tmp_path / ".deleted-step-000001").is_dir()


def test_more_digits_than_six_sort_by_number(tmp_path):
    for step in (1000000, 999999): (tmp_path / f"step-{step:06d}").mkdir()
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step-999999", "step-1000000"]


@pytest.mark.parametrize(("options", "error", "words"), [
    (dict(save_strategy="epochs"), UnknownNameError, "Did you mean 'epoch'"),
    (dict(save_steps=0), CallbackError, "1 or more"),
    (dict(save_total_limit=0), CallbackError, "none to keep all"),
])
def test_checkpoint_options(options, error, words):
    with pytest.raises(error, match=words): ModelCheckpoint(**options)


# ---- learning rates


def halved(step, trainer): return 0.5 * len(trainer.rates)


def test_the_schedule_is_called_with_the_step_and_the_trainer_if_it_wants_it():
    for schedule, expected in ((lambda step: step / 10, [0.3]), (halved, [0.0]), (math.sqrt, [math.sqrt(3)]),
                               (f"{__name__}:halved", [0.0]), (int, [3.0]),
                               (lambda step, scale=2: step * scale, [6.0])):
        trainer = Stand()
        LearningRateScheduler(schedule).on_batch_begin(trainer, TrainerState(step=3))
        assert trainer.rates == expected


@pytest.mark.parametrize("rate", [math.nan, math.inf, -1e-5, None, "1e-5"])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(TrainingError, match="for update 3"):
        LearningRateScheduler(lambda step: rate).on_batch_begin(Stand(), TrainerState(step=3))


def test_a_schedule_is_a_function():
    with pytest.raises(CallbackError, match="function of the step"): LearningRateScheduler(3e-5)  # type: ignore[arg-type]


# ---- metrics file


def rows(path) -> list[dict]: return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_are_in_the_file_at_once_and_are_valid_json(tmp_path):
    logger, state, trainer = MetricsLogger("logs/m.jsonl"), TrainerState(), Stand(tmp_path)
    logger.on_train_begin(trainer, state)
    file = tmp_path / "logs/m.jsonl"
    assert file.read_text() == ""
    state.history.append({"step": 1, "loss": float("nan"), "grad_norm": float("inf")})
    logger.on_log(trainer, state)
    assert rows(file) == [{"step": 1, "loss": None, "grad_norm": None}] and "NaN" not in file.read_text()
    state.history.append({"step": 1, "eval_loss": 0.5})
    for event in (logger.on_step_end, logger.on_epoch_end, logger.on_train_end, logger.on_exception):
        event(trainer, state)
    assert len(rows(file)) == 2
    assert logger.to_frame().equals(read_metrics(file)) and "<table" in logger._repr_html_()


def test_numpy_values_can_be_logged(tmp_path):
    import numpy as np
    logger, state = MetricsLogger(), TrainerState(history=[{"step": np.int64(3), "loss": np.float32(0.5)}])
    logger.on_train_begin(Stand(tmp_path), state)
    assert rows(tmp_path / "metrics.jsonl") == [{"step": 3, "loss": 0.5}]


def test_a_resumed_run_has_no_row_twice(tmp_path):
    file, trainer = tmp_path / "metrics.jsonl", Stand(tmp_path)
    killed, state = MetricsLogger(), TrainerState()
    killed.on_train_begin(trainer, state)
    for step in (1, 2, 3):
        state.history.append({"step": step, "loss": 1 / step})
        killed.on_log(trainer, state)
    with file.open("a") as torn: torn.write('{"step": 4, "lo')
    assert read_metrics(file)["step"].tolist() == [1, 2, 3]
    resumed, state = MetricsLogger(), TrainerState(step=2, history=state.history[:2])
    resumed.on_train_begin(trainer, state)
    assert [row["step"] for row in rows(file)] == [1, 2]
    state.history.append({"step": 3, "loss": 1 / 3})
    resumed.on_log(trainer, state)
    assert [row["step"] for row in rows(file)] == [1, 2, 3]


def test_a_damaged_file_is_named_with_its_line(tmp_path):
    (tmp_path / "m.jsonl").write_text('{"step": 1}\n{"step"\n{"step": 3}\n')
    with pytest.raises(DataError, match="m.jsonl, line 2"): read_metrics(tmp_path / "m.jsonl")


@pytest.mark.parametrize("written", ["accuracy", "eval_accuracy"])
def test_a_learning_curve_shows_the_metric_that_decides_however_it_is_written(tmp_path, monkeypatch, written):
    drawn = []
    monkeypatch.setattr("mlx_bert_training.callbacks.learning_curve.plot_history",
                        lambda history, metric, best_step: drawn.append(metric) or new_figure(2, 2, "A test"))
    training = SimpleNamespace(best_metric=written)
    trainer = SimpleNamespace(config=SimpleNamespace(training=training), output_dir=tmp_path)
    LearningCurve().on_train_end(trainer, TrainerState(history=[{"step": 1, "eval_accuracy": 0.5}]))
    assert drawn == ["eval_accuracy"]
