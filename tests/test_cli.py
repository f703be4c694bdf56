"""The command line: the same results as the functions, and mistakes answered in one message."""
from __future__ import annotations

import json
import subprocess
import sys

import pandas as pd
import pytest

from mlx_bert_training.cli import main
from mlx_bert_training.data.frames import resolve_path

DECLARATION = """
model: {config: {hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}}
data:
  train_path: demo:german_credit/train.csv
  test_path: demo:german_credit/test.csv
  target_column: risk
  id_column: id
  template: "{purpose} of {credit_amount} over {duration} months"
  max_train_rows: 120
training: {num_epochs: 3, early_stopping: false, baselines: true}
environment: {run_name: cli, compile: false}
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(DECLARATION)
    return tmp_path


def test_train_then_resume_then_predict(home, capsys):
    assert main(["train", "run.yaml", "training.num_epochs=2", "learning_rate=1e-3"]) == 0
    printed = capsys.readouterr().out
    assert "logistic regression" in printed and "runs/cli/predictions.csv" in printed
    config = (home / "runs" / "cli" / "config.yaml").read_text()
    assert "num_epochs: 2" in config
    checkpoints = sorted(path.name for path in (home / "runs" / "cli" / "checkpoints").iterdir())
    assert main(["train", "run.yaml", "num_epochs=2", "learning_rate=1e-3", "--resume",
                 f"runs/cli/checkpoints/{checkpoints[0]}"]) == 0
    assert not (home / "runs" / "cli-2").exists()
    assert main(["predict", "runs/cli", "demo:german_credit/test.csv", "-o", "out.csv"]) == 0
    assert (home / "out.csv").read_bytes() == (home / "runs" / "cli" / "predictions.csv").read_bytes()


def test_bundle_writes_a_folder_that_predicts_as_the_run_does(home, capsys):
    assert main(["train", "run.yaml", "training.num_epochs=1"]) == 0
    assert main(["bundle", "runs/cli", "-o", "upload", "--no-wheels", "--dataset", "someone/credit-models"]) == 0
    printed = capsys.readouterr().out
    assert "inference.ipynb" in printed and "kaggle datasets create -p upload" in printed
    assert "someone/credit-models" in (home / "upload" / "dataset-metadata.json").read_text()
    assert not (home / "upload" / "wheels").exists()
    from mlx_bert_training.kaggle.bundle_inference import predict
    made = predict(home / "upload", resolve_path("demo:german_credit/test.csv"), home / "out.csv", "mlx")
    own = pd.read_csv(home / "runs" / "cli" / "predictions.csv")
    assert made["id"].tolist() == own["id"].astype(str).tolist()
    assert abs(made["risk"] - own["probability_1"]).max() < 1e-5


def test_mistakes_are_one_message_and_exit_code_2(home, capsys):
    for arguments, said in [
        (["train", "run.yaml", "training.num_epoch=2"], "num_epochs"),
        (["train", "nothing.yaml"], "nothing.yaml"),
        (["train", "run.yaml", "data.train_path=missing.csv"], "missing.csv"),
        (["train", "run.yaml", "--resume"], "no whole checkpoint"),
        (["predict", "runs", "demo:german_credit/test.csv"], "model/"),
        (["config", "producton"], "production"),
        (["bundle", "runs"], "config.yaml"),
    ]:
        assert main(arguments) == 2
        captured = capsys.readouterr()
        assert said in captured.err and "Traceback" not in captured.err
    assert list(home.iterdir()) == [home / "run.yaml"]      # nothing half-made is left


def test_config_shows_compares_and_exports_the_schema(home, capsys):
    assert main(["config", "run.yaml", "learning_rate=3e-4"]) == 0
    (home / "shown.yaml").write_text(shown := capsys.readouterr().out)
    assert "learning_rate: 0.0003" in shown
    assert main(["config", "shown.yaml", "--diff", "run.yaml"]) == 0
    difference = capsys.readouterr().out
    assert "optimizer.learning_rate" in difference and "num_epochs" not in difference
    assert main(["config", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out)["properties"]["optimizer"]


def test_presets_are_listed_with_what_they_are_for(capsys):
    assert main(["presets"]) == 0
    printed = capsys.readouterr().out
    for name in ("quick_test", "development", "production", "kaggle", "german_credit"): assert name in printed


def test_info_says_device_blas_and_speed(capsys):
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    for word in ("device", "mlx", "compiler"): assert word in printed
    if sys.platform == "linux": assert "GFLOP/s" in printed


def test_the_package_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "mlx_bert_training", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "train" in done.stdout


def test_a_competition_without_a_preset_gets_a_draft(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init", "titanic"]) == 0 and "mlx-bert run titanic" in capsys.readouterr().out
    (tmp_path / "train.csv").write_text("id,size,colour,kind\n" + "".join(f"{i},{i},red,{i % 2}\n" for i in range(9)))
    (tmp_path / "test.csv").write_text("id,size,colour\n9,1,red\n")
    (tmp_path / "sample_submission.csv").write_text("id,kind\n9,0\n")
    assert main(["init", "red-things"]) == 0 and "nearest preset" in capsys.readouterr().out
    assert main(["config", "red_things.yaml"]) == 0
    assert "head_type: binary_classification" in capsys.readouterr().out
    assert main(["init", "red-things"]) == 2 and "is there already" in capsys.readouterr().err
