"""Sections, options, rules between them, overrides, differences, and writing."""
import copy
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import yaml

from mlx_bert_training.core.config import (
    BaseTrainerConfig,
    DataConfig,
    EnvironmentConfig,
    KaggleConfig,
    KaggleTrainerConfig,
    MLflowConfig,
    ModelConfig,
    OptimizerConfig,
    SchedulerConfig,
    TrackingConfig,
    TrainingSection,
)
from mlx_bert_training.declaration.load import load_config
from mlx_bert_training.declaration.options import is_section, leaves, options, read_value
from mlx_bert_training.declaration.problems import ConfigError, Problem, show
from mlx_bert_training.errors import MLXBertError


def refusal(make) -> ConfigError:
    with pytest.raises(ConfigError) as caught: make()
    return caught.value


def refused(make, *words: str) -> ConfigError:
    error = refusal(make)
    for word in words: assert word in str(error), f"{word!r} is not in: {error}"
    return error


# Defaults

def test_defaults_are_the_documented_ones():
    o, s, t = OptimizerConfig(), SchedulerConfig(), TrainingSection()
    assert (o.type, o.learning_rate, o.weight_decay, o.beta1, o.beta2, o.epsilon) == ("adamw", 2e-5, 0.01, 0.9, 0.999,
        1e-8)
    assert (o.momentum, o.nesterov, o.lion_beta1, o.lion_beta2) == (0.9, False, 0.9, 0.99)
    assert (o.max_grad_norm, o.gradient_clip_val) == (1.0, None)
    assert (s.type, s.warmup_steps, s.warmup_ratio, s.num_cycles, s.num_restarts) == ("cosine", 0, 0, 0.5, 1)
    assert (s.power, s.gamma, s.patience, s.factor, s.min_lr) == (1, 0.95, 5, 0.5, 1e-7)
    assert (t.num_epochs, t.max_steps, t.eval_strategy, t.eval_steps, t.logging_steps) == (10, -1, "epoch", 500, 100)
    assert (t.save_strategy, t.save_steps, t.save_total_limit, t.best_metric) == ("epoch", 500, 3, "eval_loss")
    assert (t.early_stopping, t.early_stopping_patience, t.early_stopping_threshold) == (True, 3, 1e-4)
    assert (t.load_best_at_end, t.mixed_precision, t.best_metric_mode) == (True, True, "auto")
    d, k, m = DataConfig(), KaggleConfig(), MLflowConfig()
    assert (d.batch_size, d.eval_batch_size, d.num_workers, d.prefetch_size, d.length_buckets) == (32, None, 4, 2, 8)
    assert (k.cv_folds, k.cv_strategy, k.pseudo_label_threshold, k.tta_iterations) == (5, "auto", 0.95, 5)
    assert (k.submission_dir, k.download_data, k.auto_submit) == ("submissions", True, False)
    assert (m.log_models, m.log_checkpoints, m.log_system_metrics) == (True, False, True)
    assert EnvironmentConfig().seed == 42 and ModelConfig().dropout_rate == 0.1


def test_the_defaults_are_consistent():
    for cls in (BaseTrainerConfig, KaggleTrainerConfig): assert cls().validate() == cls()


@pytest.mark.parametrize("cls", [KaggleTrainerConfig, *(o.hint for o in options(KaggleTrainerConfig).values()
                                                        if is_section(o.hint)), MLflowConfig])
def test_every_option_has_help_and_a_default_that_it_accepts(cls):
    for option in options(cls).values():
        assert option.help
        if not is_section(option.hint):
            read_value(option, option.default() if isinstance(option.default, type) else option.default)


@pytest.mark.parametrize("strategy", ["kfold", "stratified", {"type": "group"}])
def test_a_time_that_is_not_looked_at_is_refused(strategy):
    with pytest.raises(ConfigError, match="does not look at it: set cv_strategy to time_series, or time_column to"):
        load_config({"kaggle": {"cv_strategy": strategy, "time_column": "day"}})
    for looks in ("auto", "time_series", "elsewhere.mine:Weekly"):
        load_config({"kaggle": {"cv_strategy": looks, "time_column": "day"}})


def test_none_is_explained_wherever_it_is_allowed():
    for key, option in leaves(KaggleTrainerConfig).items():
        if type(None) in getattr(option.hint, "__args__", ()): assert "null" in option.help, key


def test_mutable_defaults_are_not_shared():
    one, two = BaseTrainerConfig(), BaseTrainerConfig()
    one.callbacks.append({"type": "progress"})
    one.model.config["hidden_size"] = 8
    one.optimizer.learning_rate = 1.0
    assert two == BaseTrainerConfig()


# Types

@pytest.mark.parametrize("make, words", [
    (lambda: OptimizerConfig(learning_rate="2e-5"), ["expected a number, not text", "2e-05, without quotes"]),
    (lambda: OptimizerConfig(learning_rate="fast"), ['learning_rate = "fast"', "expected a number, not text"]),
    (lambda: OptimizerConfig(learning_rate=True), ["expected a number, not true"]),
    (lambda: OptimizerConfig(learning_rate=float("nan")), ["not a number that is not finite"]),
    (lambda: OptimizerConfig(learning_rate=float("inf")), ["finite"]),
    (lambda: OptimizerConfig(learning_rate=10**400), ["finite"]),
    (lambda: OptimizerConfig(learning_rate=None), ["expected a number, not null"]),
    (lambda: TrainingSection(num_epochs=10.0), ["expected a whole number", "Did you mean 10?"]),
    (lambda: TrainingSection(num_epochs=True), ["expected a whole number, not true"]),
    (lambda: TrainingSection(num_epochs="10"), ["Did you mean 10, without quotes?"]),
    (lambda: TrainingSection(num_epochs=[10]), ["not a list"]),
    (lambda: TrainingSection(baselines=1), ["expected true or false, not a whole number"]),
    (lambda: TrainingSection(metrics="auc"), ["expected a list of texts, not text"]),
    (lambda: TrainingSection(metrics=["auc", 1]), ["metrics"]),
    (lambda: TrainingSection(class_weights=[1, "two"]), ["class_weights"]),
    (lambda: TrainingSection(class_weights=[1, 0]), ["out of range", "greater than 0"]),
    (lambda: TrainingSection(class_weights="even"), ["not a known value", "balanced"]),
    (lambda: TrainingSection(mixed_precision="fp8"), ["not a known value", "true or false, or bf16"]),
    (lambda: EnvironmentConfig(run_name=7), ["'7', in quotes"]),
    (lambda: EnvironmentConfig(output_dir=""), ["a path may not be empty"]),
    (lambda: EnvironmentConfig(run_name="\ud800"), ["surrogate"]),
    (lambda: ModelConfig(config=[1]), ["expected a mapping from names to plain values, not a list"]),
    (lambda: ModelConfig(config={"size": float("nan")}), ["config"]),
    (lambda: ModelConfig(config={"size": object()}), ["config"]),
    (lambda: ModelConfig(config={1: 2}), ["config"]),
    (lambda: MLflowConfig(tags={"fold": 1}), ["tags"]),
    (lambda: BaseTrainerConfig(optimizer=5), ["optimizer = 5", "expected a mapping"]),
    (lambda: BaseTrainerConfig(optimizer=SchedulerConfig()),
        ["expected a mapping, not an object of type SchedulerConfig"]),
    (lambda: BaseTrainerConfig(callbacks=[7]), ["callbacks", "item 1: expected text or a mapping"]),
    (lambda: BaseTrainerConfig(callbacks={"type": "progress"}),
        ["expected a list of names or mappings, not a mapping"]),
])
def test_wrong_types(make, words):
    refused(make, *words)


@pytest.mark.parametrize("make, words", [
    (lambda: OptimizerConfig(learning_rate=0), ["out of range", "greater than 0"]),
    (lambda: OptimizerConfig(learning_rate=-2e-5), ["learning_rate = -2e-05"]),
    (lambda: OptimizerConfig(beta1=1.0), ["at least 0 and less than 1"]),
    (lambda: OptimizerConfig(beta2=1.0), ["beta2"]),
    (lambda: OptimizerConfig(lion_beta2=-0.1), ["lion_beta2"]),
    (lambda: OptimizerConfig(weight_decay=-1), ["weight_decay"]),
    (lambda: OptimizerConfig(max_grad_norm=0), ["max_grad_norm"]),
    (lambda: SchedulerConfig(warmup_ratio=1.5), ["at least 0 and at most 1"]),
    (lambda: SchedulerConfig(warmup_steps=-1), ["at least 0"]),
    (lambda: SchedulerConfig(factor=1), ["factor"]),
    (lambda: DataConfig(batch_size=0), ["at least 1"]),
    (lambda: DataConfig(validation_fraction=1.0), ["less than 1"]),
    (lambda: DataConfig(num_workers=-1), ["num_workers"]),
    (lambda: ModelConfig(dropout_rate=1.0), ["dropout_rate"]),
    (lambda: TrainingSection(label_smoothing=1.0), ["label_smoothing"]),
    (lambda: TrainingSection(max_steps=-2), ["at least -1"]),
    (lambda: TrainingSection(save_total_limit=0), ["save_total_limit"]),
    (lambda: EnvironmentConfig(seed=-1), ["seed"]),
    (lambda: EnvironmentConfig(seed=2**32), ["seed"]),
    (lambda: KaggleConfig(cv_folds=1), ["at least 2"]),
    (lambda: KaggleConfig(pseudo_label_threshold=1.1), ["pseudo_label_threshold"]),
    (lambda: KaggleConfig(ensemble_weights=[1, -1]), ["ensemble_weights"]),
])
def test_out_of_range(make, words):
    refused(make, *words)


@pytest.mark.parametrize("make, meant", [
    (lambda: OptimizerConfig(type="adamww"), "adamw"),
    (lambda: SchedulerConfig(type="cosin"), "cosine"),
    (lambda: SchedulerConfig(type="None"), "none"),
    (lambda: ModelConfig(head_type="binary_clasification"), "binary_classification"),
    (lambda: ModelConfig(head_type="Regression"), "regression"),
    (lambda: ModelConfig(pooling="men"), "mean"),
    (lambda: TrainingSection(loss="focl"), "focal"),
    (lambda: TrainingSection(eval_strategy="epochs"), "epoch"),
    (lambda: TrainingSection(save_strategy="step"), "steps"),
    (lambda: TrackingConfig(type="mlfow"), "mlflow"),
    (lambda: EnvironmentConfig(device="gpus"), "gpu"),
    (lambda: KaggleConfig(cv_strategy="stratify"), "stratified"),
    (lambda: KaggleConfig(competition_type="multi_class"), "multiclass"),
])
def test_unknown_words_name_the_nearest_and_all(make, meant):
    (problem,) = refusal(make).problems
    assert problem.message == "not a known value" and problem.suggestion == meant and problem.allowed


def test_numbers_and_paths_of_other_kinds_are_taken_as_plain_ones():
    config = OptimizerConfig(learning_rate=np.float32(0.5), weight_decay=0)
    assert type(config.learning_rate) is float and config.learning_rate == 0.5
    assert type(config.weight_decay) is float
    assert type(TrainingSection(num_epochs=np.int64(3)).num_epochs) is int
    assert DataConfig(train_path=Path("a") / "b.csv").train_path == os.path.join("a", "b.csv")
    assert EnvironmentConfig(output_dir=Path("out")).output_dir == "out"
    assert ModelConfig(pretrained=Path("weights")).pretrained == "weights"
    assert TrainingSection(class_weights=(1, 2)).class_weights == [1.0, 2.0]


def test_short_head_names():
    assert ModelConfig(head_type="binary").head_type == "binary_classification"
    assert ModelConfig(head_type="multiclass").head_type == "multiclass_classification"
    assert KaggleConfig(competition_type="multilabel").competition_type == "multilabel_classification"


@pytest.mark.parametrize("name", ["modernbert_with_head", "bert_with_head_with_lora", "modernbert_core_with_lora"])
def test_names_of_models_with_adapters(name):
    assert ModelConfig(type=name).type == name
    refused(lambda: ModelConfig(adapter="lore"), "lora")


def test_false_is_no_where_no_is_a_choice():
    section = TrainingSection(eval_strategy=False, save_strategy=False)
    assert (section.eval_strategy, section.save_strategy) == ("no", "no")
    refused(lambda: TrainingSection(eval_strategy=True), "expected text, not true", "epoch, steps, no")


def test_a_dict_is_a_section():
    config = BaseTrainerConfig(optimizer={"learning_rate": 1e-4}, tracking="mlflow")
    assert isinstance(config.optimizer, OptimizerConfig) and config.optimizer.learning_rate == 1e-4
    assert config.tracking.type == "mlflow" and config.tracking.mlflow == MLflowConfig()


# Rules

def base(**sections):
    return BaseTrainerConfig.from_dict(sections)


@pytest.mark.parametrize("sections, key", [
    ({"scheduler": {"warmup_steps": 10, "warmup_ratio": 0.1}}, "scheduler.warmup_ratio"),
    ({"training": {"eval_strategy": "no", "early_stopping": True}}, "training.early_stopping"),
    ({"training": {"eval_strategy": "no", "save_best_only": True}}, "training.save_best_only"),
    ({"training": {"eval_strategy": "no", "load_best_at_end": True}}, "training.load_best_at_end"),
    ({"training": {"eval_strategy": "no", "save_strategy": "best"}}, "training.save_strategy"),
    ({"training": {"eval_strategy": "no"}, "scheduler": {"type": "reduce_on_plateau"}}, "scheduler.type"),
    ({"training": {"save_strategy": "no", "save_best_only": True}}, "training.save_best_only"),
    ({"training": {"max_steps": 0}}, "training.max_steps"),
    ({"data": {"template": "{a}", "text_column": "a"}}, "data.template"),
    ({"data": {"text_pair_column": "b"}}, "data.text_pair_column"),
    ({"data": {"template_defaults": {"a": "?"}}}, "data.template_defaults"),
    ({"data": {"encoding": "utf-99"}}, "data.encoding"),
    ({"data": {"encoding": "a\0b"}}, "data.encoding"),
    ({"data": {"train_path": "a.csv", "validation_fraction": 0}}, "data.validation_fraction"),
    ({"optimizer": {"nesterov": True}}, "optimizer.nesterov"),
    ({"optimizer": {"type": "sgd", "nesterov": True, "momentum": 0}}, "optimizer.nesterov"),
    ({"optimizer": {"learning_rate": 1e-8}}, "scheduler.min_lr"),
    ({"model": {"head_type": "regression"}, "training": {"label_smoothing": 0.1}}, "training.label_smoothing"),
    ({"model": {"head_type": "regression"}, "training": {"class_weights": "balanced"}}, "training.class_weights"),
    ({"model": {"head_type": "regression"}, "training": {"loss": "cross_entropy"}}, "training.loss"),
    ({"training": {"loss": "mse"}}, "training.loss"),
    ({"model": {"num_labels": 3}}, "model.num_labels"),
    ({"model": {"head_type": "regression", "num_labels": 2}}, "model.num_labels"),
    ({"model": {"head_type": "multiclass", "num_labels": 1}}, "model.num_labels"),
    ({"model": {"head_type": "multiclass", "num_labels": 3}, "training": {"class_weights": [1, 2]}},
        "training.class_weights"),
    ({"callbacks": [{"patience": 3}]}, "callbacks"),
    ({"tracking": {"type": "mlflow", "mlflow": {"register_model": True}}}, "tracking.mlflow.register_model"),
])
def test_what_does_not_go_together(sections, key):
    assert [problem.key for problem in refusal(lambda: base(**sections)).problems] == [key]


@pytest.mark.parametrize("kaggle, key", [
    ({"auto_submit": True}, "kaggle.auto_submit"),
    ({"ensemble_weights": [1, 2]}, "kaggle.ensemble_weights"),
    ({"ensemble_keep": "always"}, "kaggle.ensemble_keep"),
    ({"ensemble_weights": [0, 0], "enable_ensemble": True}, "kaggle.ensemble_weights"),
])
def test_what_does_not_go_together_in_a_competition(kaggle, key):
    error = refusal(lambda: KaggleTrainerConfig(kaggle=kaggle))
    assert [problem.key for problem in error.problems] == [key]


@pytest.mark.parametrize("sections", [
    {"scheduler": {"warmup_steps": 10}}, {"scheduler": {"warmup_ratio": 0.1}},
    {"training": {"eval_strategy": "no"}}, {"training": {"eval_strategy": "no", "save_strategy": "no"}},
    {"training": {"save_strategy": "no"}}, {"optimizer": {"type": "sgd", "nesterov": True}},
    {"optimizer": {"learning_rate": 1e-8}, "scheduler": {"type": "none"}},
    {"model": {"head_type": "regression"}, "training": {"loss": "huber"}},
    {"data": {"train_path": "a.csv", "validation_path": "b.csv", "validation_fraction": 0}},
    {"data": {"template": "{a}", "template_defaults": {"a": "?"}}},
    {"callbacks": [{"type": "my.module:Mine", "patience": 3}]},
])
def test_what_goes_together(sections):
    base(**sections)


def test_what_evaluation_decides_is_off_without_it():
    training = TrainingSection(eval_strategy="no")
    assert training.early_stopping is False and training.load_best_at_end is False
    training = TrainingSection(save_strategy="no")  # the best weights are kept in memory, so saving is no matter
    assert training.early_stopping is True and training.load_best_at_end is True


def test_a_rule_is_not_tried_on_values_that_are_wrong_already():
    error = refusal(lambda: base(scheduler={"warmup_steps": "ten", "warmup_ratio": 0.1}))
    assert [problem.key for problem in error.problems] == ["scheduler.warmup_steps"]


def test_all_problems_at_once_values_and_rules():
    error = refusal(lambda: base(optimizer={"lerning_rate": 1, "beta1": 2}, trainng={"num_epochs": 1},
                                 scheduler={"warmup_steps": 1, "warmup_ratio": 0.5, "type": "cosne"}))
    assert {problem.key for problem in error.problems} == {
        "optimizer.lerning_rate", "optimizer.beta1", "trainng", "scheduler.type", "scheduler.warmup_ratio"}


# Changing and validating

def test_fields_can_be_changed_and_validate_finds_what_is_wrong():
    config = BaseTrainerConfig()
    config.training.num_epochs = 3
    assert config.validate() is config and config.training.num_epochs == 3
    config.training.num_epochs = "three"
    config.optimizer.type = "adamv"
    config.data.template, config.data.text_column = "{a}", "a"
    error = refusal(config.validate)
    assert {p.key for p in error.problems} == {"training.num_epochs", "optimizer.type", "data.template"}
    assert config.training.num_epochs == "three"


def test_validate_keeps_the_sections_themselves_and_tidies_their_values():
    config = BaseTrainerConfig()
    optimizer = config.optimizer
    optimizer.learning_rate = 1
    assert config.validate().optimizer is optimizer and type(optimizer.learning_rate) is float


def test_copies_are_equal_and_independent():
    config = BaseTrainerConfig(callbacks=[{"type": "progress"}])
    config.source = Path("run.yaml")
    for twin in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert twin == config and twin.source == config.source
        twin.optimizer.learning_rate = 1.0
        assert twin != config


# replace and diff

def test_replace_gives_a_new_checked_object():
    config = BaseTrainerConfig()
    config.source = Path("run.yaml")
    other = config.replace(learning_rate=1e-4, num_epochs=2, batch_size=64, dropout_rate=0.2,
        **{"scheduler.type": "linear"})
    assert config == BaseTrainerConfig()
    assert (other.optimizer.learning_rate, other.training.num_epochs, other.data.batch_size) == (1e-4, 2, 64)
    assert other.model.dropout_rate == 0.2 and other.scheduler.type == "linear" and other.source == Path("run.yaml")
    refused(lambda: config.replace(num_epochs=0, lerning_rate=1, type="sgd"), "num_epochs",
        "Did you mean learning_rate?",
            "model.type, optimizer.type, scheduler.type, tracking.type")


def test_replace_with_sections_and_callbacks():
    config = BaseTrainerConfig().replace(optimizer=OptimizerConfig(type="lion"), data={"batch_size": 8},
        tracking="mlflow",
                                         callbacks=[{"type": "progress"}])
    assert config.optimizer.type == "lion" and config.data.batch_size == 8 and config.tracking.type == "mlflow"
    assert config.callbacks == [{"type": "progress"}]


def test_flat_names_prefer_the_outer_section_and_every_run():
    config = KaggleTrainerConfig().replace(run_name="r", experiment_name="e", class_weights="balanced",
        tracking_uri="u")
    assert (config.environment.run_name, config.tracking.mlflow.run_name) == ("r", None)
    assert (config.environment.experiment_name, config.tracking.mlflow.experiment_name) == ("e", None)
    assert (config.training.class_weights, config.kaggle.class_weights) == ("balanced", None)
    assert config.tracking.mlflow.tracking_uri == "u"


@pytest.mark.long
def test_type_and_options_are_the_only_flat_names_that_are_ambiguous():
    names = {key.rpartition(".")[2] for key in leaves(KaggleTrainerConfig)}
    ambiguous = set()
    for name in names:
        try: KaggleTrainerConfig().replace(**{name: "?"})
        except ConfigError as error:
            if "several sections" in str(error): ambiguous.add(name)
    assert ambiguous == {"type", "options"}


def test_a_kaggle_override_makes_a_kaggle_configuration():
    config = BaseTrainerConfig().replace(cv_folds=3)
    assert isinstance(config, KaggleTrainerConfig) and config.kaggle.cv_folds == 3


def test_diff():
    one = BaseTrainerConfig()
    two = one.replace(learning_rate=1e-4, **{"model.config": {"hidden_size": 8}})
    diff = one.diff(two)
    assert ("optimizer.learning_rate", 2e-5, 1e-4) in diff and ("model.config.hidden_size", "(absent)", 8) in diff
    assert not one.diff(BaseTrainerConfig()) and str(one.diff(one)) == "no difference"
    rows = [line.split() for line in str(diff).splitlines()]
    assert rows[0] == ["key", "mine", "theirs"] and ["optimizer.learning_rate", "2e-05", "0.0001"] in rows
    assert diff._repr_markdown_().splitlines()[1] == "|---|---|---|"
    keys = [difference.key for difference in one.diff(KaggleTrainerConfig())]
    assert keys and all(key.startswith("kaggle.") for key in keys)
    assert "\\|" in one.diff(one.replace(run_name="a|b"))._repr_markdown_()


# Writing

def test_written_numbers_are_numbers_to_any_reader():
    text = BaseTrainerConfig().to_yaml()
    assert "learning_rate: 2.0e-05" in text and "min_lr: 1.0e-07" in text
    assert yaml.safe_load(text) == BaseTrainerConfig().to_dict()


def test_to_dict_is_plain_complete_and_its_own():
    config = KaggleTrainerConfig()
    data = config.to_dict()
    assert json.loads(json.dumps(data)) == data and "source" not in data
    assert set(data) == {"model", "data", "optimizer", "scheduler", "training", "pretraining", "callbacks",
        "tracking", "parallel", "environment", "kaggle"}
    data["model"]["config"]["x"] = 1
    assert config.model.config == {}


def test_printing_and_notebook_display_show_the_yaml():
    config = BaseTrainerConfig()
    assert str(config) == config.to_yaml() and config.to_yaml() in config._repr_markdown_()


def test_save_is_atomic_and_knows_its_formats(tmp_path):
    config = BaseTrainerConfig()
    path = config.save(tmp_path / "deep" / "config.yaml")
    before = path.read_bytes()
    refused(lambda: config.save(tmp_path / "config.txt"), ".yaml, .yml, .json")
    config.training.num_epochs = object()  # cannot be written
    with pytest.raises(yaml.YAMLError): config.save(path)
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == ["config.yaml"]


# Messages

def test_a_problem_reads_as_a_sentence():
    problem = Problem(file="run.yaml", line=3, key="optimizer.type", value="adamv", message="not a known value",
                      allowed="adam, adamw", suggestion="adamw")
    assert str(problem) == ('run.yaml:3: optimizer.type = "adamv": not a known value. Did you mean adamw?'
                            " Allowed: adam, adamw.")
    assert str(Problem(message="there is no file")) == "there is no file."


def test_the_error_is_one_of_ours_and_a_value_error_and_survives_pickling():
    error = ConfigError([Problem(key="a", message="wrong"), Problem(key="b", value=1, message="also wrong")])
    assert isinstance(error, MLXBertError) and isinstance(error, ValueError)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(error).startswith("2 problems in the configuration:\n")


def test_long_values_and_long_lists_are_cut_short():
    assert len(show("x" * 10**6)) == 60
    error = ConfigError([Problem(key=str(i), message="wrong") for i in range(1000)])
    assert len(error.problems) == 1000 and "and 900 more" in str(error)
    assert len(str(Problem(key="k" * 10**6, value="v" * 10**6, message="wrong"))) < 300
