"""A run's folder for the hub: what the card says, what stays private, what is uploaded."""
import json

import pytest
import yaml

from mlx_bert_training.cli import main
from mlx_bert_training.declaration.load import load_config
from mlx_bert_training.errors import DataError
from mlx_bert_training.export.hub import (
    export_hub,
    front_matter,
    model_card,
    public_declaration,
    push_to_hub,
    score_lines,
)
from mlx_bert_training.models import create_model

SIZES = dict(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)


@pytest.fixture
def run(tmp_path):
    "What a finished run leaves."
    folder = tmp_path / "runs" / "mine"
    (tmp_path / "train.csv").write_text("text,label\na,0\nb,1\n")
    create_model(config=SIZES, label_names=["no", "yes"]).save_pretrained(folder / "model")
    folder.joinpath("config.yaml").write_text(yaml.safe_dump({
        "data": {"train_path": str(tmp_path / "train.csv"), "validation_path": str(tmp_path / "gone.csv"),
                 "text_column": "text", "target_column": "label"},
        "model": {"pretrained": "somebody/some-model@v1"}, "environment": {"output_dir": str(tmp_path)}}))
    folder.joinpath("result.json").write_text(json.dumps({
        "metrics": {"eval_loss": 0.3, "eval_accuracy": 0.75}, "steps": 9, "epochs": 1.5, "weights": "best"}))
    return folder


def test_the_card_is_made_of_the_record(run, tmp_path):
    out = export_hub(run, tmp_path / "out", "apache-2.0")
    card = (out / "README.md").read_text()
    _, front, text = card.split("---\n", 2)
    facts = yaml.safe_load(front)
    assert facts["license"] == "apache-2.0" and facts["base_model"] == "somebody/some-model"
    assert facts["metrics"] == ["accuracy"] and "binary_classification" in facts["tags"]
    assert "`no`, `yes`" in text and "| accuracy | 0.7500 | not measured |" in text and "1.50 epochs" in text
    assert "sha256 `" in text and "`gone.csv` (no longer there" in text and str(tmp_path) not in card
    assert "| accuracy | 0.7500 | 0.0306 |" in model_card(run, rows=200)
    assert create_model(pretrained=out).label_names == ["no", "yes"]
    assert "license" not in model_card(run).split("---\n")[1] and "Not stated." in model_card(run)


def test_machines_and_accounts_are_left_out():
    text = public_declaration(yaml.safe_dump({
        "data": {"test_path": "/home/me/test.csv", "text_column": "text"}, "model": {"pretrained": "/home/me/weights"},
        "callbacks": [{"type": "distillation", "options": {"teacher": "/home/me/runs/x", "address": "http://me:pw@host"}}],
        "tracking": {"uri": "http://build7.intranet:5000"}, "search": {"storage": "postgresql://me:secret@host/db"},
        "parallel": {"options": {"address": "ray-head:6379"}}, "kaggle": {"competition_name": "x"}, "later": {"x": 1}}))
    assert yaml.safe_load(text) == {
        "data": {"test_path": "test.csv", "text_column": "text"}, "model": {"pretrained": "weights"},
        "callbacks": [{"type": "distillation", "options": {"teacher": "x", "address": "http://***@host"}}]}


def test_what_is_no_finished_run_is_refused(run, tmp_path):
    with pytest.raises(DataError, match="is the run itself"): export_hub(run, run)
    with pytest.raises(DataError, match="is the run itself"): export_hub(run, run / "model")
    (run / "result.json").unlink()
    with pytest.raises(DataError, match="no result.json"): export_hub(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_pushes_the_folder_with_the_real_clients_names(run, tmp_path, monkeypatch, capsys):
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    calls = []
    monkeypatch.setattr(hub.HfApi, "create_repo", lambda self, name, **k: calls.append((name, k)))
    monkeypatch.setattr(hub.HfApi, "upload_folder", lambda self, **k: calls.append(k) or "https://hub/commit")
    assert main(["export", "hub", str(run), str(tmp_path / "out"), "--push", "me/mine"]) == 0
    assert calls[0] == ("me/mine", {"private": True, "exist_ok": True})
    assert calls[1]["repo_id"] == "me/mine" and calls[1]["folder_path"] == str(tmp_path / "out")
    assert "https://hub/commit" in capsys.readouterr().out
    with pytest.raises(DataError, match="organisation/name"): push_to_hub(tmp_path, "mine")
    assert main(["export", "onnx", str(run), str(tmp_path / "o"), "--push", "me/mine"]) == 2


@pytest.mark.parametrize(("head", "kind"), [("binary", "text-classification"), ("regression", "text-classification"),
                                            ("token_classification", "token-classification")])
def test_the_card_says_which_pipeline_the_model_is_for(head, kind):
    assert f"pipeline_tag: {kind}\n" in front_matter(load_config(None, head_type=head), None, {})


def test_a_metric_without_a_value_has_a_dash_in_the_card():
    *_, auc, accuracy = score_lines({"eval_auc": None, "eval_accuracy": None}, 40)
    assert auc == "| auc | – | not measured |" and accuracy == "| accuracy | – | not measured |"


@pytest.mark.parametrize(("source", "name"), [("somebody/model", "somebody/model"), ("/weights", None),
                                              ("~/weights", None)])
def test_weights_of_a_folder_that_is_gone_are_no_name_of_the_hub(source, name):
    facts = yaml.safe_load(front_matter(load_config(None, pretrained=source), None, {}).strip("-\n"))
    assert facts.get("base_model") == name
