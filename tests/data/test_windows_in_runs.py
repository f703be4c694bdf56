"""Long texts read in windows, in whole runs: what stands late in a text is learnt, and each text has one prediction."""
import json

import mlx.core as mx
import numpy as np
import pandas as pd
import pytest
from tiny_competition import WORDS, declaration, write_files

from mlx_bert_training.factory import create_kaggle_trainer
from mlx_bert_training.kaggle.bundle import bundle
from mlx_bert_training.kaggle.bundle_inference import predict
from mlx_bert_training.run import load, run_competition, run_training

WINDOWS = {"max_length": 10, "long_texts": "windows", "window_overlap": 2, "template": None, "text_column": "text"}


@pytest.fixture
def folder(tmp_path):
    "Texts of 5 to 40 words; the one that decides is the last."
    write_files(tmp_path, n=120, m=20)
    rng = np.random.default_rng(0)
    for name in ("train.csv", "test.csv"):
        frame = pd.read_csv(tmp_path / name)
        frame["text"] = [" ".join(["filler"] * rng.integers(5, 40) + [kind]) for kind in frame["kind"]]
        frame.drop(columns=["kind", "code", "size"]).to_csv(tmp_path / name, index=False)
    return tmp_path


def alone(folder, **data):
    config = declaration(folder, data={**WINDOWS, **data}, training={"num_epochs": 6, "save_strategy": "no",
                                                                   "metrics": ["auc"]})
    return {name: section for name, section in config.items() if name != "kaggle"}


@pytest.mark.long
def test_what_stands_late_is_learnt_and_a_text_has_one_prediction(folder):
    run = run_training(alone(folder))
    head = run_training(alone(folder, long_texts="head", window_overlap=32))
    tail = run_training(alone(folder, long_texts="tail", window_overlap=32))
    assert head.result.metrics["eval_auc"] < 0.75 < min(run.result.metrics["eval_auc"], tail.result.metrics["eval_auc"])
    assert len(pd.read_csv(run.predictions)) == 20
    trainer = run.trainer
    outputs = trainer.evaluator.run(trainer.val_loader)
    assert len(outputs.logits) == len(trainer.val_loader.labels) < len(trainer.val_loader.dataset.encoded)
    encoded, task = trainer.val_loader.dataset.encoded, trainer.task
    for row in (0, 7):
        rows = [encoded[i] for i in np.flatnonzero(encoded.text == row)]
        trainer.model.eval()
        said = np.mean([np.array(trainer.model(mx.array(ids[None].astype(np.int32))))[0] for ids in rows], axis=0)
        np.testing.assert_allclose(outputs.logits[row], said, atol=1e-4)
    texts = trainer.data.texts["validation"].first
    again = load(run.result.output_dir).predict(texts)
    np.testing.assert_allclose(again.values, task.predictions(outputs.logits), atol=1e-5)


@pytest.mark.long
def test_short_texts_are_predicted_as_they_are_without_windows(folder):
    "A text that fits is one window."
    run = run_training(alone(folder))
    finished = load(run.result.output_dir)
    texts = [f"filler {word}" for word in WORDS]
    plain = finished.config.replace(**{"data.long_texts": "head"})
    finished.evaluator.data.config = plain
    one = finished.predict(texts).values
    finished.evaluator.data.config = finished.config
    np.testing.assert_array_equal(finished.predict(texts).values, one)


@pytest.mark.long
def test_a_competition_is_cross_validated_by_text_and_bundled(folder):
    config = declaration(folder, data=WINDOWS, training={"num_epochs": 4, "save_strategy": "no"},
                         kaggle={"save_fold_models": True, "enable_pseudo_labeling": True, "cv_folds": 2,
                                 "pseudo_label_threshold": 0.5})
    done = run_competition(config)
    assert len(done.result.folds.row_ids) == 120
    submission = pd.read_csv(done.submission.path)
    assert len(submission) == 20
    packed = folder / "bundle"
    bundle(folder / "runs" / "run", packed, wheels=False)
    facts = json.loads((packed / "bundle.json").read_text())
    assert (facts["long_texts"], facts["overlap"]) == ("windows", 2)
    again = predict(packed, folder / "test.csv", folder / "again.csv", engine="mlx")
    np.testing.assert_allclose(again["target"], submission["target"], atol=1e-5)


def test_adapting_reads_each_window(folder):
    config = declaration(folder, data=WINDOWS, pretraining={"objective": "masked_words", "max_steps": 2})
    trainer = create_kaggle_trainer(config=config)
    assert len(trainer.data.train.dataset) == 120 < len(trainer.data.train.dataset.encoded)
    assert trainer.model.report.folder is not None
