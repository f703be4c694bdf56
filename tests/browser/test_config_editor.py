"""The configuration editor in a real notebook: messages, values, files, keyboard, themes.

The picture of the editor in the documentation is made here:

    MLX_BERT_PICTURES=nbs/images python -m pytest tests/browser/test_config_editor.py -k picture
"""
from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .lab import DARK, LIGHT, LabServer, NotebookPage, missing

if not missing():
    from playwright.sync_api import expect

CODE = "from mlx_bert_training import ConfigEditor\neditor = ConfigEditor('production')\neditor"
FILE = """\
# What is tried here.
extends: production   # the usual

optimizer:
  learning_rate: 2e-5  # as in the paper
  # the last word on the optimizer

training: {num_epochs: 3}  # enough for a look
"""
CONTRAST = """(element) => {
    const rgba = text => { const [r, g, b, a] = text.match(/[\\d.]+/g).map(Number); return [r, g, b, a ?? 1]; };
    const light = ([r, g, b]) => { const f = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
                                   return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b); };
    const background = e => getComputedStyle(e).backgroundColor;
    let behind = element;
    while (behind.parentElement && rgba(background(behind))[3] === 0) behind = behind.parentElement;
    const both = [getComputedStyle(element).color, background(behind)].map(c => light(rgba(c)));
    return (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05); }"""


class Editor:
    "The editor of a notebook, by what is written on its controls."

    def __init__(self, notebook: NotebookPage):
        self.notebook, self.page = notebook, notebook.page
        self.box = notebook.page.locator(".widget-box.mbt-editor")
        self.state = self.box.locator(".mbt-bar [role=status], .mbt-bar [role=alert]")
        self.visible = notebook.page.locator(":visible")
        expect(self.field("Preset")).to_be_visible(timeout=30_000)

    def open(self, section: str) -> None:
        self.box.get_by_role("tab", name=re.compile(rf"^{section}\b")).click()

    def field(self, name: str) -> Any:
        return self.box.get_by_label(name, exact=True).and_(self.visible)

    def row(self, name: str) -> Any:
        return self.box.locator(".mbt-row", has=self.page.get_by_label(name, exact=True)).and_(self.visible)

    def write(self, name: str, text: str) -> None:
        self.field(name).fill(text)
        self.field(name).press("Tab")

    def press(self, name: str) -> None:
        self.box.get_by_role("button", name=name, exact=True).click()

    def config(self, key: str) -> Any:
        return self.notebook.value(f"editor.config.{key}")

    def until(self, key: str, value: object) -> None:
        "Wait for a value to arrive in the kernel, and see that the configuration has it."
        self.notebook.until(f"not editor.form.problems and editor.form.values.get({key!r}) == {value!r}")
        assert self.config(key) == value


def opened(server: LabServer, browser: Any, shots: Path) -> Iterator[NotebookPage]:
    page = browser.new_page(viewport={"width": 1200, "height": 1100})
    notebook = NotebookPage(page, server, shots).open("config_editor.ipynb", CODE)
    notebook.run_all()
    yield notebook
    notebook.shut_down()
    page.close()


@pytest.fixture(scope="module")
def notebook(server, browser, shots) -> Iterator[NotebookPage]:
    "One notebook for all of these tests, for what takes time is to open it."
    yield from opened(server, browser, shots)


def begun(notebook: NotebookPage) -> Iterator[Editor]:
    notebook.python("editor.load('production'); editor.view.bar.path.value = ''")
    editor = Editor(notebook)
    yield editor
    notebook.theme(LIGHT)
    assert notebook.console == []


@pytest.fixture
def editor(notebook: NotebookPage) -> Iterator[Editor]:
    yield from begun(notebook)


@pytest.fixture
def editor7(server7, browser, shots) -> Iterator[Editor]:
    "The editor in Notebook 7."
    for notebook in opened(server7, browser, shots): yield from begun(notebook)


@pytest.mark.parametrize("app", ["editor", "editor7"])
def test_a_bad_value_is_told_beside_its_field_and_a_good_one_arrives(request, app) -> None:
    editor: Editor = request.getfixturevalue(app)
    editor.open("optimizer")
    editor.write("learning_rate", "fast")
    alert = editor.row("learning_rate").get_by_role("alert")
    expect(alert).to_have_text("Error: expected a number, not text. Allowed: greater than 0 and at most 100.")
    expect(editor.box.get_by_role("tab", name="optimizer (1 error)")).to_be_visible()
    expect(editor.state).to_have_text("Not valid: 1 error in optimizer.")
    with pytest.raises(RuntimeError, match="ConfigError.*optimizer.learning_rate"): editor.config("optimizer")
    editor.write("learning_rate", "3e-5")
    editor.until("optimizer.learning_rate", 3e-5)
    expect(alert).to_have_count(0)
    expect(editor.box.get_by_role("tab", name="optimizer", exact=True)).to_be_visible()
    expect(editor.box.locator(".mbt-difference tbody tr")).to_have_text(["optimizer.learning_rate3e-52e-5"])

    editor.open("training")         # what does not go together, each kind of control, a text that is no YAML
    editor.field("eval_strategy").select_option("no")
    expect(editor.row("save_strategy").get_by_role("alert")).to_contain_text("needs evaluation to know the best")
    expect(editor.box.get_by_role("tab", name="training (1 error)")).to_be_visible()
    editor.field("save_strategy").select_option("epoch")
    editor.field("gradient_checkpointing").check()
    editor.write("metrics", "[auc, f1")
    expect(editor.row("metrics").get_by_role("alert")).to_contain_text("not valid YAML")
    editor.write("metrics", "- auc\n- f1")
    editor.until("training.metrics", ["auc", "f1"])
    assert editor.config("training.gradient_checkpointing") is True and editor.config("training.eval_strategy") == "no"
    assert editor.config("training.early_stopping") is False, "left at null, it follows eval_strategy"


def test_presets_and_files(editor: Editor) -> None:
    folder = editor.notebook.server.root
    path = folder / "mine.yaml"
    path.write_text(FILE)
    expect(editor.box.get_by_role("tab", name="kaggle")).to_have_count(0)
    editor.field("Preset").select_option("titanic")
    expect(editor.box.locator(".mbt-difference tbody tr").filter(has_text="data.train_path")).to_have_count(1)
    editor.press("Start from it")
    expect(editor.box.get_by_role("tab", name="kaggle")).to_have_count(1)
    editor.until("kaggle.cv_folds", 5)

    editor.write("File", "mine.yaml")
    editor.press("Load")
    editor.until("training.num_epochs", 3)
    expect(editor.field("Preset")).to_have_value("production")
    editor.open("optimizer")
    editor.write("learning_rate", "5e-5")
    editor.write("weight_decay", "0.1")
    editor.box.get_by_role("tab", name="File", exact=True).click()
    expected = FILE.replace("2e-5", "5e-5").replace("paper\n", "paper\n  weight_decay: 0.1\n")
    expect(editor.box.locator(".mbt-text")).to_have_text(re.compile(r"weight_decay: 0.1"))
    editor.press("Save")
    expect(editor.state).to_have_text("Saved to mine.yaml.")
    assert path.read_text() == expected

    editor.write("beta1", "0.8")            # nothing is thrown away without a question
    editor.press("Load")
    editor.press("Discard the changes?")
    editor.until("optimizer.beta1", 0.9)
    (folder / "other.yaml").write_text("training: {num_epochs: 1}\n")
    editor.write("File", "other.yaml")
    editor.press("Save")
    expect(editor.box.get_by_role("button", name="Replace this file?")).to_be_visible()
    assert (folder / "other.yaml").read_text() == "training: {num_epochs: 1}\n"
    editor.write("File", "no/such.yaml")
    editor.press("Load")
    expect(editor.state).to_contain_text("there is no such file")
    editor.box.get_by_label("A competition").check()
    editor.open("kaggle")
    editor.write("cv_folds", "3")
    editor.until("kaggle.cv_folds", 3)


def test_the_keyboard_reaches_everything_and_everything_has_a_name(editor: Editor) -> None:
    page = editor.page
    editor.open("model")
    editor.field("Preset").focus()
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("""() => { const e = document.activeElement;
            return e.labels?.[0]?.innerText || e.getAttribute('aria-label') || e.innerText || e.tagName; }"""))
    wanted = ["Start from it", "File", "Load", "Save", "Reset", "A competition (section kaggle)", "Find", "model",
              "type", "pretrained", "config", "head_type", "num_labels", "pooling", "dropout_rate", "new_head"]
    assert [name.strip() for name in reached if name.strip() in wanted][:len(wanted)] == wanted
    page.locator(".mbt-sections .lm-TabBar-tab").first.focus()
    for _ in range(2): page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(editor.field("learning_rate")).to_be_visible()
    unnamed = editor.box.locator("input, select, textarea").evaluate_all(
        "all => all.filter(e => !e.labels?.length).map(e => e.outerHTML)")
    assert unnamed == []


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_picture_and_contrast(editor: Editor, pictures: Path, theme: str) -> None:
    editor.notebook.theme(theme)
    editor.open("optimizer")
    editor.open("Difference")
    editor.write("weight_decay", "0.1")
    editor.write("learning_rate", "2e5")
    alert = editor.row("learning_rate").get_by_role("alert")
    expect(alert).to_contain_text("out of range")
    expect(editor.box.locator(".mbt-difference tbody tr")).to_have_count(2)
    row = editor.row("beta1")
    for text in (alert, row.locator(".mbt-fact"), row.locator(".mbt-help"), row.locator("label").first, editor.state):
        assert text.evaluate(CONTRAST) >= 4.5, text
    editor.field("weight_decay").blur()
    editor.notebook.screenshot(f"config_editor_{'light' if theme == LIGHT else 'dark'}", editor.box)
    if theme == LIGHT: editor.box.screenshot(path=pictures / "config_editor.png")


def test_a_saved_notebook_keeps_the_configuration_after_its_kernel(open_notebook) -> None:
    notebook = open_notebook("config_editor_saved", CODE)
    notebook.run_all()
    editor = Editor(notebook)
    editor.open("optimizer")
    editor.write("learning_rate", "3e-5")
    editor.until("optimizer.learning_rate", 3e-5)
    summary = notebook.page.locator(".mbt-summary")
    expect(summary).to_be_hidden()              # the form itself is there
    notebook.reopen()
    expect(summary).to_be_visible()
    expect(summary).to_contain_text("1 difference from production")
    expect(summary.locator(".mbt-difference tbody tr")).to_have_text(["optimizer.learning_rate3e-52e-5"])
    for line in ("Error displaying widget", "Loading widget"):
        expect(notebook.output(0).get_by_text(line)).to_be_hidden()
    notebook.screenshot("config_editor_reopened", notebook.output(0))
    notebook.page.get_by_text("The configuration as a file").click()
    expect(notebook.output(0).locator("pre").last).to_contain_text("learning_rate: 3e-5")


def test_files_and_columns_are_offered_and_looked_after(editor: Editor) -> None:
    root = editor.notebook.server.root
    (root / "train.csv").write_text("id,sex,fare\n1,male,7\n")
    editor.open("data")
    editor.write("train_path", "trian.csv")
    expect(editor.row("train_path").locator(".mbt-remark")).to_contain_text("Did you mean 'train.csv'?")
    offered = editor.field("train_path").evaluate("e => [...e.list.options].map(o => o.value)")
    assert "train.csv" in offered
    editor.write("train_path", "train.csv")
    expect(editor.row("train_path").locator(".mbt-remark")).to_have_count(0)
    editor.write("target_column", "sx")
    expect(editor.row("target_column").locator(".mbt-remark")).to_contain_text("no column 'sx'. Did you mean 'sex'?")
    assert editor.field("id_column").evaluate("e => [...e.list.options].map(o => o.value)") == ["id", "sex", "fare"]
    expect(editor.state).to_contain_text("Look at data.target_column")
    editor.notebook.screenshot("config_editor_columns", editor.box)
    assert editor.config("data.target_column") == "sx", "a remark forbids nothing"


def test_changes_are_marked_and_taken_back_and_options_found(editor: Editor) -> None:
    editor.field("Find").fill("warmup")
    tabs = [re.compile("scheduler: "), re.compile("pretraining: ")]
    expect(editor.box.locator(".mbt-sections [role=tab]")).to_have_text(tabs)
    editor.write("warmup_ratio", "0.2")
    expect(editor.row("warmup_ratio").locator(".mbt-was")).to_contain_text("changed from")
    editor.notebook.screenshot("config_editor_found", editor.box)
    editor.row("warmup_ratio").get_by_role("button", name="Undo").click()
    editor.notebook.until("not editor.form.changed")
    expect(editor.row("warmup_ratio").locator(".mbt-was")).to_have_count(0)
    editor.field("Find").fill("")
    expect(editor.box.locator(".mbt-sections [role=tab]").first).to_have_text("model")
