"""What a finished run is asked later: files written otherwise, folders that have moved or are none of a run."""
from __future__ import annotations

import os
import signal
import sys
import threading

import pandas as pd
import pytest
from tiny_competition import SMALL

from mlx_bert_training.cli import main
from mlx_bert_training.errors import MLXBertError
from mlx_bert_training.files import OutputError, write_text
from mlx_bert_training.finished import predict_file
from mlx_bert_training.lazy import import_whole
from mlx_bert_training.lease import Lease
from mlx_bert_training.models import weights


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("elsewhere")
    table = pd.DataFrame({"id": range(16), "text": [f"{'good' if i % 2 else 'bad'} caf\u00e9 {i}" for i in range(16)],
                          "label": [i % 2 for i in range(16)]})
    table.to_csv(folder / "train.csv", index=False)
    table[["id", "text"]].head(3).to_csv(folder / "test.csv", index=False)
    (folder / "run.yaml").write_text(f"""
model: {{config: {SMALL}, pooling: mean, head_type: binary_classification}}
data: {{train_path: {folder}/train.csv, text_column: text, target_column: label, id_column: id, num_workers: 0,
       validation_fraction: 0, batch_size: 8}}
training: {{num_epochs: 1, eval_strategy: "no", save_strategy: epoch, early_stopping: false}}
environment: {{output_dir: {folder}/runs, run_name: one, compile: false, device: cpu}}
""")
    assert main(["train", str(folder / "run.yaml")]) == 0
    (folder / "runs").rename(folder / "moved")
    return folder


@pytest.mark.parametrize(("content", "overrides"), [
    ("id;text\n1;good caf\u00e9\n2;bad\n".encode("utf-8"), ()),
    ("id;text\n1;good caf\u00e9\n2;bad\n".encode("cp1252"), ("encoding=cp1252",)),
    ("id^text\n1^good caf\u00e9\n2^bad\n".encode(), ("data.separator=^",)),
    ("key,text\n1,good caf\u00e9\n2,bad\n".encode(), ("id_column=key",)),
    ("id,text\n1,good caf\u00e9\n2,\n".encode(), ("template_defaults={text: bad}",))])
def test_a_file_may_be_written_otherwise_than_those_of_the_run(home, tmp_path, content, overrides):
    (tmp_path / "new.csv").write_bytes(content)
    wanted, got = tmp_path / "wanted.csv", tmp_path / "got.csv"
    (tmp_path / "usual.csv").write_text("id,text\n1,good caf\u00e9\n2,bad\n")
    predict_file(home / "moved" / "one", tmp_path / "usual.csv").save(wanted)
    assert main(["predict", str(home / "moved" / "one"), str(tmp_path / "new.csv"), *overrides, "-o", str(got)]) == 0
    assert pd.read_csv(got).iloc[:, 1:].equals(pd.read_csv(wanted).iloc[:, 1:])


@pytest.mark.parametrize(("arguments", "said"), [
    (["moved/one", "test.csv", "learning_rate=1"], "unknown way to read a file 'learning_rate'"),
    (["moved", "test.csv"], "moved/one is one"), (["moved/one/model", "test.csv"], "moved/one is one"),
    (["nothing", "test.csv"], "nothing: there is no such folder"), (["moved/one", "test.csv", "-o", "."], "is no file"),
    (["moved/one", "test.csv", "-o", ""], "is no file"),
    (["moved/one", "test.csv", "-o", "p.xlsx"], "written as CSV; end its name in .csv")])
def test_what_cannot_be_predicted_or_written_is_said_at_once(home, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(home)
    before = sorted(os.listdir(home))
    assert main(["predict", *arguments]) == 2
    assert said in capsys.readouterr().err and sorted(os.listdir(home)) == before


def test_a_moved_run_goes_on_as_it_was_declared(home, capsys):
    run = home / "moved" / "one"
    checkpoint = next((run / "checkpoints").iterdir())
    for place in (run, checkpoint):
        assert main(["train", "--resume", str(place)]) == 0
        assert str(run / "config.yaml") in capsys.readouterr().out
    assert main(["train", str(home / "run.yaml"), "--resume"]) == 2
    assert "--resume FOLDER names another run" in capsys.readouterr().err


def test_devices_are_written_to_and_stay_devices(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_text(pipe, "text")
    assert os.read(reader, 10) == b"text" and not pipe.is_file()
    os.close(reader)
    write_text(os.devnull, "text")
    assert not os.path.isfile(os.devnull)
    for odd in (tmp_path, "a\0b"):
        with pytest.raises(OutputError): write_text(odd, "text")


def test_an_interrupt_waits_for_the_end_of_an_import(tmp_path, monkeypatch):
    (tmp_path / "half_library.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\nwhole = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt): import_whole("half_library")
        assert sys.modules.pop("half_library").whole and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally: signal.signal(signal.SIGINT, before)


def test_a_killed_download_is_swept_by_the_next_one(tmp_path):
    target = tmp_path / "cache" / "tiny"
    for name in (".tiny-killed", ".tiny-alive"): (target.parent / name / "unpacked").mkdir(parents=True)
    left: list[set[str]] = []

    def download():
        with weights.download_folder(target) as made: left.append(set(os.listdir(target.parent)) - {made.name})

    with Lease(target.parent / ".tiny-alive"):      # of a thread that still downloads
        thread = threading.Thread(target=download)
        thread.start()
        thread.join()
    assert left == [{".tiny-alive"}]
    (tmp_path / "file").write_text("")
    with pytest.raises(MLXBertError, match="MLX_BERT_CACHE names another place"):
        with weights.download_folder(tmp_path / "file" / "tiny"): pass
