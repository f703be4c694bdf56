"""Every model can be copied, for a thread, a fold or another process, whichever activation it has."""
import pickle
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
from tiny_architectures import MASKED, architecture, texts
from tiny_competition import SMALL, declaration, write_files
from toys import ToyModel

from mlx_bert_training import create_kaggle_trainer, create_model
from mlx_bert_training.core.batch_parts import PartsInference, inference_step_of, training_step_of
from mlx_bert_training.core.step import InferenceStep, TrainingStep
from mlx_bert_training.core.weights import TwinError, twin
from mlx_bert_training.models.architectures.deberta_v2 import TANH_TOO
from mlx_bert_training.stages.model_source import ModelSource


def model_of(case, **changes):
    kind, sizes = architecture(case).name, {**MASKED[case][1], **changes}
    return create_model(config={"model_type": kind, **sizes}, seed=1).eval()


@pytest.mark.parametrize("case", MASKED)
def test_a_copy_says_the_same_and_goes_to_another_process(case):
    model, inputs = model_of(case), texts(case)
    arrays = [None if part is None else mx.array(part) for part in inputs]
    expected = np.array(model(*arrays))
    for copied in (twin(model), pickle.loads(pickle.dumps(ModelSource.of(model))).build().eval()):
        assert np.array_equal(np.array(copied(*arrays)), expected)


@pytest.mark.parametrize("name", TANH_TOO)
def test_activations_are_functions_of_python(name):
    assert pickle.loads(pickle.dumps(TANH_TOO[name])) is TANH_TOO[name]
    if name == "tanh": return
    model = create_model(config={**SMALL, "vocab_size": 30, "hidden_act": name}, seed=1)
    batch = {"input_ids": np.arange(1, 13, dtype=np.int32).reshape(4, 3), "attention_mask": np.ones((4, 3), np.int32)}
    step = PartsInference(model.eval(), parts=2)
    assert np.allclose(np.array(step(batch)[0]), np.array(InferenceStep(model)(batch)[0]), rtol=1e-5, atol=1e-6)
    step.close()


@pytest.mark.long
def test_a_competition_with_albert_as_it_is_published(tmp_path):
    write_files(tmp_path)
    sizes = {**SMALL, "model_type": "albert", "embedding_size": 8}
    made = declaration(tmp_path, model={"config": sizes, "pooling": "mean"})
    trainer = create_kaggle_trainer(config=made)
    assert trainer.model.config.hidden_act == "gelu_new"
    assert np.isfinite(trainer.train_with_cv().oof.predictions).all()


class Odd(ToyModel):
    "Has something that MLX made as an attribute."

    def __init__(self):
        super().__init__()
        self.activation = mx.tanh


def test_a_model_that_cannot_be_copied_is_computed_whole_and_refused_where_copies_are_needed():
    with pytest.raises(TwinError, match="mx.tanh"): twin(Odd())
    with pytest.raises(TwinError, match="a function of your own"): ModelSource.of(Odd())
    assert type(inference_step_of(2, 0, Odd())) is InferenceStep
    optimizer = SimpleNamespace(state={})
    assert type(training_step_of(2, 0, Odd(), lambda *_: None, optimizer)) is TrainingStep
