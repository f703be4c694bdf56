"""The plan: what cannot work is said before anything is trained, in the words of the file."""
import numpy as np
import pytest
from tiny_competition import declaration, write_files

from mlx_bert_training import create_kaggle_trainer
from mlx_bert_training.errors import DataError
from mlx_bert_training.stages.plan import check_folds
from mlx_bert_training.tasks.task import get_task
from mlx_bert_training.validation.folds import Folds, make_folds


def folds_of(numbers) -> Folds:
    numbers = np.asarray(numbers)
    return Folds(numbers[None], np.arange(len(numbers)), "kfold")


def test_a_class_is_named_as_the_file_does_where_it_has_fewer_rows_than_folds(tmp_path):
    def target(rng, kinds, frame):
        names = np.array(["good", "bad"], dtype=object)[kinds % 2]
        names[3] = "rare"
        return names
    write_files(tmp_path, target=target)
    config = declaration(tmp_path, model={"head_type": "multiclass"}, kaggle={"competition_metric": "accuracy"})
    with pytest.raises(DataError, match="class 'rare' has 1 row, fewer than 3 folds. Give it more, join") as caught:
        create_kaggle_trainer(config=config).plan()
    assert "n_folds" not in str(caught.value)       # no number of folds would do
    plan = create_kaggle_trainer(config=config, cv_strategy="kfold").plan()
    assert plan.folds.strategy == "kfold" and "rare" in plan.class_names


@pytest.mark.parametrize("metric, task, targets, message", [
    ("auc", "binary", [0, 1, 0, 1, 1, 1],
     "fold 2 of 2: auc is undefined on its 2 rows, which have 'yes'; ask for fewer"),
    ("accuracy", "binary", [0, 0, 1, 1, 0, 0], None),
    ("accuracy", "binary", [0, 1, 0, 0, 0, 0], "fold 1 of 2: all of its 4 training rows have the same target"),
    ("r2", "regression", [1.0, 2.0, 3.0, 4.0, 5.0, 5.0], "fold 2 of 2: r2 is undefined on its 2 rows, which have 5.0"),
    ("rmse", "regression", [1.0, 2.0, 3.0, 4.0, 5.0, 5.0], None),
])
def test_folds_without_a_lesson_or_a_score_are_errors(metric, task, targets, message):
    folds, names = folds_of([0, 0, -1, -1, 1, 1]), ["no", "yes"] if task == "binary" else None
    if message is None: return check_folds(folds, np.array(targets), get_task(task), metric, names)
    with pytest.raises(DataError, match=message): check_folds(folds, np.array(targets), get_task(task), metric, names)


def test_a_class_that_a_fold_does_not_train_on_is_said(caplog):
    targets = np.array([0, 2, 0, 1, 1, 0])
    check_folds(folds_of([0, 0, 1, 1, 2, 2]), targets, get_task("multiclass"), "accuracy", list("abc"))
    assert caplog.messages == ["fold 1 of 3 trains without class 'c'"]


def test_kinds_of_a_declaration_take_options(tmp_path):
    write_files(tmp_path)
    config = declaration(tmp_path, kaggle={
        "cv_strategy": {"type": "kfold"}, "enable_ensemble": True, "ensemble_keep": "always",
        "ensemble_method": {"type": "hill_climbing", "options": {"rounds": 3}},
        "ensemble_members": [{"type": "linear"}]})
    result = create_kaggle_trainer(config=config).train_with_cv()
    assert result.folds.strategy == "kfold" and result.ensemble.method == "hill_climbing"
    shares = result.ensemble.weights.values()
    assert all(round(6 * share, 6).is_integer() for share in shares)     # of one, two or three rounds
    again = make_folds(result.oof.targets, "kfold", 3, task="binary", row_ids=result.oof.row_ids)
    assert again.hash == result.folds.hash


def test_what_changes_no_prediction_is_no_other_cross_validation(tmp_path):
    write_files(tmp_path)

    def known_as(**optimizer) -> str:
        made = declaration(tmp_path)
        made["optimizer"] = {**made.get("optimizer", {}), **optimizer}
        return create_kaggle_trainer(config=made).plan().identity

    assert known_as(in_place=True) == known_as() != known_as(learning_rate=0.5)
