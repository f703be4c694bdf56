"""Folders are looked through while another process writes, renames and removes what is in them."""
from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from mlx_bert_training.data.token_store import remove_unused
from mlx_bert_training.errors import DataError
from mlx_bert_training.files import stats_of, sweep, write_text
from mlx_bert_training.integrations import runs
from mlx_bert_training.integrations.mlflow_store import TrackingError, sync_folder
from mlx_bert_training.lease import LEASE, Holder, is_alive


@pytest.fixture
def removed_when_found(monkeypatch):
    "What `Path.glob` has found is gone before anybody looks at it."
    glob = Path.glob

    def find_and_remove(self, pattern):
        found = list(glob(self, pattern))
        for path in found:
            if path.is_dir(): shutil.rmtree(path)
            else: path.unlink()
        return iter(found)

    monkeypatch.setattr(Path, "glob", find_and_remove)


def test_what_is_gone_has_no_answer(tmp_path):
    (tmp_path / "file").touch()
    assert list(stats_of([tmp_path / "file", tmp_path / "gone", tmp_path / "file" / "below"])) == [tmp_path / "file"]


@pytest.mark.parametrize("name", [".x.draft", ".x.replaced", ".x.building"])
def test_leftovers_that_somebody_else_removes(tmp_path, removed_when_found, name):
    (tmp_path / name).touch()
    assert sweep(tmp_path) == []


def test_token_stores_that_somebody_else_removes(tmp_path, removed_when_found):
    (tmp_path / "store").mkdir()
    assert remove_unused(tmp_path, days=-1) == []


def test_runs_that_somebody_else_removes(tmp_path, monkeypatch):
    for name in ("kept", "gone"): write_text(tmp_path / name / "config.yaml", "training: {num_epochs: 3}\n")
    read_folder = runs.read_folder

    def read_later(folder):
        with suppress(FileNotFoundError): shutil.rmtree(tmp_path / "gone")
        return read_folder(folder)

    monkeypatch.setattr(runs, "read_folder", read_later)
    assert [run.name for run in runs.read_folders(tmp_path)] == ["kept"]
    (tmp_path / "kept" / "config.yaml").write_text("a: [")
    with pytest.raises(DataError, match="kept is not the folder of a run"): runs.read_folders(tmp_path)


def test_a_spool_is_looked_for_while_a_run_renames_its_checkpoints(tmp_path, monkeypatch):
    building = tmp_path / "run" / "checkpoints" / ".step-000008.building"
    building.mkdir(parents=True)
    scandir = os.scandir

    def renamed(path="."):
        entries = scandir(path)
        if Path(path) == building.parent and building.is_dir(): building.rename(building.with_name("step-000008"))
        return entries

    monkeypatch.setattr(os, "scandir", renamed)
    with pytest.raises(TrackingError, match="no run with a spool"): sync_folder(tmp_path)
    assert (building.parent / "step-000008").is_dir()      # it was renamed while it was looked through


@pytest.mark.parametrize("back", [True, False], ids=["given back", "a moment ago"])
def test_a_lease_that_is_given_back_while_it_is_looked_at(tmp_path, monkeypatch, back):
    path, stat = tmp_path / LEASE, Path.stat
    path.touch()
    holder = Holder(host="h", pid=1, machine="another", since="", token="a")

    def gone(self, **options):
        "Its file, or the one that tells the server's time, is removed by somebody else."
        if back: path.unlink(missing_ok=True)
        elif self.suffix == ".draft": self.unlink()
        return stat(self, **options)

    with monkeypatch.context() as during:
        during.setattr(Path, "stat", gone)
        alive = is_alive(holder, path, locked=False)
    assert alive is not back
