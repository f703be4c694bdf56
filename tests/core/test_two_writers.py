"""Two processes, one run: a second resume, a second start of a name and a second run of a declaration."""
from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml
from tiny_competition import declaration, write_files
from toys import ToyLoader, ToyModel, toy_config

from mlx_bert_training.callbacks import Callback, MetricsLogger, ModelCheckpoint
from mlx_bert_training.core.base import Trainer
from mlx_bert_training.core.run_folder import new_run_folder
from mlx_bert_training.errors import CheckpointError
from mlx_bert_training.lease import LEASE, Lease, LeaseError


def trainer(tmp_path, *callbacks, epochs=2):
    return Trainer(ToyModel(), toy_config(tmp_path, num_epochs=epochs),
                   callbacks=[ModelCheckpoint("epoch"), MetricsLogger(), *callbacks])


class During(Callback):
    "Do something in the middle of a run."

    def __init__(self, action): self.action = action

    def on_epoch_end(self, trainer, state): self.action()


@pytest.mark.long
def test_a_second_resume_of_a_run_that_goes_on_is_refused_and_doubles_nothing(tmp_path):
    trainer(tmp_path).train(ToyLoader(), ToyLoader(seed=1))
    command = [sys.executable, "-c", f"""import sys; sys.path.insert(0, "tests")
from core.test_two_writers import ToyLoader, trainer
from pathlib import Path
trainer(Path({str(tmp_path)!r}), epochs=4).train(ToyLoader(), ToyLoader(seed=1), resume_from="latest")"""]
    said = []

    def resume_too(): said.append(subprocess.run(command, capture_output=True, text=True).stderr)

    result = trainer(tmp_path, During(resume_too), epochs=4).train(ToyLoader(), ToyLoader(seed=1), resume_from="latest")
    assert all("LeaseError" in text and "is in use by process" in text for text in said) and len(said) == 2
    rows = [json.loads(line) for line in (tmp_path / "toy" / "metrics.jsonl").read_text().splitlines()]
    assert rows == json.loads(json.dumps(result.history)) and not (tmp_path / "toy" / LEASE).exists()


def test_a_run_that_lost_its_folder_writes_nothing_more(tmp_path):
    run = trainer(tmp_path)

    class Thief(Callback):
        def on_step_end(self, trainer, state):
            if state.step == 7: trainer.lease.pulse.lost = True

    run.callbacks = type(run.callbacks)([*run.callbacks, Thief()])
    with pytest.raises(LeaseError): run.train(ToyLoader(), ToyLoader(seed=1))
    assert [path.name for path in (tmp_path / "toy" / "checkpoints").iterdir()] == ["step-000005"]
    assert not (tmp_path / "toy" / "result.json").exists()


def test_many_starts_of_one_name_each_get_a_folder(tmp_path):
    script = (f"from mlx_bert_training.core.run_folder import new_run_folder\n"
              f"for _ in range(20): print(new_run_folder({str(tmp_path)!r}, 'run'))")
    starts = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    names = [name for start in starts for name in start.communicate()[0].split()]
    assert len(names) == len(set(names)) == 60


@pytest.mark.long
def test_two_runs_of_one_declaration_at_once_end_with_one_result(tmp_path):
    write_files(tmp_path)
    sections = declaration(tmp_path, training={"num_epochs": 6})
    (tmp_path / "cv.yaml").write_text(yaml.safe_dump(sections))
    command = [sys.executable, "-m", "mlx_bert_training", "run", str(tmp_path / "cv.yaml")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    codes = sorted(process.returncode for process in both)
    refused = [text for text in said if "is in use by process" in text]
    assert codes[0] == 0 and len(refused) == sum(code != 0 for code in codes), said
    assert not any("Traceback" in text for text in said)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["run"]
    assert subprocess.run(command, capture_output=True).returncode == 0     # and it is there, whole


def test_a_checkpoint_that_is_nowhere_makes_no_folder(tmp_path):
    with pytest.raises(CheckpointError):
        trainer(tmp_path).train(ToyLoader(), resume_from=tmp_path / "no" / "checkpoints" / "step-000001")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_held_is_not_begun(tmp_path):
    folder = new_run_folder(tmp_path, "toy")
    run = trainer(tmp_path)
    run.output_dir = folder.path
    script = f"from mlx_bert_training.lease import Lease\nwith Lease({str(folder)!r}): input()"
    holder = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE)
    while not (folder.path / LEASE).exists() or not (folder.path / LEASE).read_text(): pass
    with pytest.raises(LeaseError, match=f"process {holder.pid}"): run.train(ToyLoader())
    holder.communicate(b"\n")
    with Lease(folder): assert [path.name for path in folder.path.iterdir()] == [LEASE]
