"""A fold is a job: it can be pickled, done in another process, and found finished on disk."""
import dataclasses
import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from tiny_competition import SMALL, declaration, write_files

from mlx_bert_training import create_kaggle_trainer
from mlx_bert_training.core.control import RunControl, RunStopped
from mlx_bert_training.core.run_folder import RunFolder
from mlx_bert_training.errors import DataError
from mlx_bert_training.parallel.executor import Shared, SharingError
from mlx_bert_training.stages.announce import CVListener
from mlx_bert_training.stages.augment import augment
from mlx_bert_training.stages.combine import combine
from mlx_bert_training.stages.cv import cross_validate
from mlx_bert_training.stages.decide import decide
from mlx_bert_training.stages.jobs import FoldJob, predict_fold, read_fold, train_fold
from mlx_bert_training.stages.plan import plan_folds
from mlx_bert_training.stages.relabel import choose_labels, relabel, with_labels
from mlx_bert_training.stages.run import open_cv_folder, run_folds
from mlx_bert_training.validation.oof import load_oof

MODEL = {"config": SMALL, "pooling": "mean", "dropout_rate": 0.1}
ELSEWHERE = """
    import pickle, sys
    pickle.load(open(sys.argv[1], "rb")).run()
"""


@pytest.fixture
def trainer(tmp_path):
    write_files(tmp_path)
    return create_kaggle_trainer(config=declaration(tmp_path, model=MODEL, kaggle={
        "enable_tta": True, "tta_kinds": ["word_dropout", "mc_dropout"], "tta_iterations": 1}))


def elsewhere(job, path):
    "Do a job in a new process."
    path.write_bytes(pickle.dumps(job))
    subprocess.run([sys.executable, "-c", textwrap.dedent(ELSEWHERE), str(path)], check=True, stdout=subprocess.DEVNULL)


def equal(one, other):
    return all(np.array_equal(a.predictions, b.predictions, equal_nan=True)
               and np.array_equal(a.test_predictions, b.test_predictions)
               for a, b in zip(one.oofs, other.oofs, strict=True))


def test_another_process_comes_to_the_same_bits(trainer, tmp_path):
    plan = trainer.plan()
    shared = Shared(plan, tmp_path / "shared")
    labels = choose_labels(plan, run_folds(plan, RunFolder(tmp_path / "first")))
    second = with_labels(plan)
    for its, added in ((shared, None), (Shared(second, tmp_path / "shared"), labels[1])):
        here = FoldJob(its, 1, RunFolder(tmp_path / "here").fold(0, 1, "x" if added else "folds"), added)
        there = dataclasses.replace(here, folder=RunFolder(tmp_path / "there").fold(0, 1, "x" if added else "folds"))
        elsewhere(there, tmp_path / "job.pickle")
        done = read_fold(there)
        assert done.skipped and len(done.oofs) == 3 and equal(here.run(), done)
        assert equal(there.run(), done)     # found finished, not run again


def test_a_pickle_of_a_job_is_small_and_what_is_shared_is_written_once(trainer, tmp_path):
    shared = Shared(trainer.plan(), tmp_path / "shared")
    sizes = [len(pickle.dumps(FoldJob(shared, i, RunFolder(tmp_path).fold(0, i)))) for i in range(3)]
    assert max(sizes) < 2000 < shared.path.stat().st_size and len(list((tmp_path / "shared").iterdir())) == 1


def test_a_callback_that_cannot_leave_is_named_before_anything_is_sent(tmp_path):
    write_files(tmp_path)
    config = declaration(tmp_path)
    trainer = create_kaggle_trainer(config=config)
    trainer.options["loss"] = lambda logits, labels: logits
    job = FoldJob(Shared(trainer.plan(), tmp_path / "shared"), 0, RunFolder(tmp_path).fold(0, 0))
    with pytest.raises(SharingError, match="cannot leave this process.*lambda"): pickle.dumps(job)
    assert not list((tmp_path / "shared").glob("*"))


def test_jobs_of_one_plan_do_not_share_a_model(trainer, tmp_path):
    plan = trainer.plan()
    jobs = [FoldJob(Shared(plan, tmp_path), i, RunFolder(tmp_path / "run").fold(0, i)) for i in range(2)]
    first, _ = train_fold(jobs[0])
    before = predict_fold(jobs[0], first)
    second, _ = train_fold(jobs[1])
    assert first.model is not second.model
    assert np.array_equal(predict_fold(jobs[0], first)[0].test_predictions, before[0].test_predictions)


def test_every_stage_can_be_called_alone(tmp_path):
    write_files(tmp_path)
    trainer = create_kaggle_trainer(config=declaration(tmp_path, model=MODEL, kaggle={
        "competition_metric": "f1", "enable_ensemble": True, "enable_pseudo_labeling": True, "enable_tta": True,
        "pseudo_label_threshold": 0.5, "tta_kinds": ["word_dropout"], "tta_iterations": 1, "threshold_search": True}))
    plan = plan_folds(trainer.config, trainer.model, trainer.data)
    folder = open_cv_folder(plan)
    run = run_folds(plan, folder)
    relabelled = relabel(plan, run)
    augmented = augment(plan, relabelled.run)
    combined = combine(plan, augmented.oof, folder)
    decision = decide(plan, combined.oof)
    result = cross_validate(plan)
    assert all(fold.skipped for fold in result.run.runs) and result.output_dir == folder.path
    assert np.array_equal(result.oof.predictions, combined.oof.predictions)
    assert np.array_equal(result.threshold.value, decision.search.value)
    for value in (plan, run, relabelled, augmented, combined, decision, result):
        with pytest.raises(dataclasses.FrozenInstanceError): value.folder = None


def test_values_varied_by_dropout_are_in_the_unit_of_the_file(tmp_path):
    "Prices around 100 000: a variant that is predicted with dropout is a price too."
    write_files(tmp_path, target=lambda rng, kinds, frame: 100_000 + 1000 * kinds + 900 * rng.normal(size=len(kinds)))
    trainer = create_kaggle_trainer(config=declaration(
        tmp_path, model={"config": SMALL, "head_type": "regression", "dropout_rate": 0.1}, kaggle={
            "competition_metric": "rmse", "enable_tta": True, "tta_kinds": ["mc_dropout"], "tta_iterations": 1}))
    plain, varied = trainer.train_with_cv().run.oofs
    assert np.abs(varied.predictions - plain.predictions).max() < 10_000 and plain.predictions.min() > 90_000


def test_a_stop_between_two_folds_ends_the_stage_and_what_is_done_is_kept(trainer, tmp_path):
    class Stop(CVListener):
        control = RunControl()
        def on_fold_end(self, runs): self.control.stop()
    folder = open_cv_folder(trainer.plan())
    with Stop.control.running(), pytest.raises(RunStopped, match="before fold 2 of 3"):
        run_folds(trainer.plan(), folder, listener=Stop())
    assert load_oof(folder.fold(0, 0).fold_predictions()).name == "fold-0-0"
    assert not list(folder.path.glob("shared-*"))


def test_what_cannot_be_planned_is_an_error_before_anything_is_trained(tmp_path):
    write_files(tmp_path)
    config = declaration(tmp_path, kaggle={"enable_pseudo_labeling": True})
    config["data"]["test_path"] = None
    trainer = create_kaggle_trainer(config=config)
    with pytest.raises(DataError, match="enable_pseudo_labeling needs test rows"): trainer.train_with_cv()
    assert not (tmp_path / "runs").exists()
