"""Each competition's preset runs from files of that shape to a submission in the form of the sample."""
from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pytest

from mlx_bert_training.declaration.load import list_presets, load_config
from mlx_bert_training.factory import create_kaggle_trainer
from mlx_bert_training.kaggle.draft import draft, preset_table
from mlx_bert_training.run import run_competition

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
WORDS = "amber birch cedar delta ember fjord grove heath islet jetty knoll ledge".split()
TOXIC = ["toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate"]


ESSAY = ["cohesion", "syntax", "vocabulary", "phraseology", "grammar", "conventions"]
QUEST = load_config("google_quest").data.target_column


def text(rng, size=8): return " ".join(rng.choice(WORDS, size))
def binary(rng): return int(rng.integers(0, 2))


@dataclass
class Shape:
    "Columns of a competition's files, each with what makes a cell."
    train: dict                     # in both files, but for the targets
    targets: dict                   # in the training file
    sample: list                    # columns of the sample submission, id first
    id: str = "id"
    test_id: str = ""               # where the test file calls the id otherwise
    names: tuple = ("train.csv", "test.csv")
    only_train: dict = field(default_factory=dict)


SHAPES = {
    "commonlit_readability": Shape(
        {"url_legal": lambda r: "", "license": lambda r: "", "excerpt": lambda r: text(r, 30)},
        {"target": lambda r: r.normal(-1, 1)}, ["id", "target"], only_train={"standard_error": lambda r: 0.5}),
    "jigsaw_toxic_comments": Shape({"comment_text": text}, dict.fromkeys(TOXIC, binary), ["id", *TOXIC]),
    "feedback_prize_english_language_learning": Shape(
        {"full_text": lambda r: text(r, 40)}, {name: lambda r: r.integers(2, 11) / 2 for name in ESSAY},
        ["text_id", *ESSAY], id="text_id"),
    "google_quest": Shape(
        {"question_title": lambda r: text(r, 2), "question_body": lambda r: text(r, 20),
         "question_user_name": text, "question_user_page": text, "answer": lambda r: text(r, 20),
         "answer_user_name": text, "answer_user_page": text, "url": text, "category": lambda r: "TECHNOLOGY",
         "host": lambda r: "stackoverflow.com"},
        {name: lambda r: r.choice([0, 1 / 3, 0.5, 2 / 3, 1]) for name in QUEST}, ["qa_id", *QUEST], id="qa_id"),
    "quora_question_pairs": Shape(
        {"question1": text, "question2": text}, {"is_duplicate": binary}, ["test_id", "is_duplicate"],
        test_id="test_id", only_train={"qid1": lambda r: r.integers(1e6), "qid2": lambda r: r.integers(1e6)}),
    "quora_insincere_questions": Shape({"question_text": text}, {"target": binary}, ["qid", "prediction"], id="qid"),
    "us_patent_phrases": Shape(
        {"anchor": lambda r: r.choice(WORDS), "target": text, "context": lambda r: r.choice(["A47", "H01", "B60"])},
        {"score": lambda r: r.choice([0, 0.25, 0.5, 0.75, 1])}, ["id", "score"]),
    "automated_essay_scoring_2": Shape({"full_text": lambda r: text(r, 40)}, {"score": lambda r: r.integers(1, 7)},
                                       ["essay_id", "score"], id="essay_id"),
    "contradictory_my_dear_watson": Shape(
        {"premise": text, "hypothesis": text, "lang_abv": lambda r: "en", "language": lambda r: "English"},
        {"label": lambda r: r.integers(0, 3)}, ["id", "prediction"]),
    "llm_detect_ai_text": Shape({"prompt_id": binary, "text": lambda r: text(r, 30)}, {"generated": binary},
                                ["id", "generated"], names=("train_essays.csv", "test_essays.csv")),
    "playground_s4e1": Shape(
        {"CustomerId": lambda r: r.integers(1e6), "Surname": lambda r: r.choice(WORDS),
         "CreditScore": lambda r: r.integers(300, 850), "Geography": lambda r: r.choice(["France", "Spain"]),
         "Gender": lambda r: r.choice(["Male", "Female"]), "Age": lambda r: float(r.integers(18, 90)),
         "Tenure": lambda r: r.integers(0, 10), "Balance": lambda r: r.random() * 1e5,
         "NumOfProducts": lambda r: r.integers(1, 5), "HasCrCard": binary, "IsActiveMember": binary,
         "EstimatedSalary": lambda r: r.random() * 1e5}, {"Exited": binary}, ["id", "Exited"]),
}


def write_files(folder, shape: Shape, n=60, m=12):
    rng = np.random.default_rng(0)
    numbers = shape.test_id != ""
    ids = list(range(n + m)) if numbers else [f"{i:08x}" for i in range(n + m)]
    both = pd.DataFrame({name: [make(rng) for _ in range(n + m)] for name, make in shape.train.items()})
    train = both[:n].assign(**{name: [make(rng) for _ in range(n)]
                               for name, make in {**shape.only_train, **shape.targets}.items()})
    train.insert(0, shape.id, ids[:n])
    test = both[n:].reset_index(drop=True)
    test.insert(0, shape.test_id or shape.id, ids[:m] if numbers else ids[n:])
    train.to_csv(folder / shape.names[0], index=False)
    test.to_csv(folder / shape.names[1], index=False)
    sample = pd.DataFrame({shape.sample[0]: test.iloc[:, 0]})
    first = 1 if shape.sample == ["essay_id", "score"] else 0
    for name in shape.sample[1:]: sample[name] = first if name in ("prediction", "score") else 0.5
    if shape.sample[1] == "score" and first == 0: sample["score"] = 0.0
    sample.to_csv(folder / "sample_submission.csv", index=False)
    return sample


@pytest.mark.parametrize("preset", SHAPES)
def test_from_files_of_that_shape_to_a_submission(preset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert f"competitions/{preset}" in list_presets() or preset in list_presets()
    sample = write_files(tmp_path, SHAPES[preset])
    done = run_competition(preset, **{
        "model.pretrained": None, "model.config": SMALL, "data.max_length": 24, "data.num_workers": 0,
        "data.batch_size": 16, "training.num_epochs": 1, "training.save_strategy": "no", "environment.device": "cpu",
        "environment.compile": False, "environment.output_dir": str(tmp_path / "runs"), "kaggle.cv_folds": 2,
        "kaggle.data_dir": str(tmp_path), "kaggle.save_fold_models": False,
        "kaggle.submission_dir": str(tmp_path / "submissions"),
        "kaggle.allow_constant": True})     # there is nothing to learn in random words
    table = pd.read_csv(done.submission, dtype={sample.columns[0]: sample[sample.columns[0]].dtype})
    assert list(table.columns) == list(sample.columns)
    assert table[table.columns[0]].astype(str).tolist() == sample[sample.columns[0]].astype(str).tolist()
    assert table.notna().all(axis=None) and np.isfinite(done.result.mean)


def test_three_essays_of_all_are_generated(tmp_path, monkeypatch):
    "As in the competition's own file: each fold of the preset judges one of them."
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path, SHAPES["llm_detect_ai_text"])
    essays = pd.read_csv(tmp_path / "train_essays.csv", dtype={"id": str})
    essays.assign(generated=[int(i in (5, 25, 45)) for i in range(len(essays))]).to_csv(
        tmp_path / "train_essays.csv", index=False)
    trainer = create_kaggle_trainer(config="llm_detect_ai_text", **{
        "model.pretrained": None, "model.config": SMALL, "data.max_length": 24, "data.num_workers": 0,
        "environment.device": "cpu", "environment.output_dir": str(tmp_path / "runs"),
        "kaggle.data_dir": str(tmp_path)})
    plan = trainer.plan()
    labels = np.asarray(plan.train.labels)
    assert [int(labels[held].sum()) for _, held in (plan.folds[i] for i in range(len(plan.folds)))] == [1, 1, 1]


def test_thirty_targets_and_what_is_scored_of_them(tmp_path):
    assert len(QUEST) == len(set(QUEST)) == 30
    table = preset_table()
    assert table.loc["google_quest", ["task", "metric"]].tolist() == ["multi_target_regression", "spearman"]
    assert table.loc["feedback_prize_english_language_learning", "metric"] == "mcrmse"


def test_a_draft_of_several_numbers(tmp_path):
    write_files(tmp_path, SHAPES["feedback_prize_english_language_learning"])
    (tmp_path / "made.yaml").write_text(draft(tmp_path, "some-essays"))
    config = load_config(tmp_path / "made.yaml")
    assert (config.model.head_type, config.data.target_column) == ("multi_target_regression", ESSAY)
