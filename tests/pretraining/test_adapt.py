"""Pretraining in whole runs: once for all folds, resumed to the same bits, found again, without any target."""
import json

import numpy as np
import pandas as pd
import pytest
from mlx.utils import tree_flatten
from tiny_competition import declaration, write_files

from mlx_bert_training.callbacks import Callback, ModelCheckpoint
from mlx_bert_training.cli import main
from mlx_bert_training.core.control import RunStopped
from mlx_bert_training.core.run_folder import pretraining_folder
from mlx_bert_training.declaration.load import load_config
from mlx_bert_training.declaration.problems import ConfigError
from mlx_bert_training.factory import create_kaggle_trainer, create_trainer, declared_data
from mlx_bert_training.models import create_model
from mlx_bert_training.pretraining.adapt import adapt, texts_of
from mlx_bert_training.pretraining.masking import PretrainingError
from mlx_bert_training.pretraining.model import create_masked_model
from mlx_bert_training.run import run_pretraining, run_training

PRETRAINING = {"objective": "masked_words", "num_epochs": 2, "learning_rate": 3e-3, "validation_fraction": 0.2}


def declared(folder, **sections):
    "A declaration of a tiny competition that adapts its encoder first."
    return declaration(folder, pretraining={**PRETRAINING, **sections.pop("pretraining", {})}, **sections)


@pytest.fixture
def folder(tmp_path):
    write_files(tmp_path, n=60, m=20)
    return tmp_path


def weights(model): return {name: np.array(value) for name, value in tree_flatten(model.parameters())}


def adapted_folders(folder): return sorted(path.name for path in (folder / "runs" / "pretraining").iterdir())


def test_folds_start_from_one_adapted_encoder_and_a_second_run_finds_it(folder, caplog):
    config = declared(folder)
    first = create_kaggle_trainer(config=config)
    one, = adapted_folders(folder)
    made = pretraining_folder(folder / "runs", one)
    stamp = made.result.stat().st_mtime_ns
    start = weights(create_masked_model(made.model).encoder)
    assert all(np.array_equal(start[name], value) for name, value in weights(first.model.encoder).items())
    result = first.train_with_cv()
    assert result.folds.n_folds == 3 and result.mean > 0
    caplog.set_level("INFO")
    create_kaggle_trainer(config=config)
    assert adapted_folders(folder) == [one] and made.result.stat().st_mtime_ns == stamp
    assert "is there already" in caplog.text


def test_train_and_run_share_it_and_the_record_says_what_was_declared(folder):
    first = run_pretraining(declared(folder, pretraining={"max_steps": 1}))
    config = declared(folder, model={"pretrained": str(first.model), "config": {}})
    create_kaggle_trainer(config=config)
    run = run_training({name: section for name, section in config.items() if name != "kaggle"})
    assert len(adapted_folders(folder)) == 2
    record = load_config(run.result.output_dir / "config.yaml")
    assert record.pretraining.objective == "masked_words" and record.model.pretrained == str(first.model)
    create_trainer(config=record)
    assert len(adapted_folders(folder)) == 2


@pytest.mark.parametrize("change", [{"pretraining": {"num_epochs": 3}}, {"pretraining": {"whole_words": False}},
                                    {"environment": {"seed": 7}}, {"pretraining": {"texts": "train"}}])
def test_other_settings_make_another(folder, change):
    for config in (declared(folder), declared(folder, **change)): run_pretraining(config)
    assert len(adapted_folders(folder)) == 2


def test_targets_change_nothing(folder):
    config = declared(folder)
    run_pretraining(config)
    frame = pd.read_csv(folder / "train.csv")
    frame["target"] = 1 - frame["target"]
    frame.to_csv(folder / "train.csv", index=False)
    run_pretraining(config)
    assert len(adapted_folders(folder)) == 1


def test_training_texts_alone_leave_test_texts_out(folder):
    data = declared_data(None, load_config(declared(folder)))
    train, test = (loader.dataset.encoded for loader in (data.train, data.test))
    known = {encoded[row].tobytes() for encoded in (texts_of(data, "train"),) for row in range(len(encoded))}
    assert known == {train[row].tobytes() for row in range(len(train))}
    assert not known & {test[row].tobytes() for row in range(len(test))}
    assert len(texts_of(data)) > len(known)


class StopAfter(Callback):
    "Ask for the end after an update."
    def __init__(self, step): self.step = step

    def on_step_end(self, trainer, state):
        if state.step == self.step: trainer.control.stop()


def test_a_stopped_run_goes_on_and_comes_to_the_same_bits(folder, tmp_path):
    config = load_config(declared(folder, training={"num_epochs": 1, "save_strategy": "no"}))
    data = declared_data(None, config)
    whole = adapt(config, data)
    elsewhere = config.replace(output_dir=str(tmp_path / "elsewhere"))

    def stopping(adapting): return [ModelCheckpoint("steps", save_steps=1), StopAfter(3)]

    with pytest.raises(RunStopped, match="after update 3 of"): adapt(elsewhere, data, stopping)
    again = adapt(elsewhere, data, lambda adapting: [ModelCheckpoint("steps", save_steps=1)])
    assert not again.reused and again.folder.path.name == whole.folder.path.name
    one, other = (weights(create_masked_model(done.model)) for done in (whole, again))
    assert all(np.array_equal(one[name], other[name]) for name in one)
    assert again.facts["after"] == whole.facts["after"] and again.facts["before"] == whole.facts["before"]


def test_the_folder_is_a_model_folder_with_a_pooler_and_a_tokenizer(folder):
    done = run_pretraining(declared(folder))
    values = json.loads((done.model / "config.json").read_text())
    assert values["architectures"] == ["BertForMaskedLM"] and (done.model / "tokenizer.json").is_file()
    for pooling in ("cls", "mean"):
        model = create_model(pretrained=done.model, pooling=pooling, num_labels=2)
        assert set(model.report.fresh) == {"classifier.weight", "classifier.bias"}
    later = declaration(folder, model={"pretrained": str(done.model), "config": {}})
    assert create_trainer(config=later).model.report.folder == done.model


def test_adapting_adapted_weights_goes_on_with_their_head(folder):
    done = run_pretraining(declared(folder))
    config = declared(folder, model={"pretrained": str(done.model), "config": {}})
    again = run_pretraining(config)
    assert again.facts["before"]["eval_perplexity"] == pytest.approx(done.facts["after"]["eval_perplexity"], rel=1e-4)


def test_a_fine_tuned_head_is_not_lost_silently(folder):
    config = {name: section for name, section in declared(folder).items() if name not in ("kaggle", "pretraining")}
    run = run_training(config)
    with pytest.raises(PretrainingError, match="model.new_head"):
        run_pretraining(declared(folder, model={"pretrained": str(run.model_folder), "config": {}, "pooling": None}))


def test_what_cannot_be_is_refused(folder):
    with pytest.raises(ConfigError, match="does nothing"):
        load_config({"pretraining": {"num_epochs": 5}})
    with pytest.raises(PretrainingError, match="objective is none"): run_pretraining(declaration(folder))
    with pytest.raises(PretrainingError, match="a model was passed"):
        create_trainer(create_model(config={"hidden_size": 8, "num_attention_heads": 2}), config=declared(folder))
    with pytest.raises(PretrainingError, match="set data.train_path"):
        create_trainer(config={"pretraining": "masked_words"})


def test_a_flat_key_never_means_the_section_that_repeats_others():
    config = load_config({"pretraining": "masked_words"}, learning_rate=1e-3, num_epochs=4, batch_size=5)
    assert (config.optimizer.learning_rate, config.training.num_epochs, config.data.batch_size) == (1e-3, 4, 5)
    assert config.pretraining.num_epochs == 3
    assert load_config({"pretraining": PRETRAINING}, mask_probability=0.3).pretraining.mask_probability == 0.3


def test_the_command(folder, capsys):
    config = load_config(declared(folder))
    config.save(folder / "run.yaml")
    assert main(["pretrain", str(folder / "run.yaml"), "pretraining.max_steps=2"]) == 0
    assert "perplexity" in capsys.readouterr().out
    assert main(["pretrain", str(folder / "run.yaml"), "pretraining.max_steps=2"]) == 0
    assert "was there already" in capsys.readouterr().out
