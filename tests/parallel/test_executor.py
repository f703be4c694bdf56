"""Executors: named in a declaration, told apart from what is none, and all that they promise."""
import pickle

import pytest
from tiny_competition import declaration, write_files

from mlx_bert_training import create_kaggle_trainer, get_trainer_config
from mlx_bert_training.core.run_folder import RunFolder, open_run_folder
from mlx_bert_training.declaration.problems import ConfigError
from mlx_bert_training.files import OutputError
from mlx_bert_training.parallel.best_place import BestPlace
from mlx_bert_training.parallel.executor import Here, Shared, create_executor
from mlx_bert_training.parallel.section import ParallelConfig
from mlx_bert_training.registry import RegistryError


class Backwards:
    "Does the jobs from pickles, the last one first."
    done = []

    def __init__(self, note="none"): self.note = note

    def run(self, jobs, listener):
        sent = [pickle.loads(pickle.dumps(job)) for job in jobs]
        results = {}
        for number in reversed(range(len(sent))):
            listener.on_job_begin(number)
            results[number] = sent[number].run()
            self.done.append((self.note, sent[number].folder.path.name))
            listener.on_job_end(number, results[number])
        return [results[number] for number in range(len(sent))]


@pytest.mark.long
def test_an_executor_of_ones_own_by_declaration_alone(tmp_path):
    write_files(tmp_path)
    plain = create_kaggle_trainer(config=declaration(tmp_path, environment={"run_name": "plain"})).train_with_cv()
    config = declaration(tmp_path, parallel={
        "executor": {"type": f"{__name__}:Backwards", "options": {"note": "mine"}}})
    Backwards.done.clear()
    result = create_kaggle_trainer(config=config).train_with_cv()
    assert Backwards.done == [("mine", f"fold-0-{k}") for k in (2, 1, 0)]
    assert (result.oof.predictions == plain.oof.predictions).all()
    assert (result.test_predictions == plain.test_predictions).all()
    assert result.run.oof.config_hash == plain.run.oof.config_hash      # who did the folds is no part of what they are


def test_unknown_executors_are_known_early():
    with pytest.raises(ConfigError, match="here"): get_trainer_config({"kaggle": {}, "parallel": {"executor": "hear"}})
    with pytest.raises(RegistryError, match="no module"): create_executor(ParallelConfig("no_such_module:Queue"))
    assert get_trainer_config({"kaggle": {}, "parallel": "auto"}).parallel == ParallelConfig()
    assert isinstance(create_executor(ParallelConfig("here")), Here)
    assert isinstance(create_executor(ParallelConfig()), BestPlace)


class Number:
    def __init__(self, value): self.value = value
    def run(self, control=None): return self.value


def test_what_a_listener_or_a_job_raises_ends_the_run():
    class Listener:
        control = None
        begun = []
        def on_job_begin(self, number):
            self.begun.append(number)
            if number == 1: raise KeyError("enough")
        def on_job_end(self, number, result): assert result == 7
    with pytest.raises(KeyError): Here().run([Number(7), Number(8), Number(9)], Listener())
    assert Listener.begun == [0, 1]


def test_a_shared_value_is_read_from_its_own_file(tmp_path):
    first, second = Shared([1], tmp_path), Shared([2], tmp_path)
    sent = [pickle.dumps(shared) for shared in (first, second)]
    assert [pickle.loads(data).value for data in sent] == [[1], [2]] and len(list(tmp_path.iterdir())) == 2
    first.discard()
    assert len(list(tmp_path.iterdir())) == 1
    Shared([3], tmp_path).discard()     # never pickled: there is no file


def test_what_a_killed_run_shared_is_gone_at_the_next_start(tmp_path):
    left, kept = tmp_path / "shared-0123.pickle", tmp_path / "other.pickle"
    for path in (left, kept): path.write_bytes(b"x")
    open_run_folder(RunFolder(tmp_path))
    assert not left.exists() and kept.exists()


def test_a_shared_value_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    def full(*_): raise OSError(28, "No space left on device")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="No space left"): pickle.dumps(Shared(list(range(1000)), tmp_path))
    assert not list(tmp_path.iterdir())
