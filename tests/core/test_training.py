"""The loop: windows, schedules, evaluation, best weights, and a resume that gives the same bits."""
from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from toys import ToyLoader, ToyModel, toy_config

from mlx_bert_training.callbacks import Callback, EarlyStopping, LearningRateScheduler, ModelCheckpoint
from mlx_bert_training.core.base import Trainer, batch_seed
from mlx_bert_training.core.config import TrainingSection
from mlx_bert_training.core.ledger import plan_run
from mlx_bert_training.core.optimization import create_optimizer, optimizer_arrays
from mlx_bert_training.core.run_folder import new_run_folder
from mlx_bert_training.core.step import TrainingStep
from mlx_bert_training.declaration.problems import ConfigError
from mlx_bert_training.errors import CheckpointError, MLXBertError, TrainingError
from mlx_bert_training.tasks.losses import create_loss


def weights(model) -> dict[str, np.ndarray]:
    return {name: np.array(value) for name, value in tree_flatten(model.parameters())}


def same_bits(a, b) -> bool:
    a, b = weights(a), weights(b)
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def close(a, b, atol=2e-6) -> bool:
    a, b = weights(a), weights(b)
    return all(np.allclose(a[name], b[name], atol=atol) for name in a)


# ---- windows


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_accumulated_batches_give_the_update_of_the_large_batch(tmp_path, optimizer, compiled):
    "38 examples: windows of 4 x 4 against batches of 16, so that the last window is partial and its last batch short."
    if compiled:
        from mlx_bert_training import runtime
        if not runtime.can_compile(): pytest.skip("no C++ compiler")
    trained = []
    for batch_size, window in ((16, 1), (4, 4)):
        model = ToyModel()
        config = toy_config(tmp_path, gradient_accumulation_steps=window, compile=compiled, weight_decay=0.1,
                            num_epochs=2, max_grad_norm=0.05, eval_strategy="no", **{"optimizer.type": optimizer})
        loader = ToyLoader(38, batch_size)
        result = Trainer(model, config).train(loader)
        trained.append(model)
        assert result.steps == 6    # ceil(38 / 16) updates an epoch, twice
    assert close(*trained)
    assert not close(trained[0], ToyModel())


def test_class_weights_are_normalised_over_the_window_and_not_over_each_batch(tmp_path):
    trained = []
    for batch_size, window in ((16, 1), (4, 4)):
        model = ToyModel()
        config = toy_config(tmp_path, gradient_accumulation_steps=window, class_weights=[0.2, 3.0], eval_strategy="no")
        Trainer(model, config).train(ToyLoader(40, batch_size))
        trained.append(model)
    assert close(*trained)


def test_the_clipped_norm_is_that_of_the_mean_gradient_of_the_window():
    model = ToyModel()
    batches = list(ToyLoader(12, 4))
    loss = create_loss("auto", task="binary_classification")
    optimizer = create_optimizer(toy_config(".").optimizer, model.trainable_parameters())
    step = TrainingStep(model, loss, optimizer, max_grad_norm=1.0, compiled=False)
    for batch in batches: step.accumulate(batch)
    norm = step.apply(0.0).item()
    whole = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
    assert math.isclose(norm, step.update(whole, 0.0)[2].item(), rel_tol=1e-5)


def test_filler_rows_change_nothing(tmp_path):
    trained = []
    for filled in (True, False):
        model, loader = ToyModel(), ToyLoader(10, 8)
        if not filled:
            original = loader.batches

            def cut(epoch, start=0, original=original):
                for batch in original(epoch, start): yield {k: v[batch["example_weight"] > 0] for k, v in batch.items()}
            loader.batches = cut
        Trainer(model, toy_config(tmp_path, eval_strategy="no")).train(loader)
        trained.append(model)
    assert close(*trained)


def test_a_plan_counts_partial_windows_and_max_steps():
    plan = plan_run(TrainingSection(num_epochs=3, gradient_accumulation_steps=4), 10)
    assert (plan.steps_per_epoch, plan.total_steps, plan.num_epochs) == (3, 9, 3)
    plan = plan_run(TrainingSection(num_epochs=1, max_steps=7), 3)
    assert (plan.total_steps, plan.num_epochs) == (7, 3)


# ---- rates


class Rates(Callback):
    def __init__(self): self.seen = []
    def on_step(self, trainer, state): self.seen.append(state.learning_rate)


def test_warm_up_is_applied_and_schedules_count_updates_not_batches(tmp_path):
    rates = Rates()
    config = toy_config(tmp_path, gradient_accumulation_steps=2, warmup_steps=4, num_epochs=4, learning_rate=1.0,
                        min_lr=0.0, eval_strategy="no", **{"scheduler.type": "linear", "optimizer.type": "sgd"})
    Trainer(ToyModel(), config, callbacks=[rates]).train(ToyLoader(32, 8))   # 4 batches = 2 updates an epoch
    assert rates.seen == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25])


def test_the_rate_reaches_the_optimizer_and_a_callback_can_set_it(tmp_path):
    model = ToyModel()
    config = toy_config(tmp_path, eval_strategy="no")
    before = weights(model)
    Trainer(model, config, callbacks=[LearningRateScheduler(lambda step: 0.0)]).train(ToyLoader())
    assert all(np.array_equal(before[name], value) for name, value in weights(model).items())


def test_reduce_on_plateau_hears_of_evaluations(tmp_path):
    rates = Rates()
    config = toy_config(tmp_path, patience=1, factor=0.1, num_epochs=3, best_metric="eval_accuracy", min_lr=0.0,
                        **{"scheduler.type": "reduce_on_plateau"})
    trainer = Trainer(ToyModel(), config, callbacks=[rates])
    trainer.evaluate = lambda loader=None: trainer.state.metrics.update(eval_loss=1.0, eval_accuracy=0.5) or {
        "eval_loss": 1.0, "eval_accuracy": 0.5}
    trainer.train(ToyLoader(), ToyLoader())
    assert rates.seen[0] == pytest.approx(0.01) and rates.seen[-1] == pytest.approx(0.001)


# ---- seeds and dropout


def test_the_seed_decides_the_dropout(tmp_path):
    def run(seed):
        model = ToyModel(dropout=0.5)
        Trainer(model, toy_config(tmp_path, seed=seed, eval_strategy="no")).train(ToyLoader())
        return model
    assert same_bits(run(1), run(1))
    assert not same_bits(run(1), run(2))
    assert len({batch_seed(1, e, b) for e in range(20) for b in range(50)}) == 1000


def test_evaluations_do_not_disturb_training_and_have_dropout_off(tmp_path):
    trained = []
    for strategy in ("no", "epoch"):
        model = ToyModel(dropout=0.5)
        config = toy_config(tmp_path, eval_strategy=strategy, load_best_at_end=False)
        trainer = Trainer(model, config)
        trainer.train(ToyLoader(), ToyLoader(seed=1))
        trained.append(model)
    assert same_bits(*trained)
    assert trainer.evaluate() == trainer.evaluate()
    assert trainer.model.training      # and it is on again afterwards


# ---- evaluation, best, stopping


class Journal(Callback):
    def __init__(self): self.events = []
    def on_epoch_begin(self, trainer, state): self.events.append(f"epoch {state.epoch}")
    def on_batch_begin(self, trainer, state): self.events.append("batch")
    def on_step(self, trainer, state): self.events.append(f"step {state.step}")
    def on_evaluate_end(self, trainer, state): self.events.append("evaluated")
    def on_step_end(self, trainer, state): self.events.append("settled")
    def on_epoch_end(self, trainer, state): self.events.append("epoch done")
    def on_train_end(self, trainer, state): self.events.append("done")


def test_the_order_of_events(tmp_path):
    journal = Journal()
    config = toy_config(tmp_path, num_epochs=1, gradient_accumulation_steps=2, eval_strategy="steps", eval_steps=2)
    Trainer(ToyModel(), config, callbacks=[journal]).train(ToyLoader(32, 8), ToyLoader())
    assert journal.events == ["epoch 0", "batch", "batch", "step 1", "settled", "batch", "batch", "step 2", "evaluated",
                              "settled", "epoch done", "done"]


@pytest.mark.parametrize(("strategy", "steps"), [("epoch", [5, 10, 15]), ("steps", [4, 8, 12, 15]), ("no", [])])
def test_evaluation_happens_when_the_strategy_says_and_once_at_the_end(tmp_path, strategy, steps):
    config = toy_config(tmp_path, eval_strategy=strategy, eval_steps=4, load_best_at_end=False)
    result = Trainer(ToyModel(), config).train(ToyLoader(), ToyLoader(seed=1))
    assert [row["step"] for row in result.history if "eval_loss" in row] == steps


def test_the_model_learns_and_ends_with_its_best_weights(tmp_path):
    config = toy_config(tmp_path, num_epochs=12, best_metric="eval_accuracy", learning_rate=0.05)
    trainer = Trainer(ToyModel(), config)
    result = trainer.train(ToyLoader(200, 16), ToyLoader(80, 16, seed=1))
    assert result.best_metric > 0.9
    scores = [row["eval_accuracy"] for row in result.history if "eval_accuracy" in row]
    assert result.best_metric == max(scores)
    assert trainer.evaluate()["eval_accuracy"] == result.best_metric == result.metrics["eval_accuracy"]


def test_best_weights_come_back_when_later_ones_are_worse(tmp_path):
    "The rate explodes after the third epoch; with and without a checkpoint the early weights are what is left."
    for strategy in ("no", "best"):
        config = toy_config(tmp_path, num_epochs=6, best_metric="eval_accuracy", save_strategy=strategy)
        callbacks = [LearningRateScheduler(lambda step: 0.05 if step < 39 else 5.0)]
        if strategy == "best": callbacks.append(ModelCheckpoint("best"))
        trainer = Trainer(ToyModel(), config, callbacks=callbacks)
        result = trainer.train(ToyLoader(200, 16), ToyLoader(80, 16, seed=1))
        assert result.best_step < result.steps and result.weights == "best"
        assert trainer.evaluate()["eval_accuracy"] == result.best_metric
        assert (result.best_checkpoint is not None) == (strategy == "best")


def test_early_stopping_ends_the_run_and_says_why(tmp_path):
    config = toy_config(tmp_path, num_epochs=50, learning_rate=1e-9)
    result = Trainer(ToyModel(), config, callbacks=[EarlyStopping(patience=2)]).train(ToyLoader(), ToyLoader())
    assert result.epochs == 3 and "eval_loss" in result.stop_reason


def test_a_best_metric_that_no_evaluation_has_is_named_with_those_it_has(tmp_path):
    with pytest.raises(ConfigError, match="eval_accuracy"):
        Trainer(ToyModel(), toy_config(tmp_path, best_metric="eval_rmse")).train(ToyLoader(), ToyLoader())


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    model = ToyModel()
    model.out.weight = model.out.weight + math.nan
    with pytest.raises(TrainingError, match="nan at update 1"):
        Trainer(model, toy_config(tmp_path, eval_strategy="no")).train(ToyLoader())


def test_an_exception_in_a_callback_names_it_and_tells_the_others(tmp_path):
    class Breaks(Callback):
        def on_step(self, trainer, state): raise RuntimeError("broken")

    class Hears(Callback):
        reason = ""
        def on_exception(self, trainer, state): self.reason = state.stop_reason

    hears = Hears()
    with pytest.raises(RuntimeError, match="broken"):
        Trainer(ToyModel(), toy_config(tmp_path, eval_strategy="no"), callbacks=[Breaks(), hears]).train(ToyLoader())
    assert hears.reason == "RuntimeError: broken"


def test_there_must_be_something_to_train_on(tmp_path):
    with pytest.raises(MLXBertError, match="train_path"): Trainer(ToyModel(), toy_config(tmp_path)).train()
    with pytest.raises(MLXBertError, match="no batches"): Trainer(ToyModel(), toy_config(tmp_path)).train(ToyLoader(0))


# ---- mixed precision


def test_bf16_computes_in_bf16_and_keeps_float32_masters(tmp_path):
    "Updates far below bf16's resolution add up in the masters."
    seen = []

    class Spy(ToyModel):
        def __call__(self, *args):
            seen.append(self.out.weight.dtype)
            return super().__call__(*args)

    model = Spy()
    before = weights(model)["out.weight"]
    config = toy_config(tmp_path, learning_rate=1e-6, eval_strategy="no", num_epochs=5)
    trainer = Trainer(model, config)
    trainer.evaluator.dtype = mx.bfloat16     # what mixed_precision: true gives where the device has it
    trainer.train(ToyLoader())
    after = weights(model)["out.weight"]
    assert set(seen) == {mx.bfloat16} and after.dtype == np.float32
    moved = np.abs(after - before)
    assert 0 < moved.max() < 1e-4


def test_insisting_on_bf16_on_a_cpu_is_refused_with_the_reason(tmp_path):
    with pytest.raises(ConfigError, match="bf16"): Trainer(ToyModel(), toy_config(tmp_path, mixed_precision="bf16"))


# ---- checkpoints and resume


class StopAt(Callback):
    "Breaks off a run after an update, as a crash would."
    order = 100

    def __init__(self, step): self.step = step

    def on_step_end(self, trainer, state):
        if state.step == self.step: raise KeyboardInterrupt


def run_of(tmp_path, name, *callbacks, resume=None, **overrides):
    model = ToyModel(dropout=0.3)
    options = {"run_name": name, "save_strategy": "steps", "save_steps": 1, "gradient_accumulation_steps": 2,
               "eval_strategy": "steps", "eval_steps": 3, "load_best_at_end": False, **overrides}
    config = toy_config(tmp_path, **options, **{"scheduler.type": "cosine"})
    callbacks = [ModelCheckpoint("steps", save_steps=1), EarlyStopping(patience=9), *callbacks]
    trainer = Trainer(model, config, callbacks=callbacks)
    return trainer, trainer.train(ToyLoader(), ToyLoader(seed=1), resume_from=resume)


@pytest.mark.parametrize("step", [1, 3, 4, 8])     # first; last of an epoch (5 batches, windows of 2); later epochs
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, step):
    whole, expected = run_of(tmp_path, "whole")
    with pytest.raises(KeyboardInterrupt): run_of(tmp_path, "broken", StopAt(step))
    resumed, result = run_of(tmp_path, "broken", resume="latest")
    assert same_bits(whole.model, resumed.model)
    mine, theirs = optimizer_arrays(whole.optimizer), optimizer_arrays(resumed.optimizer)
    assert mine.keys() == theirs.keys() and all(mx.array_equal(mine[name], theirs[name]) for name in mine)
    clean = [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in expected.history]
    assert clean == [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in result.history]
    assert result.output_dir == tmp_path / "broken"


@pytest.mark.long
def test_a_killed_process_resumes_with_the_same_bits(tmp_path):
    "SIGKILL in mid-run, several times over, wherever it happens to be."
    script = tmp_path / "job.py"
    script.write_text(
        "import sys, time\n"
        f"sys.path[:0] = {[str(folder) for folder in Path(__file__).parents[:2]]}\n"
        "from pathlib import Path\n"
        "from test_training import run_of, weights, Callback\n"
        "import numpy as np\n"
        "class Slow(Callback):\n"
        "    def on_batch_begin(self, trainer, state): time.sleep(0.02)\n"
        "home, name, resume = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == 'resume'\n"
        "found = resume and any((home / name / 'checkpoints').glob('step-*'))\n"
        "trainer, _ = run_of(home, name, Slow(), resume='latest' if found else None, num_epochs=6)\n"
        "np.savez(home / f'{name}.npz', **weights(trainer.model))\n")
    command = [sys.executable, str(script), str(tmp_path)]
    subprocess.run([*command, "whole", "fresh"], check=True, timeout=120)
    kills = 0
    while not (tmp_path / "killed.npz").exists():
        process = subprocess.Popen([*command, "killed", "resume"])
        checkpoints = tmp_path / "killed" / "checkpoints"
        before = len(list(checkpoints.glob("step-*"))) and max(p.name for p in checkpoints.glob("step-*"))
        while process.poll() is None and kills < 3:
            now = sorted(p.name for p in checkpoints.glob("step-*")) if checkpoints.exists() else []
            if now and (not before or now[-1] > before):
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
            time.sleep(0.01)
        process.wait(timeout=120)
    assert kills == 3
    whole, killed = np.load(tmp_path / "whole.npz"), np.load(tmp_path / "killed.npz")
    assert all(np.array_equal(whole[name], killed[name]) for name in whole.files)


def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path):
    whole, _ = run_of(tmp_path, "whole")
    with pytest.raises(KeyboardInterrupt): run_of(tmp_path, "broken", StopAt(5))
    newest = max((tmp_path / "broken" / "checkpoints").glob("step-*"))
    data = bytearray((newest / "weights.safetensors").read_bytes())
    data[-3] ^= 4
    (newest / "weights.safetensors").write_bytes(data)
    resumed, _ = run_of(tmp_path, "broken", resume="latest")
    assert same_bits(whole.model, resumed.model)


def test_a_checkpoint_of_another_plan_is_refused_and_says_what_differs(tmp_path):
    with pytest.raises(KeyboardInterrupt): run_of(tmp_path, "broken", StopAt(3))
    with pytest.raises(CheckpointError, match="seed was 42 and is 43"):
        run_of(tmp_path, "broken", resume="latest", seed=43)


def test_resuming_without_a_checkpoint_or_a_name_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no whole checkpoint"): run_of(tmp_path, "never", resume="latest")
    with pytest.raises(CheckpointError, match="run_name"): run_of(tmp_path, None, resume="latest")


def test_a_checkpoint_can_be_loaded_to_evaluate(tmp_path):
    trainer, result = run_of(tmp_path, "first")
    other = Trainer(ToyModel(dropout=0.3, seed=9), trainer.config)
    other.train_loader, other.val_loader = trainer.train_loader, trainer.val_loader
    other.load_checkpoint(result.last_checkpoint)
    assert same_bits(trainer.model, other.model) and other.evaluate() == trainer.evaluate()


# ---- the folder of a run


def test_no_run_overwrites_another(tmp_path):
    for _ in range(3): Trainer(ToyModel(), toy_config(tmp_path, num_epochs=1, eval_strategy="no")).train(ToyLoader(8))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["toy", "toy-2", "toy-3"]
    assert new_run_folder(tmp_path, "toy").path == tmp_path / "toy-4"


def test_the_saved_declaration_is_that_of_the_run(tmp_path):
    from mlx_bert_training.declaration.load import load_config
    config = toy_config(tmp_path, num_epochs=1, eval_strategy="no")
    result = Trainer(ToyModel(), config).train(ToyLoader(8))
    assert load_config(result.output_dir / "config.yaml") == config


# ---- predicting


def test_predictions_come_in_the_order_of_the_data(tmp_path):
    trainer = Trainer(ToyModel(), toy_config(tmp_path))
    shuffled = trainer.predict(ToyLoader(21, 4, labelled=False))
    straight = trainer.predict(ToyLoader(21, 7, shuffle=False, labelled=False))
    assert len(shuffled) == 21 and list(shuffled.row_ids) == list(range(21))
    assert np.allclose(shuffled.values, straight.values, atol=1e-6)
    assert np.allclose(shuffled.values.sum(axis=1), 1)
    assert set(shuffled.labels()) <= {"no", "yes"}


def test_evaluating_without_labels_says_so(tmp_path):
    with pytest.raises(MLXBertError, match="labels"):
        Trainer(ToyModel(), toy_config(tmp_path)).evaluate(ToyLoader(labelled=False))


# ---- parts that can be exchanged


def test_loss_optimizer_schedule_and_loader_of_ones_own_are_used(tmp_path):
    import mlx.optimizers as optim
    heard = []

    class Mine:
        def __call__(self, step): return 0.5 if step < 3 else 0.0
        def observe(self, metric): heard.append(metric)
        def state_dict(self): return {}
        def load_state_dict(self, state): pass

    def loss(logits, labels): return (logits[:, 1] - labels) ** 2, mx.ones(len(labels))

    model, rates = ToyModel(), Rates()
    trainer = Trainer(model, toy_config(tmp_path, num_epochs=1), callbacks=[rates], loss=loss,
                      optimizer=optim.RMSprop(0.1), schedule=Mine())
    trainer.train(ToyLoader(), ToyLoader(seed=1))
    assert rates.seen == [0.5, 0.5, 0.5, 0.0, 0.0] and len(heard) == 1 and trainer.loss is loss
    assert not np.array_equal(weights(model)["out.weight"][1], weights(ToyModel())["out.weight"][1])
    assert np.array_equal(weights(model)["out.weight"][0], weights(ToyModel())["out.weight"][0])   # not in the loss


def test_training_twice_begins_anew_from_the_weights_there_are(tmp_path):
    trainer = Trainer(ToyModel(), toy_config(tmp_path, eval_strategy="no"))
    first = trainer.train(ToyLoader())
    between = weights(trainer.model)
    second = trainer.train(ToyLoader())
    assert first.steps == second.steps == 15 and len(second.history) == len(first.history)
    assert not np.array_equal(between["out.weight"], weights(trainer.model)["out.weight"])


def test_frozen_parameters_stay_as_they_are(tmp_path):
    model = ToyModel()
    model.embedding.freeze()
    before = weights(model)
    Trainer(model, toy_config(tmp_path, eval_strategy="no", weight_decay=0.1)).train(ToyLoader())
    after = weights(model)
    assert np.array_equal(before["embedding.weight"], after["embedding.weight"])
    assert not np.array_equal(before["out.weight"], after["out.weight"])


def test_gradient_checkpointing_needs_a_model_that_can(tmp_path):
    with pytest.raises(MLXBertError, match="gradient_checkpointing: ToyModel"):
        Trainer(ToyModel(), toy_config(tmp_path, gradient_checkpointing=True))


def test_without_a_compiler_training_goes_on_and_says_so(tmp_path):
    script = ("import sys; sys.path[:0] = [sys.argv[1]]\n"
              "import logging; logging.basicConfig()\n"
              "from toys import *\n"
              "from mlx_bert_training import Trainer\n"
              "config = toy_config(sys.argv[2], compile=True, eval_strategy='no')\n"
              "print(Trainer(ToyModel(), config).train(ToyLoader()).steps)\n")
    environment = {**os.environ, "PATH": str(tmp_path)}     # no g++ to be found
    command = [sys.executable, "-c", script, str(Path(__file__).parents[1]), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "15" and ("g++" in done.stderr or sys.platform != "linux")
