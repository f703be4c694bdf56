"What trains in a process is listed; a cell that is run again asks; a stop that was asked for is no failure."
import threading
from types import SimpleNamespace

import pytest
from toys import ToyLoader, ToyModel, toy_config

import mlx_bert_training as package
from mlx_bert_training.callbacks import Callback
from mlx_bert_training.core import background
from mlx_bert_training.core.background import RunHandle, StillTraining, runs, settle
from mlx_bert_training.core.base import Trainer
from mlx_bert_training.core.control import RunStopped


def test_a_run_that_trains_is_listed_and_can_be_stopped(tmp_path):
    listed = []

    class Looks(Callback):
        def on_step_end(self, trainer, state):
            listed.append(repr(package.runs()))
            if state.step == 3: package.runs()[0].stop()
    assert repr(runs()) == "nothing trains in this kernel"
    result = Trainer(ToyModel(), toy_config(tmp_path), callbacks=[Looks()]).train(ToyLoader(), ToyLoader(seed=1))
    assert result.steps == 3 and not runs()
    assert listed[:3] == [f"toy: update {step}/15" for step in (1, 2, 3)]


def test_a_cell_that_is_run_again_asks_what_to_do(monkeypatch):
    shown = []
    control = SimpleNamespace(asked=[], stop=lambda source: control.asked.append(source), wait=lambda seconds: True,
                              show=lambda: shown.append("again"))
    before = SimpleNamespace(done=False, control=control, _finished=threading.Event())
    monkeypatch.setitem(background._STARTED, "cell", before)
    settle("another cell", lambda question: pytest.fail("nothing to ask"))
    settle(None)
    settle("cell", lambda question: "both")
    for answer in ("keep", ""):
        with pytest.raises(StillTraining, match="nothing was started"): settle("cell", lambda question, a=answer: a)

    def nobody(question): raise RuntimeError("no input here")
    with pytest.raises(StillTraining): settle("cell", nobody)
    assert not control.asked
    assert shown == ["again"] * 3, "running a cell again clears it, and the run that goes on is shown anew"

    def stops(source):
        control.asked.append(source)
        before.done = True
    control.stop = stops
    settle("cell", lambda question: "s")
    assert control.asked == ["code"]


def test_a_cross_validation_that_was_stopped_prints_no_traceback(tmp_path, capsys):
    trainer = Trainer(ToyModel(), toy_config(tmp_path))

    def stopped(): raise RunStopped("stopped in fold 2 of 5")
    run = RunHandle(trainer, stopped)
    with pytest.raises(RunStopped): run.result()
    assert "stopped in fold 2" in capsys.readouterr().out and "Traceback" not in capsys.readouterr().err
