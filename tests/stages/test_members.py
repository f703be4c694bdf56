"Seeds and other pretrained models as members of an ensemble: a row each, found again, refused where they cannot be."
from __future__ import annotations

import time

import numpy as np
import pytest
from tiny_competition import SMALL, WORDS, declaration, write_files

from mlx_bert_training import create_kaggle_trainer
from mlx_bert_training.data.tokenization import tiny_tokenizer
from mlx_bert_training.declaration.load import load_config
from mlx_bert_training.declaration.problems import ConfigError
from mlx_bert_training.models.create import create_model
from mlx_bert_training.stages.announce import CVListener
from mlx_bert_training.stages.members import train_members
from mlx_bert_training.stages.run import open_cv_folder, run_folds


def pretrained(folder):
    "A model with words of its own, as a stranger may have left it."
    tokenizer = tiny_tokenizer([f"{word} row" for word in WORDS])
    create_model("bert_core", config={**SMALL, "vocab_size": tokenizer.vocab_size}).save_pretrained(folder)
    tokenizer.save(folder)
    return str(folder)


def test_seeds_are_members_with_a_row_and_their_time(tmp_path):
    write_files(tmp_path)
    kaggle = {"seeds": 2, "enable_ensemble": True, "ensemble_keep": "always"}
    model = {"dropout_rate": 0.1}
    made = declaration(tmp_path, kaggle=kaggle)
    made["model"] |= model
    result = create_kaggle_trainer(config=made).train_with_cv()
    names = [member.name for member in result.combined.members]
    assert names == ["run", "seed 2", "linear"]
    table = result.to_frame()
    assert set(names) < set(table.index) and (table["seconds"] > 0).all() and "verdict" in table
    assert table.loc["voting", "seconds"] == pytest.approx(table.loc[names, "seconds"].sum())
    plain, seed = result.combined.members[:2]
    assert not np.array_equal(plain.predictions, seed.predictions) and plain.folds_hash == seed.folds_hash
    again = create_kaggle_trainer(config=made).train_with_cv()
    assert np.array_equal(again.oof.predictions, result.oof.predictions)
    assert again.combined.seconds["seed 2"] == result.combined.seconds["seed 2"]     # found, not trained again


def test_a_backbone_is_a_member_with_tokens_of_its_own(tmp_path):
    write_files(tmp_path)
    made = declaration(tmp_path, kaggle={"backbones": [pretrained(tmp_path / "tiny_bert")], "enable_ensemble": True,
                                         "ensemble_members": ["linear"]})
    trainer = create_kaggle_trainer(config=made)
    plan = trainer.plan()
    member, = plan.members
    assert member.round == "tiny_bert" and member.data.tokenizer.vocab_size != plan.data.tokenizer.vocab_size
    assert member.folds is plan.folds and member.identity != plan.identity
    result = trainer.train_with_cv()
    assert [m.name for m in result.combined.members] == ["run", "tiny_bert", "linear"]
    assert len(trainer.create_submission().to_frame()) == 30


@pytest.mark.parametrize(("kaggle", "message"), [
    ({"seeds": 3}, "seeds are members, but enable_ensemble is false"),
    ({"backbones": ["x"]}, "backbones are members, but enable_ensemble is false"),
    ({"enable_ensemble": True, "ensemble_members": ["runs/a/oof/b.npz"], "bundle_dataset": "me/my-bundle"},
     "a bundle can have linear, gbm, .* and not runs/a/oof/b.npz"),
])
def test_what_does_not_go_together_is_refused(kaggle, message):
    with pytest.raises(ConfigError, match=message): load_config({"kaggle": kaggle})


def test_a_member_for_which_there_is_no_time_is_left_out_and_said(tmp_path, capsys):
    write_files(tmp_path)
    plan = create_kaggle_trainer(config=declaration(tmp_path, kaggle={"seeds": 2, "enable_ensemble": True})).plan()
    run, late = run_folds(plan, open_cv_folder(plan)), CVListener()
    late.deadline = time.perf_counter()
    assert train_members(plan, run, listener=late) == [] and "seed 2 is left out: the time is up" in capsys.readouterr().out
    assert len(train_members(plan, run)) == len(train_members(plan, run, listener=late)) == 1    # done already
