"""Bundles: the predictions of the run, from a folder that needs nothing else and says nothing of this machine."""
from __future__ import annotations

import gzip
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from finished_runs import SMALL, WORDS, make_encoder, make_run, rows

from mlx_bert_training.cli import main
from mlx_bert_training.data.frames import read_frame
from mlx_bert_training.data.templates import RowTemplate
from mlx_bert_training.data.tokenization import tiny_tokenizer
from mlx_bert_training.ensemble.thresholds import search_threshold
from mlx_bert_training.errors import DataError
from mlx_bert_training.kaggle import bundle_inference as inference
from mlx_bert_training.kaggle.bundle import BundleError, bundle, default_wheels, download_wheels, write_code
from mlx_bert_training.kaggle.submission import SubmissionError
from mlx_bert_training.models.registry import ARCHITECTURES
from mlx_bert_training.models.text_model import pytorch_code
from mlx_bert_training.run import run_training
from mlx_bert_training.tasks.regression import Regression
from mlx_bert_training.validation.oof import load_oof

ROOT = Path(__file__).parents[2]
SECRET = "hunter2-secret"


ENCODER = str(Path(tempfile.mkdtemp(prefix="tiny-encoder-")))    # filled before it is read
CASES = {
    "binary probabilities": ("binary", pd.DataFrame({"y": [0.5]}), {"competition_metric": "auc", "cv_repeats": 2}),
    "binary words, searched threshold": ("binary", pd.DataFrame({"y": ["yes"]}),
                                         {"competition_metric": "mcc", "threshold_search": True,
                                          "pooling": "attention"}),
    "binary, no sample": ("binary", None, {"competition_metric": "accuracy", "pooling": "cls"}),
    "multiclass words": ("multiclass", pd.DataFrame({"y": ["low"]}),
                         {"competition_metric": "accuracy", "pooling": "max"}),
    "multiclass columns in another order": ("multiclass",
                                            pd.DataFrame({"y_top": [0.4], "y_low": [0.3], "y_mid": [0.3]}),
                                            {"competition_metric": "log_loss"}),
    "ratings with cut points": ("multiclass", pd.DataFrame({"y": ["low"]}),
                                {"competition_metric": "qwk", "threshold_search": True}),
    "multilabel probabilities": ("multilabel", pd.DataFrame({"c": [0.5], "a": [0.5], "b": [0.5]}),
                                 {"competition_metric": "auc"}),
    "multilabel decisions": ("multilabel", pd.DataFrame({"a": [0], "b": [0], "c": [1]}),
                             {"competition_metric": "macro_f1", "threshold_search": True, "epochs": 15}),
    "several labels in a cell": ("multilabel", pd.DataFrame({"y": ["a;b"]}),
                                 {"competition_metric": "macro_f1", "epochs": 15, "answers": "in a cell"}),
    "classes in an order, a column each": ("ordinal", pd.DataFrame({f"y_{i}": [int(i == 1)] for i in range(1, 6)}),
                                           {"competition_metric": "qwk", "submission_style": "labels",
                                            "allow_constant": True}),
    "regression of a logarithm": ("regression", pd.DataFrame({"y": [1.5]}), {"competition_metric": "rmsle"}),
    "ratings learnt as values": ("regression", pd.DataFrame({"y": [3]}),
                                 {"competition_metric": "qwk", "competition_type": "ordinal_regression",
                                  "threshold_search": True, "answers": "ratings"}),
    "a linear partner": ("binary", pd.DataFrame({"y": [0.5]}),
                         {"competition_metric": "log_loss", "enable_ensemble": True, "ensemble_keep": "always",
                          "ensemble_weights": [2, 1], "cv_repeats": 2}),
    "a linear partner and a threshold": ("binary", pd.DataFrame({"y": ["yes"]}),
                                         {"competition_metric": "f1", "threshold_search": True, "enable_ensemble": True,
                                          "ensemble_keep": "always"}),
    "several classes with a partner": ("multiclass", pd.DataFrame({"y_top": [0.4], "y_low": [0.3], "y_mid": [0.3]}),
                                       {"competition_metric": "log_loss", "enable_ensemble": True,
                                        "ensemble_method": "blending", "ensemble_keep": "always"}),
    "classes in an order with partners": ("ordinal", pd.DataFrame({"y": [3]}),
                                          {"competition_metric": "qwk", "enable_ensemble": True, "epochs": 1,
                                           "ensemble_members": ["linear", "chars", "gbm"],
                                           "ensemble_keep": "always"}),
    "several labels with a partner": ("multilabel", pd.DataFrame({"c": [0.5], "a": [0.5], "b": [0.5]}),
                                      {"competition_metric": "log_loss", "enable_ensemble": True,
                                       "ensemble_keep": "always"}),
    "logarithms with a partner": ("regression", pd.DataFrame({"y": [1.5]}),
                                  {"competition_metric": "rmsle", "enable_ensemble": True, "ensemble_keep": "always"}),
    "a partner that reads pairs": ("binary", pd.DataFrame({"y": [0.5]}),
                                   {"competition_metric": "auc", "enable_ensemble": True, "ensemble_keep": "always",
                                    "text": {"text_column": "word", "text_pair_column": "other"}}),
    "the partner alone": ("regression", pd.DataFrame({"y": [1.5]}),
                          {"competition_metric": "rmse", "enable_ensemble": True, "epochs": 1,
                           "text": {"template": "{word} {fare}"}}),
    "several values with a partner": ("multi_regression", pd.DataFrame({"b": [1.5], "a": [1.5]}),
                                      {"competition_metric": "mcrmse", "enable_ensemble": True,
                                       "ensemble_keep": "always"}),
    "partners on characters and words": ("binary", pd.DataFrame({"y": [0.5]}),
                                         {"competition_metric": "log_loss", "enable_ensemble": True,
                                          "ensemble_members": ["chars", "nbsvm", "linear"], "ensemble_keep": "always",
                                          "ensemble_weights": [4, 3, 2, 1]}),
    "labels by partners on texts": ("multilabel", pd.DataFrame({"c": [0.5], "a": [0.5], "b": [0.5]}),
                                    {"competition_metric": "log_loss", "enable_ensemble": True,
                                     "ensemble_members": ["nbsvm", "chars"], "ensemble_keep": "always"}),
    "classes by partners on pairs": ("multiclass", pd.DataFrame({"y_top": [0.4], "y_low": [0.3], "y_mid": [0.3]}),
                                     {"competition_metric": "log_loss", "enable_ensemble": True,
                                      "ensemble_members": ["nbsvm", "chars"], "ensemble_keep": "always",
                                      "text": {"text_column": "word", "text_pair_column": "other"}}),
    "logarithms of characters": ("regression", pd.DataFrame({"y": [1.5]}),
                                 {"competition_metric": "rmsle", "enable_ensemble": True, "ensemble_members": ["chars"],
                                  "ensemble_keep": "always"}),
    "trees alone": ("regression", pd.DataFrame({"y": [1.5]}),
                    {"competition_metric": "rmse", "enable_ensemble": True, "ensemble_members": ["gbm"], "epochs": 1,
                     "text": {"template": "{word} {fare}"}}),
    "logarithms of trees": ("regression", pd.DataFrame({"y": [1.5]}),
                            {"competition_metric": "rmsle", "enable_ensemble": True, "ensemble_keep": "always",
                             "ensemble_members": [{"type": "gbm", "options": {"columns": "all"}}]}),
    "another seed": ("binary", pd.DataFrame({"y": [0.5]}),
                     {"competition_metric": "log_loss", "enable_ensemble": True, "ensemble_keep": "always", "seeds": 2,
                      "cv_repeats": 2}),
    "another pretrained model": ("binary", pd.DataFrame({"y": [0.5]}),
                                 {"competition_metric": "log_loss", "enable_ensemble": True, "backbones": [ENCODER],
                                  "ensemble_keep": "always", "ensemble_method": "blending"}),
    "every member there is": ("binary", pd.DataFrame({"y": ["yes"]}),
                              {"competition_metric": "f1", "threshold_search": True, "enable_ensemble": True,
                               "ensemble_keep": "always", "seeds": 2, "backbones": [ENCODER],
                               "ensemble_members": ["linear", "gbm", "chars", "nbsvm",
                                                    {"type": "embedding", "options": {"pretrained": ENCODER}},
                                                    {"type": "knn", "options": {"pretrained": ENCODER}}],
                               "ensemble_weights": [3, 2, 4, 1, 2, 1, 2, 3, 1]}),
    "pairs of texts": ("binary", pd.DataFrame({"y": [0.5]}),
                       {"competition_metric": "auc", "text": {"text_column": "word", "text_pair_column": "other"}}),
}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    "Each case, run and bundled once: the bundle, the test file and the submission of the run."
    made = {}

    def get(name: str):
        if name not in made:
            home = tmp_path_factory.mktemp("case")
            head, sample, options = CASES[name]
            if ENCODER in str(options) and not any(Path(ENCODER).iterdir()): make_encoder(ENCODER)
            run, submission = make_run(home, head, sample, **options)
            made[name] = bundle(run, home / "bundle", wheels=False), home / "test.csv", submission
        return made[name]
    return get


@pytest.fixture(scope="module", autouse=True)
def no_encoder_left():
    yield
    shutil.rmtree(ENCODER, ignore_errors=True)


def assert_same(frame: pd.DataFrame, path: Path, tolerance: float) -> None:
    "The same ids in the same order, the same words, and the same numbers within a tolerance relative to the largest."
    own = pd.read_csv(path, dtype={0: str})
    assert list(frame) == list(own) and frame.iloc[:, 0].tolist() == own.iloc[:, 0].astype(str).tolist()
    for column in list(own)[1:]:
        if own[column].dtype.kind == "f":
            scale = max(1.0, float(own[column].abs().max()))
            assert np.abs(frame[column].to_numpy(float) - own[column].to_numpy()).max() / scale < tolerance
        else: assert frame[column].fillna("").tolist() == own[column].fillna("").tolist()      # "": no label at all


@pytest.mark.parametrize("case", CASES)
def test_a_bundle_gives_the_submission_of_its_run(bundles, case, tmp_path):
    made, test, submission = bundles(case)
    frame = made.predict(test, tmp_path / "submission.csv")
    assert_same(frame, submission, 1e-5)
    assert_same(frame, tmp_path / "submission.csv", 1e-9)


@pytest.mark.parametrize("case", CASES)
def test_torch_gives_what_mlx_gives(bundles, case, tmp_path):
    pytest.importorskip("torch", reason="torch is not installed; `make parity` has it")
    pytest.importorskip("transformers", reason="transformers is not installed; `make parity` has it")
    made, test, submission = bundles(case)
    frame, facts = inference.read_test(test, made.facts), made.facts
    values = [inference.predict_values(made.folder, facts, frame, engine) for engine in ("mlx", "torch")]
    assert np.abs(values[0] - values[1]).max() / max(1.0, np.abs(values[0]).max()) < 1e-4
    assert_same(made.predict(test, tmp_path / "submission.csv", "torch"), submission, 1e-4)


OFFLINE = """
import os, socket, sys
def refuse(*args, **kwargs): raise OSError("the network is switched off")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
for name in {blocked!r}: sys.modules[name] = None       # importing it fails
"""


def notebook_cells(folder: Path) -> str:
    cells = json.loads((folder / "inference.ipynb").read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def run_offline(folder: Path, home: Path, test: Path, engine: str, blocked: list[str]) -> pd.DataFrame:
    "The notebook from top to bottom, in another process without a network, outside the checkout."
    home.mkdir(exist_ok=True)
    (home / "script.py").write_text(OFFLINE.format(blocked=blocked) + notebook_cells(folder), encoding="utf-8")
    env = {**os.environ, "BUNDLE_FOLDER": str(folder), "BUNDLE_TEST": str(test), "BUNDLE_ENGINE": engine,
           "HF_HUB_OFFLINE": "1", "HF_HOME": str(home / "cache")}
    done = subprocess.run([sys.executable, "script.py"], cwd=home, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return pd.read_csv(home / "submission.csv", dtype={"id": str})


def test_the_notebook_runs_offline_with_mlx(bundles, tmp_path):
    made, test, submission = bundles("binary probabilities")
    frame = run_offline(made.folder, tmp_path / "home", test, "mlx", ["torch", "transformers"])
    assert_same(frame, submission, 1e-5)


@pytest.mark.parametrize("case", ["binary probabilities", "binary words, searched threshold", "binary, no sample"])
def test_the_notebook_runs_offline_with_torch_alone(bundles, case, tmp_path):
    pytest.importorskip("torch", reason="torch is not installed; `make parity` has it")
    pytest.importorskip("transformers", reason="transformers is not installed; `make parity` has it")
    made, test, submission = bundles(case)
    frame = run_offline(made.folder, tmp_path / "home", test, "auto", ["mlx", "mlx_bert_training"])
    assert_same(frame, submission, 1e-4)


def test_the_notebook_is_valid_and_runs_in_a_kernel(bundles, tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    made, test, submission = bundles("binary probabilities")
    notebook = nbformat.read(made.folder / "inference.ipynb", as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) == 3 and all(not cell.outputs and cell.execution_count is None for cell in code)
    monkeypatch.setenv("BUNDLE_FOLDER", str(made.folder))
    monkeypatch.setenv("BUNDLE_TEST", str(test))
    nbclient.NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert_same(pd.read_csv(tmp_path / "submission.csv", dtype={"id": str}), submission, 1e-5)


def test_a_run_with_one_split_is_bundled_and_its_old_bundle_replaced(tmp_path):
    run_training({
        "model": {"config": SMALL}, "data": {"train_path": "demo:german_credit/train.csv", "id_column": "id",
        "test_path": "demo:german_credit/test.csv", "target_column": "risk", "max_train_rows": 80, "max_length": 24,
        "template": "{purpose} of {credit_amount} over {duration} months"},
        "training": {"num_epochs": 1},
        "environment": {"output_dir": str(tmp_path), "run_name": "one", "compile": False}})
    bundle(tmp_path / "one", tmp_path / "bundle", wheels=False)
    (tmp_path / "bundle" / "old.txt").write_text("left over")
    made = bundle(tmp_path / "one", tmp_path / "bundle", wheels=False)
    assert "old.txt" not in made.files() and made.facts["models"] == ["models/model"]
    frame = made.predict(ROOT / "mlx_bert_training/demo/german_credit/test.csv", tmp_path / "submission.csv")
    own = pd.read_csv(tmp_path / "one" / "predictions.csv")
    assert frame["id"].tolist() == own["id"].astype(str).tolist()
    expected = own["probability_1"] if made.facts["submission"]["kind"] == "probabilities" else own["risk"]
    np.testing.assert_allclose(frame["risk"].astype(float), expected, atol=1e-5)


# The copied modules read and write as the package does, where little else is installed.

@pytest.fixture
def copied(bundles, monkeypatch):
    "A module of the package that a bundle carries."
    monkeypatch.syspath_prepend(str(bundles("binary probabilities")[0].folder))
    yield lambda name: importlib.import_module(f"bundle_inference.{name}")
    for name in [name for name in sys.modules if name.partition(".")[0] == "bundle_inference"]: del sys.modules[name]


ELSEWHERE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}: raise ImportError(name)
sys.meta_path.insert(0, Refuse())
sys.path.insert(0, {folder!r})
import bundle_inference
from bundle_inference.tasks.registry import TASKS
print(*sorted({{name.partition(".")[0] for name in sys.modules}}))
"""


@pytest.mark.parametrize("case", ["binary probabilities", "ratings with cut points", "a linear partner",
                                  "several labels with a partner", "the partner alone", "trees alone"])
def test_the_copied_modules_need_neither_mlx_nor_what_fitted_a_model(bundles, tmp_path, case):
    made, test, submission = bundles(case)
    blocked = ["mlx", "mlx_bert_training", "sklearn", "scipy", "matplotlib", "yaml", "tqdm", "pyarrow"]
    code = ELSEWHERE.format(blocked=blocked, folder=str(made.folder))
    if not made.facts["models"]:
        code += f"bundle_inference.predict({str(made.folder)!r}, {str(test)!r}, 'submission.csv')\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not {"mlx", "mlx_bert_training", "sklearn", "scipy"} & set(done.stdout.split())
    if not made.facts["models"]: assert_same(pd.read_csv(tmp_path / "submission.csv", dtype={0: str}), submission, 1e-9)


def test_every_copied_module_is_the_one_that_is_installed(bundles):
    made, _, _ = bundles("ratings with cut points")
    code = [name for name in made.files() if name.endswith(".py")]      # an import leaves its cache beside it
    names = [name for name in code if name.startswith("bundle_inference/") and "__init__" not in name]
    assert {f"bundle_inference/{n}.py" for n in ("data/frames", "data/templates", "tasks/multiclass")} <= set(names)
    for name in names:
        source = (ROOT / name.replace("bundle_inference", "mlx_bert_training", 1)).read_text(encoding="utf-8")
        lines = [line for line in source.splitlines() if not line.startswith(("# %%", "# AUTOGENERATED"))]
        copied = (made.folder / name).read_text(encoding="utf-8").replace("bundle_inference", "mlx_bert_training")
        assert copied == "\n".join(lines).replace("bundle_inference", "mlx_bert_training") + "\n"


def test_no_code_of_a_run_folder_comes_along(bundles, tmp_path):
    "Neither a file of that name nor what config.json says is where code is."
    run = tmp_path / "tiny"
    shutil.copytree(bundles("binary words, searched threshold")[1].parent / "runs" / "tiny", run)
    for model in run.glob("folds/*/model"):
        (model / "modeling_pooled_bert.py").write_text("raise SystemExit('a stranger was here')\n")
        (model / "elsewhere.py").write_text("raise SystemExit('a stranger was here')\n")
        values = json.loads((model / "config.json").read_text())
        values["auto_map"] = {name: "stranger/repo--elsewhere.Model" for name in
                              ("AutoConfig", "AutoModel", "AutoModelForSequenceClassification")}
        values["custom_pipelines"] = {"evil": {"impl": "elsewhere.Pipeline"}}
        (model / "config.json").write_text(json.dumps(values))
    made = bundle(run, tmp_path / "bundle", wheels=False)
    for name in made.files(): assert b"stranger" not in (made.folder / name).read_bytes(), name
    for name in made.facts["models"]:
        values = json.loads((made.folder / name / "config.json").read_text())
        assert set(values["auto_map"].values()) == {"modeling_pooled_bert.PooledBertConfig",
                                                    "modeling_pooled_bert.PooledBertForSequenceClassification"}
        assert "custom_pipelines" not in values
        written = (made.folder / name / "modeling_pooled_bert.py").read_text(encoding="utf-8")
        assert written == pytorch_code(ARCHITECTURES.get("bert"))
    model = next(bundles("binary, no sample")[0].folder.glob("models/*"))
    assert not list(model.glob("*.py")) and "auto_map" not in json.loads((model / "config.json").read_text())


def test_a_tokenizer_larger_than_the_model_is_refused_when_bundled_and_when_predicting(bundles, tmp_path):
    made, test, _ = bundles("binary probabilities")
    run, copy = tmp_path / "tiny", tmp_path / "copy"
    shutil.copytree(test.parent / "runs" / "tiny", run)
    larger = tiny_tokenizer([" ".join(f"word{i}" for i in range(900))])
    for model in run.glob("folds/*/model"): larger.save(model)
    with pytest.raises(BundleError, match="do not belong to each other"): bundle(run, tmp_path / "bundle", wheels=False)
    assert not (tmp_path / "bundle").exists()
    shutil.copytree(made.folder, copy)
    larger.save(copy)
    with pytest.raises(inference.InferenceError, match="vocab_size"):
        inference.predict_values(copy, made.facts, inference.read_test(test, made.facts), "mlx")


def test_a_task_of_ones_own_is_refused(tmp_path):
    with pytest.raises(BundleError, match=f"{__name__}:OwnTask"): write_code(tmp_path, OwnTask())


class OwnTask(Regression):
    "Code that is not part of the package."


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".csv.gz", ".jsonl"])
def test_rows_are_read_and_put_into_words_as_in_training(tmp_path, copied, suffix):
    frame, path = rows(60, 3), tmp_path / f"rows{suffix}"
    frame["whole"], frame["mixed"], frame["empty"] = [f"{i}.0" for i in range(60)], ["1", "x"] * 30, ""
    frame["flag"] = ["True", "False"] * 30
    if suffix == ".jsonl": frame.to_json(path, orient="records", lines=True, force_ascii=False)
    else:
        text = frame.to_csv(index=False, sep="\t" if suffix == ".tsv" else ",").encode("utf-8-sig")
        path.write_bytes(gzip.compress(text) if suffix.endswith("gz") else text)
    template = "{age} {code} {word} {fare:.3f} {{}} {whole} {mixed} {empty} {flag:>6} {id}"
    defaults = {"age": "?", "*": "none"}
    expected = RowTemplate(template, defaults).render(read_frame(path))
    frames, templates = copied("data.frames"), copied("data.templates")
    assert frames.read_frame is not read_frame
    read = frames.read_frame(path)
    assert templates.read_texts(read, templates.RowTemplate(template, defaults)) == (expected, None)
    columns = ["word", "code"]
    assert templates.read_texts(read, columns) == tuple(
        [str(value) for value in read_frame(path)[column]] for column in columns)


def test_random_tables_are_read_as_in_training(tmp_path, copied):
    frames, templates = copied("data.frames"), copied("data.templates")
    rng = np.random.default_rng(0)
    cells = ["1", "2.0", "-3.5", "007", "1e3", "NA", "nan", "", " ", "x", "True", "0.10", "1_000", "٣", "-0", "+5"]
    for trial in range(60):
        kept = rng.choice(cells, 4, replace=False)
        frame = pd.DataFrame({"a": rng.choice(kept, 6), "b": rng.choice(kept, 6), "key": "k"})
        path = tmp_path / f"{trial}.csv"
        frame.to_csv(path, index=False)
        expected = RowTemplate("{a}|{b}", {"*": "gap"}).render(read_frame(path))
        assert templates.RowTemplate("{a}|{b}", {"*": "gap"}).render(frames.read_frame(path)) == expected


@pytest.mark.parametrize("pairs", [False, True])
def test_tokens_are_those_of_training(tmp_path, copied, pairs):
    texts = [" ".join(WORDS[:i % 9 + 1]) * (i % 4 + 1) for i in range(50)]
    tokenizer, second = tiny_tokenizer(texts), texts[::-1] if pairs else None
    tokenizer.save(tmp_path)
    expected = tokenizer.encode(texts, second, max_length=12)
    found = copied("data.tokenization").Tokenizer.load(tmp_path).encode(texts, second, max_length=12)
    assert [found[i].tolist() for i in range(50)] == [expected[i].tolist() for i in range(50)]
    assert found.type_ids.tolist() == expected.type_ids.tolist()


def test_a_missing_value_without_a_default_is_foretold_and_named(tmp_path):
    text = {"template": "{word} {fare}"}
    run, _ = make_run(tmp_path, "binary", None, text=text, competition_metric="auc")
    made = bundle(run, tmp_path / "bundle", wheels=False)
    assert any("word, fare" in note for note in made.notes) and "word, fare" in repr(made)
    frame = rows(3, 2)
    frame.loc[1, "fare"] = None
    frame.to_csv(tmp_path / "hidden.csv", index=False)
    with pytest.raises(DataError, match="hidden.csv, line 3, column 'fare'"):
        made.predict(tmp_path / "hidden.csv", tmp_path / "submission.csv")
    assert not (tmp_path / "submission.csv").exists()


def test_hidden_rows_and_their_sample_decide_ids_and_order(bundles, tmp_path):
    made, _, _ = bundles("binary probabilities")
    frame = rows(5, 9)
    frame.to_csv(tmp_path / "test.csv", index=False)
    found = made.predict(tmp_path / "test.csv", tmp_path / "submission.csv")
    assert found["id"].tolist() == [str(i) for i in frame["id"]]
    frame[["id"]][::-1].assign(y=0.5).to_csv(tmp_path / "sample_submission.csv", index=False)
    turned = made.predict(tmp_path / "test.csv", tmp_path / "submission.csv")
    assert turned["id"].tolist() == [str(i) for i in frame["id"][::-1]]
    assert dict(turned.to_numpy().tolist()) == dict(found.to_numpy().tolist())


def test_the_test_file_is_found_below_the_inputs(bundles, tmp_path):
    facts = {**bundles("binary probabilities")[0].facts, "competition": "some-race"}
    with pytest.raises(inference.InferenceError, match="BUNDLE_TEST"): inference.find_test(facts, tmp_path)
    for name in ("another", "third"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "test.csv").write_text("id\n1\n")
    with pytest.raises(inference.InferenceError, match="third"): inference.find_test(facts, tmp_path)
    place = tmp_path / "competitions" / "some-race"
    place.mkdir(parents=True)
    (place / "test.csv").write_text("id\n1\n")
    assert inference.find_test(facts, tmp_path) == place / "test.csv"


def test_damage_and_loss_are_noticed_before_anything_is_predicted(bundles, tmp_path):
    made, test, _ = bundles("binary probabilities")
    copy = tmp_path / "copy"
    shutil.copytree(made.folder, copy)
    (copy / "labels.json").write_text("{}")
    with pytest.raises(inference.InferenceError, match="labels.json was changed"):
        inference.predict(copy, test, tmp_path / "out.csv", "mlx")
    (copy / "labels.json").unlink()
    with pytest.raises(inference.InferenceError, match="labels.json is missing"):
        inference.predict(copy, test, tmp_path / "out.csv", "mlx")
    assert not (tmp_path / "out.csv").exists()


def test_an_unknown_engine_is_refused():
    with pytest.raises(inference.InferenceError, match="torch and auto"): inference.choose_engine("tensorflow")


# What the bundle says, and does not say.

def test_nothing_of_this_machine_is_in_the_bundle(tmp_path, monkeypatch):
    monkeypatch.setenv("KAGGLE_KEY", SECRET)
    run, _ = make_run(tmp_path / "private-place", "binary", None, competition_metric="auc")
    config = (run / "config.yaml").read_text(encoding="utf-8")
    config = config.replace("experiment_name: mlx_bert", f"experiment_name: {SECRET}")
    (run / "config.yaml").write_text(config, encoding="utf-8")
    assert SECRET in (run / "config.yaml").read_text(encoding="utf-8")
    made = bundle(run, tmp_path / "bundle", wheels=[])
    contents = {path.name: path.read_bytes() for path in made.folder.rglob("*") if path.is_file()}
    wheel = zipfile.ZipFile(next(made.folder.glob("wheels/*.whl")))
    contents |= {name: wheel.read(name) for name in wheel.namelist()}
    for name, content in contents.items():
        for private in (str(tmp_path), "private-place", str(Path.home()) + "/", str(ROOT) + "/", SECRET):
            assert private.encode() not in content, f"{private} is in {name}"


def test_the_wheel_can_be_installed_and_used_elsewhere(bundles, tmp_path):
    run = bundles("binary probabilities")[1].parent / "runs" / "tiny"
    made = bundle(run, tmp_path / "bundle", wheels=[])
    wheel = next(made.folder.glob("wheels/mlx_bert_training-*.whl"))
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target",
               str(tmp_path / "site"), "--find-links", str(wheel.parent), "mlx_bert_training"]
    subprocess.run(install, check=True, capture_output=True)
    code = ("import mlx_bert_training as m; from mlx_bert_training.declaration.load import list_presets; "
            "import mlx_bert_training.models.create; print(m.__file__, 'german_credit' in list_presets())")
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.split() == [str(tmp_path / "site" / "mlx_bert_training" / "__init__.py"), "True"], done.stderr
    sums = (made.folder / "SHA256SUMS").read_text()
    assert f"wheels/{wheel.name}" in sums and "model.safetensors" in sums


@pytest.mark.parametrize(("case", "ensemble", "kinds"), [
    ("several classes with a partner", "blending", {"number", "category"}),
    ("a partner that reads pairs", "voting", {"words"}),
])
def test_a_linear_partner_predicts_what_scikit_learn_predicts(bundles, case, ensemble, kinds):
    "The JSON of each fold against the member of the run."
    made, test, _ = bundles(case)
    assert made.facts["linear"] == ["partners/linear-0.json.gz", "partners/linear-1.json.gz"]
    run = test.parent / "runs" / "tiny"
    shares, frame = made.facts["weights"], inference.read_test(test, made.facts)
    own, both = (load_oof(run / "oof" / f"{name}.npz").test_predictions for name in ("tiny", ensemble))
    expected = (both - shares["models"] * own) / shares["linear"]
    facts = {**made.facts, "weights": {"models": 0, "linear": 1.0}}
    assert np.allclose(inference.predict_values(made.folder, facts, frame), expected, atol=1e-9)
    part = json.loads(gzip.decompress((made.folder / "partners" / "linear-0.json.gz").read_bytes()))
    assert {step["kind"] for step in part["steps"]} == kinds


def test_the_partner_alone_needs_no_encoder(bundles):
    made, _, _ = bundles("the partner alone")
    assert made.facts["models"] == [] and made.facts["weights"] == {"models": 0.0, "linear": 1.0}
    assert not (made.folder / "models").exists() and "0 models and 2 linear partners" in repr(made)


def test_every_member_is_in_the_bundle_and_its_size_is_said(bundles):
    made, _, _ = bundles("every member there is")
    assert made.facts["trained"].keys() == {"seed 2", Path(ENCODER).name}
    assert made.facts["partners"].keys() == {"gbm", "chars", "nbsvm", "embedding", "knn"} and made.facts["linear"]
    names = made.files()
    assert sum(name.startswith("partners/encoder-") and name.endswith("model.safetensors") for name in names) == 1
    assert "MB in all" in repr(made) and "2 of seed 2" in repr(made) and "2 knn partners" in repr(made)
    assert not any(name.endswith((".pkl", ".pickle", ".joblib")) for name in names)


def test_a_bundle_that_would_be_too_large_is_refused_with_what_takes_the_room(bundles, tmp_path):
    run = bundles("every member there is")[1].parent / "runs" / "tiny"
    with pytest.raises(BundleError, match=r"bundle_max_gb is 1e-06.*the model .*seed 2 .*fewer seeds"):
        bundle(run, tmp_path / "bundle", wheels=False, bundle_max_gb=1e-6)
    assert not (tmp_path / "bundle").exists()


def test_a_member_that_kept_no_model_is_named(bundles, tmp_path):
    run = tmp_path / "tiny"
    shutil.copytree(bundles("another seed")[1].parent / "runs" / "tiny", run)
    shutil.rmtree(run / "member-seed-2" / "fold-0-1" / "model")
    with pytest.raises(BundleError, match=r"member-seed-2.*1 of 4 folds kept no model"):
        bundle(run, tmp_path / "bundle", wheels=False)


def test_a_model_without_its_partners_is_asked_for_and_said(tmp_path):
    run, submission = make_run(tmp_path, "binary", None, competition_metric="f1", threshold_search=True,
                               enable_ensemble=True, ensemble_keep="always")
    cv = json.loads((run / "cv.json").read_text())
    assert cv["threshold"] is not None and cv["weights"] and cv["tta"] == "none" and cv["pseudo_labels"] is False
    whole = bundle(run, tmp_path / "whole", wheels=False)
    assert not any("alone" in note or "threshold" in note for note in whole.notes)
    assert whole.facts["submission"]["threshold"] == cv["threshold"]
    made = bundle(run, tmp_path / "bundle", model_alone=True, wheels=False)
    assert any("alone" in note for note in made.notes) and "alone" in notebook_text(made.folder)
    assert made.facts["linear"] == [] and "score" not in made.facts     # which is that of the ensemble
    refitted = search_threshold(load_oof(run / "oof" / "tiny.npz"), "f1").value
    assert made.facts["submission"]["threshold"] == refitted
    assert main(["bundle", str(run), "-o", str(tmp_path / "bundle"), "--no-wheels", "--model-alone"]) == 0
    (run / "cv.json").write_text(json.dumps({**cv, "tta": "word_dropout"}))
    notes = bundle(run, tmp_path / "bundle", wheels=False).notes
    assert any("word_dropout" in note for note in notes) and any("threshold" in note for note in notes)


@pytest.mark.parametrize(("change", "message"), [
    ({"ensemble": "stacking", "weights": None}, "stacking of tiny and linear, and only a weighted mean"),
    ({"members": ["tiny", "other"], "weights": {"tiny": 0.5, "other": 0.5}}, "'other' was made by another run"),
    ({"ensemble": None}, "submits an ensemble of tiny and linear, and only a weighted mean"),
    ({"alone": "other"}, "submits other alone, and 'other' was made by another run"),
    ({}, "linear models were not kept"),
])
def test_an_ensemble_that_cannot_be_repeated_is_refused(bundles, tmp_path, change, message):
    run = tmp_path / "tiny"
    shutil.copytree(bundles("a linear partner")[1].parent / "runs" / "tiny", run)
    (run / "cv.json").write_text(json.dumps({**json.loads((run / "cv.json").read_text()), **change}))
    if not change: shutil.rmtree(run / "partners")
    with pytest.raises(BundleError, match=f"{message}.*--model-alone"): bundle(run, tmp_path / "bundle", wheels=False)
    assert not (tmp_path / "bundle").exists()
    assert "alone" in bundle(run, tmp_path / "bundle", model_alone=True, wheels=False).notes[0]


def notebook_text(folder: Path) -> str:
    return (folder / "inference.ipynb").read_text(encoding="utf-8")


def test_models_that_saw_pseudo_labels_are_taken_if_they_were_kept(bundles, tmp_path):
    run = tmp_path / "tiny"
    shutil.copytree(bundles("binary probabilities")[1].parent / "runs" / "tiny", run)
    cv = json.loads((run / "cv.json").read_text())
    del cv["round"]     # as older runs wrote it
    (run / "cv.json").write_text(json.dumps({**cv, "pseudo_labels": True}))
    with pytest.raises(BundleError, match="0 rounds"): bundle(run, tmp_path / "bundle", wheels=False)
    shutil.copytree(run / "folds", run / "pseudo-labels-1234")
    shutil.rmtree(run / "folds")
    assert len(bundle(run, tmp_path / "bundle", wheels=False).facts["models"]) == 4     # two folds, two repeats


# What is refused.

def test_a_folder_that_is_no_finished_run_is_refused(bundles, tmp_path):
    done = bundles("binary probabilities")[1].parent / "runs" / "tiny"
    with pytest.raises(BundleError, match="config.yaml"): bundle(tmp_path, tmp_path / "bundle")
    run = tmp_path / "tiny"
    shutil.copytree(done, run)
    shutil.rmtree(run / "folds" / "fold-0-1" / "model")
    with pytest.raises(BundleError, match="1 of 4 folds.*save_fold_models"):
        bundle(run, tmp_path / "bundle", wheels=False)
    (run / "cv.json").write_text('{"identity": "x"}')
    with pytest.raises(BundleError, match="not finished"): bundle(run, tmp_path / "bundle", wheels=False)
    (run / "cv.json").write_text('{"identity')
    with pytest.raises(BundleError, match="damaged"): bundle(run, tmp_path / "bundle", wheels=False)
    (run / "cv.json").unlink()
    with pytest.raises(BundleError, match="model/"): bundle(run, tmp_path / "bundle", wheels=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny"]


def test_a_folder_that_is_no_bundle_is_left_alone(bundles, tmp_path):
    run = bundles("binary probabilities")[1].parent / "runs" / "tiny"
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    for target in (tmp_path / "thesis", run, tmp_path / "thesis" / "chapter.txt"):
        with pytest.raises(BundleError, match="is no bundle"): bundle(run, target, wheels=False)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work" and (run / "cv.json").is_file()


def test_a_sample_that_does_not_fit_writes_nothing(bundles, tmp_path):
    run = bundles("multiclass words")[1].parent / "runs" / "tiny"
    pd.DataFrame({"id": [1], "alpha": [0.5], "beta": [0.5]}).to_csv(tmp_path / "sample.csv", index=False)
    with pytest.raises(SubmissionError, match="alpha"):
        bundle(run, tmp_path / "bundle", wheels=False, sample=tmp_path / "sample.csv")
    with pytest.raises((DataError, SubmissionError), match="nothing.csv"):
        bundle(run, tmp_path / "bundle", wheels=False, sample=tmp_path / "nothing.csv")
    with pytest.raises(BundleError, match="user/name"):
        bundle(run, tmp_path / "bundle", wheels=False, dataset="No Slash")
    assert [path.name for path in tmp_path.iterdir()] == ["sample.csv"]


def test_wheels_that_cannot_be_had_leave_no_bundle_and_no_credential(bundles, tmp_path, monkeypatch):
    run = bundles("binary probabilities")[1].parent / "runs" / "tiny"
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"http://me:{SECRET}@127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(BundleError, match="no-wheels") as caught:
        bundle(run, tmp_path / "bundle", wheels=["mlx-not-there==1"])
    assert SECRET not in str(caught.value) and "mlx-not-there" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(BundleError, match="--index-url"): download_wheels(tmp_path, ["--index-url=http://elsewhere"])
    assert [item.split("==")[0] for item in default_wheels()] == ["mlx", "mlx-cpu", "scipy-openblas32"]


def write_wheel(folder: Path, version: str, tag: str) -> None:
    "A wheel with nothing in it."
    info = f"stub-{version}.dist-info"
    with zipfile.ZipFile(folder / f"stub-{version}-{tag}.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: stub\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n")
        wheel.writestr(f"{info}/RECORD", "")


def test_wheels_are_those_of_the_other_machine(bundles, tmp_path, monkeypatch):
    run, shelf = bundles("binary probabilities")[1].parent / "runs" / "tiny", tmp_path / "shelf"
    shelf.mkdir()
    for version, tag in (("1.0", "cp312-cp312-manylinux_2_35_x86_64"), ("2.0", "cp311-cp311-manylinux_2_35_x86_64"),
                         ("3.0", "cp312-cp312-macosx_14_0_arm64"), ("4.0", "cp312-cp312-manylinux_2_39_x86_64")):
        write_wheel(shelf, version, tag)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    if sys.version_info >= (3, 11):     # before that, Python always looks into the working directory first
        (shelf / "csv.py").write_text("raise SystemExit('the wrong csv')")
        monkeypatch.chdir(shelf)
    made = bundle(run, tmp_path / "bundle", wheels=["stub"])
    wheels = [name for name in made.files() if name.startswith("wheels/stub")]
    assert wheels == ["wheels/stub-1.0-cp312-cp312-manylinux_2_35_x86_64.whl"]
    assert wheels[0] in (made.folder / "SHA256SUMS").read_text()


def test_what_the_kaggle_client_reads_names_dataset_and_competition(bundles, tmp_path):
    run = bundles("binary probabilities")[1].parent / "runs" / "tiny"
    made = bundle(run, tmp_path / "bundle", wheels=False, dataset="someone/tiny-models")
    dataset = json.loads((made.folder / "dataset-metadata.json").read_text())
    kernel = json.loads((made.folder / "kernel-metadata.json").read_text())
    assert dataset["id"] == "someone/tiny-models" == kernel["dataset_sources"][0]
    assert kernel["enable_internet"] is False and (made.folder / kernel["code_file"]).is_file()
