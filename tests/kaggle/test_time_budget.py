"""A run takes no longer than its time: fewer members, epochs and folds, folds that are left out, and a clock."""
import json
import time

import numpy as np
import pytest
from finished_runs import make_encoder
from tiny_competition import declaration, write_files

from mlx_bert_training.core.control import RunStopped
from mlx_bert_training.declaration.load import load_config
from mlx_bert_training.declaration.problems import ConfigError
from mlx_bert_training.factory import create_kaggle_trainer
from mlx_bert_training.kaggle import time_budget
from mlx_bert_training.kaggle.time_budget import allowed, choices
from mlx_bert_training.stages.budget import Speed
from mlx_bert_training.stages.partner_costs import PartnerCost, measure_partner


@pytest.fixture
def folder(tmp_path):
    write_files(tmp_path, n=240)
    return tmp_path


def trainer(folder, epochs=3, **kaggle):
    made = declaration(folder, kaggle={"cv_folds": 4, **kaggle}, training={"num_epochs": epochs, "save_strategy": "no"})
    return create_kaggle_trainer(config=made)


def speed_of(monkeypatch, tokens):
    "A machine as fast as that, whatever runs beside the test."
    calls = []
    def measured(*args): return calls.append(1) or Speed("model", tokens, 0.0, 8.0)
    monkeypatch.setattr(time_budget, "measure_speed", measured)
    return calls


def test_what_fits_is_kept_as_declared_and_said(folder, monkeypatch, capsys):
    speed_of(monkeypatch, 1e6)
    result = trainer(folder, time_budget="2m").train_with_cv()
    assert result.folds.n_folds == 4 and result.run.runs[0].facts["epochs"] == 3
    said = capsys.readouterr().out
    assert "speed: 1,000,000 tokens/s" in said and "4 folds of 3 epochs" in said and "as declared" in said


def test_less_is_chosen_recorded_and_found_again(folder, monkeypatch, capsys):
    calls = speed_of(monkeypatch, 110.0)
    first = trainer(folder, time_budget="2m")
    result = first.train_with_cv()
    chosen = json.loads((result.output_dir / "time_budget.json").read_text())
    assert (chosen["folds"], chosen["epochs"]) == (2, 2) == (result.folds.n_folds, result.run.runs[0].facts["epochs"])
    assert "because the declared 4 folds of 3 epochs take about" in capsys.readouterr().out
    kept = load_config(result.output_dir / "config.yaml")
    assert (kept.kaggle.cv_folds, kept.training.num_epochs) == (2, 2)       # the record says what was computed
    speed_of(monkeypatch, 1e6)      # a quicker day does not make another run of it
    again = trainer(folder, time_budget="2m").train_with_cv()
    assert again.output_dir == result.output_dir and all(run.skipped for run in again.run.runs) and len(calls) == 1
    assert np.array_equal(again.oof.predictions, result.oof.predictions)
    more = trainer(folder, time_budget="3m").train_with_cv()        # another time is another choice
    assert more.run.runs[0].facts["epochs"] == 3 and more.output_dir != result.output_dir


def test_a_time_into_which_nothing_fits_is_refused_before_training(folder, monkeypatch):
    speed_of(monkeypatch, 20.0)
    with pytest.raises(ConfigError, match=r"(?s)time_budget.*2 folds of 1 epoch take about .*max_train_rows"):
        trainer(folder, time_budget="2m").train_with_cv()
    assert not (folder / "runs").exists()
    with pytest.raises(ConfigError, match="no length of time"): load_config({"kaggle": {"time_budget": "soon"}})


def test_folds_of_a_file_are_not_cut():
    assert {folds for folds, _ in allowed(5, 4)} == {5, 3, 2}
    assert allowed(5, 3, settled=True) == [(5, 3), (5, 2), (5, 1)]
    config = load_config({"kaggle": {"folds_path": "folds.csv", "time_budget": "2m"}})
    assert {choice.folds for choice in choices(config, [], 100)} == {5}


def slow_folds(monkeypatch, seconds):
    "Folds that take so long, as where the machine is busy all of a sudden."
    from mlx_bert_training.stages import jobs
    original = jobs.predict_fold

    def slow(*args):
        time.sleep(seconds)
        return original(*args)
    monkeypatch.setattr(jobs, "predict_fold", slow)


def test_folds_that_take_longer_than_foreseen_are_left_out(folder, monkeypatch):
    speed_of(monkeypatch, 1e6)
    slow_folds(monkeypatch, 3)
    began = time.perf_counter()
    trainer_ = trainer(folder, epochs=1, time_budget="14s", enable_ensemble=True, save_fold_models=True)
    result = trainer_.train_with_cv()
    assert time.perf_counter() - began < 1.1 * 14
    done = len(result.run.runs)
    assert 2 <= done < 4 and any(f"the time was up after {done} of 4 folds" in note for note in result.notes)
    scored = result.oof.folds >= 0
    assert scored.sum() == sum(run.facts["validation"] for run in result.run.runs) and np.isfinite(result.mean)
    assert len(result.score.values) == done and f"{done} of 4 folds" in str(result)
    assert np.isfinite(result.test_predictions).all() and trainer_.create_submission().path.is_file()
    from mlx_bert_training.kaggle.bundle import bundle
    assert len(bundle(result.output_dir, folder / "bundle", wheels=False).facts["models"]) == done


def test_the_clock_stops_a_fold_that_does_not_end(folder, monkeypatch):
    speed_of(monkeypatch, 1e9)
    began = time.perf_counter()
    with pytest.raises(RunStopped, match="goes on from there"):
        trainer(folder, epochs=2000, time_budget="6s").train_with_cv()
    assert time.perf_counter() - began < 1.1 * 6 + 1


def test_members_that_do_not_fit_are_left_out_in_order_and_said(folder, monkeypatch, capsys):
    make_encoder(folder / "tiny")
    speed_of(monkeypatch, 120.0)        # two models fit into ten minutes, three do not
    made = {"time_budget": "10m", "enable_ensemble": True, "ensemble_keep": "always", "seeds": 2,
            "backbones": [str(folder / "tiny")], "ensemble_weights": [4, 3, 2, 1]}
    first = trainer(folder, **made)
    result = first.train_with_cv()
    assert [member.name for member in result.combined.members] == ["run", "tiny", "linear"]
    assert result.ensemble.weights == pytest.approx({"run": 4 / 7, "tiny": 2 / 7, "linear": 1 / 7})
    said = capsys.readouterr().out
    assert "left out for want of time: seed 2 (about 152 s)" in said and "4 folds of 3 epochs with all members" in said
    kept = load_config(result.output_dir / "config.yaml").kaggle
    assert (kept.seeds, len(kept.backbones), kept.ensemble_weights) == (1, 1, [4, 2, 1])
    speed_of(monkeypatch, 1e6)      # going on, by the first declaration or by that of the run, is the same run
    again = trainer(folder, **made).train_with_cv()
    assert again.output_dir == result.output_dir and np.array_equal(again.oof.predictions, result.oof.predictions)
    more = trainer(folder, **made, ensemble_members=["linear", "chars"])
    assert len(time_budget.plan_time(more.declared, more.model, more.data, time.perf_counter(), more.backbones)
               .members["ensemble_members"]) == 2       # other members are another choice


def test_what_is_left_out_first_is_worth_least():
    config = load_config({"kaggle": {"time_budget": "1h", "enable_ensemble": True, "seeds": 3, "backbones": ["a", "b"],
                                     "cv_folds": 5, "ensemble_members": ["linear", "gbm", "chars"]},
                          "training": {"num_epochs": 3}})
    costs = [PartnerCost(fit=seconds) for seconds in (1.0, 9.0, 3.0)]
    every = list(time_budget.choices(config, costs, 1000))
    assert [(c.seeds, c.backbones) for c in every[:5]] == [
        (3, ("a", "b")), (2, ("a", "b")), (1, ("a", "b")), (1, ("a",)), (1, ())]
    assert all((c.folds, c.epochs, c.partners) == (5, 3, (0, 1, 2)) for c in every[:5])
    assert [(c.folds, c.epochs) for c in every[5:]] == [(5, 2), (3, 3), (3, 2), (2, 2), (2, 1), (2, 1), (2, 1)]
    assert [c.partners for c in every[-2:]] == [(0, 2), (0,)]       # the dearest first, and one stays
    seconds = [time_budget.Costs(Speed("m", 500.0, 2.0, 40.0), 1000, 100, {name: Speed(name, 250.0, 2.0, 40.0)
               for name in "ab"}, costs).seconds(config, choice) for choice in every]
    assert seconds == sorted(seconds, reverse=True)


def test_weights_stay_with_their_members():
    config = load_config({"kaggle": {"enable_ensemble": True, "seeds": 2, "backbones": ["a"], "time_budget": "1h",
                                     "ensemble_weights": [5, 4, 3, 2]}})      # the last is of the linear partner
    chosen = time_budget.Choice(5, 3, 1, (), (0,)).members(config)
    assert chosen == {"seeds": 1, "backbones": [], "ensemble_members": [], "ensemble_weights": [5, 2]}


TREES = {"type": "gbm", "options": {"options": {"max_iter": 5}}}


@pytest.mark.parametrize("partner", ["linear", "chars", "nbsvm", TREES])
def test_a_partner_is_tried_on_few_rows(folder, partner):
    data = trainer(folder).data
    cost = measure_partner(partner, data, Speed("model", 100.0, 0.0, 8.0))
    assert cost.once == 0 and 0 < cost.seconds(4, 240) < 120
    assert measure_partner("knn", data, Speed("model", 100.0, 0.0, 8.0)).seconds(4, 240) == pytest.approx(8 * 270 / 300)
