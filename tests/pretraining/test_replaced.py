"""Replaced tokens: what the encoder is shown and told, whole runs of an ELECTRA, and what is refused."""
import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from tiny_competition import declaration, write_files

from mlx_bert_training.declaration.load import load_config
from mlx_bert_training.factory import create_kaggle_trainer, declared_data
from mlx_bert_training.models import create_model
from mlx_bert_training.models.weights import read_tensors
from mlx_bert_training.pretraining.adapt import adapt, encoder_to_adapt
from mlx_bert_training.pretraining.masking import PretrainingError
from mlx_bert_training.pretraining.replaced import OUTPUTS, create_replaced_model, fill, save_replaced_model
from mlx_bert_training.run import run_pretraining

SIZES = {"model_type": "electra", "vocab_size": 60, "hidden_size": 16, "embedding_size": 8, "num_hidden_layers": 2,
         "num_attention_heads": 4, "intermediate_size": 32}


def declared(folder, **pretraining):
    return declaration(folder, model={"config": {name: value for name, value in SIZES.items() if name != "vocab_size"}},
                       pretraining={"objective": "replaced_tokens", "learning_rate": 3e-3, "num_epochs": 6,
                                    "validation_fraction": 0.2, **pretraining})


@pytest.fixture
def folder(tmp_path):
    write_files(tmp_path, n=60, m=20)
    return tmp_path


def batch():
    ids = mx.array([[2, 4, 4, 9, 3], [2, 8, 3, 0, 0]])
    mask = mx.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    return (ids, mask), dict(positions=mx.array([[1, 2], [1, 0]]), answers=mx.array([[7, 5], [8, -1]]))


def test_what_only_fills_up_changes_nothing():
    ids = mx.array([[2, 7, 3]])
    shown = fill(ids, mx.array([[0, 1, 0]]), mx.array([[9, 8, 9]]), mx.array([[False, True, False]]))
    assert shown.tolist() == [[2, 8, 3]]


def test_tokens_and_kinds_of_mistakes_add_up():
    model = create_replaced_model(config=SIZES).eval()
    given, asked = batch()
    found = dict(zip(OUTPUTS, np.array(model(*given, **asked)).T, strict=True))
    assert found["tokens"].tolist() == [5, 3]       # padding is not judged
    assert ((found["found"] + found["missed"]) <= [2, 1]).all() and (found["generator"] < 0).all()
    assert mx.array_equal(model(*given, **asked), model(*given, **asked))       # nothing is drawn at random


def test_the_encoder_and_the_generator_learn_and_the_draw_has_no_gradient():
    model = create_replaced_model(config=SIZES)
    given, asked = batch()

    def of(part):
        def loss(parameters):
            model.update(parameters)
            return model(*given, **asked)[:, part].sum()
        gradients = dict(tree_flatten(mx.grad(loss)(model.trainable_parameters())))
        return {name.split(".")[0] for name, value in gradients.items() if mx.abs(value).max().item() > 0}
    assert of(0) == {"generator"} and of(1) == {"electra", "detector"}


def test_an_electra_adapts_and_its_encoder_starts_the_folds(folder):
    done = run_pretraining(declared(folder))
    before, after = done.facts["before"], done.facts["after"]
    assert after["eval_loss"] < before["eval_loss"] and after["eval_perplexity"] < before["eval_perplexity"]
    assert "replaced_f1" in repr(done) and "electra" in repr(create_replaced_model(done.model))
    names = read_tensors(done.model)
    assert "discriminator_predictions.dense_prediction.weight" in names and not any("generator" in n for n in names)
    trainer = create_kaggle_trainer(config=declared(folder))
    kept = dict(tree_flatten(create_replaced_model(done.model).encoder.parameters()))
    mine = dict(tree_flatten(trainer.model.encoder.parameters()))
    assert all(mx.array_equal(kept[name], mine[name]) for name in kept)


def test_the_same_bits_in_two_runs(folder, tmp_path):
    config = load_config(declared(folder, num_epochs=1))
    data = declared_data(None, config)
    one, other = (adapt(config.replace(output_dir=str(tmp_path / name)), data) for name in "ab")
    kept = [read_tensors(done.model) for done in (one, other)]
    assert all(mx.array_equal(kept[0][name], kept[1][name]) for name in kept[0])
    assert one.facts["after"] == other.facts["after"]


def test_an_encoder_that_was_not_pretrained_so_is_refused(folder):
    other = load_config(declaration(folder, pretraining={"objective": "replaced_tokens"}))
    data = declared_data(None, other)
    with pytest.raises(PretrainingError, match="bert model is not pretrained by telling replaced tokens"):
        encoder_to_adapt(other, data.tokenizer)


def test_it_is_saved_and_read_back(tmp_path):
    model = create_replaced_model(config=SIZES)
    save_replaced_model(model, tmp_path)
    again = create_replaced_model(tmp_path)
    mine, theirs = (dict(tree_flatten(m.parameters())) for m in (model, again))
    assert all(mx.array_equal(mine[n], theirs[n]) for n in mine if not n.startswith("generator."))
    assert create_model(pretrained=tmp_path, num_labels=2).report.ignored
