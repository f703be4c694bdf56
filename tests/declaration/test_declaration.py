"""Files, presets, layers, overrides, hostile input, round trips and the schema."""
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stopwatch import at_most

from mlx_bert_training.core.config import BaseTrainerConfig, KaggleTrainerConfig
from mlx_bert_training.declaration.load import (
    find_preset,
    list_presets,
    load_config,
    parse_overrides,
    preset_paths,
)
from mlx_bert_training.declaration.options import leaves
from mlx_bert_training.declaration.problems import ConfigError
from mlx_bert_training.declaration.schema import json_schema
from mlx_bert_training.declaration.yaml_io import dump_yaml, parse_json, parse_yaml, plain_scalar, read_document

CHECKOUT = Path(__file__).parents[2]
OWN_PRESETS = ["development", "kaggle", "production", "quick_test"]

README_EXAMPLE = """\
optimizer:
  type: adamw
  learning_rate: 2e-5
  weight_decay: 0.01

scheduler:
  type: cosine
  warmup_ratio: 0.1

data:
  batch_size: 32
  num_workers: 8

training:
  num_epochs: 10
  eval_strategy: epoch
  early_stopping: true

kaggle:
  competition_name: titanic
  cv_folds: 5
  enable_ensemble: true
"""

FLOW_EXAMPLE = """\
optimizer: {type: adamw, learning_rate: 2e-5, weight_decay: 0.01}
scheduler: {type: cosine, warmup_ratio: 0.1}
data: {batch_size: 32, num_workers: 8}
training: {num_epochs: 10, eval_strategy: epoch, early_stopping: true}
kaggle: {competition_name: titanic, cv_folds: 5, enable_ensemble: true}
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    "Writes a file and gives its path; the working directory is its folder."
    monkeypatch.chdir(tmp_path)

    def write(text, name="run.yaml"):
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
        return path
    return write


def refusal(source, **overrides) -> ConfigError:
    with at_most(5):    # it takes far below a second
        with pytest.raises(ConfigError) as caught: load_config(source, **overrides)
        message = str(caught.value)
    assert len(message) < 100_000
    return caught.value


def lines(error: ConfigError) -> list[str]:
    return [str(problem) for problem in error.problems]


# What works

@pytest.mark.parametrize("text", [README_EXAMPLE, FLOW_EXAMPLE])
def test_the_readme_example_works_word_for_word(write, text):
    config = load_config(write(text))
    assert type(config) is KaggleTrainerConfig
    assert config.optimizer.learning_rate == 2e-5 and type(config.optimizer.learning_rate) is float
    assert (config.optimizer.type, config.optimizer.weight_decay) == ("adamw", 0.01)
    assert (config.scheduler.type, config.scheduler.warmup_ratio) == ("cosine", 0.1)
    assert (config.data.batch_size, config.data.num_workers) == (32, 8)
    assert (config.training.num_epochs, config.training.eval_strategy, config.training.early_stopping) == (10, "epoch",
        True)
    assert (config.kaggle.competition_name, config.kaggle.cv_folds, config.kaggle.enable_ensemble) == ("titanic", 5,
        True)


@pytest.mark.parametrize("text, number", [("2e-5", 2e-5), ("1e5", 1e5), (".5", 0.5), ("5.", 5.0), ("2E-5", 2e-5),
    ("+1.5e+1", 15.0),
                                          ("1", 1), ("10_000", 10_000), ("-3", -3), ("0", 0), ("1_0.5", 10.5)])
def test_numbers_are_numbers(text, number):
    assert plain_scalar(text) == number and type(plain_scalar(text)) is type(number)


@pytest.mark.parametrize("text", ["007", "1:30", "0x10", "2024-01-01", "1e", "e5", ".", "-", "1_", "_1", "1__0",
    "none", "None", "nan",
                                  "inf", "1.2.3", "9" * 5000])
def test_what_is_not_plainly_a_number_stays_text(text):
    assert plain_scalar(text) == text


@pytest.mark.parametrize("word", ["no", "No", "NO", "off", "false", "'no'", '"no"'])
def test_no_is_a_choice_in_yaml(write, word):
    config = load_config(write(f"training: {{eval_strategy: {word}, save_strategy: {word}}}"))
    assert (config.training.eval_strategy, config.training.save_strategy) == ("no", "no")
    assert config.training.early_stopping is False


@pytest.mark.parametrize("word, value", [("yes", True), ("on", True), ("True", True), ("no", False), ("off", False)])
def test_yaml_booleans(write, word, value):
    assert load_config(write(f"data: {{drop_last: {word}}}")).data.drop_last is value


def test_bare_words_for_none_and_tracking(write):
    config = load_config(write("scheduler: {type: none}\ntracking: none\ntraining: {mixed_precision: bf16}"))
    assert (config.scheduler.type, config.tracking.type, config.training.mixed_precision) == ("none", "none", "bf16")
    assert load_config(write("tracking: mlflow")).tracking.type == "mlflow"
    assert load_config(write("training: {mixed_precision: true}")).training.mixed_precision is True


def test_sections_may_be_empty_and_whole_numbers_serve_as_numbers(write):
    config = load_config(write("data:\n  # nothing said\noptimizer: {learning_rate: 1}\ntracking:\n"))
    assert config == BaseTrainerConfig().replace(learning_rate=1.0)
    assert type(load_config(write("kaggle:\n"))) is KaggleTrainerConfig


def test_sources(write):
    path = write("optimizer: {learning_rate: 1e-4}")
    wanted = BaseTrainerConfig().replace(learning_rate=1e-4)
    for source in (path, str(path), f"./{path}", path.resolve(), {"optimizer": {"learning_rate": 1e-4}}, wanted):
        assert load_config(source) == wanted
    assert load_config() == load_config({}) == BaseTrainerConfig()
    assert load_config("production", num_epochs=3).training.num_epochs == 3
    assert load_config(wanted) is not wanted
    assert "expected" not in str(refusal(5)) and "not int" in str(refusal(5))


def test_source_is_remembered_but_no_part_of_the_configuration(write):
    path = write("optimizer: {learning_rate: 1e-4}", "sub/run.yaml")
    config = load_config(path)
    assert config.source == path and load_config(config).source == path and config.replace(seed=1).source == path
    assert load_config({}).source is None and load_config("production").source == find_preset("production")
    assert config == load_config(config.to_dict()) and "source" not in config.to_yaml()


def test_byte_order_mark_crlf_and_yml(write):
    assert load_config(write(b"\xef\xbb\xbfdata:\r\n  batch_size: 8\r\n", "run.yml")).data.batch_size == 8


def test_keys_that_yaml_would_read_as_something_else_are_names(write):
    config = load_config(write("data: {template: '{no} {1}', template_defaults: {no: unknown, 1: x, null: y}}"))
    assert config.data.template_defaults == {"no": "unknown", "1": "x", "null": "y"}
    assert load_config(config.save("again.yaml")) == config


# extends

def test_extends_a_preset_and_overrides_win(write):
    config = load_config(write("extends: production\ntraining: {num_epochs: 3}"), learning_rate=1e-3)
    production = load_config("production")
    assert {d.key for d in config.diff(production)} == {"training.num_epochs", "optimizer.learning_rate"}


def test_extends_files_relative_to_the_one_that_says_it(write):
    write("optimizer: {learning_rate: 1e-3, beta1: 0.8}\n"
          "training: {metrics: [auc, f1]}\nmodel: {config: {a: 1, b: 2}}", "shared/base.yaml")
    write("extends: ../shared/base.yaml\noptimizer: {beta1: 0.7}\ntraining: {metrics: [auc]}", "runs/middle.yaml")
    config = load_config(write('{"extends": "runs/middle.yaml", "model": {"config": {"b": 3}}, "data": null}',
        "top.json"))
    assert (config.optimizer.learning_rate, config.optimizer.beta1) == (1e-3, 0.7)
    assert config.training.metrics == ["auc"] and config.model.config == {"a": 1, "b": 3}
    assert config.source == Path("top.json")


def test_a_mistake_is_put_in_the_layer_that_made_it(write):
    write("optimizer:\n  beta1: 2\ntraining:\n  num_epochs: 0", "base.yaml")
    error = refusal(write("extends: base.yaml\n\ntraining: {num_epochs: -1}"))
    assert sorted((p.file, p.line, p.key) for p in error.problems) == [
        ("base.yaml", 2, "optimizer.beta1"), ("run.yaml", 3, "training.num_epochs")]


def test_a_circle_names_the_chain(write):
    write("extends: b.yaml", "a.yaml")
    write("extends: c.yaml", "b.yaml")
    write("extends: ./a.yaml", "c.yaml")
    message = str(refusal("a.yaml"))
    assert "a.yaml -> b.yaml -> c.yaml -> a.yaml" in message and message.startswith("c.yaml:1: extends")
    assert "a.yaml -> a.yaml" in str(refusal(write("extends: a.yaml", "a.yaml")))


@pytest.mark.parametrize("value, words", [
    ("prodction", ["run.yaml:2: extends", "Did you mean production?"]),
    ("./missing.yaml", ["run.yaml:2: extends", "there is no such file"]),
    ("5", ["expected the name of a preset or the path of a file"]),
    ("[production]", ["expected the name of a preset or the path of a file"]),
    ("''", ["expected the name of a preset or the path of a file"]),
])
def test_extends_that_leads_nowhere(write, value, words):
    message = str(refusal(write(f"# a run\nextends: {value}")))
    for word in words: assert word in message


def test_a_missing_file_suggests_one_beside_it(write):
    write("data: {}", "configs/titanic.yaml")
    assert "Did you mean titanic.yaml?" in str(refusal("configs/titanik.yaml"))
    assert "Did you mean" not in str(refusal("configs/zebra.yaml"))
    assert "there is no preset of this name" in str(refusal("zebra"))


# Overrides

def test_overrides_flat_dotted_and_whole_sections():
    config = load_config(None, learning_rate=1e-5, dropout_rate=0.3, optimizer={"beta1": 0.8}, tracking="mlflow",
                         **{"training.num_epochs": 2, "model.config.hidden_size": 64})
    assert (config.optimizer.learning_rate, config.optimizer.beta1, config.model.dropout_rate) == (1e-5, 0.8, 0.3)
    assert (config.training.num_epochs, config.model.config, config.tracking.type) == (2, {"hidden_size": 64}, "mlflow")


def test_wrong_overrides_are_reported_together_with_the_file(write):
    error = refusal(write("optimizer:\n  learning_rate: -1\n"), lerning_rate=1, type="sgd", num_epochs=0,
                    **{"optimiser.beta1": 0.5, "training.epochs": 3, "data": 5})
    found = {(p.file, p.line, p.key): p for p in error.problems}
    assert found[("run.yaml", 2, "optimizer.learning_rate")].allowed == "greater than 0 and at most 100"
    assert found[("override", None, "lerning_rate")].suggestion == "learning_rate"
    assert found[("override", None, "type")].allowed == "model.type, optimizer.type, scheduler.type, tracking.type"
    assert found[("override", None, "training.num_epochs")].value == 0
    assert found[("override", None, "optimiser")].suggestion == "optimizer"
    assert found[("override", None, "training.epochs")].suggestion == "num_epochs"
    assert "expected a mapping" in found[("override", None, "data")].message
    assert len(error.problems) == 7


def test_a_kaggle_override_gives_a_kaggle_configuration():
    assert type(load_config("production", cv_folds=3)) is KaggleTrainerConfig


def test_parse_overrides():
    parsed = parse_overrides(["training.num_epochs=2", "learning_rate=2e-5", "metrics=[auc, f1]",
        "model.config={hidden_size: 8}",
                              "eval_strategy=no", "template={Age} years: {Sex}", "run_name=7", "experiment_name='8'",
                                  "id_column=",
                              "max_train_rows=null", "tracking=mlflow", "early_stopping=no", "num_epochs=1",
                                  "submission_message=a=b"])
    assert parsed == {"training.num_epochs": 2, "learning_rate": 2e-5, "metrics": ["auc", "f1"],
        "model.config": {"hidden_size": 8},
                      "eval_strategy": "no", "template": "{Age} years: {Sex}", "run_name": "7", "experiment_name": "8",
                      "id_column": None, "max_train_rows": None, "tracking": "mlflow", "early_stopping": False,
                          "num_epochs": 1,
                      "submission_message": "a=b"}
    assert parse_overrides([]) == {}
    assert load_config(**parse_overrides(["seed=1", "seed=2"])).environment.seed == 2


def test_a_list_is_a_list_in_each_way_of_yaml_and_a_name_is_a_text():
    for text in ("- auc\n- f1", "[auc, f1]"): assert parse_overrides([f"training.metrics={text}"]) == {
        "training.metrics": ["auc", "f1"]}
    assert parse_overrides(["target_column=1"]) == {"target_column": "1"}
    assert parse_overrides(["target_column=[a, b]"]) == parse_overrides(["target_column=- a\n- b"])


def test_parse_overrides_refuses_what_is_no_override():
    with pytest.raises(ConfigError) as caught: parse_overrides(["num_epochs", "=3", "metrics=[auc", "seed=!!int 3",
        "config={a: 1, a: 2}"])
    assert len(caught.value.problems) == 5 and "learning_rate=2e-5" in str(caught.value)


# What is refused

HOSTILE = {
    "unknown section": ("trainng: {num_epochs: 1}", 1, "trainng", "Did you mean training?"),
    "unknown section in capitals": ("Data: {batch_size: 1}", 1, "Data", "Did you mean data?"),
    "unknown key": ("optimizer:\n  lerning_rate: 2e-5", 2, "optimizer.lerning_rate", "Did you mean learning_rate?"),
    "unknown nested key": ("tracking:\n  mlflow:\n    tracking_url: x", 3, "tracking.mlflow.tracking_url",
        "tracking_uri"),
    "key in the wrong section": ("training:\n  dropout_rate: 0.1", 2, "training.dropout_rate", "model.dropout_rate"),
    "section at the top": ("mlflow: {tracking_uri: x}", 1, "mlflow", "Did you mean tracking.mlflow?"),
    "key at the top": ("learning_rate: 2e-5", 1, "learning_rate", "Did you mean optimizer.learning_rate?"),
    "dotted key": ("optimizer.learning_rate: 2e-5", 1, "optimizer.learning_rate", "there is no such key"),
    "merge key": ("data:\n  <<: {batch_size: 1}", 2, "data.<<", "there is no such key"),
    "wrong type": ("training:\n  num_epochs: ten", 2, "training.num_epochs", "expected a whole number, not text"),
    "fraction for a whole number": ("training:\n  num_epochs: 10.0", 2, "training.num_epochs", "Did you mean 10?"),
    "quoted number": ("optimizer:\n  learning_rate: '2e-5'", 2, "optimizer.learning_rate", "without quotes"),
    "octal": ("environment: {seed: 007}", 1, "environment.seed", "expected a whole number"),
    "huge number": (f"environment: {{seed: {'9' * 5000}}}", 1, "environment.seed", "expected a whole number"),
    "boolean as number": ("data: {batch_size: yes}", 1, "data.batch_size", "expected a whole number, not true"),
    "null where none is allowed": ("data: {batch_size: }", 1, "data.batch_size", "expected a whole number, not null"),
    "number as text": ("environment:\n  run_name: 7", 2, "environment.run_name", "'7', in quotes"),
    "out of range": ("data:\n  batch_size: 0", 2, "data.batch_size", "at least 1"),
    "not a number": ("optimizer: {learning_rate: .nan}", 1, "optimizer.learning_rate", "not finite"),
    "infinite": ("optimizer: {weight_decay: -.INF}", 1, "optimizer.weight_decay", "not finite"),
    "overflow": ("optimizer: {learning_rate: 1e999}", 1, "optimizer.learning_rate", "not finite"),
    "not a number, in free values": ("model:\n  config: {size: .nan}", 2, "model.config", "not finite"),
    "unknown choice": ("scheduler:\n  type: cosin", 2, "scheduler.type", "Did you mean cosine?"),
    "null choice": ("scheduler: {type: null}", 1, "scheduler.type", "none, linear"),
    "list for a section": ("data: [1, 2]", 1, "data", "expected a mapping, not a list"),
    "text for a section": ("data: titanic", 1, "data", "expected a mapping, not text"),
    "duplicate key": ("data:\n  batch_size: 8\n  max_length: 9\n  batch_size: 16", 4, "data.batch_size",
        "first on line 2"),
    "duplicate section": ("data: {}\ntraining: {}\ndata: {}", 3, "data", "first on line 1"),
    "python tag": ("data:\n  train_path: !!python/object/apply:os.system ['echo hacked']", 2, "", "tags"),
    "plain tag": ("data:\n  batch_size: !!int 8", 2, "", "tags"),
    "own tag": ("data: !include x.yaml", 1, "", "tags"),
    "non-specific tag": ("data:\n  batch_size: ! 8", 2, "", "tags"),
    "anchor": ("data: &a {batch_size: 8}", 1, "", "&a"),
    "alias": ("data: *a", 1, "", "*a"),
    "list as a key": ("? [a, b]\n: 1", 1, "", "a key is a name"),
    "mapping as a key": ("data: {? {a: b} : 1}", 1, "data", "a key is a name"),
    "second document": ("data: {}\n---\ndata: {}", 2, "", "second document"),
    "tab": ("data:\n\tbatch_size: 8", 2, "", "spaces, not tabs"),
    "unclosed": ("data: {batch_size: 8\n", 2, "", "not valid YAML"),
    "bad indent": ("data:\n  batch_size: 8\n max_length: 9", 3, "", "not valid YAML"),
    "two colons": ("data: batch_size: 8", 1, "", "not valid YAML"),
    "control character": ("data: {}\nmodel: {type: 'a\x07b'}", 2, "", "not valid YAML"),
    "not UTF-8": (b"data: {}\nmodel: {type: caf\xe9}", 2, "", "byte 0xe9"),
    "UTF-16": ("data: {}".encode("utf-16"), 1, "", "not UTF-8"),
    "empty": (b"", None, "", "the file is empty"),
    "blank": (" \n\n", None, "", "the file is empty"),
    "only comments": ("# nothing\n", None, "", "the file says nothing"),
    "only null": ("---\n~\n", None, "", "the file says nothing"),
    "a list": ("- a\n- b", 1, "", "expected sections"),
    "a word": ("hello", 1, "", "expected sections"),
    "kaggle mistake": ("kaggle:\n  cv_fold: 5", 2, "kaggle.cv_fold", "cv_folds"),
    "rule": ("scheduler:\n  warmup_steps: 10\n  warmup_ratio: 0.1", 3, "scheduler.warmup_ratio", "given twice"),
    "rule about a default": ("data:\n  train_path: a.csv\n  validation_fraction: 0", 3, "data.validation_fraction",
        "nothing to evaluate"),
    "callback without type": ("callbacks:\n  - patience: 3", 1, "callbacks", "has no type"),
    "deep brackets": ("data: " + "[" * 100_000, 1, "", "nested more than 50 levels deep"),
    "deep braces": ("{a: " * 100_000, 1, "", "nested more than 50 levels deep"),
    "deep indent": ("".join(" " * i + "a:\n" for i in range(1000)), 51, "", "nested more than 50 levels deep"),
    "deep list of lists": ("- " * 10_000 + "a", 1, "", "nested more than 50 levels deep"),
    "too many values": ("metrics: [" + "a, " * 300_000 + "a]", 1, "", "more than 20,000 values"),
    "too large": (b"#" * 1_000_001, None, "", "larger than 1 MB"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_one_mistake_one_problem_with_file_line_and_key(write, case):
    text, line, key, words = HOSTILE[case]
    (problem,) = refusal(write(text)).problems
    assert (problem.file, problem.line, problem.key) == ("run.yaml", line, key)
    assert words in str(problem), str(problem)


def test_an_alias_bomb_is_refused_before_it_grows(write):
    bomb = "a: &a [x, x, x]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh",
        "bcdefghi", strict=True))
    assert any("&a" in text and text.startswith("run.yaml:1:") for text in lines(refusal(write(bomb))))
    recursive = refusal(write("data: &a {config: *a}"))
    assert "run.yaml:1" in str(recursive)


def test_a_tag_runs_nothing(write, tmp_path):
    target = tmp_path / "hacked"
    refusal(write(f"data: !!python/object/apply:os.mkdir ['{target}']"))
    assert not target.exists()


def test_a_file_full_of_mistakes_is_reported_whole(write):
    keys = "".join(f"  lerning_rate_{i}: {i}\n" for i in range(9_000))
    error = refusal(write("optimizer:\n" + keys + "  learning_rate: ten\n"))
    assert len(error.problems) == 9_001 and "more" in str(error)
    error = refusal(write("".join(f"k: {i}\n" for i in range(9_000))))
    assert len(error.problems) == 9_000  # 8,999 repetitions, and the key itself is unknown


def test_long_names_and_values_are_cut_short(write):
    error = refusal(write(f"optimizer: {{type: {'a' * 400_000}, {'k' * 400}: 1}}\nextra: {'b' * 400_000}"))
    assert len(error.problems) == 3 and len(str(error)) < 3_000


def test_all_problems_at_once_in_the_order_of_the_file(write):
    error = refusal(write("""\
optimizer:
  type: adamv
  learning_rate: 2e-5
  learning_rate: -1
data: {batch_size: 0}
trainng: {num_epochs: 1}
training:
  num_epochs: ten
  eval_strategy: no
  early_stopping: true
scheduler: {warmup_steps: 1, warmup_ratio: 0.5}
model: !!map {type: x}
"""))
    assert [(p.line, p.key) for p in error.problems] == [
        (2, "optimizer.type"), (4, "optimizer.learning_rate"), (4, "optimizer.learning_rate"), (5, "data.batch_size"),
        (6, "trainng"), (8, "training.num_epochs"), (10, "training.early_stopping"), (11, "scheduler.warmup_ratio"),
            (12, "")]
    assert str(error).startswith("9 problems in the configuration:")


@pytest.mark.parametrize("name", ["run.txt", "run", "run.yaml.bak"])
def test_other_files_are_not_read(write, name):
    write("data: {}", name)
    assert ".yaml" in str(refusal(f"./{name}")) and ".yaml" in str(refusal(Path(name)))


def test_things_that_are_no_files(tmp_path):
    (tmp_path / "folder.yaml").mkdir()
    assert "there is no such file" in str(refusal(tmp_path / "folder.yaml"))
    assert "there is no such file" in str(refusal(tmp_path / "missing.yaml"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    found = []
    thread = threading.Thread(target=lambda: found.append(refusal(tmp_path / "pipe.yaml")), daemon=True)
    thread.start()
    thread.join(5)
    assert found and "there is no such file" in str(found[0])


def test_a_dict_source_is_checked_alike():
    error = refusal({"optimizer": {"learning_rate": "2e-5"}, "dta": {}, 5: 6})
    assert {problem.key for problem in error.problems} == {"optimizer.learning_rate", "dta", "5"}
    assert all(problem.file is None for problem in error.problems)
    assert load_config({"extends": "production", "training": {"num_epochs": 1}}).training.num_epochs == 1


# JSON

def test_json_files_with_tabs_escapes_and_lines(write):
    text = ('{\n\t"data": {"text_column": "a\\/b \\ud83d\\ude00 \\u00e9: {[,",\n'
            '\t\t"batch_size": 8}\n}\n')
    config = load_config(write(text, "run.json"))
    assert config.data.text_column == "a/b 😀 é: {[," and config.data.batch_size == 8


@pytest.mark.parametrize("text, line, words", [
    ('{"data": {\n"batch_size": 0}}', 2, "at least 1"),
    ('{"data": {\n"batch_size": "8"}}', 2, "without quotes"),
    ('{"data": {"batch_size": 8,\n"batch_size": 9}}', 2, "first on line 1"),
    ('{"optimizer":\n{"learning_rate": NaN}}', 2, "NaN is no value of JSON"),
    ('{"optimizer":\n{"learning_rate": -Infinity}}', 2, "-Infinity is no value of JSON"),
    ('{"model": {"config":\n{"a": NaN}}}', 2, "NaN is no value of JSON"),
    ('{"optimizer":\n{"learning_rate": 1e999}}', 2, "not finite"),
    ('{"data":\n{"batch_size": 8,}}', 2, "not valid JSON"),
    ("{'data': {}}", 1, "not valid JSON"),
    ('{"data": {}} {"data": {}}', 1, "not valid JSON"),
    ('{"data": {"batch_size": ' + "9" * 5000 + "}}", None, "JSON"),
    ("[1]", 1, "expected sections"), ("null", None, "says nothing"), ('"a"', 1, "expected sections"),
    ('{"a": ' * 60 + "1" + "}" * 60, 1, "nested more than 50"),
    ("[" * 300_000, None, "nested more than 50"),
    ('{"a": [' + "1, " * 300_000 + "1]}", 1, "more than 20,000 values"),
])
def test_wrong_json(write, text, line, words):
    error = refusal(write(text, "run.json"))
    if len(text) < 1000 or "20,000" in words or "50" in words: assert len(error.problems) == 1
    assert words in str(error) and error.problems[0].file == "run.json"
    if line and "9" * 50 not in text: assert error.problems[0].line == line


def test_json_and_yaml_read_alike():
    text = json.dumps(KaggleTrainerConfig().to_dict(), indent=1)
    assert parse_json(text).value == parse_yaml(text).value == KaggleTrainerConfig().to_dict()
    assert parse_json(text).lines == parse_yaml(text).lines


# Round trips

TEXT = st.text(max_size=30)
PLAIN = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False,
    allow_infinity=False) | TEXT,
                     lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8)


def values_of(hint, option):
    "Values that an option accepts."
    arguments = getattr(hint, "__args__", ())
    low = option.ge if option.ge is not None else option.gt
    high = option.le if option.le is not None else option.lt
    if hint is type(None): return st.none()
    if hint is bool: return st.booleans()
    if hint is int: return st.integers(int(low or 0), int(min(high if high is not None else 10**9,
        2**32)) - (option.lt is not None))
    if hint is float:
        return st.floats(low, high, exclude_min=option.gt is not None, exclude_max=option.lt is not None,
                         allow_nan=False, allow_infinity=False)
    if hint is str and option.choices: return st.sampled_from(option.choices)
    if hint is str: return TEXT.filter(bool) if option.path else TEXT
    if getattr(hint, "__origin__", None) is list: return st.lists(values_of(arguments[0], option), max_size=3)
    if getattr(hint, "__origin__", None) is dict: return st.dictionaries(TEXT, values_of(arguments[1], option),
        max_size=3)
    return st.one_of([values_of(a, option) for a in arguments]) if arguments else PLAIN


@st.composite
def configurations(draw):
    "A valid configuration: random values in a few options, taken up as far as they go together."
    config = draw(st.sampled_from([BaseTrainerConfig(), KaggleTrainerConfig()]))
    known = {key: option for key, option in leaves(type(config)).items() if key != "callbacks"}
    for key in draw(st.lists(st.sampled_from(sorted(known)), max_size=12)):
        value = draw(values_of(known[key].hint, known[key]))
        try: config = config.replace(**{key: value})
        except ConfigError as error:
            assert not any("expected" in p.message or "range" in p.message for p in error.problems), str(error)
    callbacks = draw(st.lists(st.dictionaries(TEXT, PLAIN, max_size=3), max_size=2))
    return config.replace(callbacks=[{**callback, "type": "mine"} for callback in callbacks])


@pytest.mark.long
@settings(max_examples=50, suppress_health_check=list(HealthCheck))
@given(configurations())
def test_any_configuration_is_read_back_equal(tmp_path_factory, config):
    folder = tmp_path_factory.getbasetemp() / "round-trip"
    for name in ("config.yaml", "config.json"):
        again = load_config(config.save(folder / name))
        assert again == config and type(again) is type(config) and not again.diff(config)
    assert load_config(config.to_dict()) == config
    jsonschema.Draft202012Validator(json_schema()).validate(config.to_dict())


@settings(max_examples=300)
@given(PLAIN)
def test_any_plain_value_is_read_back_equal(value):
    again = parse_yaml(dump_yaml({"value": value}))
    assert again.value == {"value": value} and not again.problems


@settings(max_examples=300)
@given(st.from_regex(r"[-+]?[0-9._eExXoO:,]{1,8}", fullmatch=True) | st.sampled_from(["yes", "NO", "~", "null", "=",
    "<<", "on", ".inf"]))
def test_text_that_looks_like_something_else_stays_text_for_any_reader(text):
    written = dump_yaml({text: text})
    assert parse_yaml(written).value == yaml.safe_load(written) == {text: text}


@pytest.mark.long
@settings(max_examples=200)
@given(st.binary(max_size=200) | st.text(alphabet="{}[]:,-?&*!|>'\"%@#~ \n\tab01.", max_size=80).map(str.encode))
def test_any_bytes_are_a_configuration_or_a_config_error(tmp_path_factory, raw):
    folder = tmp_path_factory.getbasetemp()
    for name in ("any.yaml", "any.json"):
        (folder / name).write_bytes(raw)
        try: load_config(folder / name)
        except ConfigError as error: assert str(error)


# Presets

def test_presets_load_and_say_what_they_are_for():
    described = list_presets()
    assert set(OWN_PRESETS) <= set(described)
    for name, purpose in described.items():
        assert load_config(name).source == find_preset(name)
        assert purpose and not purpose.startswith("mlx-bert"), name
        text = find_preset(name).read_text(encoding="utf-8")
        commands = re.findall(r"^# *(mlx-bert (?:train|run) \S+)", text, re.MULTILINE)
        relative = find_preset(name).relative_to(find_preset("production").parent)
        assert commands and commands[0].split()[2] == f"configs/{relative.as_posix()}", name


def test_presets_are_what_they_are_meant_to_be():
    quick, development, production, kaggle = (load_config(n) for n in ("quick_test", "development", "production",
        "kaggle"))
    assert (quick.optimizer.learning_rate, quick.scheduler.type, quick.data.batch_size,
        quick.training.num_epochs) == (5e-5, "none", 8, 1)
    assert (quick.training.eval_strategy, quick.training.save_strategy, quick.training.logging_steps) == ("no", "no",
        10)
    assert (development.scheduler.type, development.scheduler.warmup_ratio, development.data.batch_size) == ("linear",
        0.1, 16)
    assert (development.training.num_epochs, development.training.early_stopping_patience) == (5, 2)
    assert (production.scheduler.type, production.scheduler.warmup_ratio,
        production.training.save_strategy) == ("cosine", 0.05, "best")
    assert (production.training.eval_strategy, production.training.eval_steps,
        production.training.num_epochs) == ("steps", 500, 10)
    assert type(kaggle) is KaggleTrainerConfig and kaggle.scheduler.num_restarts == 2
    assert (kaggle.data.batch_size, kaggle.training.gradient_accumulation_steps, kaggle.training.num_epochs) == (64, 2,
        15)
    assert (kaggle.training.best_metric, kaggle.training.best_metric_mode,
        kaggle.training.label_smoothing) == ("eval_auc", "max", 0.1)
    assert all(config.tracking.type == "none" for config in (quick, development, production, kaggle))


def test_presets_take_the_overrides_people_give():
    for name in OWN_PRESETS:
        config = load_config(name, learning_rate=1e-5, num_epochs=20, batch_size=64)
        assert (config.optimizer.learning_rate, config.training.num_epochs, config.data.batch_size) == (1e-5, 20, 64)
    assert load_config("quick_test", eval_strategy="epoch").training.early_stopping is True
    assert load_config("development", eval_strategy="no").training.early_stopping is False


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(ConfigError) as caught: find_preset("quicktest")
    assert caught.value.problems[0].suggestion == "quick_test"
    assert "there is no preset of this name" in str(caught.value)
    assert "production" in caught.value.problems[0].allowed


@pytest.mark.long
def test_the_presets_of_a_wheel_are_found_away_from_the_checkout(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(CHECKOUT, source, ignore=shutil.ignore_patterns(
        ".git", ".venv", "build", "dist", "*.egg-info", "runs", ".*_cache", "__pycache__", "_docs", "_proc", "nbs"))
    target = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", "--target",
        str(target)]
    done = subprocess.run([*pip, str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    code = ("import json, mlx_bert_training; from mlx_bert_training.declaration.load import *; "
            "print(json.dumps([mlx_bert_training.__file__, {n: str(find_preset(n)) for n in list_presets()}])); "
            "load_config('kaggle')")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path,
                          env={**os.environ, "PYTHONPATH": str(target)})
    assert done.returncode == 0, done.stderr
    module, found = json.loads(done.stdout)
    assert module.startswith(str(target))
    assert set(found) == set(preset_paths()) and all(path.startswith(str(target)) for path in found.values())


# Schema

def test_the_schema_is_a_schema_and_accepts_the_presets():
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for name in list_presets():
        validator.validate(read_document(find_preset(name)).value)
        validator.validate(load_config(name).to_dict())
    validator.validate(parse_yaml(README_EXAMPLE).value)
    validator.validate({"extends": "production", "data": None, "tracking": "mlflow", "model": {"head_type": "binary"}})
    assert json.loads(json.dumps(schema)) == schema


@pytest.mark.parametrize("data", [
    {"trainng": {}}, {"optimizer": {"lerning_rate": 1}}, {"optimizer": {"learning_rate": "2e-5"}},
        {"optimizer": {"learning_rate": 0}},
    {"optimizer": {"type": "adamv"}}, {"optimizer": {"beta1": 1}}, {"training": {"num_epochs": 1.5}},
        {"training": {"eval_strategy": True}},
    {"training": {"class_weights": [0]}}, {"callbacks": [{"patience": 1}]}, {"callbacks": [7]},
        {"tracking": "mlfow"},
    {"tracking": {"mlflow": {"tags": {"a": 1}}}}, {"kaggle": {"cv_folds": 1}}, {"extends": 5},
        {"environment": {"output_dir": ""}},
])
def test_the_schema_and_the_loader_refuse_alike(data):
    assert not jsonschema.Draft202012Validator(json_schema()).is_valid(data)
    with pytest.raises(ConfigError): load_config(data)


def test_the_schema_describes_every_option():
    def described(schema, path=()):
        for name, entry in schema.get("properties", {}).items():
            assert entry.get("description") or path == ("callbacks",), (*path, name)
            for part in (entry, *entry.get("anyOf", [])):
                if part.get("additionalProperties") is False or "properties" in part and name != "callbacks":
                    described(part, (*path, name))
    described(json_schema())
