"""From a declaration to a trainer: overrides, callbacks, whole runs, and the former API."""
from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from toys import ToyLoader, ToyModel

from mlx_bert_training import (
    Callback,
    EarlyStopping,
    MetricsLogger,
    Trainer,
    create_model,
    create_trainer,
    get_trainer_config,
    predict_file,
    register_trainer,
    run_training,
)
from mlx_bert_training.core.config import KaggleTrainerConfig
from mlx_bert_training.declaration.problems import ConfigError
from mlx_bert_training.errors import DataError, MLXBertError, UnknownNameError
from mlx_bert_training.factory import declared_callbacks

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
README_EXAMPLE = """
optimizer: {type: adamw, learning_rate: 2e-5, weight_decay: 0.01}
scheduler: {type: cosine, warmup_ratio: 0.1}
data: {batch_size: 32, num_workers: 8}
training: {num_epochs: 10, eval_strategy: epoch, early_stopping: true}
kaggle: {competition_name: titanic, cv_folds: 5, enable_ensemble: true}
"""


def declaration(tmp_path, **sections):
    base = {
        "model": {"config": SMALL},
        "data": {"train_path": "demo:german_credit/train.csv", "test_path": "demo:german_credit/test.csv",
                 "target_column": "risk", "id_column": "id", "max_length": 24, "max_train_rows": 120,
                 "template": "{purpose} of {credit_amount} over {duration} months"},
        "optimizer": {"learning_rate": 1e-3},
        "training": {"num_epochs": 1, "save_strategy": "no"},
        "environment": {"output_dir": str(tmp_path), "run_name": "run", "device": "cpu", "compile": False}}
    return {name: {**base.get(name, {}), **sections.get(name, {})} for name in base.keys() | sections.keys()}


# ---- configurations


def test_flat_overrides_work_with_a_preset_and_reach_the_trainer(tmp_path):
    trainer = create_trainer(ToyModel(), config="production", learning_rate=1e-5, num_epochs=20, batch_size=64)
    config = trainer.config
    assert (config.optimizer.learning_rate, config.training.num_epochs, config.data.batch_size) == (1e-5, 20, 64)
    assert trainer.data is None     # the preset's pretrained model is not this model: its tokenizer is not used


def test_overrides_work_without_a_config():
    assert create_trainer(ToyModel(), learning_rate=1e-5).config.optimizer.learning_rate == 1e-5


def test_evaluation_can_be_switched_off_in_one_word():
    config = create_trainer(ToyModel(), config="development", eval_strategy="no").config
    assert not config.training.early_stopping and not config.training.load_best_at_end


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_the_readme_example_trains(tmp_path, suffix):
    path = tmp_path / f"example.{suffix}"
    example = README_EXAMPLE if suffix == "yaml" else json.dumps(get_trainer_config_dict())
    path.write_text(example)
    config = get_trainer_config(path, output_dir=str(tmp_path), num_epochs=1, compile=False)
    assert isinstance(config, KaggleTrainerConfig) and config.kaggle.competition_name == "titanic"
    assert config.optimizer.learning_rate == 2e-5
    result = create_trainer(ToyModel(), config=config).train(ToyLoader(), ToyLoader(seed=1))
    assert result.steps == 5


def get_trainer_config_dict():
    import yaml
    values = yaml.safe_load(README_EXAMPLE)
    values["optimizer"]["learning_rate"] = 2e-5     # plain YAML readers make a string of 2e-5
    return values


def test_a_misspelt_key_or_section_is_refused_with_the_nearest_name(tmp_path):
    with pytest.raises(ConfigError, match="learning_rate"): create_trainer(ToyModel(), lerning_rate=1e-5)
    with pytest.raises(ConfigError, match="optimizer"): create_trainer(ToyModel(), {"optimiser": {"type": "adam"}})


# ---- callbacks and trainers


def test_the_declaration_brings_callbacks_and_the_users_own_take_their_place():
    mine = EarlyStopping(patience=7)
    trainer = create_trainer(ToyModel(), callbacks=[mine])
    stopping = [callback for callback in trainer.callbacks if isinstance(callback, EarlyStopping)]
    assert stopping == [mine]
    names = [type(callback).__name__ for callback in trainer.callbacks]
    assert names == ["MetricsLogger", "EarlyStopping", "LearningCurve", "ModelCheckpoint", "Steering",
                     "DashboardCallback"]


def test_callbacks_can_be_declared_by_name_and_by_import(tmp_path):
    config = get_trainer_config({"callbacks": [{"type": "early_stopping", "patience": 1, "metric": "eval_f1"},
                                               {"type": "toys:Named", "greeting": "hello"}],
                                 "training": {"early_stopping": False}})
    found = {type(callback).__name__: callback for callback in declared_callbacks(config)}
    assert found["EarlyStopping"].patience == 1 and found["Named"].greeting == "hello"
    with pytest.raises(MLXBertError, match="early_stopping"):
        declared_callbacks(get_trainer_config({"callbacks": [{"type": "early_stoping"}]}))


def test_show_loop_prints_who_runs_when(capsys):
    class Mine(Callback):
        def on_step(self, trainer, state): "Count the update."
    create_trainer(ToyModel(), callbacks=[Mine()]).show_loop()
    printed = capsys.readouterr().out
    assert "on_step" in printed and "Mine" in printed and "Count the update." in printed


def test_a_trainer_of_ones_own(tmp_path):
    class Loud(Trainer): pass
    register_trainer("loud", Loud)
    assert type(create_trainer(ToyModel(), trainer="loud")) is Loud
    with pytest.raises(UnknownNameError, match="loud"): create_trainer(ToyModel(), trainer="lout")


# ---- whole runs


def test_a_run_leaves_its_files_and_can_be_repeated_from_them(tmp_path):
    run = run_training(declaration(tmp_path, training={"num_epochs": 2, "baselines": True, "save_strategy": "no"}))
    folder = run.result.output_dir
    left = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "model", "predictions.csv", "result.json"} <= left
    assert list(run.scores.index) == ["majority class", "logistic regression", "this model"]
    table = pd.read_csv(run.predictions)
    assert len(table) == 200 and list(table.columns[:2]) == ["id", "risk"] and set(table.risk) <= {0, 1}
    assert np.allclose(table.probability_0 + table.probability_1, 1)
    again = run_training(folder / "config.yaml", run_name="again")
    assert again.result.metrics == run.result.metrics
    assert (again.result.output_dir / "predictions.csv").read_bytes() == run.predictions.read_bytes()
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rows == json.loads((folder / "result.json").read_text())["history"]


def test_baselines_without_evaluations_in_training_have_the_model_beside_them(tmp_path):
    training = {"num_epochs": 1, "baselines": True, "eval_strategy": "no", "save_strategy": "no",
                "early_stopping": False}
    run = run_training(declaration(tmp_path, training=training))
    assert "eval_auc" not in run.result.metrics and list(run.scores.index)[-1] == "this model"
    assert run.scores.loc["this model", "auc"] == run.trainer.evaluate()["eval_auc"]


def test_the_saved_model_predicts_the_same_later(tmp_path):
    # one width: the test part shares those of all parts, a file has its own, and a BLAS may round by the width
    file, run = "demo:german_credit/test.csv", run_training(declaration(tmp_path, data={"length_buckets": 1}))
    later = predict_file(run.result.output_dir, file)
    assert np.array_equal(later.values, run.trainer.predict().values) and later.class_names == [0, 1]


def test_the_trainer_and_the_saved_model_predict_a_file_the_same(tmp_path):
    file, run = "demo:german_credit/test.csv", run_training(declaration(tmp_path))
    later = predict_file(run.result.output_dir, file)
    assert np.array_equal(later.values, run.trainer.predict(file).values)
    np.testing.assert_allclose(later.values, run.trainer.predict().values, rtol=0, atol=1e-6)


def test_predicting_from_an_unfinished_run_says_what_is_missing(tmp_path):
    with pytest.raises(DataError, match="model/"): predict_file(tmp_path, "demo:german_credit/test.csv")


def test_a_run_without_data_says_which_key_is_missing():
    with pytest.raises(DataError, match="data.train_path"): run_training({"model": {"config": SMALL}})


@pytest.mark.parametrize(("task", "target"), [("regression", "credit_amount"), ("multiclass", "job")])
def test_other_tasks_run_from_a_declaration(tmp_path, task, target):
    config = declaration(tmp_path, model={"head_type": task}, training={"baselines": True})
    config["data"] |= {"target_column": target, "template": "{purpose} {age} {housing}", "test_path": None}
    run = run_training(config)
    assert np.isfinite(run.result.metrics["eval_loss"]) and run.scores is not None


def test_a_multilabel_task_with_a_column_for_each_label(tmp_path):
    pairs = [(colour, thing) for colour in ("red", "blue") for thing in ("car", "house")]
    frame = pd.DataFrame({"text": [f"{colour} {thing} number {i}" for i in range(15) for colour, thing in pairs]})
    frame["is_red"], frame["is_car"] = frame.text.str.contains("red") * 1, frame.text.str.contains("car") * 1
    frame.to_csv(tmp_path / "data.csv", index=False)
    config = declaration(tmp_path, model={"head_type": "multilabel", "pooling": "mean"})
    path = str(tmp_path / "data.csv")
    config["data"] = {"train_path": path, "test_path": path, "batch_size": 8, "text_column": "text",
                      "target_column": ["is_red", "is_car"]}
    config["training"]["num_epochs"], config["optimizer"]["learning_rate"] = 20, 0.01
    run = run_training(config)
    assert list(pd.read_csv(run.predictions).columns[-2:]) == ["is_red", "is_car"]
    assert run.result.best_metric < 0.3     # it has learnt the two words


def test_a_pretrained_model_of_the_users_own_brings_its_tokenizer(tmp_path):
    run = run_training(declaration(tmp_path))
    model = create_model(pretrained=run.model_folder)
    trainer = create_trainer(model, declaration(tmp_path))
    assert trainer.data.tokenizer.vocab_size == run.trainer.data.tokenizer.vocab_size
    assert trainer.evaluate() == run.trainer.evaluate()


# ---- the former API


def test_former_code_still_runs_and_warns(tmp_path):
    from mlx_bert_training.config import TrainingConfig
    from mlx_bert_training.mlx_trainer import MLXTrainer
    with pytest.warns(DeprecationWarning, match="get_trainer_config"):
        config = TrainingConfig(
            epochs=2, learning_rate=0.01, warmup_steps=0, optimizer="rmsprop", lr_schedule="constant",
            output_dir=str(tmp_path), checkpoint={"save_strategy": "no"}, mlx_optimization={"compile": False})
    with pytest.warns(DeprecationWarning, match="create_trainer"): trainer = MLXTrainer(ToyModel(), config)
    figures = trainer.train(ToyLoader(), ToyLoader(seed=1), ToyLoader(seed=2))
    assert figures["global_step"] == 10 and {"eval_loss", "test_loss", "test_accuracy"} <= figures.keys()
    assert set(trainer.evaluate(ToyLoader(), max_batches=1)) >= {"validation_loss"}
    batch = next(iter(ToyLoader()))
    before = trainer.compute_loss(batch)
    for _ in range(5): trainer.train_step(batch)
    assert trainer.compute_loss(batch) < before
    assert trainer.get_learning_rate() == pytest.approx(0.01) and trainer.should_stop_early() is False


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_former_configuration_round_trips_and_refuses_mistakes(tmp_path):
    from mlx_bert_training.config import TrainingConfig
    config = TrainingConfig(learning_rate=3e-5, loss_function="focal_loss", advanced={"focal_gamma": 1.5})
    for name in ("config.yaml", "config.json"):
        config.save(tmp_path / name)
        assert TrainingConfig.load(tmp_path / name) == config
    assert config.to_trainer_config().training.focal_gamma == 1.5
    with pytest.raises(ConfigError, match="learning_rate"): TrainingConfig.from_dict({"learning_rat": 1e-5})
    with pytest.raises(UnknownNameError, match="cosine_warmup"): TrainingConfig(lr_schedule="cosine_warmpu")
    with pytest.raises(ConfigError, match="save_strategy"): TrainingConfig(checkpoint={"save_stategy": "no"})


# ---- what a metrics file holds


def test_the_metrics_log_is_a_table(tmp_path):
    trainer = create_trainer(ToyModel(), output_dir=str(tmp_path), num_epochs=2, logging_steps=2, save_strategy="no",
                             compile=False)
    trainer.train(ToyLoader(), ToyLoader(seed=1))
    logger = trainer.callbacks.find(MetricsLogger)
    assert {"step", "loss", "eval_loss", "learning_rate"} <= set(logger.to_frame().columns)
