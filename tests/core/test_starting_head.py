"""A new head of many labels, or of ratings, starts from how often each occurs in what is trained on."""
import numpy as np
import pandas as pd
import pytest

from mlx_bert_training.callbacks.base import Callback
from mlx_bert_training.factory import create_kaggle_trainer, create_trainer
from mlx_bert_training.tasks.task import get_task

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


class Before(Callback):
    "What the head says before the first update."
    def __init__(self):
        self.biases = []

    def on_train_begin(self, trainer, state):
        self.biases.append(np.array(trainer.model.output_layer.bias))


@pytest.fixture
def labelled(tmp_path):
    "40 texts: one label in every second, one in every tenth, one in none of the first 30."
    rows = [{"text": f"text number {i}", "often": int(i % 2 == 0), "seldom": int(i % 10 == 0), "late": int(i >= 30)}
            for i in range(40)]
    path = tmp_path / "train.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def declaration(path, **changes):
    return {"train_path": str(path), "text_column": "text", "target_column": ["often", "seldom", "late"],
            "head_type": "multilabel", "model.config": TINY, "num_workers": 0, "max_length": 16, "num_epochs": 1,
            "save_strategy": "no", "output_dir": str(path.parent / "runs"), "device": "cpu", "batch_size": 8,
            "validation_fraction": 0.0, "eval_strategy": "no", **changes}


def test_it_starts_from_the_rates(labelled):
    seen = Before()
    trainer = create_trainer(None, None, [seen], **declaration(labelled))
    trainer.train()
    np.testing.assert_allclose(1 / (1 + np.exp(-seen.biases[0])), [20.5 / 41, 4.5 / 41, 10.5 / 41], rtol=1e-5)
    learnt = np.array(trainer.model.output_layer.bias)
    trainer.train()
    np.testing.assert_array_equal(seen.biases[1], learnt)       # and goes on from what it has learnt


def test_it_can_start_at_one_half(labelled):
    seen = Before()
    create_trainer(None, None, [seen], **declaration(labelled), label_rates=False).train()
    assert not seen.biases[0].any()


def test_a_head_that_was_loaded_stays(labelled, tmp_path):
    trainer = create_trainer(None, None, **declaration(labelled))
    trainer.train()
    trainer.model.save_pretrained(tmp_path / "model")
    trainer.data.tokenizer.save(tmp_path / "model")
    seen = Before()
    create_trainer(None, None, [seen], **declaration(labelled, pretrained=str(tmp_path / "model"))).train()
    np.testing.assert_array_equal(seen.biases[0], np.array(trainer.model.output_layer.bias))


def test_other_tasks_start_at_zero(labelled):
    seen = Before()
    create_trainer(None, None, [seen], **declaration(labelled, target_column="seldom", head_type="binary")).train()
    assert not seen.biases[0].any()


def test_a_fold_counts_its_own_rows(labelled):
    seen = Before()
    create_kaggle_trainer(None, None, [seen], **declaration(labelled), cv_folds=2, cv_strategy="kfold",
                          competition_metric="auc", enable_ensemble=False, download_data=False,
                          id_column=None).train_with_cv(dashboard=False)
    rates = [1 / (1 + np.exp(-bias)) for bias in seen.biases if bias.any()]
    assert len(rates) == 2
    np.testing.assert_allclose(sum(rate * 21 - 0.5 for rate in rates), [20, 4, 10], rtol=1e-4)


def test_ratings_start_from_their_steps(labelled):
    seen, table = Before(), pd.read_csv(labelled)
    table["rating"] = [1, 2, 3, 3] * 10
    table.to_csv(labelled, index=False)
    create_trainer(None, None, [seen], **declaration(labelled, target_column="rating", head_type="ordinal")).train()
    np.testing.assert_allclose(1 / (1 + np.exp(-seen.biases[0])), [30.5 / 41, 20.5 / 41], rtol=1e-5)


def test_probabilities_of_ratings_count_as_they_are():
    task, classes = get_task("ordinal"), np.array([0, 1, 2, 2])
    np.testing.assert_allclose(task.starting_logits(np.eye(3)[classes], 2), task.starting_logits(classes, 2))
