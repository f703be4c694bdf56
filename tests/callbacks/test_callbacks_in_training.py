"""Callbacks in whole runs of a real trainer on a tiny model."""
import json

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_bert_training.callbacks import (
    Callback,
    EarlyStopping,
    LearningRateScheduler,
    MetricsLogger,
    ModelCheckpoint,
    ProgressBar,
)
from mlx_bert_training.callbacks.checkpoint import list_checkpoints
from mlx_bert_training.core.base import Trainer
from mlx_bert_training.core.config import BaseTrainerConfig

ROWS, LENGTH, BATCH = 64, 6, 8


class Tiny(nn.Module):
    "Mean of token vectors, and a linear layer."
    head_type = "binary_classification"

    def __init__(self):
        super().__init__()
        mx.random.seed(0)
        self.embedding, self.dropout, self.head = nn.Embedding(20, 8), nn.Dropout(0.1), nn.Linear(8, 2)

    def __call__(self, input_ids, attention_mask=None, token_type_ids=None):
        return self.head(self.dropout(self.embedding(input_ids).mean(1)))


class Rows:
    "Random tokens; the label is whether the first is below 10."
    num_examples = ROWS

    def __init__(self, seed):
        self.ids = np.random.default_rng(seed).integers(0, 20, (ROWS, LENGTH)).astype(np.int32)
        self.labels = (self.ids[:, 0] < 10).astype(np.int32)

    def __len__(self): return ROWS // BATCH

    def __iter__(self): return self.batches(0)

    def batches(self, epoch, start=0):
        order = np.random.default_rng(epoch).permutation(ROWS).reshape(-1, BATCH)
        for rows in order[start:]: yield {"input_ids": self.ids[rows], "labels": self.labels[rows], "row": rows}

    def subset(self, indices): raise NotImplementedError


def trainer(tmp_path, callbacks, **training) -> Trainer:
    config = BaseTrainerConfig()
    config.environment.output_dir, config.environment.run_name = str(tmp_path), "run"
    config.optimizer.learning_rate, config.data.batch_size = 0.05, BATCH
    options = {"num_epochs": 4, "logging_steps": 4, "early_stopping": False, "load_best_at_end": True, **training}
    for name, value in options.items(): setattr(config.training, name, value)
    return Trainer(Tiny(), config, callbacks=callbacks)


def file_rows(run: Trainer) -> list[dict]:
    assert run.output_dir is not None
    lines = (run.output_dir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "tokens_per_second"} for line in lines]


def steps_on_disk(run: Trainer) -> list[int]:
    assert run.output_dir is not None
    return [int(p.name[5:]) for p in list_checkpoints(run.output_dir / "checkpoints")]


def test_the_metrics_file_is_the_history(tmp_path):
    run = trainer(tmp_path, [MetricsLogger()])
    result = run.train(Rows(0), Rows(1))
    lines = (result.output_dir / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == result.history
    assert [row["step"] for row in result.history if "eval_loss" in row] == [8, 16, 24, 32]


def test_progress_has_a_line_for_each_evaluation(tmp_path, capsys):
    run = trainer(tmp_path, [ProgressBar("lines")], eval_strategy="steps", eval_steps=10)
    result = run.train(Rows(0), Rows(1))
    lines = capsys.readouterr().out.splitlines()
    evaluations = [row for row in result.history if "eval_loss" in row]
    assert [line.split()[1] for line in lines] == [f"{row['step']}/32" for row in evaluations]
    assert sum("(best)" in line for line in lines) >= 1


@pytest.mark.parametrize(("options", "kept"), [
    (dict(save_strategy="epoch", save_total_limit=None), [8, 16, 24, 32]),
    (dict(save_strategy="steps", save_steps=10, save_total_limit=2), [20, 30]),
])
def test_checkpoints_on_disk(tmp_path, options, kept):
    run = trainer(tmp_path, [ModelCheckpoint(**options)], load_best_at_end=False)
    result = run.train(Rows(0), Rows(1))
    best = {run.state.best_step} & set(steps_on_disk(run))
    assert set(steps_on_disk(run)) == set(kept) | best
    assert result.last_checkpoint is not None and result.last_checkpoint.name == f"step-{kept[-1]:06d}"


def test_the_best_checkpoint_holds_the_best_weights(tmp_path):
    run = trainer(tmp_path, [ModelCheckpoint("best", save_best_only=True)], eval_strategy="steps", eval_steps=3)
    result = run.train(Rows(0), Rows(1))
    assert steps_on_disk(run) == [run.state.best_step]
    assert result.best_checkpoint is not None
    fresh = trainer(tmp_path / "again", [])
    fresh.train_loader = Rows(0)
    fresh.load_checkpoint(result.best_checkpoint)
    assert fresh.state.best_checkpoint == str(result.best_checkpoint)
    assert fresh.evaluate(Rows(1))["eval_loss"] == result.best_metric


def test_early_stopping_ends_a_run_that_learns_nothing(tmp_path):
    run = trainer(tmp_path, [EarlyStopping(patience=2), LearningRateScheduler(lambda step: 0.0)], num_epochs=10)
    before = run.evaluate(Rows(1))["eval_loss"]
    result = run.train(Rows(0), Rows(1))
    assert result.steps == 3 * 8 and "early stopping: eval_loss has not improved" in result.stop_reason
    assert result.metrics["eval_loss"] == before


def test_an_own_schedule_sets_the_rate_of_every_update(tmp_path):
    run = trainer(tmp_path, [LearningRateScheduler(lambda step: 0.01 / (step + 1))], logging_steps=1, num_epochs=1,
                  gradient_accumulation_steps=2)
    result = run.train(Rows(0), Rows(1))
    rates = [row["learning_rate"] for row in result.history if "loss" in row]
    assert rates == pytest.approx([0.01 / (step + 1) for step in range(4)])


class Kill(Callback):
    "Ends the run as a signal would, late in an update."
    order = 95
    def __init__(self, step): self.step = step
    def on_step_end(self, trainer, state):
        if state.step == self.step: raise KeyboardInterrupt


@pytest.mark.parametrize("at", [9, 16, 21])
def test_a_killed_run_that_is_resumed_leaves_the_same_file_and_checkpoints(tmp_path, at):
    def callbacks(): return [MetricsLogger(), EarlyStopping(patience=3), ModelCheckpoint("all", save_steps=5)]
    options = dict(eval_strategy="steps", eval_steps=4)
    whole = trainer(tmp_path / "whole", callbacks(), **options)
    expected = whole.train(Rows(0), Rows(1))
    killed = trainer(tmp_path / "killed", [*callbacks(), Kill(at)], **options)
    with pytest.raises(KeyboardInterrupt): killed.train(Rows(0), Rows(1))
    resumed = trainer(tmp_path / "killed", callbacks(), **options)
    result = resumed.train(Rows(0), Rows(1), resume_from="latest")
    assert resumed.output_dir == killed.output_dir
    assert file_rows(resumed) == file_rows(whole)
    assert steps_on_disk(resumed) == steps_on_disk(whole)
    assert (result.steps, result.best_step, result.stop_reason) == (
        expected.steps, expected.best_step, expected.stop_reason)
    assert resumed.callbacks.state_dict() == whole.callbacks.state_dict()


def test_show_loop_lists_who_runs_when(tmp_path, capsys):
    trainer(tmp_path, [ProgressBar("off"), ModelCheckpoint(), EarlyStopping()]).show_loop()
    lines = [line.split()[:3] for line in capsys.readouterr().out.splitlines()]
    ends = [line for line in lines if line[0] == "on_epoch_end"]
    assert ends == [["on_epoch_end", "90", "ModelCheckpoint"], ["on_epoch_end", "95", "Steering"],
                    ["on_epoch_end", "100", "ProgressBar"]]


def test_a_callback_that_fails_ends_the_run_and_is_named(tmp_path):
    class Broken(Callback):
        def on_log(self, trainer, state): raise ValueError("no")

    logger = MetricsLogger()
    with pytest.raises(ValueError, match="no") as caught: trainer(tmp_path, [logger, Broken()]).train(Rows(0), Rows(1))
    if hasattr(caught.value, "add_note"):
        assert "raised by callback Broken in on_log, after update 4" in caught.value.__notes__
    assert [row["step"] for row in logger.rows] == [4]
