"""The progress display: what it says, where it shows, and what a saved notebook keeps."""
import os
import sys
from html.parser import HTMLParser

import nbformat
import pytest
from nbclient import NotebookClient

from mlx_bert_training.callbacks import ProgressBar, progress
from mlx_bert_training.callbacks.progress import Progress, Throttle, detect_mode, render_html, render_text
from mlx_bert_training.core.state import TrainerState
from mlx_bert_training.errors import UnknownNameError

ROWS = [{"step": n * 100, "epoch": float(n), "eval_loss": 1 / n, "eval_auc": None} for n in range(1, 51)]

PLAY = '''
from mlx_bert_training.core.state import TrainerState

def play(bar, fail=False, steps=30):
    state = TrainerState(total_steps=steps, num_epochs=3, steps_per_epoch=10, batches_per_epoch=10)
    bar.on_train_begin(None, state)
    for step in range(1, steps + 1):
        state.step, state.epoch, state.batch, state.seconds = step, (step - 1) // 10, (step - 1) % 10 + 1, step * 2.0
        state.tokens, state.loss, state.learning_rate = step * 1000, 0.5, 2e-5
        bar.on_step(None, state)
        if fail and step == 15:
            state.stop_reason = "TrainingError: <nan>"
            bar.on_exception(None, state)
            return
        bar.on_step_end(None, state)
        if step % 10 == 0:
            bar.on_evaluate_begin(None, state)
            bar.on_evaluate_end(None, state)
            state.history.append({"step": step, "epoch": step / 10, "eval_loss": (0.5, 0.4, 0.45)[step // 10 - 1]})
            state.best_step = min(step, 20)
            bar.on_epoch_end(None, state)
    state.stop_reason = "all is done"
    bar.on_train_end(None, state)
'''
exec(PLAY)
play = globals()["play"]


class Tags(HTMLParser):
    "Checks that every tag is closed, and collects the words."
    def __init__(self, text):
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.seen: set[str] = set()
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        if tag != "br": self.open.append(tag)

    def handle_endtag(self, tag): assert self.open.pop() == tag

    def handle_data(self, data): self.words.append(data)


def test_html_is_well_formed_plain_and_escaped():
    page = Tags(render_html(Progress(step=3, total_steps=9, status="<script>alert(1)</script>", best_step=100,
                                     evaluations=[{"step": 100, "epoch": 1.0, "eval_<b>": 0.25}])))
    assert page.seen == {"div", "b", "progress", "br", "table", "thead", "tbody", "tr", "th", "td"}
    words = " ".join(page.words)
    assert "<script>alert(1)</script>" in words and "100 ★" in words and "0.25" in words


def test_html_of_nothing_yet():
    assert "table" not in Tags(render_html(Progress())).seen and "0/0" in render_text(Progress())


def test_many_evaluations_are_cut_to_the_last():
    p = Progress(total_steps=5000, evaluations=ROWS)
    words = Tags(render_html(p, max_rows=10)).words
    assert "40 earlier evaluations are not shown" in words and "4,100" in words and "4,000" not in words
    assert len(render_text(p, max_rows=10).splitlines()) == 11


@pytest.mark.parametrize(("seconds", "text"), [(None, "? left"), (7, "0:07 left"), (3599, "59:59 left"),
                                               (3723, "1:02:03 left")])
def test_clock(seconds, text): assert text in render_text(Progress(remaining=seconds))


def test_remaining_time_leaves_out_the_first_update_and_what_was_before_a_resume():
    bar = ProgressBar("off")
    state = TrainerState(step=100, total_steps=200, tokens=10_000, seconds=500.0)
    bar.on_train_begin(None, state)
    for step, seconds in ((101, 560.0), (111, 570.0)):  # a minute of compiling, then an update a second
        state.step, state.seconds, state.tokens = step, seconds, step * 100
        bar.on_step(None, state)
    p = bar._progress(state)
    assert p.remaining == pytest.approx(89) and p.tokens_per_second == pytest.approx(100)


def test_a_throttle_keeps_drawing_below_its_share(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock[0])
    throttle, drawing, cost = Throttle(interval=0.5, share=0.05), 0.0, 0.2
    for _ in range(10_000):
        if throttle.ready():
            began = clock[0]
            clock[0] += cost
            drawing += cost
            throttle.drew(began)
        clock[0] += 0.01
    assert 0.04 < drawing / (clock[0] - 100) <= 0.05
    assert not throttle.ready() or clock[0] >= throttle._next


def test_fast_drawing_is_held_to_the_interval(monkeypatch):
    clock, draws = [100.0], 0
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock[0])
    throttle = Throttle(interval=0.5)
    for _ in range(1000):
        if throttle.ready():
            draws += 1
            throttle.drew(clock[0])
        clock[0] += 0.01
    assert draws == 20  # ten seconds


def test_lines_are_one_for_each_evaluation_and_nothing_else(capsys):
    play(ProgressBar("lines"))
    out, err = capsys.readouterr()
    assert err == "" and out.splitlines() == [
        "update 10/30  epoch 1.00  eval_loss 0.5000  (best)", "update 20/30  epoch 2.00  eval_loss 0.4000  (best)",
        "update 30/30  epoch 3.00  eval_loss 0.4500"]


def test_a_resumed_run_does_not_repeat_its_lines(capsys):
    bar, state = ProgressBar("lines"), TrainerState(step=100, total_steps=200, history=ROWS[:1])
    bar.on_train_begin(None, state)
    bar.on_step_end(None, state)
    assert capsys.readouterr().out == ""
    state.step, state.history = 200, ROWS[:2]
    bar.on_epoch_end(None, state)
    bar.on_train_end(None, state)
    assert capsys.readouterr().out == "update 200/200  epoch 2.00  eval_loss 0.5000\n"


def test_off_says_nothing(capsys):
    play(ProgressBar("off"))
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_and_the_evaluations(capsys):
    play(ProgressBar("terminal", interval=0))
    out, err = capsys.readouterr()
    assert out == "" and "30/30" in err and "lr 2.00e-05" in err
    assert "eval_loss 0.4000  (best)\n" in err


def test_a_bar_that_ended_in_an_error_is_closed(capsys):
    bar = ProgressBar("terminal")
    play(bar, fail=True)
    assert "stopped (TrainingError" in capsys.readouterr().err and bar._view is None


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_where_it_runs(monkeypatch):
    import pty
    _, follower = pty.openpty()
    with os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.delenv("CI", raising=False)
        assert detect_mode() == "terminal"
        monkeypatch.setenv("CI", "true")
        assert detect_mode() == "lines"
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        monkeypatch.setattr(sys, "stderr", pipe)
        monkeypatch.delenv("CI")
        assert detect_mode() == "lines"


def test_mode_names():
    with pytest.raises(UnknownNameError, match="Did you mean 'notebook'"): ProgressBar("notebok")


def test_a_saved_notebook_keeps_the_final_state(tmp_path):
    cell = nbformat.v4.new_code_cell(
        PLAY + "from mlx_bert_training.callbacks import ProgressBar\nplay(ProgressBar(interval=0))")
    failing = nbformat.v4.new_code_cell("play(ProgressBar(), fail=True)")
    nb = nbformat.v4.new_notebook(cells=[cell, failing])
    NotebookClient(nb, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    for cell, status in zip(nb.cells, ("finished (all is done)", "stopped (TrainingError: <nan>)"), strict=True):
        (output,) = cell.outputs  # updated in place: one output, and no stream
        assert set(output.data) == {"text/html", "text/plain"}
        assert status in output.data["text/plain"] and status in " ".join(Tags(output.data["text/html"]).words)
    assert nb.cells[0].outputs[0].data["text/html"].count("<tr>") == 4


def seen_in_a_terminal(code, columns):
    "What a process writes to a terminal of so many columns: the text between line ends and returns, in order."
    import fcntl
    import pty
    import re
    import struct
    import subprocess
    import termios
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    plain = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), follower)
    process = subprocess.Popen([sys.executable, "-c", code], env=plain, **streams)
    os.close(follower)
    written = b""
    while True:
        try: piece = os.read(leader, 65536)
        except OSError: break       # Linux's way to say that the other end is closed
        if not piece: break
        written += piece
    process.wait()
    os.close(leader)
    return [part for part in re.split(r"[\r\n]+|\x1b\[\d*[A-Z]", written.decode()) if part.strip()]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("columns", [60, 80, 200])
def test_a_terminal_keeps_to_its_width_and_ends_with_a_clean_line(columns):
    script = PLAY + ("from mlx_bert_training.callbacks import ProgressBar\nplay(ProgressBar('terminal', interval=0))\n"
                     "play(ProgressBar('terminal', interval=0), fail=True)\nprint('after')")
    parts = seen_in_a_terminal(script, columns)
    assert max(map(len, parts)) < min(columns, 81)      # one column stays free, so that no line wraps
    bars = {len(part) for part in parts if part.startswith(("training", "evaluating")) and "|" in part}
    assert bars == {min(columns - 1, 80)}               # and the bar never changes its width
    assert any(part.startswith("finished (all is done):") for part in parts)
    assert parts[-1] == "after" and any(part.startswith("stopped (TrainingError") for part in parts[-4:])


@pytest.mark.parametrize("width", [20, 39, 79])
def test_a_last_line_is_never_wider_than_the_terminal(width):
    from mlx_bert_training.callbacks.progress import _last_line
    status = "finished (stopped by interrupt after update 10)"
    lines = _last_line(Progress(step=10, total_steps=20, status=status, loss=0.5), width).splitlines()
    assert max(map(len, lines)) <= width and status in " ".join(" ".join(lines).split())
