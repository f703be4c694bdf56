"""The dashboard without a browser: what it draws, what it costs nothing to know, and what a saved notebook keeps."""
import base64
import json
import re
import shutil
import subprocess
import threading
from html.parser import HTMLParser
from importlib.resources import files
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from toys import ToyLoader, ToyModel, toy_config

from mlx_bert_training.callbacks import Callback, ProgressBar, create_callback
from mlx_bert_training.callbacks.progress import Progress
from mlx_bert_training.core.base import Trainer
from mlx_bert_training.core.control import RunControl
from mlx_bert_training.core.state import TrainerState
from mlx_bert_training.core.steering import Intervention
from mlx_bert_training.errors import MissingExtraError, TrainingError
from mlx_bert_training.tasks.task import get_task
from mlx_bert_training.widgets import DashboardCallback, board, dashboard, folds, live
from mlx_bert_training.widgets.charts import (
    Chart,
    Line,
    chart_svg,
    decimate,
    log_ticks,
    round_ticks,
    tick_text,
    tick_texts,
)
from mlx_bert_training.widgets.controls import ControlPanel
from mlx_bert_training.widgets.live import clicks_are_heard, someone_may_look
from mlx_bert_training.widgets.recorder import Recorder, Track


class Tags(HTMLParser):
    "Checks that every tag is closed."
    def __init__(self, text):
        super().__init__()
        self.open = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag not in ("br", "img"): self.open.append(tag)

    def handle_startendtag(self, tag, attrs): pass

    def handle_endtag(self, tag): assert self.open.pop() == tag


class Output:
    "Stands in for a notebook's output: keeps what it was told to show."
    made: list = []

    def __init__(self):
        self.handle, self.shown = None, []
        Output.made.append(self)

    def show(self, bundle, metadata=None):
        self.handle = self
        self.shown.append((bundle, metadata))


@pytest.fixture
def outputs(monkeypatch):
    Output.made = []
    monkeypatch.setattr(dashboard, "LiveOutput", Output)
    return Output.made


def make(tmp_path, *callbacks, **overrides):
    return Trainer(ToyModel(), toy_config(tmp_path, **overrides), callbacks=callbacks)


# --- charts

@pytest.mark.parametrize("low, high", [(0, 1), (-3.2, 17), (1e-7, 3e-7), (0.31, 0.3101), (1e6, 3e9)])
def test_ticks_are_few_round_and_inside(low, high):
    ticks = round_ticks(low, high)
    assert 2 <= len(ticks) <= 6 and low - 1e-9 <= ticks[0] and ticks[-1] <= high * (1 + 1e-9)


@pytest.mark.parametrize("low, high", [(-0.1, 0.4), (-5, 3), (2.1, 2.2), (-12, 12)])
def test_ticks_of_a_logarithm(low, high):
    assert len(log_ticks(low, high)) <= 5 and all(low <= tick <= high for tick in log_ticks(low, high))


def test_numbers_on_an_axis_are_short():
    for value in (0, 1, -2.5, 1e-5, 2.34e-8, 12345.6, 1e7, 123e9, 0.12345): assert len(tick_text(value)) <= 7


AXES = [([0.0005, 0.001, 0.0015], ["0.0005", "0.0010", "0.0015"]), ([0, 500, 1000], ["0", "500", "1,000"]),
        ([0, 1e-5, 2e-5], ["0", "1e-5", "2e-5"]), ([0.725, 0.73], ["0.725", "0.730"]),
        ([-0.2, 0, 0.2], ["-0.2", "0.0", "0.2"]),
        ([0.2, 0.5, 1, 2], ["0.2", "0.5", "1.0", "2.0"]), ([1e-5, 1e-3, 0.1, 10], ["1e-5", "0.001", "0.1", "10"])]


@pytest.mark.parametrize(("values", "texts"), AXES)
def test_an_axis_writes_its_numbers_in_one_way(values, texts):
    assert tick_texts(values) == texts


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_browser_writes_numbers_as_the_kernel_does():
    "The functions of the widget that write numbers, run by node."
    script = (files("mlx_bert_training.widgets") / "static" / "plots.js").read_text(encoding="utf-8")
    functions = script[script.index("const padded"):script.index("const SIGN")]
    spans = [(-0.1, 0.4), (-5, 3), (2.1, 2.2), (-12, 12), (-0.18, 0.24)]
    values = [0.5, 0, 1, 688.73, 2e-5, 1.234e-7, 5e-4]
    asked = (f"{functions}; console.log(JSON.stringify([{json.dumps([axis for axis, _ in AXES])}.map(distinct), "
             f"{json.dumps(values)}.map(v => [number(v, 'fixed'), number(v, 'short')]), "
             f"{json.dumps(spans)}.map(([low, high]) => logTicks(low, high))]))")
    answer = subprocess.run(["node", "-e", asked], capture_output=True, text=True, check=True).stdout
    axes, figures, logs = json.loads(answer)
    assert axes == [texts for _, texts in AXES]
    for (low, high), ticks in zip(spans, logs, strict=True):
        assert 2 <= len(ticks) <= 6 and low <= ticks[0] and ticks[-1] <= high
        texts = [f"{10 ** tick:.2g}" for tick in ticks]
        assert [float(text) for text in texts] == pytest.approx([10 ** tick for tick in ticks]), "round numbers"
    assert figures == [[board.figure_text(float(value)), f"{value:.3g}"] for value in values]


def test_a_spike_survives_decimation_and_order_is_kept():
    y = np.zeros(5000)
    y[3210], y[7] = 9, np.nan
    x, few = decimate(np.arange(5000), y, 100)
    assert len(x) <= 100 and 9 in few and (np.diff(x) > 0).all()
    assert decimate(np.arange(3), np.arange(3))[0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("lines", [[], [([], [])], [([1], [0.5])], [([1, 2], [np.nan, np.inf])],
                                   [([1, 2, 3], [2, 2, 2])]])
@pytest.mark.parametrize("log", [False, True])
def test_a_chart_of_little_or_nothing(lines, log):
    chart = Chart("<loss>", [Line("a&b", x, y, "#000", "points", best=1) for x, y in lines], x_max=0, log=log)
    svg = chart.svg()
    Tags(svg)
    assert "<loss>" not in svg and "nan" not in svg and "inf" not in svg
    from mlx_bert_training.figures import new_figure
    figure = new_figure(3, 2)
    chart.draw(figure.subplots())
    assert figure._repr_png_()


def test_a_chart_tells_a_screen_reader_and_marks_what_was_done():
    chart = Chart("loss", [Line("training", [1, 2], [0.5, 0.25], "#111")], 4, marks=[(2, "update 2: <pause>")])
    assert "role='img'" in chart.svg() and "<title>loss: training 0.25</title>" in chart.svg()
    assert "update 2: &lt;pause&gt;" in chart.svg()


def test_a_first_loss_far_off_does_not_press_the_rest_to_the_ground():
    y = np.r_[1e4, np.linspace(1, 0.5, 500)]
    assert Chart("loss", [Line("each", np.arange(501), y, "#111", "faint")], 501).limits()[1] < 5


def test_a_frame_is_small():
    y = np.random.default_rng(0).normal(size=100_000)
    assert len(chart_svg(Chart("loss", [Line("a", np.arange(100_000), y, "#111")], 1e5))) < 6_000


# --- recorder

def test_the_newest_update_is_not_waited_for():
    class Unready:
        def __float__(self): raise AssertionError("this waits for the device")
    recorder, state = Recorder(), TrainerState()
    for state.step, loss in ((1, 2.0), (2, Unready())):
        recorder.note(SimpleNamespace(meter=SimpleNamespace(loss=loss, norm=1.0)), state)
    recorder.collect()
    assert recorder.loss.y.tolist() == [2.0]


def test_smoothing_is_unbiased_and_steps_over_what_is_not_a_number():
    recorder, state = Recorder(0.9), TrainerState()
    for state.step, loss in enumerate((3.0, float("nan"), 3.0, 3.0), 1):
        recorder.note(SimpleNamespace(meter=SimpleNamespace(loss=loss, norm=1.0)), state)
    recorder.collect(keep=0)
    assert np.allclose(recorder.smooth.y, 3.0) and recorder.smooth.x.tolist() == [1, 3, 4] and len(recorder.loss) == 4


def test_speed_leaves_out_what_was_no_training():
    recorder, state = Recorder(), TrainerState()
    for state.step in range(1, 40):
        state.tokens, state.seconds = state.step * 100, state.step * 0.1 + 50 * (state.step > 20)
        if state.step == 21: recorder.interrupted()
        recorder.note(SimpleNamespace(meter=SimpleNamespace(loss=1.0, norm=1.0)), state)
    assert np.allclose(recorder.speed.y, 1000) and len(recorder.speed) == 9


def test_speed_is_measured_however_often_there_is_an_evaluation():
    recorder, state = Recorder(), TrainerState()
    for state.step in range(1, 100):
        state.tokens, state.seconds = state.step * 100, state.step * 0.1 + 50 * (state.step // 4)
        if state.step % 4 == 0: recorder.interrupted()
        recorder.note(SimpleNamespace(meter=SimpleNamespace(loss=1.0, norm=1.0)), state)
    assert np.allclose(recorder.speed.y, 1000) and len(recorder.speed) >= 5


def test_a_track_grows():
    track = Track()
    for i in range(5000): track.add(i, -i)
    assert track.x.sum() == -track.y.sum() == sum(range(5000))


# --- what is worth a warning

def state_of(*losses):
    return TrainerState(step=100 * len(losses), total_steps=1000, history=[
        {"step": 100 * i, "epoch": 1.0, "eval_loss": loss} for i, loss in enumerate(losses, 1)])


@pytest.mark.parametrize("losses, falling, warned", [
    ((0.5, 0.4, 0.45, 0.5), True, True), ((0.5, 0.4, 0.45, 0.5), False, False), ((0.5, 0.4, 0.3, 0.31), True, False),
    ((0.5, 0.4), True, False), ((0.4, 0.4001, 0.4002, 0.4003), True, False)])
def test_overfitting_is_said(losses, falling, warned):
    recorder = Recorder()
    for step in range(1, 401): recorder.smooth.add(step, 1 - step / 500 if falling else 1)
    assert bool(board.worries(recorder, state_of(*losses))) == warned


def test_a_loss_that_is_no_number_is_said():
    recorder = Recorder()
    recorder.loss.add(1, 0.5)
    recorder.loss.add(2, float("nan"))
    assert "update 2" in board.worries(recorder, state_of())[0]


def test_the_metric_that_is_shown(tmp_path):
    trainer = make(tmp_path, metrics=["f1", "auc"])
    assert board.shown_metric(trainer) is None      # nothing to evaluate on
    trainer.val_loader = ToyLoader()
    assert board.shown_metric(trainer) == "eval_f1"
    for written in ("eval_auc", "auc"):
        trainer.config.training.best_metric = written
        assert board.shown_metric(trainer) == "eval_auc" and board.shown_metrics(trainer) == ["eval_auc", "eval_f1"]
    trainer.config.training.best_metric = "loss"
    assert board.shown_metrics(trainer) == ["eval_f1", "eval_auc"]
    trainer.config.training.eval_strategy = "no"
    assert board.shown_metric(trainer) is None


# --- the callback

def test_it_is_drawn_while_it_trains_and_ends_as_a_picture(tmp_path, outputs):
    callback = DashboardCallback("notebook", interval=0)
    callback.share = 10.0       # of the time: every update is drawn
    trainer = make(tmp_path, callback)
    trainer.train(ToyLoader(), ToyLoader(seed=1))
    top, below, shown, tables = outputs
    live = [bundle["text/html"] for bundle, _ in shown.shown if "text/html" in bundle]
    assert len(live) > 15 and all(html.count("<svg") == 5 for html in live[1:])
    for html in [*live, *(bundle["text/html"] for bundle, _ in [*top.shown, *tables.shown])]: Tags(html)
    phases = {re.search("role='status'>([^<]*)", bundle["text/html"])[1] for bundle, _ in top.shown}
    assert {"training", "evaluating 1/5", "evaluating 5/5", "finished (all planned updates are done)"} <= phases
    last, metadata = shown.shown[-1]
    assert base64.b64decode(last["image/png"]).startswith(b"\x89PNG") and "loss" in metadata["image/png"]["alt"]
    table, card = tables.shown[-1][0]["text/html"], below.shown[-1][0]["text/html"]
    Tags(card)
    assert len(below.shown) == 2 and "hardest rows" in table and "the best weights" in card and "result.json" in card
    assert table.index("★") < table.index("<td", table.index("★")), "the best has the first row"
    assert not trainer.control.listeners


@pytest.mark.parametrize("head", ["regression", "multilabel_classification", "multiclass_classification"])
def test_the_last_picture_of_other_tasks(tmp_path, outputs, head):
    from mlx_bert_training.core.evaluator import Outputs
    trainer = make(tmp_path)
    rng, width = np.random.default_rng(0), 1 if head == "regression" else 3
    labels = {"regression": rng.normal(size=40), "multilabel_classification": rng.integers(0, 2, (40, 3)),
              "multiclass_classification": rng.integers(0, 3, 40)}[head]
    trainer.evaluator.task = get_task(head)
    trainer.outputs = Outputs(rng.normal(size=(40, width)), labels, np.arange(40), 0.5)
    trainer.model = SimpleNamespace(label_names=["a", "b", "c"])
    report = board.error_report(trainer)
    assert board.final_figure(board.run_charts(Recorder(), TrainerState()), report)._repr_png_()
    Tags(board.final_html(Progress(), [], report))


def test_texts_of_the_hardest_rows_are_those_of_the_rows(tmp_path, outputs):
    from mlx_bert_training import create_trainer
    trainer = create_trainer(config={
        "model": {"config": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                             "intermediate_size": 16}},
        "data": {"train_path": "demo:german_credit/train.csv", "target_column": "risk", "id_column": "id",
                 "template": "applicant {id} wants {credit_amount}", "max_length": 16, "max_train_rows": 64},
        "environment": {"output_dir": str(tmp_path), "compile": False}}, num_epochs=1, save_strategy="no")
    trainer.train()
    table = board.error_report(trainer).hardest(20)
    frame = trainer.data.frames["validation"].set_index("id")
    for row, true, text in zip(table["row"], table["true"], table["text"], strict=True):
        assert text == f"applicant {row} wants {frame.loc[row, 'credit_amount']}"
        assert true == frame.loc[row, "risk"]


def test_the_report_is_of_the_weights_that_are_kept(tmp_path, outputs):
    class Worse(Callback):
        def on_evaluate_end(self, trainer, state): state.metrics["eval_loss"] = float(state.step)
    trainer = make(tmp_path, Worse())
    trainer.train(ToyLoader(), ToyLoader(seed=1))
    kept = trainer.outputs.logits
    trainer.evaluate(ToyLoader(seed=1))
    np.testing.assert_allclose(kept, trainer.outputs.logits, atol=1e-6)


def test_an_error_leaves_the_picture_and_its_name(tmp_path, outputs):
    class Fails(Callback):
        def on_step_end(self, trainer, state):
            if state.step == 4: raise TrainingError("<enough>")
    with pytest.raises(TrainingError): make(tmp_path, Fails(), DashboardCallback("notebook")).train(ToyLoader())
    assert "image/png" in outputs[2].shown[-1][0]
    assert "stopped (TrainingError: &lt;enough&gt;)" in outputs[0].shown[-1][0]["text/html"]


def test_without_matplotlib_the_last_live_frame_stays(tmp_path, outputs, monkeypatch):
    def missing(*_): raise MissingExtraError("no matplotlib")
    monkeypatch.setattr(dashboard, "final_figure", missing)
    make(tmp_path, DashboardCallback("notebook", interval=9)).train(ToyLoader(), ToyLoader(seed=1))
    assert "finished (all" in outputs[0].shown[-1][0]["text/html"] and "15 / 15" in outputs[0].shown[-1][0]["text/html"]
    assert "<svg" in outputs[2].shown[-1][0]["text/html"]


def test_no_dashboard_gives_the_plain_bar(tmp_path, outputs, capsys):
    make(tmp_path, DashboardCallback("notebook")).train(ToyLoader(), dashboard=False)
    assert outputs == [] and "15/15" in capsys.readouterr().out     # IPython prints a display without a notebook


@pytest.mark.parametrize("mode", ["lines", "terminal"])
def test_elsewhere_it_is_a_progress_bar(tmp_path, outputs, capsys, mode):
    make(tmp_path, DashboardCallback(mode)).train(ToyLoader(), ToyLoader(seed=1), dashboard=True)
    assert outputs == [] and "eval_loss" in "".join(capsys.readouterr())


def test_a_run_can_be_shown_once_more(tmp_path, outputs, monkeypatch):
    again = []
    monkeypatch.setattr(Output, "again", lambda self: again.append(self), raising=False)

    class Asks(Callback):
        def on_step_end(self, trainer, state):
            if state.step == 3: trainer.control.show()
    trainer = make(tmp_path, Asks(), DashboardCallback("notebook"))
    trainer.train(ToyLoader())
    assert again == outputs and not trainer.control.displays


def test_what_is_shown_again_is_what_was_shown_last(monkeypatch):
    from mlx_bert_training.callbacks.progress import LiveOutput
    shown = []
    output = LiveOutput()
    output.again()
    output.handle = SimpleNamespace(update=lambda bundle, **_: None, display=lambda bundle, **_: shown.append(bundle))
    output.show({"text/plain": "one"})
    output.show({"text/plain": "two"})
    output.again()
    assert shown == [{"text/plain": "two"}]


def test_a_declaration_can_name_it():
    made = create_callback({"type": "dashboard", "interval": 2, "controls": False})
    assert isinstance(made, DashboardCallback) and made.interval == 2


def test_a_bar_of_ones_own_takes_its_place():
    from mlx_bert_training.core.config import BaseTrainerConfig
    from mlx_bert_training.factory import _merge, declared_callbacks
    declared = declared_callbacks(BaseTrainerConfig())
    for own in (ProgressBar("off"), DashboardCallback("off")):
        shown = [callback for callback in _merge(declared, [own]) if isinstance(callback, ProgressBar)]
        assert shown == [own]


# --- controls

def test_buttons_are_only_where_a_click_is_heard(monkeypatch):
    assert not someone_may_look() and not clicks_are_heard()        # no kernel at all
    kernel = SimpleNamespace(_supports_kernel_subshells=False)
    shell = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=kernel))
    monkeypatch.setitem(live.sys.modules, "IPython", shell)
    for name in ("JPY_SESSION_NAME", "KAGGLE_KERNEL_RUN_TYPE", "COLAB_RELEASE_TAG"): monkeypatch.delenv(name, False)
    assert not someone_may_look()                                   # a kernel of nbclient
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    assert not someone_may_look()
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    assert someone_may_look() and not clicks_are_heard()            # a busy cell that nothing gets past
    heard = []
    thread = threading.Thread(target=lambda: heard.append(clicks_are_heard()))
    thread.start()
    thread.join()
    assert heard == [True]                                          # in the background they are
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE")
    monkeypatch.setenv("JPY_SESSION_NAME", "x")
    assert not clicks_are_heard()
    kernel._supports_kernel_subshells = True
    assert clicks_are_heard()


def test_a_panel_has_words_for_places_without_widgets():
    panel = ControlPanel(RunControl())
    assert {"application/vnd.jupyter.widget-view+json", "text/html", "text/plain"} <= panel.bundle().keys()


def test_every_button_asks_for_what_it_says():
    control = RunControl()
    panel = ControlPanel(control)
    buttons = {button.description: button for button in panel.buttons}
    assert all(button.tooltip for button in buttons.values())
    buttons["Stop after epoch"].click()
    buttons["Stop, keep best"].click()
    buttons["Stop now"].click()
    assert [(r.when, r.value, r.source) for r in control.take("stop")] == [
        ("epoch", None, "button"), ("now", "best", "button"), ("now", None, "button")]
    buttons["Checkpoint"].click()
    assert control.take("checkpoint")
    for text in ("", "-1", "nan", "1e-5x"):
        panel.rate.field.value = text
        buttons["Set"].click()
        assert "role='alert'" in panel.message.value and not control.take("learning_rate")


def test_a_cross_validation_is_steered_as_one_run_but_for_the_choice_of_weights():
    panel = ControlPanel(RunControl(), cross_validation=True)
    names = [button.description for button in panel.buttons]
    assert names == ["Pause", "Checkpoint", "Stop after epoch", "Stop now", "Set"]


def test_enter_sets_the_rate_and_a_great_change_is_asked_about():
    control = RunControl()
    panel = ControlPanel(control)
    panel.refresh(rate=2e-5)
    assert "now 2e-05" in panel.rate.present.value
    panel.rate.field.value = "2e-3"
    enter = {"event": "submit"}
    panel.rate.field._handle_custom_msg(enter, [])
    assert not control.take("learning_rate") and "100 times more than now" in panel.message.value
    panel.rate.field._handle_custom_msg(enter, [])
    assert [request.value for request in control.take("learning_rate")] == [2e-3]


def test_a_resumed_run_shows_its_whole_past_and_what_old_best_weights_get_wrong(tmp_path, outputs):
    class Worse(Callback):
        def on_evaluate_end(self, trainer, state): state.metrics["eval_loss"] = float(state.step)
    class Ends(Callback):
        def on_step_end(self, trainer, state):
            if state.step == 5: trainer.control.checkpoint()
            if state.step == 8: trainer.control.stop()
    options = {"eval_strategy": "steps", "eval_steps": 5, "load_best_at_end": True}
    first = make(tmp_path, Worse(), Ends(), **options)
    stopped = first.train(ToyLoader(), ToyLoader(seed=1))
    again = make(tmp_path, Worse(), DashboardCallback("notebook"), **options)
    result = again.train(ToyLoader(), ToyLoader(seed=1), resume_from=stopped.last_checkpoint)
    assert result.best_step == 5 and result.weights == "best" and again.outputs is None
    assert "hardest rows" in outputs[3].shown[-1][0]["text/html"]
    assert board.error_report(again).targets.shape == (40,)


def test_the_past_of_a_run_is_drawn():
    recorder = Recorder()
    history = [{"step": 2, "loss": 1.0, "grad_norm": 2.0}, {"step": 2, "eval_loss": 1.0}, {"step": 4, "loss": 0.5}]
    recorder.recall(history)
    assert recorder.loss.x.tolist() == [2, 4] and len(recorder.smooth) == 2 and recorder.norm.y.tolist() == [2.0]


def test_the_training_loss_is_one_number_from_the_first_evaluation_on():
    recorder, state = Recorder(), state_of(0.7, 0.6)
    for step in range(1, 201): recorder.add(step, 1 / step, 1.0, 1e-3)
    assert board.evaluation_rows(state.history, recorder)[0]["train loss"] == recorder.smooth.y[99]
    assert recorder.train_loss(0) is None and recorder.train_loss(500) == recorder.smooth.y[-1]
    table = board.evaluations_html(state.history, 200, recorder)
    assert board.figure_text(recorder.train_loss(200)) in table and "–" not in table


def test_charts_of_a_run_end_at_the_same_update():
    recorder, state = Recorder(), state_of(0.7, 0.6)
    for step in range(1, 150): recorder.add(step, 0.5, 1.0, 1e-3)
    assert {chart.extent for chart in board.run_charts(recorder, state, ["eval_auc"])} == {200.0}


def test_the_speed_of_a_fast_model_is_that_of_its_updates():
    recorder, state = Recorder(), TrainerState()
    for state.step in range(1, 41):         # 1,000 tokens in 10 ms, and an evaluation of a second after each tenth
        state.tokens += 1000
        state.seconds += 0.01 + (1.0 if state.step % 10 == 1 else 0.0)
        recorder.note(SimpleNamespace(meter=SimpleNamespace(loss=0.5, norm=1.0)), state)
        if state.step % 10 == 0: recorder.interrupted()
    assert recorder.now == pytest.approx(100_000) and recorder.speed.y == pytest.approx(100_000)


def test_folds_have_a_slot_from_the_start():
    slots = [folds.FoldSlot(f"fold {i}") for i in range(1, 6)]
    assert [chart.title for chart in folds.fold_charts(slots)][4] == "fold 5: waiting"
    slots[0].began, slots[0].score = True, 0.75
    assert folds.cv_status(slots, Progress(), "cv", "auc").figures["mean auc"] == "0.7500"
    Tags(folds.score_strip(slots, "auc"))


def test_the_time_of_a_cross_validation_is_that_of_all_folds_and_a_stop_shows():
    slots = [folds.FoldSlot(f"fold {i}", began=i < 3) for i in range(1, 4)]
    slots[0].score, slots[0].seconds = 0.75, 60.0
    running = folds.cv_status(slots, Progress(step=5, total_steps=10, elapsed=30, remaining=30), "cv", "auc")
    assert (running.figures["time"], running.figures["left"]) == ("1:30", "1:30")
    for slot in slots: slot.over = True
    assert [slot.state for slot in slots] == ["fold 1: 0.7500", "fold 2: stopped", "fold 3: not begun"]
    assert folds.cv_status(slots, Progress(elapsed=30), "cv", "auc").figures["left"] == "–"


# --- a real kernel

CELL = """
import sys; sys.path.insert(0, {tests!r})
from toys import ToyLoader, ToyModel, toy_config
from mlx_bert_training.core.base import Trainer
from mlx_bert_training.widgets import DashboardCallback
trainer = Trainer(ToyModel(), toy_config({folder!r}), callbacks=[DashboardCallback()])
"""


@pytest.mark.parametrize("run", ["result = trainer.train(ToyLoader(), ToyLoader(seed=1))",
                                 "run = trainer.start(ToyLoader(), ToyLoader(seed=1)); result = run.result()",
                                 "result = await trainer.start(ToyLoader(), ToyLoader(seed=1))"])
def test_a_headless_notebook_keeps_its_plots(tmp_path, run):
    cell = CELL.format(tests=str(__import__("pathlib").Path(__file__).parents[1]), folder=str(tmp_path)) + run
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    NotebookClient(notebook, timeout=120).execute()
    path = tmp_path / "saved.ipynb"
    nbformat.write(notebook, path)
    kept = nbformat.read(path, as_version=4).cells[0].outputs
    assert not [output for output in kept if output.output_type in ("error", "stream")]
    kinds = [set(output.data) for output in kept]
    table = {"text/html", "text/plain"}
    assert kinds == [table, table, {"image/png", "text/plain"}, table]
    assert re.search(r"15 of 15 updates", kept[1].data["text/html"])


def test_marks_of_what_was_done_are_in_the_charts():
    charts = board.run_charts(Recorder(), TrainerState(total_steps=10), (), [
        Intervention(3, "learning_rate", 1e-5, "button"), Intervention(4, "resume")])
    assert charts[0].marks == [(3.0, "update 3: learning rate 1e-05, by button")]
