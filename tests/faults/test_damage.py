"""Checkpoints cut short, with flipped bits, forged; losses that are no numbers; declarations that mean harm."""
from __future__ import annotations

import json
import random

import mlx.core as mx
import numpy as np
import pytest
from faults.conftest import LONG
from stopwatch import at_most
from toys import ToyLoader, ToyModel, toy_config

from mlx_bert_training.callbacks import Callback, ModelCheckpoint
from mlx_bert_training.core.base import Trainer
from mlx_bert_training.core.checkpoint import MANIFEST, latest_checkpoint, read_checkpoint, verify_checkpoint
from mlx_bert_training.declaration.load import load_config
from mlx_bert_training.errors import CheckpointError, MLXBertError, TrainingError
from mlx_bert_training.files import file_sha256

MANY = 50 if LONG else 8


@pytest.fixture
def run(place):
    def trainer(*callbacks, epochs=2):
        config = toy_config(place, num_epochs=epochs, load_best_at_end=False)
        return Trainer(ToyModel(), config, callbacks=[ModelCheckpoint("steps", save_steps=2), *callbacks])
    return trainer


@pytest.fixture
def checkpoint(run, place):
    run().train(ToyLoader(), ToyLoader(seed=1))
    return latest_checkpoint(place / "toy" / "checkpoints")


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_every_damage_is_found(checkpoint, count, damage):
    chance, files = random.Random(7), sorted(checkpoint.iterdir())
    for _ in range(MANY):
        file = chance.choice(files)
        whole = file.read_bytes()
        where = chance.randrange(len(whole))
        hurt = bytearray(whole[:where] if damage == "cut" else whole)
        if damage == "flip": hurt[where] ^= 1 << chance.randrange(8)
        file.write_bytes(hurt)
        try: verify_checkpoint(checkpoint)
        except CheckpointError: found = True
        else: found = False
        file.write_bytes(whole)
        count(f"checkpoint, {damage}", found=found)
        assert found, (file.name, where)
    verify_checkpoint(checkpoint)


def signed(checkpoint):
    "Make the sums of a forged checkpoint right."
    sums = {path.name: file_sha256(path) for path in checkpoint.iterdir() if path.name != MANIFEST}
    (checkpoint / MANIFEST).write_text(json.dumps(sums))


@pytest.mark.parametrize("content", [
    "[]", "null", "3", '"x"', "{}", '{"../x": "0"}', '{"state.json": 1}', "[" * 100000])
def test_a_forged_manifest_is_skipped_with_a_line(checkpoint, place, run, caplog, content, count):
    (checkpoint / MANIFEST).write_text(content)
    newest = latest_checkpoint(checkpoint.parent)
    count("forged manifest", found=int(newest != checkpoint))
    assert newest is not None and newest != checkpoint and caplog.text.count("It is skipped") == 1
    run(epochs=2).train(ToyLoader(), ToyLoader(seed=1), resume_from="latest")


@pytest.mark.parametrize("forge", [
    lambda v: [], lambda v: None, lambda v: {}, lambda v: {**v, "state": []}, lambda v: {**v, "plan": None},
    lambda v: {key: value for key, value in v.items() if key != "schedule"},
    lambda v: {**v, "meter": {"total": "x"}}, lambda v: {**v, "config": []},
    lambda v: {**v, "callbacks": {"ModelCheckpoint": []}}, lambda v: {**v, "state": {**v["state"], "total_steps": "9"}},
    lambda v: {**v, "state": {**v["state"], "step": None}}])
def test_a_forged_state_is_a_typed_error(checkpoint, run, forge, count):
    values = json.loads((checkpoint / "state.json").read_text())
    (checkpoint / "state.json").write_text(json.dumps(forge(values)))
    signed(checkpoint)
    with pytest.raises(CheckpointError): run(epochs=2).train(ToyLoader(), ToyLoader(seed=1), resume_from=checkpoint)
    count("forged state", found=1)


@pytest.mark.parametrize("name", ["weights", "optimizer"])
@pytest.mark.parametrize("forge", [
    lambda a: {}, lambda a: {k: v[None] for k, v in a.items()}, lambda a: {k: v.reshape(-1)[:1] for k, v in a.items()},
    lambda a: dict(list(a.items())[1:])])
def test_forged_arrays_are_a_typed_error(checkpoint, run, name, forge, count):
    arrays, _ = read_checkpoint(checkpoint)
    made = forge(arrays[name])
    path = checkpoint / f"{name}.safetensors"
    if made: mx.save_safetensors(str(path), made)
    else: path.unlink()
    signed(checkpoint)
    with pytest.raises(CheckpointError): run(epochs=2).train(ToyLoader(), ToyLoader(seed=1), resume_from=checkpoint)
    count("forged arrays", found=1)


@pytest.mark.parametrize("when", [1, 5, 10])
def test_a_loss_that_is_no_number_ends_the_run_and_is_not_kept(run, place, when, count):
    class Poison(Callback):
        def on_step(self, trainer, state):
            if state.step == when: trainer.model.update({"out": {"bias": mx.full((2,), float("nan"))}})

    with pytest.raises(TrainingError): run(Poison()).train(ToyLoader(), ToyLoader(seed=1))
    kept = list((place / "toy" / "checkpoints").glob("step-*"))
    bad = [path for path in kept for array in read_checkpoint(path)[0]["weights"].values()
           if not np.isfinite(np.array(array)).all()]
    count("loss not finite", found=1, kept_that_are_not_finite=len(bad))
    assert not bad and not (place / "toy" / "result.json").exists()


HOSTILE = [
    "[]", "3", "null", "a: b: c", "{", "!!python/object/apply:os.system ['true']", "a: &a [*a]", "\0", "x: 1\nx: 2",
    "training: []", "training: 3", "training: {num_epochs: -1}", "training: {num_epochs: .nan}",
    "training: {num_epochs: 1.5}", "training: {num_epochs: '3; true'}", "optimizer: {type: nonsense}",
    "optimizer: {learning_rate: .inf}", "optimizer: {learning_rate: []}", "model: {config: 3}",
    "data: {batch_size: 0}", "data: {max_length: 99999999999999999999}", "nonsense: {}", "training: {nonsense: 1}",
    "extends: 'no-such-file.yaml'", "extends: [a, b]", "environment: {run_name: '../../x'}",
    "environment: {seed: -1}", "training: {metrics: [no-such-metric]}", "scheduler: {type: [1]}",
    "kaggle: {cv_folds: 1}", "? [a, b]\n: c", "[" * 2000]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_declaration_is_a_typed_error_at_once(place, text, count):
    (place / "hostile.yaml").write_text(text)
    with at_most(2), pytest.raises(MLXBertError): load_config(place / "hostile.yaml").validate()
    count("hostile declaration", typed=1)
