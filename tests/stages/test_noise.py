"""Fold 0 with other seeds: found again on disk, the same as ever, and shown beside each gain."""
import json
import shutil
import time

import numpy as np
import pytest
from tiny_competition import declaration, write_files

from mlx_bert_training.declaration.load import load_config
from mlx_bert_training.factory import create_kaggle_trainer
from mlx_bert_training.kaggle.time_budget import passes
from mlx_bert_training.stages.announce import CVListener
from mlx_bert_training.stages.noise import SeedNoise, seed_noise


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("noise")
    write_files(folder)
    return folder


def run(folder, **kaggle):
    made = {"kaggle": {"enable_ensemble": True, **kaggle}, "model": {"dropout_rate": 0.1}}
    return create_kaggle_trainer(config=declaration(folder, **made)).train_with_cv()


def test_the_spread_of_seeds_stands_beside_each_gain(folder):
    result = run(folder, noise_runs=3)
    noise = result.noise
    assert len(noise.scores) == 4 and noise.scores[0] == result.run.runs[0].facts["score"] and noise.folds == 3
    assert len(set(noise.scores)) > 1       # other seeds, other scores
    assert (result.to_frame()["seed noise"] == noise.bar).all() and "seed noise" in str(result)
    labels = result.plot().axes[0].get_legend_handles_labels()[1]
    assert "seed noise" in labels
    kept = json.loads((result.output_dir / "cv.json").read_text())
    assert kept["noise"] == {"scores": list(noise.scores), "bar": noise.bar}
    assert kept["scores"][1]["seed noise"] == noise.bar
    seeds = sorted(path.name for path in (result.output_dir / "noise").iterdir())
    assert seeds == ["fold-1-0", "fold-2-0", "fold-3-0"]
    assert not list((result.output_dir / "noise").rglob("*.safetensors"))   # nothing but the score is of use


def test_more_seeds_later_keep_those_that_are_there(folder):
    first = run(folder, noise_runs=3)
    before = {path: path.stat().st_mtime_ns for path in (first.output_dir / "noise").rglob("fold.json")}
    more = run(folder, noise_runs=4)
    assert more.output_dir == first.output_dir and more.noise.scores[:4] == first.noise.scores
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    without = run(folder)
    assert without.noise is None and "seed noise" not in without.to_frame()
    assert np.array_equal(without.oof.predictions, first.oof.predictions)       # the run itself is the same


class Until(CVListener):
    "The time is up after so many seconds."

    def __init__(self, seconds): self.deadline = time.perf_counter() + seconds


def test_no_seed_begins_that_would_end_after_the_deadline(tmp_path, capsys):
    write_files(tmp_path)
    first = run(tmp_path, noise_runs=2)
    plan = create_kaggle_trainer(config=declaration(
        tmp_path, kaggle={"enable_ensemble": True, "noise_runs": 4}, model={"dropout_rate": 0.1})).plan()
    found = seed_noise(plan, first.run, listener=Until(0.0))
    assert found.scores == first.noise.scores       # those that are done take no time
    assert "seed noise: the time is up after 2 of 4 seeds" in capsys.readouterr().out
    shutil.rmtree(first.output_dir / "noise")
    assert seed_noise(plan, first.run, listener=Until(0.0)) is None
    assert not list((first.output_dir / "noise").rglob("fold.json"))
    assert len(seed_noise(plan, first.run, listener=Until(1e6)).scores) == 5


def test_the_time_of_other_seeds_is_counted_in_the_folds_that_are_chosen():
    config = load_config({"kaggle": {"noise_runs": 4, "cv_folds": 5, "time_budget": "1h"}})
    assert (passes(config, 5), passes(config, 2)) == (1.8, 3.0)


def test_the_bar_holds_what_it_says():
    "Two means over five folds that differ by chance alone lie within the bar in 95 of 100 cases."
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(2000):
        seeds = rng.normal(0.8, 0.01, 4)
        one, other = rng.normal(0.8, 0.01, (2, 5)).mean(1)
        inside.append(abs(one - other) < SeedNoise("auc", tuple(seeds), 5).bar)
    assert 0.935 < np.mean(inside) < 0.965
