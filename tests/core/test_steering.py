"""Steering a run: what is asked is done between two updates, recorded, and leads to the same weights when repeated."""
import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict

import numpy as np
import pytest
from mlx.utils import tree_flatten
from toys import ToyLoader, ToyModel, toy_config

from mlx_bert_training.callbacks import Callback, ModelCheckpoint
from mlx_bert_training.core.base import Trainer
from mlx_bert_training.core.checkpoint import latest_checkpoint
from mlx_bert_training.core.control import ControlError, RunControl
from mlx_bert_training.core.steering import INTERVENTIONS, Intervention, read_interventions
from mlx_bert_training.errors import DataError, MLXBertError, TrainingError, UnknownNameError


class At(Callback):
    "Does something after an update, from inside the run, where a button's thread would be too late to be exact."

    def __init__(self, **actions):
        self.actions = {int(name.removeprefix("u")): action for name, action in actions.items()}
        self.rates = []

    def on_step(self, trainer, state):
        self.rates.append(state.learning_rate)
        if state.step in self.actions: self.actions[state.step](trainer.control)


def make(tmp_path, *callbacks, name="run", **overrides):
    config = toy_config(tmp_path, **{"environment.run_name": name, "num_epochs": 4, **overrides})
    return Trainer(ToyModel(dropout=0.1), config, callbacks=callbacks)


def weights(trainer):
    return {name: np.array(value) for name, value in tree_flatten(trainer.model.parameters())}


def same(first, second):
    return all(np.array_equal(first[name], second[name]) for name in first)


def test_nothing_asked_leaves_no_trace(tmp_path):
    result = make(tmp_path).train(ToyLoader(), ToyLoader(seed=1))
    assert result.interventions == [] and not (result.output_dir / INTERVENTIONS).exists()
    assert "by hand" not in str(result)


@pytest.mark.parametrize("schedule", ["none", "linear"])
def test_a_changed_rate_arrives_in_the_optimizer_and_the_schedule_goes_on_from_there(tmp_path, schedule):
    plain, at = At(), At(u5=lambda control: control.set_learning_rate(0.001))
    make(tmp_path, plain, name="plain", **{"scheduler.type": schedule}).train(ToyLoader())
    trainer = make(tmp_path, at, **{"scheduler.type": schedule})
    result = trainer.train(ToyLoader())
    assert at.rates[:5] == plain.rates[:5] and at.rates[5] == pytest.approx(0.001)
    np.testing.assert_allclose(np.array(at.rates[5:]) / plain.rates[5:], 0.001 / plain.rates[5])
    assert float(trainer.optimizer.learning_rate) == pytest.approx(at.rates[-1])
    assert [(i.step, i.action, i.value) for i in result.interventions] == [(5, "learning_rate", 0.001)]


def test_a_rate_set_by_a_callback_is_scaled_too(tmp_path):
    from mlx_bert_training.callbacks import LearningRateScheduler
    at = At(u3=lambda control: control.set_learning_rate(0.5))
    make(tmp_path, at, LearningRateScheduler(lambda step: 0.25)).train(ToyLoader())
    assert set(at.rates[:3]) == {0.25} and set(at.rates[3:]) == {0.5}


def test_while_the_schedule_is_at_zero_a_rate_waits(tmp_path):
    from mlx_bert_training.callbacks import LearningRateScheduler
    at = At(u1=lambda control: control.set_learning_rate(0.5))
    rates = LearningRateScheduler(lambda step: 0.0 if step < 4 else 0.25)
    result = make(tmp_path, at, rates).train(ToyLoader())
    assert at.rates[:6] == [0, 0, 0, 0, 0.5, 0.5] and result.interventions[0].step == 4


@pytest.mark.parametrize("accumulate", [1, 2])
def test_declaration_and_interventions_replay_to_the_same_weights(tmp_path, accumulate):
    options = {"gradient_accumulation_steps": accumulate, "scheduler.type": "linear"}
    at = At(u2=lambda c: c.set_learning_rate(0.05), u4=lambda c: c.set_learning_rate(0.002), u7=lambda c: c.stop())
    first = make(tmp_path, at, name="first", **options)
    result = first.train(ToyLoader(), ToyLoader(seed=1))
    assert result.steps == 7 and "stopped by code after update 7" in result.stop_reason
    again = make(tmp_path, name="again", **options)
    repeated = again.train(ToyLoader(), ToyLoader(seed=1), replay=result.output_dir)
    assert same(weights(first), weights(again)) and repeated.steps == 7
    assert [i.source for i in repeated.interventions] == ["replay"] * 3
    untouched = make(tmp_path, name="untouched", **options)
    untouched.train(ToyLoader(), ToyLoader(seed=1))
    assert not same(weights(first), weights(untouched))


def test_a_stop_at_the_end_of_the_epoch_replays_too(tmp_path):
    first = make(tmp_path, At(u7=lambda c: c.stop(when="epoch")), name="first")
    result = first.train(ToyLoader(), ToyLoader(seed=1))
    assert result.steps == 10 and result.epochs == 2     # five updates an epoch
    again = make(tmp_path, name="again")
    repeated = again.train(ToyLoader(), ToyLoader(seed=1), replay=read_interventions(result.output_dir))
    assert repeated.steps == 10 and same(weights(first), weights(again)) and repeated.metrics == result.metrics


@pytest.mark.parametrize("keep, load_best", [("best", True), ("last", True), (None, True), (None, False)])
def test_a_stop_keeps_the_weights_that_were_asked_for(tmp_path, keep, load_best):
    seen = {}

    class Worse(Callback):
        "The first evaluation stays the best."
        def on_evaluate_end(self, trainer, state):
            state.metrics["eval_loss"] = float(state.step)
            seen[state.step] = weights(trainer)
    trainer = make(tmp_path, Worse(), At(u13=lambda c: c.stop(keep=keep)), load_best_at_end=load_best)
    result = trainer.train(ToyLoader(), ToyLoader(seed=1))
    best = keep == "best" or keep is None and load_best
    assert result.weights == ("best" if best else "last")
    assert same(weights(trainer), seen[5 if best else 13])
    assert result.metrics["eval_loss"] == (5 if best else 13)


def test_the_best_is_kept_from_a_checkpoint_where_memory_does_not_hold_it(tmp_path):
    class Worse(Callback):
        def on_evaluate_end(self, trainer, state): state.metrics["eval_loss"] = float(state.step)
    trainer = make(tmp_path, Worse(), ModelCheckpoint(), At(u13=lambda c: c.stop(keep="best")), load_best_at_end=False)
    assert trainer.train(ToyLoader(), ToyLoader(seed=1)).weights == "best"


def test_the_best_that_nobody_kept_is_said_to_be_lost(tmp_path, caplog):
    class Worse(Callback):
        def on_evaluate_end(self, trainer, state): state.metrics["eval_loss"] = float(state.step)
    trainer = make(tmp_path, Worse(), At(u13=lambda c: c.stop(keep="best")), load_best_at_end=False)
    assert trainer.train(ToyLoader(), ToyLoader(seed=1)).weights == "last"
    assert "keeping the last" in caplog.text


def test_a_stopped_run_resumes_to_the_bits_of_an_unstopped_one(tmp_path):
    whole = make(tmp_path, name="whole")
    whole.train(ToyLoader(), ToyLoader(seed=1))
    result = make(tmp_path, At(u7=lambda c: c.stop()), name="part").train(ToyLoader(), ToyLoader(seed=1))
    assert result.last_checkpoint is not None and result.last_checkpoint.name == "step-000007"
    on = make(tmp_path, name="part")
    resumed = on.train(ToyLoader(), ToyLoader(seed=1), resume_from="latest")
    assert resumed.steps == 20 and same(weights(whole), weights(on))
    assert resumed.interventions == [] and read_interventions(result.output_dir) == []


def test_a_changed_rate_survives_a_resume(tmp_path):
    at = At(u3=lambda c: c.set_learning_rate(0.001))
    whole = make(tmp_path, at, name="whole")
    whole.train(ToyLoader())
    make(tmp_path, At(u3=lambda c: c.set_learning_rate(0.001), u7=lambda c: c.stop()), name="part").train(ToyLoader())
    on = make(tmp_path, name="part")
    resumed = on.train(ToyLoader(), resume_from="latest")
    assert same(weights(whole), weights(on)) and [i.step for i in resumed.interventions] == [3]


def test_a_checkpoint_asked_for_by_hand_is_never_rotated_away(tmp_path):
    saves = ModelCheckpoint("steps", save_steps=2, save_total_limit=1)
    result = make(tmp_path, saves, At(u5=lambda c: c.checkpoint()), eval_strategy="no").train(ToyLoader())
    names = sorted(path.name for path in (result.output_dir / "checkpoints").iterdir())
    assert names == ["step-000005", "step-000020"]
    assert [(i.step, i.action) for i in result.interventions] == [(5, "checkpoint")]


def test_a_pause_waits_and_is_not_counted_as_training(tmp_path):
    run = make(tmp_path, num_epochs=400).start(ToyLoader(), ToyLoader(seed=1))
    run.pause()
    wait_for(lambda: run.control.paused and run.trainer.steering.interventions)
    step, seconds = run.state.step, run.state.seconds
    time.sleep(0.5)
    assert run.state.step == step and "paused" in repr(run)
    run.checkpoint()        # also followed while paused
    wait_for(lambda: run.state.last_checkpoint is not None)
    run.resume()
    wait_for(lambda: run.state.step > step)
    assert run.state.seconds - seconds < 0.5
    run.stop()
    assert [i.action for i in run.result().interventions] == ["pause", "checkpoint", "resume", "stop"]


def wait_for(condition, seconds=30):
    "Poll; the machine may be busy."
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def test_a_run_in_the_background_gives_what_train_gives(tmp_path):
    front, back = make(tmp_path, name="front"), make(tmp_path, name="back")
    expected = front.train(ToyLoader(), ToyLoader(seed=1))
    run = back.start(ToyLoader(), ToyLoader(seed=1))
    result = run.result()
    assert run.done and result.metrics == expected.metrics and same(weights(front), weights(back))
    assert back.evaluate(ToyLoader(seed=1)) == front.evaluate(ToyLoader(seed=1))    # its arrays are this thread's now
    back.train(ToyLoader())                                                         # and it can train again


def test_while_it_trains_the_trainer_is_left_alone(tmp_path):
    trainer = make(tmp_path, num_epochs=400)
    run = trainer.start(ToyLoader())
    for call in (lambda: trainer.train(ToyLoader()), lambda: trainer.start(ToyLoader()),
                 lambda: trainer.evaluate(ToyLoader()), lambda: trainer.save_checkpoint(tmp_path / "x")):
        with pytest.raises(ControlError, match="in the background"): call()
    with pytest.raises(TimeoutError): run.result(timeout=0.2)
    run.stop()
    run.result()
    with pytest.raises(ControlError, match="has ended"): run.pause()


def test_an_error_in_the_background_is_printed_and_raised(tmp_path, capfd):
    class Fails(Callback):
        def on_step_end(self, trainer, state):
            if state.step == 3: raise TrainingError("no more data")
    run = make(tmp_path, Fails()).start(ToyLoader())
    with pytest.raises(TrainingError, match="no more data"): run.result()
    assert "no more data" in capfd.readouterr().err and "no more data" in repr(run)


def test_a_run_can_be_awaited_and_a_cancelled_wait_stops_it(tmp_path):
    async def both():
        done = await make(tmp_path, name="done").start(ToyLoader())
        run = make(tmp_path, name="cut", num_epochs=2000).start(ToyLoader())
        waiting = asyncio.ensure_future(run._wait())
        await asyncio.sleep(0.2)
        waiting.cancel()
        return done, await waiting
    done, cut = asyncio.run(both())
    assert done.steps == 20 and "interrupt" in cut.stop_reason and cut.last_checkpoint is not None


def test_an_interrupt_ends_training_with_a_checkpoint_and_a_result(tmp_path):
    trainer = make(tmp_path, At(u7=lambda c: signal.raise_signal(signal.SIGINT)))
    result = trainer.train(ToyLoader(), ToyLoader(seed=1))
    assert result.steps == 7 and result.stop_reason == "stopped by interrupt after update 7"
    assert latest_checkpoint(result.output_dir / "checkpoints").name == "step-000007"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler     # put back


def test_an_ignored_interrupt_stays_ignored(tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try: result = make(tmp_path, At(u7=lambda c: signal.raise_signal(signal.SIGINT))).train(ToyLoader())
    finally: signal.signal(signal.SIGINT, before)
    assert result.steps == 20 and "interrupt" not in result.stop_reason


def test_a_second_interrupt_does_not_wait(tmp_path):
    def twice(control):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt): make(tmp_path, At(u7=twice)).train(ToyLoader())


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from toys import ToyLoader, ToyModel, toy_config
from mlx_bert_training.core.base import Trainer
trainer = Trainer(ToyModel(), toy_config({folder!r}, num_epochs=100000))
{lines}
print(result.stop_reason, result.last_checkpoint is not None)
"""
FRONT = "print('ready', flush=True); result = trainer.train(ToyLoader())"
BACK = "run = trainer.start(ToyLoader()); print('ready', flush=True); result = run.result()"


@pytest.mark.long
@pytest.mark.parametrize("lines", [FRONT, BACK], ids=["train", "start"])
def test_ctrl_c_in_a_script(tmp_path, lines):
    script = SCRIPT.format(tests=os.path.dirname(os.path.dirname(__file__)), folder=str(tmp_path), lines=lines)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    wait_for((tmp_path / "toy" / "config.yaml").exists)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert out.startswith("stopped by interrupt after update") and out.endswith("True\n") and process.returncode == 0


@pytest.mark.long
@pytest.mark.parametrize("lines", [FRONT, BACK], ids=["train", "start"])
def test_sigterm_in_a_script_saves_and_ends_with_143(tmp_path, lines):
    script = SCRIPT.format(tests=os.path.dirname(os.path.dirname(__file__)), folder=str(tmp_path), lines=lines)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", script], text=True, **pipes)
    assert process.stdout.readline() == "ready\n"
    wait_for((tmp_path / "toy" / "config.yaml").exists)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (143, "") and "go on from its checkpoint" in err
    assert len(list((tmp_path / "toy" / "checkpoints").glob("*/*.json"))) > 0


def test_sigterm_ends_training_after_one_update(tmp_path):
    trainer = make(tmp_path, At(u7=lambda c: signal.raise_signal(signal.SIGTERM)))
    with pytest.raises(SystemExit) as end: trainer.train(ToyLoader())
    assert end.value.code == 143 and trainer.state.stop_reason == "stopped by SIGTERM after update 7"
    assert trainer.state.last_checkpoint is not None and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_handler_of_ones_own_decides_about_sigterm(tmp_path):
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try: result = make(tmp_path, At(u7=lambda c: signal.raise_signal(signal.SIGTERM))).train(ToyLoader())
    finally: signal.signal(signal.SIGTERM, before)
    assert result.stop_reason == "stopped by SIGTERM after update 7"


@pytest.mark.long
def test_a_finished_thread_does_not_take_the_interpreter_with_it(tmp_path):
    script = SCRIPT.format(tests=os.path.dirname(os.path.dirname(__file__)), folder=str(tmp_path), lines="""
for _ in range(3):
    run = trainer.start(ToyLoader()); run.stop(); result = run.result()""")
    for _ in range(3): subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=120)


def test_mistakes_are_answered_at_once():
    control = RunControl()
    with pytest.raises(UnknownNameError, match="epoch"): control.stop(when="epok")
    with pytest.raises(UnknownNameError, match="best"): control.stop(keep="bst")
    for value in (float("nan"), -1, True, "1e-5", None):
        with pytest.raises(ControlError, match="0 or more"): control.set_learning_rate(value)
    assert control.take("stop", "learning_rate") == []


def test_what_nobody_took_is_forgotten_when_the_outermost_run_ends():
    control = RunControl()
    with control.running():
        with control.running(): control.stop()
        assert control.stop_wanted
    assert not control.stop_wanted
    control.pause()
    with control.running(): pass
    assert not control.paused


def test_requests_from_many_threads_are_all_taken():
    control = RunControl()
    threads = [threading.Thread(target=lambda: [control.checkpoint() for _ in range(200)]) for _ in range(8)]
    for thread in threads: thread.start()
    taken = []
    while len(taken) < 1600: taken += control.take("checkpoint")
    for thread in threads: thread.join()
    assert control.take("checkpoint") == [] and len(taken) == 1600


@pytest.mark.parametrize("text, message", [("{", "line 1"), ('{"step": 1}\n', "line 1"), ("[1]\n", "line 1")])
def test_a_file_of_interventions_that_cannot_be_read(tmp_path, text, message):
    path = tmp_path / INTERVENTIONS
    path.write_text(text)
    with pytest.raises(DataError, match=message): read_interventions(path)
    with pytest.raises(DataError, match="cannot be read"): read_interventions(tmp_path / "nothing.jsonl")


def test_the_result_names_what_was_done(tmp_path):
    result = make(tmp_path, At(u2=lambda c: c.set_learning_rate(0.003))).train(ToyLoader())
    assert "update 2: learning rate 0.003, by code" in str(result)
    result.save(tmp_path / "result.json")
    saved = json.loads((tmp_path / "result.json").read_text())["interventions"]
    assert saved == [asdict(result.interventions[0])] and Intervention(**saved[0]) == result.interventions[0]


def test_a_dashboard_that_is_not_there_is_said_to_be_missing(tmp_path):
    with pytest.raises(MLXBertError, match="DashboardCallback"): make(tmp_path).train(ToyLoader(), dashboard=True)


def test_the_loss_of_an_update_is_seen_by_listeners(tmp_path):
    class Sees(Callback):
        def __init__(self): self.losses = []
        def on_step(self, trainer, state): self.losses.append(trainer.meter.loss)
    sees = Sees()
    result = make(tmp_path, sees, gradient_accumulation_steps=2, eval_strategy="no").train(ToyLoader(24))
    logged = [row["loss"] for row in result.history if "loss" in row]
    # three batches of eight an epoch: its first update has sixteen rows, its second eight; a row is logged at its end
    expected = [(float(a) * 16 + float(b) * 8) / 24 for a, b in zip(sees.losses[::2], sees.losses[1::2], strict=True)]
    assert logged == pytest.approx(expected, rel=1e-5)
