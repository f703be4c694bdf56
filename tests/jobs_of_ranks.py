"""Jobs for several ranks: a toy run, a rank that dies, a rank that fails, a rank that is stopped."""
import os
import signal
from pathlib import Path

import mlx.core as mx
from toys import ToyLoader, ToyModel, toy_config

from mlx_bert_training.callbacks import Callback, EarlyStopping, ModelCheckpoint, create_callback
from mlx_bert_training.core.base import Trainer
from mlx_bert_training.core.weights import model_weights
from mlx_bert_training.errors import DataError
from mlx_bert_training.runtime.ranks import process_ranks


class At(Callback):
    "Does something to a rank after an update."
    def __init__(self, rank, step, act): self.rank, self.step, self.act = rank, step, act

    def on_step_end(self, trainer, state):
        if process_ranks().rank == self.rank and state.step == self.step: self.act(trainer)


def die(trainer): os.kill(os.getpid(), signal.SIGKILL)
def freeze(trainer): os.kill(os.getpid(), signal.SIGSTOP)
def fail(trainer): raise DataError("row 7 cannot be read")
def ask_to_stop(trainer): trainer.control.stop(source="rank 1")
def terminate(trainer): os.kill(os.getpid(), signal.SIGTERM)
def change(trainer): trainer.model.out.bias = trainer.model.out.bias + 1
def ask_for_a_rate(trainer): trainer.control.set_learning_rate(0.005)


class OddRow(ToyLoader):
    "In the second batch of an epoch the last row's weight is no number."
    def batches(self, epoch, start=0):
        for number, batch in enumerate(super().batches(epoch, start), start):
            if number == 1: batch["example_weight"][-1] = float("nan")
            yield batch


class ToyRun:
    "Trains the toy model; what it comes to is plain arrays."

    def __init__(self, folder, dropout=0.0, at=None, resume=None, rows=37, batch=8, technique=None, loader=ToyLoader,
                 **overrides):
        self.technique, self.loader = technique, loader
        self.folder, self.dropout, self.at, self.resume = folder, dropout, at, resume
        self.rows, self.batch, self.overrides = rows, batch, overrides

    def run(self, control=None):
        config = toy_config(self.folder, **self.overrides)
        callbacks = [EarlyStopping(2, 1e-4)]
        if config.training.save_strategy != "no": callbacks.append(ModelCheckpoint("steps", 2))
        if self.technique is not None: callbacks.append(create_callback(self.technique))
        if self.at is not None: callbacks.append(At(*self.at))
        trainer = Trainer(ToyModel(self.dropout), config, callbacks=callbacks, control=control)
        result = trainer.train(self.loader(self.rows, self.batch), ToyLoader(21, 8, seed=1, shuffle=False),
                               resume_from=self.resume)
        values = trainer.predict(ToyLoader(13, 8, seed=2, shuffle=False, labelled=False)).values
        return {"weights": {name: mx.array(a).tolist() for name, a in model_weights(trainer.model).items()},
                "metrics": result.metrics, "steps": result.steps, "reason": result.stop_reason,
                "losses": [row["loss"] for row in result.history if "loss" in row], "values": values.tolist(),
                "norms": [row["grad_norm"] for row in result.history if "loss" in row],
                "tokens": trainer.state.tokens, "examples": trainer.state.examples, "folder": str(result.output_dir),
                "rank": process_ranks().rank, "files": sorted(p.name for p in Path(result.output_dir).glob("*")),
                "interventions": [str(i).split(",")[0] for i in result.interventions]}


class Several:
    "Runs one after the other, in the same ranks."

    def __init__(self, *runs): self.runs = runs

    def run(self, control=None): return [run.run(control) for run in self.runs]
