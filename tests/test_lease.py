"""One folder, one writer: who holds it is named, who died holds it no longer, and nobody takes it from the living."""
from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace

import pytest

from mlx_bert_training import lease
from mlx_bert_training.files import OutputError
from mlx_bert_training.lease import LEASE, STALE, Lease, LeaseError, new_holder, read_holder

HOLD = """import sys, time
from mlx_bert_training.lease import Lease
with Lease(sys.argv[1]):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def holding(folder, seconds=60):
    command = [sys.executable, "-c", HOLD, str(folder), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def kill(process):
    process.kill()
    process.wait()
    process.stdout.close()


def test_another_process_is_named_and_refused_and_a_killed_one_holds_nothing(tmp_path, caplog):
    process = holding(tmp_path)
    with pytest.raises(LeaseError, match=f"in use by process {process.pid} on {socket.gethostname()}, since 20"):
        Lease(tmp_path).__enter__()
    kill(process)
    assert read_holder(tmp_path / LEASE).pid == process.pid
    with caplog.at_level("INFO"), Lease(tmp_path): assert read_holder(tmp_path / LEASE).pid == os.getpid()
    assert "taking over from process" in caplog.text and list(tmp_path.iterdir()) == []


def test_a_stopped_process_still_holds_its_folder(tmp_path):
    process = holding(tmp_path)
    process.send_signal(signal.SIGSTOP)
    os.utime(tmp_path / LEASE, (time.time() - 2 * STALE,) * 2)     # it cannot show that it lives
    with pytest.raises(LeaseError): Lease(tmp_path).__enter__()
    kill(process)


def test_another_thread_is_refused_and_the_same_thread_is_not(tmp_path):
    said = []

    def other():
        try: Lease(tmp_path).__enter__()
        except LeaseError as error: said.append(str(error))

    with Lease(tmp_path), Lease(tmp_path):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert "another thread of this process" in said[0]


@pytest.mark.parametrize(("seconds", "free"), [(STALE / 2, False), (2 * STALE, True), (-10 * STALE, False)])
def test_another_machine_is_judged_by_its_signs_of_life_whatever_the_clocks_say(tmp_path, monkeypatch, seconds, free):
    path = tmp_path / LEASE
    path.write_text(json.dumps(asdict(replace(new_holder(), host="gpu-3", machine="gpu-3 other"))))
    monkeypatch.setattr(time, "time", lambda: 0.0)      # this machine's clock is decades slow
    now = tmp_path / "probe"
    now.touch()
    os.utime(path, (now.stat().st_mtime - seconds,) * 2)
    if free:
        with Lease(tmp_path): pass
    else:
        with pytest.raises(LeaseError, match="on gpu-3.*is free 120 s after"): Lease(tmp_path).__enter__()


def test_without_locks_the_process_number_and_signs_of_life_decide(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "lock", lambda handle: False)
    process = holding(tmp_path)
    with pytest.raises(LeaseError): Lease(tmp_path).__enter__()
    kill(process)
    with Lease(tmp_path): pass


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"pid": 1}', '{"host": 1, "pid": "x"}', "\x00" * 200])
def test_a_file_that_names_nobody_is_nobodys(tmp_path, content):
    (tmp_path / LEASE).write_text(content)
    with Lease(tmp_path): assert read_holder(tmp_path / LEASE).pid == os.getpid()


def test_many_processes_take_one_folder_one_after_the_other(tmp_path):
    "Each adds one to a number while it holds the folder; an addition that is lost would show."
    (tmp_path / "number").write_text("0")
    script = f"""import pathlib, time
from mlx_bert_training.lease import Lease, LeaseError
number, done = pathlib.Path({str(tmp_path)!r}, "number"), 0
while done < 20:
    try:
        with Lease(number.parent):
            value = int(number.read_text())
            time.sleep(0.001)
            number.write_text(str(value + 1))
            done += 1
    except LeaseError: time.sleep(0.001)
"""
    writers = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(4)]
    assert [writer.wait(120) for writer in writers] == [0] * 4
    assert (tmp_path / "number").read_text() == "80"


def test_a_lease_that_was_taken_over_is_noticed_and_left_alone(tmp_path):
    with Lease(tmp_path) as mine:
        mine.check()
        thief = replace(new_holder(), host="gpu-3", machine="gpu-3 other")
        (tmp_path / LEASE).write_text(json.dumps(asdict(thief)))
        mine.pulse.beat()
        with pytest.raises(LeaseError, match="in use by process .* on gpu-3"): mine.check()
        with Lease(tmp_path) as inner, pytest.raises(LeaseError): inner.check()
    assert read_holder(tmp_path / LEASE) == thief


def test_a_folder_that_was_deleted_needs_no_lease(tmp_path):
    with Lease(tmp_path / "run") as mine:
        (tmp_path / "run" / LEASE).unlink()
        (tmp_path / "run").rmdir()
        with pytest.raises(FileNotFoundError): mine.pulse.beat()    # which the thread overlooks
        mine.check()
    assert not (tmp_path / "run").exists()


def test_a_place_that_takes_no_file_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    for odd in (tmp_path / "file", tmp_path / "loop" / "run", tmp_path / "nul\0", tmp_path / ("x" * 5000)):
        with pytest.raises(OutputError, match="cannot be written"): Lease(odd).__enter__()


# --- a directory of a network that this machine sees as it was a while ago

class Lagging:
    "Answers `os.stat` for the lease with what it was, `behind` times more."

    def __init__(self, monkeypatch, path):
        self.path, self.behind, self.was, self.real = path, 0, None, os.stat
        monkeypatch.setattr(os, "stat", self.stat)

    def freeze(self, behind):
        "From now on, see what there is now."
        try: self.was = self.real(self.path)
        except FileNotFoundError: self.was = None
        self.behind = behind

    def stat(self, path, **options):
        if not self.behind or isinstance(path, int) or os.fspath(path) != str(self.path):
            return self.real(path, **options)
        self.behind -= 1
        if self.was is None: raise FileNotFoundError(errno.ENOENT, "not there yet", str(path))
        return self.was


@pytest.fixture
def lagging(monkeypatch, tmp_path): return Lagging(monkeypatch, tmp_path / LEASE)


@pytest.mark.parametrize("locks", [True, False])
def test_a_lease_that_the_directory_does_not_show_yet_is_not_taken(tmp_path, monkeypatch, lagging, locks):
    if not locks: monkeypatch.setattr(lease, "lock", lambda handle: False)
    lagging.freeze(6)           # another machine takes the lease after this one has looked
    holder = replace(new_holder(), host="gpu-3", machine="gpu-3 other")
    (tmp_path / LEASE).write_text(json.dumps(asdict(holder)))
    with pytest.raises(LeaseError, match="on gpu-3"): Lease(tmp_path).__enter__()
    assert lagging.behind == 0 and read_holder(tmp_path / LEASE) == holder


def test_a_sign_of_life_that_is_seen_a_minute_late_counts(tmp_path, lagging):
    holder = replace(new_holder(), host="gpu-3", machine="gpu-3 other")
    path = tmp_path / LEASE
    path.write_text(json.dumps(asdict(holder)))
    os.utime(path, (time.time() - lease.BEAT - 60,) * 2)
    lagging.freeze(100)
    os.utime(path)
    with pytest.raises(LeaseError, match="on gpu-3"): Lease(tmp_path).__enter__()
    assert read_holder(path) == holder


def test_a_file_that_another_machine_has_replaced_is_waited_for(tmp_path, lagging):
    path = tmp_path / LEASE
    path.write_text("")
    lagging.freeze(4)           # a former lease, which was given back and taken again
    (tmp_path / "new").write_text("")
    os.replace(tmp_path / "new", path)
    with Lease(tmp_path): assert lagging.behind == 0 and read_holder(path).pid == os.getpid()


def test_an_outdated_file_is_opened_again(tmp_path, monkeypatch):
    answers = iter([OSError(errno.ESTALE, "stale file handle")] * 3)

    def once(handle, flags, real=lease.fcntl.flock):
        if error := next(answers, None): raise error
        return real(handle, flags)

    monkeypatch.setattr(lease.fcntl, "flock", once)
    with Lease(tmp_path): assert read_holder(tmp_path / LEASE).pid == os.getpid()


@pytest.mark.parametrize("locks", [True, False])
def test_a_holder_whose_own_file_is_missing_from_its_directory_keeps_it(tmp_path, monkeypatch, lagging, locks):
    if not locks: monkeypatch.setattr(lease, "lock", lambda handle: False)
    lagging.freeze(0)
    with Lease(tmp_path) as mine:
        os.utime(tmp_path / LEASE, (0, 0))
        lagging.behind = 3
        mine.pulse.beat()
        mine.check()
        lagging.behind = 0
        assert time.time() - (tmp_path / LEASE).stat().st_mtime < STALE, "it shows that it lives"
        without = "" if locks else "lease.lock = lambda handle: False; "
        script = f"import sys; from mlx_bert_training import lease; {without}lease.Lease(sys.argv[1]).__enter__()"
        other = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
        assert "is in use by process" in other.stderr
    assert not (tmp_path / LEASE).exists()


def test_a_directory_that_never_catches_up_is_refused(tmp_path, monkeypatch, lagging):
    monkeypatch.setattr(lease, "LAG", 0.05)
    lagging.freeze(10**6)
    with pytest.raises(LeaseError, match="in use by another process"): Lease(tmp_path).__enter__()
