"""The form of a configuration, and the editor as it is without a front end."""
from __future__ import annotations

import html
import os
import subprocess
import sys

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbclient import NotebookClient

from mlx_bert_training import ConfigEditor, create_trainer
from mlx_bert_training.core.config import BaseTrainerConfig, KaggleTrainerConfig, SearchTrainerConfig
from mlx_bert_training.declaration.editing import settings as read_settings
from mlx_bert_training.declaration.load import load_config, preset_paths
from mlx_bert_training.declaration.options import is_section, members, options, read_value
from mlx_bert_training.declaration.problems import ConfigError
from mlx_bert_training.declaration.whole import ABSENT, optional_sections
from mlx_bert_training.errors import MissingExtraError
from mlx_bert_training.widgets.config_editor import static_bundle, tab_title
from mlx_bert_training.widgets.form import OPTIONS, Form, bounds, from_text, is_nested, offers, to_text, words
from mlx_bert_training.widgets.form_files import look_around

WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.mark.parametrize("name", preset_paths())
def test_a_preset_in_a_form_is_the_preset(name):
    form = Form(name)
    assert form.config == load_config(name) and form.config.source == load_config(name).source
    assert not form.problems and not form.difference() and not form.difference(name)
    assert form.text() == preset_paths()[name].read_text()


def test_every_option_has_a_field_with_a_kind_of_its_own():
    leaves = [key for key, option in OPTIONS.items() if not is_section(option.hint)]
    assert len(leaves) == len(OPTIONS) == len(read_settings({"kaggle": {}, "search": {}}))
    for option in OPTIONS.values():
        assert not (words(option) and is_nested(option))
        if option.choices and not is_nested(option): assert set(option.choices) <= {*words(option), *offers(option)}
        if bool in members(option.hint): assert {"true", "false"} <= set(words(option))
        if {int, float} & set(members(option.hint)): assert "number" in bounds(option) and not words(option)


@pytest.mark.parametrize("key", OPTIONS)
def test_defaults_and_words_survive_the_way_through_a_text(key):
    option = OPTIONS[key]
    default = read_settings({"kaggle": {}, "search": {}})[key]
    for value in [default, *(from_text(key, word) for word in words(option))]:
        assert from_text(key, to_text(key, value)) == value == read_value(option, value)


@settings(max_examples=200)
@given(st.text(max_size=40))
def test_any_text_survives(text):
    for key in ("data.template", "data.text_column", "data.target_column"):
        assert from_text(key, to_text(key, text)) == text
    assert from_text("tracking.mlflow.tags", to_text("tracking.mlflow.tags", {"a": text})) == {"a": text}


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_number_survives(number):
    assert from_text("optimizer.learning_rate", to_text("optimizer.learning_rate", number)) == number


BAD = [
    ("optimizer.learning_rate", "fast", "expected a number, not text"),
    ("optimizer.learning_rate", "0", "out of range. Allowed: greater than 0"),
    ("optimizer.learning_rate", "", "expected a number, not null"),
    ("training.num_epochs", "2.0", "expected a whole number, not a number with a decimal point. Did you mean 2?"),
    ("scheduler.type", "cosin", "Did you mean cosine?"),
    ("model.config", "{a: ", "not valid YAML"),
    ("model.config", "a: &x 1", "anchors and aliases"),
    ("model.config", "[1]", "expected a mapping"),
    ("callbacks", "- {every: 2}", "number 1 has no type"),
    ("data.encoding", "utf-99", "no such encoding"),
    ("data.train_path", "''", "a path may not be empty"),
]


@pytest.mark.parametrize("key, text, message", BAD, ids=[f"{key}={text}" for key, text, _ in BAD])
def test_a_message_is_that_of_the_package_and_stands_at_its_field(key, text, message):
    form = Form("production")
    form.write({key: text})
    assert len(form.messages(key)) == 1 and message in form.messages(key)[0]
    assert form.counts() == {key.partition(".")[0]: 1} and tab_title(form, key.partition(".")[0]).endswith(" (1 error)")
    with pytest.raises(ConfigError) as caught: _ = form.config
    assert [problem.key for problem in caught.value.problems] == [key]
    form.write({key: Form("production").texts[key]})
    assert form.config == load_config("production")


def test_conflicts_are_shown_but_not_where_a_value_is_wrong_anyway():
    form = Form("production")
    form.write({"scheduler.warmup_steps": "10"})
    assert "given twice" in form.messages("scheduler.warmup_ratio")[0]
    form.write({"scheduler.warmup_steps": "{"})
    assert form.messages("scheduler.warmup_ratio") == []
    assert "not valid YAML" in form.messages("scheduler.warmup_steps")[0]


def test_null_still_means_that_other_options_decide():
    form = Form("production")
    form.write({"training.eval_strategy": "no", "training.save_strategy": "epoch"})
    assert form.config.training.early_stopping is False
    form.write({"training.early_stopping": "true"})
    assert "needs evaluation" in form.messages("training.early_stopping")[0]


def test_a_search_is_a_section_only_of_a_form_that_was_loaded_with_one():
    form = Form("production")
    assert not form.sections and not any(key.startswith("search.") for key in form.values) and not form.difference()
    form = Form({"kaggle": {}, "search": {"trials": 3}})
    assert form.sections == {"kaggle", "search"} and form.values["search.trials"] == 3
    assert [row for row in form.difference({"kaggle": {}}) if row.key == "search.trials"]
    assert ("kaggle", ABSENT, {}) in Form("production").difference({"kaggle": {}})


def test_the_section_of_a_competition_comes_and_goes():
    form = Form("production")
    assert type(form.config) is BaseTrainerConfig
    form.write({"kaggle.cv_folds": "1"})
    assert not form.problems, "what is not part of the configuration is not wrong"
    form.write({}, competition=True)
    assert form.messages("kaggle.cv_folds") and form.difference()[-1].key == "kaggle.cv_folds"
    form.write({"kaggle.cv_folds": "5"})
    assert type(form.config) is KaggleTrainerConfig
    assert [tuple(row) for row in form.difference()] == [("kaggle", {}, "(absent)")]
    form.load("titanic")
    form.write({}, competition=False)
    assert type(form.config) is BaseTrainerConfig and ("kaggle", "(absent)", {}) in form.difference()


def test_the_section_of_a_search_comes_with_that_of_a_competition_and_goes(tmp_path):
    form = Form("production")
    form.write({"search.trials": "0"})
    assert not form.problems and not form.sections
    form.write({}, search=True)
    assert form.sections == {"kaggle", "search"} and form.competition and form.messages("search.trials")
    space = {"optimizer.learning_rate": {"low": 1e-5, "high": 1e-4, "log": True}}
    form.set(trials=5, space=space)
    assert type(form.config) is SearchTrainerConfig and form.config.search.space == space
    form.write({}, competition=False)
    assert form.competition, "a search has the section of a competition"
    saved = form.save(tmp_path / "search.yaml")
    assert load_config(saved) == form.config and Form(saved).sections == {"kaggle", "search"}
    form.write({}, search=False)
    assert type(form.config) is KaggleTrainerConfig
    assert [tuple(row) for row in form.difference()] == [("search", "(absent)", {})]
    assert type(load_config(form.save())) is KaggleTrainerConfig
    with pytest.raises(ConfigError, match="search"): form.write({}, serch=True)
    assert form.sections == {"kaggle"}


def test_a_search_that_is_added_and_left_out_again_leaves_no_trace():
    form = Form("production")
    form.write({}, search=True)
    assert [tuple(row) for row in form.difference()] == [("kaggle", {}, "(absent)"), ("search", {}, "(absent)")]
    form.write({}, search=False)
    assert not form.sections and not form.difference() and form.config == load_config("production")


def test_a_configuration_with_a_search_alone_is_the_same_in_a_form():
    said = {"search": {"trials": 3}}
    form = Form(said)
    assert form.config == load_config(said) and not form.difference()


def test_a_field_can_be_reset_alone():
    form = Form("production")
    form.set(learning_rate=1e-4, num_epochs=9)
    assert form.changed == {"optimizer.learning_rate", "training.num_epochs"}
    form.reset("training.num_epochs")
    assert form.changed == {"optimizer.learning_rate"} and [row.key for row in form.difference()] == [
        "optimizer.learning_rate"]
    form.write({"optimizer.learning_rate": "fast"})
    form.reset("optimizer.learning_rate")
    assert not form.problems and not form.changed


def test_files_and_columns_are_offered_and_remarked_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / ".hidden").mkdir(parents=True)
    (tmp_path / "data" / "train.csv").write_text("id,sex,fare\n1,male,7\n")
    (tmp_path / "data" / ".hidden" / "train.csv").write_text("x\n1\n")
    form = Form("production")
    form.write({"data.train_path": "data/tran.csv", "data.target_column": "sx"})
    around = look_around(form)
    assert around.files == ("data/train.csv",) and around.columns == ()
    assert "Did you mean 'train.csv'" in around.remarks["data.train_path"]
    form.write({"data.train_path": "data/train.csv", "data.target_column": "[sex, fair]", "data.template": "{sx}"})
    around = look_around(form)
    assert around.columns == ("id", "sex", "fare") and around.choices("data.id_column") == around.columns
    assert "no column 'fair'. Did you mean 'fare'?" in around.remarks["data.target_column"]
    assert "'sex'" in around.remarks["data.template"] and "data.train_path" not in around.remarks
    assert not form.problems, "a remark forbids nothing"
    (tmp_path / "data" / "train.csv").write_text("id,sx,fair,sex\n1,male,7,0\n")
    os.utime(tmp_path / "data" / "train.csv", (1, 1))
    assert not look_around(form).remarks


def test_a_competition_that_is_not_downloaded_yet_is_not_remarked_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not look_around(Form("titanic")).remarks


def test_a_file_that_is_no_table_says_nothing_of_columns(tmp_path):
    (tmp_path / "train.csv").write_bytes(b"\xff\xfe\x00 no table")
    form = Form({"data": {"train_path": str(tmp_path / "train.csv"), "target_column": "a"}})
    assert look_around(form).columns == ()


def test_options_are_found_by_name_and_help():
    view = ConfigEditor("production").view
    every = view.sections.tab.titles
    view.bar.find.value = "warm up"
    shown = view.sections.tab
    assert shown.titles[0].startswith("scheduler: ")
    assert "warmup_ratio" in [box.children[0].description for box in shown.children[0].children]
    view.bar.find.value = "no such thing"
    assert shown.titles == ("nothing found",) and "no such thing" in shown.children[0].value
    view.bar.find.value = ""
    assert shown.titles == every and len(shown.children[0].children) == len(view.sections.rows["model"])


def test_a_changed_field_is_marked_and_its_button_takes_it_back():
    editor = ConfigEditor("production")
    row = next(row for row in editor.view.sections.rows["training"] if row.key == "training.num_epochs")
    before = row.control.value
    row.control.value = "9"
    assert "changed from" in row.notes.value and "mbt-changed" in row.box._dom_classes
    row.back.click()
    assert row.control.value == before and "mbt-changed" not in row.box._dom_classes and len(row.box.children) == 2
    assert not editor.form.changed


def test_what_a_saved_notebook_keeps_is_a_summary():
    editor = ConfigEditor("titanic")
    editor.set(learning_rate=5e-5)
    kept = static_bundle(editor.form, live=True)["text/html"]
    assert "Configuration from titanic" in kept and "1 difference from titanic" in kept and "5e-5" in kept
    editor.set(num_epochs="ten")
    assert "expected a whole number" in static_bundle(editor.form)["text/html"]


def test_what_fails_leaves_the_form_as_it_was(tmp_path):
    form = Form("production")
    form.set(learning_rate=1e-4)
    (tmp_path / "bad.yaml").write_text("training: {num_epoch: 3}\n")
    for source in (tmp_path / "bad.yaml", tmp_path / "none.yaml", "productoin", 3):
        with pytest.raises(ConfigError): form.load(source)
    with pytest.raises(ConfigError, match="learning_rate"): form.set(lerning_rate=1)
    with pytest.raises(ConfigError, match="no such option"): form.set(optimizer=1)
    assert form.config.optimizer.learning_rate == 1e-4 and form.source == "production"


def test_save_and_reset(tmp_path):
    form = Form("production")
    with pytest.raises(ConfigError, match="where to save"): form.save()
    form.set(num_epochs=0)
    with pytest.raises(ConfigError, match="out of range"): form.save(tmp_path / "run.yaml")
    assert list(tmp_path.iterdir()) == []
    form.set(num_epochs=2)
    path = form.save(tmp_path / "run.yaml")
    form.set(num_epochs=3)
    form.reset()
    assert form.config.training.num_epochs == 2 and form.file == path and not form.difference()
    form.set(num_epochs=4)
    assert form.save() == path and load_config(path).training.num_epochs == 4
    path.write_text(path.read_text().replace("num_epochs: 4", "num_epochs: 5"))
    form.set(batch_size=8)
    with pytest.raises(ConfigError, match="changed after it was loaded"): form.save()
    assert load_config(path).training.num_epochs == 5


def test_a_dict_and_a_configuration_can_be_edited_too(tmp_path):
    for source in ({"training": {"num_epochs": 3}}, load_config(None, num_epochs=3)):
        form = Form(source)
        form.set(max_length=64)
        assert [row.key for row in form.difference()] == ["data.max_length"]
        assert load_config(form.save(tmp_path / f"{type(source).__name__}.yaml")) == load_config(
            source, max_length=64)


# The editor, without a front end.

def test_the_editor_in_code():
    editor = ConfigEditor("production")
    editor.set(learning_rate=1e-4, metrics=["auc"])
    assert editor.config.optimizer.learning_rate == 1e-4 and "learning_rate: 1e-4" in str(editor)
    rows = editor.view.sections.rows
    assert {section: len(fields) for section, fields in rows.items()} == {
        section: sum(key.partition(".")[0] == section for key in OPTIONS) for section in options(SearchTrainerConfig)}
    editor.set(num_epochs="many", **{"scheduler.type": "cosin"})
    assert "Not valid: 2 errors in scheduler, training." in repr(editor) and "Did you mean cosine?" in str(editor)
    with pytest.raises(ConfigError): _ = editor.config
    editor.reset()
    assert editor.config == load_config("production")


def test_its_configuration_is_what_create_trainer_takes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    editor = ConfigEditor({
        "model": {"config": sizes},
        "data": {"train_path": "demo:german_credit/train.csv", "target_column": "risk", "template": "{purpose}"}})
    editor.set(max_length=16, max_train_rows=64)
    trainer = create_trainer(config=editor.config)
    assert trainer.config.data.max_length == 16


def test_controls_write_into_the_form_and_show_what_it_says():
    editor = ConfigEditor("production")
    fields = {row.key: row for row in sum(editor.view.sections.rows.values(), [])}
    fields["optimizer.learning_rate"].control.value = "1e-4"
    fields["data.drop_last"].control.value = True
    fields["optimizer.type"].control.value = "lion"
    fields["training.early_stopping"].control.value = "null"
    assert editor.config == load_config("production", learning_rate=1e-4, drop_last=True, **{"optimizer.type": "lion"})
    fields["training.num_epochs"].control.value = "<b>"
    note = fields["training.num_epochs"].notes.value
    assert "role='alert'" in note and "expected a whole number" in note
    editor.set(**{"scheduler.type": "<cosin>"})     # no word of the list, so the list gets it
    assert fields["scheduler.type"].control.value == "<cosin>"
    everything = " ".join(pane.value for pane in editor.view.results.panes) + editor.view.bar.state.value
    assert "<b>" not in everything and "<cosin>" not in everything and html.escape("<cosin>") in everything


def test_a_box_adds_or_leaves_out_a_section_with_its_tab():
    view = ConfigEditor("production").view
    without = len(view.sections.tab.titles)
    boxes = view.bar.sections
    assert list(boxes) == list(optional_sections()) and not any(box.value for box in boxes.values())
    boxes["kaggle"].value = True
    assert view.sections.tab.titles[without:] == ("kaggle",) and view.form.competition
    boxes["search"].value = True
    boxes["kaggle"].value = False
    assert view.sections.tab.titles[without:] == ("kaggle", "search") and boxes["kaggle"].value
    boxes["search"].value = False
    boxes["kaggle"].value = False
    assert len(view.sections.tab.titles) == without and not any(box.value for box in boxes.values())


def test_under_nbclient_there_is_text_and_no_widget(tmp_path):
    code = "from mlx_bert_training import ConfigEditor\neditor = ConfigEditor('titanic')\neditor"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code),
                                               nbformat.v4.new_code_cell("editor.set(learning_rate=3e-5)")])
    NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = notebook.cells[0].outputs
    assert [out.output_type for out in outputs] == ["display_data"] and WIDGET not in outputs[0].data
    assert "learning_rate: 3e-5" in outputs[0].data["text/html"], "it keeps up with what is set later"
    assert "# the name that this competition gives its sample" in outputs[0].data["text/plain"]
    assert notebook.cells[1].outputs == []


def test_in_a_terminal_it_is_text_without_a_warning():
    code = ("from mlx_bert_training import ConfigEditor; editor = ConfigEditor('quick_test'); "
            "print(editor); print(repr(editor))")
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "" and "<ConfigEditor: Valid. The same as quick_test.>" in done.stdout
    assert "editor.set(learning_rate=1e-5)" in done.stdout


def test_without_ipywidgets_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(MissingExtraError, match=r"mlx_bert_training\[notebook\]"): ConfigEditor()
    assert Form("production").config == load_config("production"), "the form itself needs no widgets"


def test_every_control_is_named_like_its_option():
    rows = ConfigEditor("titanic").view.sections.rows
    assert all(key.removeprefix(f"{section}.") == row.control.description
               for section, fields in rows.items() for row in fields for key in [row.key])


def test_a_file_that_extends_another_by_its_path_is_shown_and_saved_as_it_is(tmp_path):
    (tmp_path / "base.yaml").write_text("training: {num_epochs: 3}\n")
    file = tmp_path / "run.yaml"
    file.write_text("extends: base.yaml  # beside it\n")
    form = Form(file)
    assert form.text() == file.read_text()
    form.set(num_epochs=4)
    assert form.save().read_text() == "extends: base.yaml  # beside it\ntraining:\n  num_epochs: 4\n"
