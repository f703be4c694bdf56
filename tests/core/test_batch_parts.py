"Parts of a batch, computed side by side: the same update as a window of them, repeatable, and with nothing left over."
import subprocess
import sys
import threading
from functools import partial

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from toys import ToyLoader, ToyModel, toy_config

from mlx_bert_training import create_model
from mlx_bert_training.callbacks import ModelCheckpoint
from mlx_bert_training.core.base import Trainer
from mlx_bert_training.core.batch_parts import (
    PartsInference,
    PartsStep,
    inference_step_of,
    row_parts,
    training_step_of,
)
from mlx_bert_training.core.config import OptimizerConfig
from mlx_bert_training.core.optimization import create_optimizer
from mlx_bert_training.core.step import InferenceStep, TrainingStep
from mlx_bert_training.errors import CheckpointError
from mlx_bert_training.tasks.losses import create_loss

SMALL = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
         "max_position_embeddings": 12}


def batch_of(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"input_ids": rng.integers(1, 60, (rows, 8), dtype=np.int32), "attention_mask": np.ones((rows, 8), np.int32),
            "labels": rng.integers(0, 2, rows, dtype=np.int32),
            "example_weight": rng.integers(0, 3, rows).astype(np.float32)}


def weights_after(make, train, rate=0.0, updates=3):
    model = create_model(config=SMALL, dropout_rate=rate, seed=1)
    optimizer = create_optimizer(OptimizerConfig(learning_rate=1e-2), model.trainable_parameters())
    step = make(model, create_loss(task="binary", class_weights=[1.0, 2.0]), optimizer, max_grad_norm=0.5)
    model.train()
    mx.random.seed(7)
    try: losses = [train(step, batch_of(rows, i)) for i, rows in enumerate([6, 5, 1][:updates])]
    finally: step.close()
    return {name: np.array(value) for name, value in tree_flatten(model.parameters())}, losses


def whole(step, batch):
    loss, weight, norm = step.update(batch, 1e-2)
    return [x.item() for x in (loss, weight, norm)]


def windowed(step, batch):
    found = [step.accumulate(share) for share in row_parts(batch, 2)]
    return [sum(x.item() for x in part) for part in zip(*found, strict=True)] + [step.apply(1e-2).item()]


def test_two_parts_are_a_window_of_two_batches():
    ours, losses = weights_after(PartsStep, whole)
    plain, expected = weights_after(TrainingStep, windowed)
    assert np.allclose(losses, expected, rtol=1e-5)
    for name in plain: assert np.allclose(ours[name], plain[name], atol=2e-6), name


def test_parts_are_repeatable_with_dropout_and_differ_from_the_whole():
    once, again = (weights_after(PartsStep, whole, rate=0.3)[0] for _ in range(2))
    for name in once: assert np.array_equal(once[name], again[name]), name
    other = weights_after(TrainingStep, whole, rate=0.3)[0]
    assert any(not np.allclose(once[name], other[name], atol=1e-4) for name in once)


def test_rows_are_cut_without_empty_parts():
    assert [len(part["input_ids"]) for part in row_parts(batch_of(5), 3)] == [2, 1, 2]
    assert [len(part["input_ids"]) for part in row_parts(batch_of(2), 8)] == [1, 1]
    assert np.concatenate([p["labels"] for p in row_parts(batch_of(7), 3)]).tolist() == batch_of(7)["labels"].tolist()


def test_logits_are_those_of_the_whole_batch():
    model = create_model(config=SMALL, seed=1)
    model.eval()
    loss = create_loss(task="binary")
    step = PartsInference(model, loss, parts=3)
    for rows in (7, 2, 1):
        ours, plain = step(batch_of(rows)), InferenceStep(model, loss)(batch_of(rows))
        for a, b in zip(ours, plain, strict=True): assert np.allclose(np.array(a), np.array(b), rtol=1e-5)
    without = step({key: value for key, value in batch_of(4).items() if key != "labels"})
    step.close()
    assert without[0].shape[0] == 4 and without[2].item() == 0


def test_logits_follow_the_weights_and_the_mode_of_the_model():
    model, other = (create_model(config=SMALL, dropout_rate=0.5, seed=seed) for seed in (1, 2))
    model.train()
    step = PartsInference(model)    # made while dropout is on
    model.eval()
    other.eval()
    for weights in (model.parameters(), other.parameters()):
        model.update(weights)
        assert np.allclose(np.array(step(batch_of(6))[0]), np.array(InferenceStep(model)(batch_of(6))[0]), rtol=1e-5)
    step.close()


@pytest.mark.parametrize(("rows", "cut"), [(127, False), (128, True)])      # of 8 tokens
def test_large_batches_alone_are_cut_for_inference(rows, cut):
    model = create_model(config=SMALL, seed=1)
    model.eval()
    step, plain = inference_step_of(2, 2048, model), InferenceStep(model)
    logits = np.array(step(batch_of(rows))[0])
    assert bool(step.crew.threads) is cut
    step.close()
    expected = np.array(plain(batch_of(rows))[0])
    assert np.allclose(logits, expected, rtol=1e-5, atol=1e-6) if cut else np.array_equal(logits, expected)


def test_a_declaration_may_keep_batches_whole():
    assert type(inference_step_of(1, 0, ToyModel())) is InferenceStep
    model = create_model(config=SMALL)
    optimizer = create_optimizer(OptimizerConfig(), model.trainable_parameters())
    assert type(training_step_of(1, 0, model, create_loss(task="binary"), optimizer)) is TrainingStep


def test_a_small_batch_is_trained_on_as_without_parts_and_a_large_one_in_parts():
    def cut_from(tokens): return weights_after(partial(PartsStep, least_tokens=tokens), whole, rate=0.3)[0]

    plain, every = (weights_after(make, whole, rate=0.3)[0] for make in (TrainingStep, PartsStep))
    small, mixed = cut_from(49), cut_from(41)        # batches of 48, 40 and 8 tokens
    for name in plain: assert np.array_equal(small[name], plain[name]), name
    assert any(not np.array_equal(mixed[name], other[name]) for other in (plain, every) for name in mixed)


def test_a_window_of_small_and_large_batches():
    def both(step, _):
        for rows in (2, 6, 3): step.accumulate(batch_of(rows, seed=rows))
        return [step.apply(1e-2).item()]
    ours, plain = (weights_after(make, both)[0] for make in (partial(PartsStep, least_tokens=32), TrainingStep))
    for name in plain: assert np.allclose(ours[name], plain[name], atol=2e-6), name


def test_a_window_of_several_batches_in_parts():
    def both(step, batch):
        step.accumulate(batch)
        step.accumulate(batch_of(4, seed=9))
        return [step.apply(1e-2).item()]
    ours, plain = (weights_after(make, both)[0] for make in (PartsStep, TrainingStep))
    for name in plain: assert np.allclose(ours[name], plain[name], atol=2e-6), name


def test_a_technique_sees_the_whole_batch():
    seen = []

    class Technique:
        active = True

        def around_forward(self, forward, passes):
            def noted(parameters, arrays):
                seen.append(len(arrays["input_ids"]))
                return forward(parameters, arrays)
            return noted

    weights_after(lambda *args, **options: PartsStep(*args, techniques=[Technique()], **options), whole, updates=1)
    assert set(seen) == {6}


def test_an_error_in_a_part_comes_out_and_the_threads_can_end():
    before = threading.active_count()
    with pytest.raises(ValueError, match="longer than"):
        weights_after(PartsStep, lambda step, _: whole(step, {
            "input_ids": np.ones((4, 13), np.int32), "labels": np.zeros(4, np.int32)}))
    assert threading.active_count() == before


LEFT_OPEN = """
import numpy as np
from mlx_bert_training import create_model
from mlx_bert_training.core.batch_parts import inference_step_of
from mlx_bert_training.tasks.losses import create_loss
model = create_model(config=dict(vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                                 intermediate_size=32))
ids = np.ones((8, 6), np.int32)
step = inference_step_of(2, 0, model, create_loss(task="binary"))
print(step({"input_ids": ids, "attention_mask": ids, "labels": np.zeros(8, np.int32)})[2].item())
"""


def test_a_process_that_leaves_the_threads_open_ends_well():
    for _ in range(6):      # whether a thread is at rest by then is chance
        done = subprocess.run([sys.executable, "-c", LEFT_OPEN], capture_output=True, text=True, timeout=120)
        assert (done.stdout.strip(), done.stderr, done.returncode) == ("8.0", "", 0)


def trained(tmp_path, name, **overrides):
    config = toy_config(tmp_path, run_name=name, **{"environment.cpu_parts_from": 0, **overrides})
    trainer = Trainer(ToyModel(dropout=0.3), config, callbacks=[ModelCheckpoint("epoch")])
    trainer.train(ToyLoader(), ToyLoader(seed=1))
    return trainer


def test_a_run_in_parts_is_the_same_after_a_resume_and_ends_its_threads(tmp_path):
    options = {"load_best_at_end": False, "scheduler.type": "none"}
    before = threading.active_count()
    whole_run = trained(tmp_path, "whole", num_epochs=2, **options)
    trained(tmp_path, "short", num_epochs=1, **options)
    config = toy_config(tmp_path, run_name="short", num_epochs=2, **{"environment.cpu_parts_from": 0, **options})
    resumed = Trainer(ToyModel(dropout=0.3), config)
    resumed.train(ToyLoader(), ToyLoader(seed=1), resume_from="latest")
    assert threading.active_count() == before
    ours, theirs = (dict(tree_flatten(trainer.model.parameters())) for trainer in (whole_run, resumed))
    for name in ours: assert mx.array_equal(ours[name], theirs[name]).item(), name


def test_another_number_of_parts_is_another_run(tmp_path):
    trained(tmp_path, "run", num_epochs=1)
    config = toy_config(tmp_path, run_name="run", num_epochs=2, **{"environment.cpu_parts": 1})
    with pytest.raises(CheckpointError, match="environment.cpu_parts was 2 and is 1"):
        Trainer(ToyModel(), config).train(ToyLoader(), ToyLoader(seed=1), resume_from="latest")


def test_a_new_plan_ends_the_threads_of_the_step_before(tmp_path):
    trainer = Trainer(create_model(config=SMALL), toy_config(tmp_path, **{"environment.cpu_parts": 2,
                                                                          "environment.cpu_parts_from": 1}))
    loader, before = ToyLoader(16), threading.active_count()
    for _ in range(3):
        trainer.prepare_training(loader, None)
        mx.eval(trainer.step.update(next(iter(loader)), 1e-3))
        assert threading.active_count() == before + 1
    trainer.step.close()
    assert threading.active_count() == before
