"""A canary in each place that holds credentials, and none of it in any place that a text leaves by."""
from __future__ import annotations

import base64
import json
import logging
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote

import nbformat
import pytest
from nbclient import NotebookClient
from toys import ToyLoader, ToyModel, toy_config

from mlx_bert_training import MLflowCallback
from mlx_bert_training.cli import main
from mlx_bert_training.core.base import Trainer
from mlx_bert_training.core.config import BaseTrainerConfig, MLflowConfig
from mlx_bert_training.declaration.load import load_config
from mlx_bert_training.declaration.problems import ConfigError, Problem
from mlx_bert_training.errors import DataError
from mlx_bert_training.integrations import spool as spooling
from mlx_bert_training.kaggle.connection import KaggleError, explain
from mlx_bert_training.secrets import Secrets, find_secrets, get_logger, redact, sounds_secret

CANARY = "c@nary/\"bird1"
VARIABLES = ["MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_URI", "KAGGLE_KEY",
             "KAGGLE_API_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MY_API_KEY", "DATABASE_URL"]
FORMS = [CANARY, quote(CANARY, safe=""), json.dumps(CANARY)[1:-1],
         *(base64.b64encode(f"{user}:{CANARY}".encode()).decode() for user in ("ada", ""))]


def no_canary(*texts: str) -> None:
    for text in texts:
        for form in FORMS: assert form not in text, text
        assert "bird1" not in text, text


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    "No credentials but those of the test, whoever runs it."
    for name in ("KAGGLE_USERNAME", *VARIABLES): monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "home" / ".kaggle"))
    monkeypatch.delenv("HF_HOME", raising=False)


def place(monkeypatch, name: str) -> None:
    value = f"https://ada:{CANARY}@host.example" if name.endswith(("URI", "URL")) else CANARY
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")


@pytest.mark.parametrize("name", VARIABLES)
class TestEachVariable:
    def test_in_any_spelling(self, monkeypatch, name):
        place(monkeypatch, name)
        for form in FORMS: no_canary(redact(f"so: {form}, says the server"), redact({"note": [form]})["note"][0])

    def test_in_an_error(self, monkeypatch, name):
        place(monkeypatch, name)
        said = f"the server says {CANARY}, and " + json.dumps({"Authorization": f"Basic {FORMS[-2]}"})
        for error in (DataError(said), KaggleError(said), explain(OSError(said), "download titanic"),
                      ConfigError(Problem(key="model.name", value=said, message=said)), ConfigError(said)):
            no_canary(str(error), repr(error), *error._render_traceback_())
            assert "says" in str(error)

    def test_in_an_error_that_is_cut_within_it(self, monkeypatch, name):
        place(monkeypatch, name)
        for before in range(40, 62):
            text = str(Problem(key="model.name", value="x" * before + " " + CANARY, message="no such model"))
            assert "c@nar" not in text and "/\\\"bir" not in text

    def test_in_the_log(self, monkeypatch, name, caplog):
        place(monkeypatch, name)
        log = get_logger("mlx_bert_training.canary")
        log.warning("%s does not answer", f"https://ada:{CANARY}@host.example")
        try: raise ValueError(CANARY)
        except ValueError: log.exception("again: %s", CANARY)
        no_canary(caplog.text)
        assert "does not answer" in caplog.text and "ValueError" in caplog.text

    def test_in_what_the_command_line_prints(self, monkeypatch, name, capfd):
        place(monkeypatch, name)
        def fail(_): raise RuntimeError(f"{CANARY} and https://ada:{CANARY}@host.example")
        monkeypatch.setattr("mlx_bert_training.models.weights.fetch_pretrained", fail)
        assert main(["fetch"]) == 1
        assert main(["config", f"pasword={CANARY}"]) == 2
        logging.getLogger("somebody.else").warning("%s", CANARY)
        shown = capfd.readouterr()
        no_canary(shown.out, shown.err)
        assert "RuntimeError" in shown.err

    def test_in_the_record_of_a_run(self, monkeypatch, name, tmp_path):
        place(monkeypatch, name)
        config = toy_config(tmp_path, **{"tracking.mlflow": {
            "tags": {"note": CANARY, "api_key": "0123"}, "params": {"token": 12345, "url": f"s3://k:{CANARY}@b/x"}}},
            callbacks=[{"type": "toys:Named", "greeting": CANARY, "password": "hunter22"}])
        for kind in ("yaml", "json"):
            text = config.save(tmp_path / f"run.{kind}").read_text()
            no_canary(text, str(config))
            assert "0123" not in text and "12345" not in text and "hunter22" not in text
            assert load_config(tmp_path / f"run.{kind}").tracking.mlflow.tags["api_key"] == "***"


class Echo(BaseHTTPRequestHandler):
    "Answers every request with its own headers, as some proxies do."
    code, status = "INVALID_PARAMETER_VALUE", 400

    def log_message(self, *_): """Quiet."""

    def do(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        said = f"{self.headers.get('Authorization')} {dict(self.headers)} {self.server.more}"
        body = json.dumps({"error_code": self.code, "message": said}).encode()
        self.server.heard.append(self.headers.get("Authorization", ""))
        self.send_response(self.status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do


class Down(Echo):
    code, status = "INTERNAL_ERROR", 500


@pytest.mark.parametrize("handler", [Echo, Down], ids=["refused", "down"])
@pytest.mark.parametrize("name", ["MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_URI",
                                  "HF_TOKEN"])
def test_a_tracking_server_that_echoes_the_login(monkeypatch, tmp_path, capfd, caplog, name, handler):
    pytest.importorskip("mlflow")
    monkeypatch.setattr(spooling.Outbox, "linger", 0.02)
    monkeypatch.setattr(spooling.Attempts, "pauses", (0.05, 0.2))
    monkeypatch.setattr(spooling.Attempts, "patience", 5.0)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.heard, server.more = [], CANARY
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"127.0.0.1:{server.server_address[1]}"
    password = "c@nary-bird1"           # a slash cannot stand in an address
    monkeypatch.setattr(sys.modules[__name__], "FORMS", [*FORMS, password, quote(password), base64.b64encode(
        f"ada:{password}".encode()).decode()])
    server.more = f"{password} http://ada:{password}@{address}"
    place(monkeypatch, name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{address}")
    monkeypatch.setenv(name, f"http://ada:{password}@{address}" if name.endswith("URI") else password)
    config = toy_config(tmp_path / "runs", num_epochs=2, eval_strategy="no")
    tracker = MLflowCallback(MLflowConfig(log_system_metrics=False, tags={"api_key": password}))
    Trainer(ToyModel(), config, callbacks=[tracker]).train(ToyLoader())
    tracker.close()
    tracker.run.to.outbox().stop()
    assert main(["mlflow", "sync", str(tmp_path / "runs")]) in (0, 2)
    assert main(["runs", f"http://{address}"]) == 2
    server.shutdown()
    server.server_close()
    assert server.heard and (name == "HF_TOKEN" or any(server.heard))
    shown = capfd.readouterr()
    no_canary(shown.out, shown.err, caplog.text)
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    for path in files: no_canary(path.read_bytes().decode("utf-8", "replace"))
    assert (tmp_path / "runs" / "toy" / "mlflow" / "set-aside.jsonl").exists() == (handler is Echo)


def test_in_a_notebook_with_and_without_its_traceback(monkeypatch, tmp_path):
    "Also what is shown of the local variables."
    for name in VARIABLES: place(monkeypatch, name)
    cell = ("import os\nfrom mlx_bert_training.errors import DataError\n"
            "from mlx_bert_training.secrets import get_logger\n"
            "def fail(password):\n    get_logger('x').warning('%s', password)\n    raise DataError(f'{password}: no')\n"
            "fail(os.environ['KAGGLE_KEY'])")
    cells = [nbformat.v4.new_code_cell(text) for text in (cell, "%xmode Verbose", cell)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=120, allow_errors=True, kernel_name="python3").execute()
    outputs = json.dumps([cell.outputs for cell in notebook.cells])
    assert outputs.count("DataError") >= 2
    no_canary(outputs, nbformat.writes(notebook))


@pytest.mark.parametrize("file, content", [
    (".kaggle/kaggle.json", json.dumps({"username": "ada", "key": CANARY})), (".kaggle/access_token", CANARY),
    (".cache/huggingface/token", CANARY), (".mlflow/credentials", f"[mlflow]\nmlflow_tracking_password = {CANARY}\n")])
def test_in_a_file(tmp_path, file, content):
    path = tmp_path / "home" / file
    path.parent.mkdir(parents=True)
    path.write_text(content)
    no_canary(find_secrets().redact(f"it is {CANARY}"))


@pytest.mark.parametrize("key", ["tracking.mlflow.pasword", "kaggle.api_kye", "passwrd", "kaggle.tokn", "sercet"])
def test_a_misspelt_key_does_not_echo(key):
    with pytest.raises(ConfigError) as caught: load_config(None, **{key: "swordfish"})
    assert "swordfish" not in str(caught.value) and key.rpartition(".")[2] in str(caught.value)


def test_what_is_no_secret_stays():
    assert redact("sqlite:////home/ada@work/mlflow.db and me@example.com, http://h/@x") == (
        "sqlite:////home/ada@work/mlflow.db and me@example.com, http://h/@x")
    assert not any(map(sounds_secret, ["tokens_per_second", "mask_token", "pad_token_id", "data.passage", "keyword"]))
    for key in ("kaggle.competition_type", "data.tokenizer", "model.max_tokens"):
        assert "here" in str(Problem(key=key, value="here", message="no"))
    assert Secrets(["test"]).redact("test_path: data/testing and test") == "test_path: data/testing and ***"
    config = BaseTrainerConfig(data={"template": "see https://{user}@{host}", "template_defaults": {"token": "none"}})
    assert "see https://{user}@{host}" in config.to_yaml() and "token: none" in config.to_yaml()
