"""The parts of the trainer: averaged weights, arrays of callbacks, results on disk, what predict takes."""
from __future__ import annotations

import json
import math
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pandas as pd
import pytest
from toys import ToyLoader, ToyModel, toy_config

from mlx_bert_training.callbacks import Callback, ModelCheckpoint
from mlx_bert_training.core.base import Trainer
from mlx_bert_training.core.checkpoint import read_checkpoint
from mlx_bert_training.core.evaluator import Evaluator
from mlx_bert_training.core.run_folder import RunFolder, new_run_folder, open_run_folder
from mlx_bert_training.core.state import TrainerState
from mlx_bert_training.core.weights import model_weights
from mlx_bert_training.data.tokenization import tiny_tokenizer
from mlx_bert_training.ensemble.text_partners import embed_texts
from mlx_bert_training.ensemble.tta import Variant, predict_variants
from mlx_bert_training.errors import DataError
from mlx_bert_training.files import OutputError, write_json, write_text
from mlx_bert_training.models.create import create_model
from mlx_bert_training.pretraining.model import create_masked_model, fill_mask


class Average(Callback):
    "An exponential moving average of the weights."
    def __init__(self): self.mean = None

    def on_step(self, trainer, state):
        new = model_weights(trainer.model)
        self.mean = new if self.mean is None else {k: 0.9 * v + 0.1 * new[k] for k, v in self.mean.items()}

    def evaluation_weights(self, trainer, state): return self.mean
    def array_state(self): return self.mean or {}
    def load_array_state(self, arrays): self.mean = dict(arrays)


def equal(a, b) -> bool: return a.keys() == b.keys() and all(mx.array_equal(a[k], b[k]).item() for k in a)


def run(home, callbacks, **options):
    trainer = Trainer(ToyModel(), toy_config(home, eval_strategy="epoch", load_best_at_end=False), callbacks=callbacks)
    return trainer, trainer.train(ToyLoader(), ToyLoader(24, seed=1), **options)


def test_an_average_is_evaluated_and_kept_while_the_model_trains_on_with_its_own_weights(tmp_path):
    average, rows = Average(), []
    trainer, result = run(tmp_path / "a", [average, ModelCheckpoint("epoch", save_total_limit=None)])
    plain, other = run(tmp_path / "b", [ModelCheckpoint("epoch", save_total_limit=None)])
    for step in (5, 10, 15):
        mine, theirs = (read_checkpoint(r.output_dir / "checkpoints" / f"step-{step:06d}")[0] for r in (result, other))
        assert equal(mine["weights"], theirs["weights"])        # training is the same bits
        assert not equal(mine["evaluation"], mine["weights"]) and "evaluation" not in theirs
        rows.append(mine)
    assert equal(model_weights(trainer.model), average.mean) and equal(rows[-1]["evaluation"], average.mean)
    assert trainer.evaluate() == result.metrics != other.metrics
    again, resumed = run(tmp_path / "c", [Average()], resume_from=result.output_dir / "checkpoints" / "step-000005")
    assert equal(model_weights(again.model), average.mean) and resumed.metrics == result.metrics


def test_an_evaluation_that_fails_leaves_the_weights_that_train(tmp_path):
    average = Average()
    trainer, _ = run(tmp_path, [average])
    own = model_weights(trainer.model)
    average.mean = {name: value + 1 for name, value in own.items()}
    loader = ToyLoader(8)
    loader.batches = lambda epoch, start=0: iter([{"input_ids": np.zeros((2, 3)), "labels": np.zeros(2)}])
    with pytest.raises(ValueError): trainer.evaluate(loader)
    assert equal(model_weights(trainer.model), own)


def test_every_run_leaves_its_result(tmp_path):
    trainer, result = run(tmp_path, [])
    assert json.loads(trainer.folder.result.read_text())["metrics"] == result.metrics


def test_predict_refuses_what_it_cannot_read(tmp_path):
    trainer = Trainer(ToyModel(), toy_config(tmp_path))
    for source in ("no-such-file.csv", pd.DataFrame({"text": ["a"]}), ["a text"], 3):
        with pytest.raises(DataError): trainer.predict(source)


def test_a_file_in_the_place_of_a_folder_is_one_line(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(OutputError) as caught: new_run_folder(tmp_path / "runs", "demo")
    assert "\n" not in str(caught.value)
    with pytest.raises(OutputError): write_text(tmp_path / "runs" / "x" / "note.txt", "")


def test_leftovers_of_a_killed_run_go_and_a_replaced_folder_comes_back(tmp_path):
    run = RunFolder(tmp_path)
    (run.checkpoints / ".step-000001.building").mkdir(parents=True)
    (run.checkpoints / ".step-000002.replaced").mkdir()
    (tmp_path / ".result.json.01234567.draft").write_text("{")
    open_run_folder(run)
    assert [p.name for p in run.checkpoints.iterdir()] == ["step-000002"] and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("training", [True, False])
def test_predicting_leaves_the_model_in_its_mode(training):
    model = ToyModel(dropout=0.5).train(training)
    Evaluator(model).predict(ToyLoader())
    assert model.training is training and model.dropout.training is training


def part_modes(model): return [module.training for module in model.modules()]


def test_whoever_asks_a_model_leaves_every_part_in_its_mode_after_an_error_too(tmp_path, monkeypatch):
    tokenizer = tiny_tokenizer(["a cat sat"])
    config = {"vocab_size": tokenizer.vocab_size, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "intermediate_size": 16, "max_position_embeddings": 24}
    toy, plain, masked = ToyModel(dropout=0.5), create_model(config=config), create_masked_model(config=config)
    for model in (toy, plain, masked):
        model.train()
        model.modules()[-1].eval()      # a part that is kept as it is
    encoded = tokenizer.encode(["a cat", "sat"], max_length=8)
    loader = SimpleNamespace(subset=lambda *_, **__: ToyLoader(8))
    dropout = Variant("mc_dropout 1", "mc_dropout", loader, np.ones(8, bool), 1)
    uncompiled = toy_config(tmp_path)
    asked = [(toy, lambda: Evaluator(toy, uncompiled).predict(ToyLoader())),
             (plain, lambda: embed_texts(plain, encoded)),
             (toy, lambda: predict_variants(Evaluator(toy, uncompiled), [dropout])),
             (masked, lambda: fill_mask(masked, tokenizer, "a [MASK] sat"))]
    for model, ask in asked:
        before = part_modes(model)
        ask()
        assert part_modes(model) == before and len(set(before)) == 2
        with monkeypatch.context() as broken:
            for name in {"__call__", "embed", "logits"} & set(dir(type(model))):
                broken.setattr(type(model), name, lambda *_, **__: 1 / 0)
            with pytest.raises(ZeroDivisionError): ask()
        assert part_modes(model) == before


def test_a_metric_without_a_value_is_no_number_after_a_resume_too(tmp_path):
    state = TrainerState(metrics={"eval_auc": math.nan}, history=[{"step": 1, "loss": 0.5, "eval_auc": math.nan}])
    write_json(tmp_path / "state.json", state.to_dict())
    again = TrainerState.from_dict(json.loads((tmp_path / "state.json").read_text()))
    assert math.isnan(again.metrics["eval_auc"]) and math.isnan(again.history[0]["eval_auc"])
    assert again.best_metric is None and again.history[0]["loss"] == 0.5
