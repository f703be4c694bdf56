"An evaluation says how far it is, and gives way to a stop; a resumed run catches up on it."
import numpy as np
import pytest
from toys import ToyLoader, ToyModel, toy_config

from mlx_bert_training.callbacks import Callback, ModelCheckpoint
from mlx_bert_training.callbacks.soup import BestWeights
from mlx_bert_training.core.base import Trainer


class StopsEvaluation(Callback):
    "Asks for a stop in the middle of one evaluation."

    def __init__(self, number: int = 2): self.number, self.seen, self.count = number, [], 0

    def on_evaluate_begin(self, trainer, state): self.count += 1

    def on_prediction_step(self, trainer, state):
        self.seen.append(trainer.batches_seen)
        if self.count == self.number and trainer.batches_seen[0] == 2: trainer.control.stop(source="button")


def trainer_in(tmp_path, *callbacks, **overrides):
    return Trainer(ToyModel(), toy_config(tmp_path, num_epochs=4, save_strategy="epoch", **overrides),
                   callbacks=list(callbacks))


def test_an_evaluation_tells_how_far_it_is(tmp_path):
    heard = StopsEvaluation(99)
    trainer = trainer_in(tmp_path, heard)
    trainer.val_loader = ToyLoader(24, seed=1)
    trainer.evaluate()
    assert heard.seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("when", [{"eval_strategy": "epoch"}, {"eval_strategy": "steps", "eval_steps": 5}])
def test_a_stop_gives_up_an_evaluation_and_a_resume_catches_up(tmp_path, when):
    whole = trainer_in(tmp_path / "whole", **when).train(ToyLoader(), ToyLoader(seed=1))
    heard = StopsEvaluation()
    first = trainer_in(tmp_path / "cut", heard, **when)
    result = first.train(ToyLoader(), ToyLoader(seed=1))
    assert result.steps == 10 and heard.seen[-1] == (2, 5), "no further update, and no further batch"
    assert result.weights == "best" and result.best_step == 5
    evaluated = [row["step"] for row in result.history if "eval_loss" in row]
    assert evaluated == [5]
    again = trainer_in(tmp_path / "cut", **when)
    again.output_dir = first.output_dir
    resumed = again.train(ToyLoader(), ToyLoader(seed=1), resume_from=result.last_checkpoint)
    for key in ("step", "eval_loss"):
        assert [row[key] for row in resumed.history if "eval_loss" in row] == [
            row[key] for row in whole.history if "eval_loss" in row]
    assert np.isfinite(resumed.best_metric)


def test_what_keeps_good_weights_hears_of_an_evaluation_that_a_resume_makes_up_for(tmp_path):
    first = trainer_in(tmp_path, ModelCheckpoint("epoch"), StopsEvaluation())
    stopped = first.train(ToyLoader(), ToyLoader(seed=1))

    class Looks(Callback):
        def on_batch_begin(self, trainer, state):
            if state.step == 10: heard.append(([step for _, step, _ in kept.members], state.best_checkpoint))
    heard, kept = [], BestWeights(top=4)
    again = trainer_in(tmp_path, kept, ModelCheckpoint("epoch"), Looks())
    again.output_dir = first.output_dir
    resumed = again.train(ToyLoader(), ToyLoader(seed=1), resume_from=stopped.last_checkpoint)
    assert resumed.history and heard[0][0] == [10]
    assert heard[0][1] is not None and heard[0][1].endswith("step-000010")
