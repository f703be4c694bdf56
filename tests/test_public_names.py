"""Every promised name imports from where it was promised, quickly."""
from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import mlx_bert_training

TOP = ("create_model create_trainer create_kaggle_trainer get_trainer_config register_trainer BaseTrainerConfig "
       "KaggleTrainerConfig OptimizerConfig SchedulerConfig MLflowConfig EarlyStopping ModelCheckpoint "
       "LearningRateScheduler ProgressBar MLflowCallback MetricsLogger Callback DashboardCallback "
       "CompetitionExplorer ConfigEditor auto compare").split()
ELSEWHERE = {
    "callbacks": ["EarlyStopping", "ModelCheckpoint", "LearningRateScheduler", "ProgressBar", "MetricsLogger",
                  "Callback", "DashboardCallback", "MLflowCallback"],
    "integrations": ["MLflowConfig", "MLflowCallback"], "models": ["create_model"],
    "mlx_trainer": ["MLXTrainer"], "config": ["TrainingConfig"], "kaggle": ["KaggleTrainer"],
    "widgets": ["CompetitionExplorer", "ConfigEditor", "DashboardCallback", "ErrorReport"],
}


@pytest.mark.parametrize("name", TOP)
def test_public_names_import_from_the_package(name):
    assert getattr(mlx_bert_training, name).__name__ == name and name in mlx_bert_training.__all__


@pytest.mark.parametrize(("module", "name"), [(m, n) for m, names in ELSEWHERE.items() for n in names])
def test_public_names_import_from_their_modules(module, name):
    assert getattr(importlib.import_module(f"mlx_bert_training.{module}"), name).__name__ == name


def test_trainers_have_the_promised_methods():
    from mlx_bert_training import KaggleTrainer, Trainer
    methods = "train start evaluate predict save_checkpoint load_checkpoint".split()
    assert all(callable(getattr(Trainer, method)) for method in methods)
    of_competitions = "train_with_cv start_with_cv create_submission".split()
    assert all(callable(getattr(KaggleTrainer, method)) for method in of_competitions)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="create_traner"): mlx_bert_training.create_traner  # noqa: B018


def test_the_import_brings_only_what_it_needs():
    "Neither pandas nor scikit-learn, let alone a library of an extra, is imported before it is used."
    script = ("import sys, mlx_bert_training\n"
              "print([m for m in ('pandas', 'sklearn', 'matplotlib', 'mlflow', 'kaggle', 'ipywidgets', 'torch', "
              "'tokenizers', 'tqdm', 'IPython') if m in sys.modules])")
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"
