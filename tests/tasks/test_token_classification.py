"""Tags of words: spans as seqeval has them, labels at first tokens, words that get lost, and a tagger that learns."""
import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities

from mlx_bert_training.core.evaluator import run_all
from mlx_bert_training.data.conll import conll_rows
from mlx_bert_training.data.frames import read_frame
from mlx_bert_training.data.loader import BucketedLoader, TextDataset
from mlx_bert_training.data.prepare import prepare
from mlx_bert_training.data.tokenization import tiny_tokenizer
from mlx_bert_training.declaration.load import load_config
from mlx_bert_training.declaration.problems import ConfigError
from mlx_bert_training.errors import DataError, MLXBertError, UnknownNameError
from mlx_bert_training.models import create_model
from mlx_bert_training.models.layers import ModelError
from mlx_bert_training.run import load, run_training
from mlx_bert_training.tasks.losses import create_loss
from mlx_bert_training.tasks.metrics import MetricError, check_metrics, compute_metrics
from mlx_bert_training.tasks.span_metrics import count_spans
from mlx_bert_training.tasks.task import get_task
from mlx_bert_training.tasks.token_classification import TokenClassification
from mlx_bert_training.tasks.words import IGNORED, NO_ANSWER, SplitText, spans_of, split_words
from mlx_bert_training.widgets.error_report import ErrorReport

REFERENCE = json.loads((Path(__file__).parents[1] / "fixtures" / "losses.json").read_text())
NAMES = ["O", "B-a", "I-a", "B-b", "I-b", "B-c", "I-c"]
SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
TAGS = st.lists(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12), min_size=1,
                max_size=6)


@settings(max_examples=300)
@given(TAGS)
def test_spans_and_their_scores_are_those_of_seqeval(rows):
    true, guess = ([[NAMES[pair[i]] for pair in row] for row in rows] for i in (0, 1))
    for row in guess:
        spans = [(NAMES[2 * kind + 1][2:], first, last - 1) for kind, first, last in spans_of(map(NAMES.index, row))]
        assert spans == get_entities(row)
    width = max(map(len, rows))
    y, p = (np.array([[NAMES.index(tag) for tag in row] + [IGNORED] * (width - len(row)) for row in side])
            for side in (true, guess))
    counts = count_spans(y, np.where(p == IGNORED, 1, p))     # what is decided beyond the words does not count
    expected = [score(true, guess, zero_division=0) for score in (precision_score, recall_score, f1_score)]
    assert [counts.precision, counts.recall, counts.f1] == pytest.approx(expected)


@pytest.mark.parametrize(("case", "options"), [("cross_entropy", {}), 
                                               ("cross_entropy_smooth", {"label_smoothing": 0.1}),
                                               ("cross_entropy_weighted", {"class_weights": REFERENCE["weights"]})])
def test_the_loss_is_torchs_over_the_words(case, options):
    "The twelve rows of the reference as tokens of three texts, with tokens between them that do not count."
    logits, labels = mx.array(REFERENCE["logits"]).reshape(3, 4, 4), mx.array(REFERENCE["labels"]).reshape(3, 4)
    logits = mx.concatenate([logits, mx.full((3, 2, 4), 50.0)], axis=1)
    labels = mx.concatenate([labels, mx.full((3, 2), IGNORED)], axis=1)
    loss = create_loss(task="token", **options)

    def mean(x):
        value, weight = loss(x, labels)
        return (value * weight).sum() / weight.sum()
    value, gradient = mx.value_and_grad(mean)(logits)
    assert value.item() == pytest.approx(REFERENCE["cases"][case]["loss"], abs=1e-5)
    expected = np.reshape(REFERENCE["cases"][case]["gradient"], (3, 4, 4))
    np.testing.assert_allclose(np.array(gradient[:, :4]), expected, atol=1e-5)
    assert not gradient[:, 4:].any().item()


def test_a_text_without_a_label_costs_nothing():
    value, weight = create_loss(task="token")(mx.ones((1, 3, 2)), mx.full((1, 3), IGNORED))
    assert value.tolist() == weight.tolist() == [0.0]


class ByPlace:
    "Logits that say where a token stands."
    def __call__(self, batch):
        places = np.broadcast_to(np.arange(batch["input_ids"].shape[1]), batch["input_ids"].shape)
        return np.stack([places, batch["input_ids"]], axis=-1).astype(np.float32), 0.0, 0.0


def test_words_that_vanish_or_are_cut_off_have_no_answer():
    texts = [SplitText.of(words) for words in (["one", "\u200d", "three"], ["a"] * 9, ["two"])]
    tokenizer = tiny_tokenizer(["one three two a"])
    encoded = tokenizer.encode(texts, max_length=7)
    assert encoded.word.tolist()[:4] == [-1, 0, 2, -1] and encoded.truncated.tolist() == [False, True, False]
    labels = np.full((3, 9), IGNORED)
    for row, text in enumerate(texts): labels[row, :len(text.words)] = range(len(text.words))
    loader = BucketedLoader(TextDataset(encoded, labels, texts=texts), batch_size=2)
    for batch in loader:
        at_tokens = batch["labels"][batch["word"] >= 0]
        assert at_tokens.tolist() == batch["word"][batch["word"] >= 0].tolist()    # here a label is its word's number
    outputs = run_all(ByPlace(), loader)
    assert outputs.logits.shape == (3, 9, 2) and (outputs.labels == labels).all()
    assert outputs.logits[0, :3, 0].tolist()[::2] == [1.0, 2.0] and np.isnan(outputs.logits[0, 1]).all()
    assert np.isnan(outputs.logits[1, 5:]).all() and not np.isnan(outputs.logits[1, :5]).any()
    task = TokenClassification()
    assert task.decide(task.predictions(outputs.logits))[1, 5:].tolist() == [NO_ANSWER] * 4
    with pytest.raises(DataError, match="2 texts for 3 texts"): TextDataset(encoded, texts=texts[:2])


def test_tokens_are_those_of_the_text():
    "A text of words separated by spaces has the tokens that it has word by word."
    tokenizer = tiny_tokenizer(["the cat sat here, on the mat's end"])
    text = "the catty sat here , on"
    assert tokenizer.encode([text]).ids.tolist() == tokenizer.encode([SplitText.of(text.split())]).ids.tolist()


@pytest.mark.parametrize("text", ["", "a", "Hello, world!", "(She's) in St. Gallen: 9:30!", "x  y\n\nz"])
def test_words_of_running_text_stand_in_it(text):
    found = split_words(text)
    assert found == text and [text[a:b] for a, b in found.places] == list(found.words)
    assert "".join(found.words) == "".join(text.split())


def test_conll_files(tmp_path):
    path = tmp_path / "a.conll"
    path.write_text("\n\nEU\tB-org\n\u00a0\tO\r\n\t\nPeter\tB-per\n\t\n\t\nx\tO\n")
    assert [line for line, _ in conll_rows(path, "utf-8")] == [3, 6, 9]
    frame = read_frame(path)
    assert frame["tokens"].tolist() == [["EU", "\u00a0"], ["Peter"], ["x"]]
    path.write_text("EU B-org\n\nPeter B-per\nBlackburn\n")
    with pytest.raises(DataError, match=r"a\.conll, line 4: 1 cells where the first line has 2"): read_frame(path)
    path.write_text("EU\nrejects\n")
    assert read_frame(path).columns.tolist() == ["tokens"]
    path.write_text("\n\n")
    with pytest.raises(DataError, match="empty"): read_frame(path)


@pytest.mark.parametrize(("rows", "message"), [
    ([{"tokens": ["a", "b"], "tags": ["O", "B-x"]}, {"tokens": ["a"], "tags": ["O", "O"]}],
     "line 2: 1 words and 2 tags"),
    ([{"tokens": ["a", "b"], "tags": ["O", "S-x"]}] * 2, "'S-x' is none of O, B-kind and I-kind"),
    ([{"tokens": ["a"], "tags": ["O"]}] * 2, "only one tag"),
    ([{"tokens": ["a"], "tags": ["B-x"]}, {"tokens": [], "tags": []}],
     "line 2, column 'tokens': the text has no words"),
    ([{"tokens": ["a"], "tags": ["B-x"]}, {"tokens": 3, "tags": ["O"]}],
     "line 2, column 'tokens': '3' holds no words"),
    ([{"tokens": ["a"], "tags": ["B-x"]}, {"tokens": ["a"], "tags": None}],
     "line 2, column 'tags': the tags are missing"),
    ([{"tokens": ["a"], "tags": ["B-x"]}, {"tokens": [7], "tags": ["O"]}],
     "line 2, column 'tokens': 7 is no word"),
])
def test_a_wrong_row_is_named(tmp_path, rows, message):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = load_config({"model": {"head_type": "token"}, "data": {
        "train_path": str(tmp_path / "a.jsonl"), "text_column": "tokens", "target_column": "tags",
        "validation_fraction": 0}, "training": {"eval_strategy": "no"}})
    with pytest.raises(DataError, match=message): prepare(config)


@pytest.mark.parametrize(("settings_", "message"), [
    ({"data": {"template": "{a}"}}, "needs words: set data.text_column"),
    ({"data": {"text_column": "a", "text_pair_column": "b"}}, "needs words"),
    ({"model": {"pooling": "mean"}}, "reads every token; set it to null"),
    ({"training": {"loss": "focal"}}, "which has auto, token_cross_entropy"),
])
def test_what_does_not_suit_is_refused(settings_, message):
    settings_ = {**settings_, "model": {"head_type": "token", **settings_.get("model", {})}}
    with pytest.raises(ConfigError, match=message): load_config(settings_)


def test_metrics_of_texts_do_not_fit_and_spans_need_a_scheme():
    with pytest.raises(MetricError, match="these do: span_f1, span_precision, span_recall, word_accuracy"):
        check_metrics(["f1"], "token")
    plain = {"type": "token", "options": {"scheme": "plain"}}
    with pytest.raises(MetricError, match="these do: word_accuracy"): check_metrics(["span_f1"], plain)
    with pytest.raises(MetricError): check_metrics(["span_f1"], "multiclass")
    with pytest.raises(UnknownNameError, match="Did you mean 'bio'"): TokenClassification(scheme="bi")
    assert get_task(TokenClassification(scheme="plain").spec).scheme == "plain"


def test_a_missed_word_counts_as_wrong():
    p = np.full((1, 3, 3), np.nan)
    p[0, 0] = [0.1, 0.8, 0.1]
    scores = compute_metrics(["word_accuracy", "span_recall"], "token", p, np.array([[1, 0, 1]]))
    assert scores == {"word_accuracy": pytest.approx(1 / 3), "span_recall": 0.5}


def test_a_saved_tagger_is_transformers_class_and_reads_every_token(tmp_path):
    model = create_model(config={**SMALL, "vocab_size": 30}, head_type="token", label_names=NAMES)
    assert model(mx.zeros((2, 5), mx.int32)).shape == (2, 5, 7) and model.pooling_name == "none"
    model.save_pretrained(tmp_path)
    said = json.loads((tmp_path / "config.json").read_text())
    assert said["architectures"] == ["BertForTokenClassification"] and said["problem_type"] is None
    said.pop("head_type"), said.pop("pooling")      # as others save it
    (tmp_path / "config.json").write_text(json.dumps(said))
    again = create_model(pretrained=tmp_path)
    assert (again.head_type, again.label_names, again.pooling_name) == ("token_classification", NAMES, "none")
    with pytest.raises(ModelError, match="reads every token"):
        create_model(head_type="token", num_labels=3, pooling="max")
    with pytest.raises(MLXBertError, match="head_type"):
        create_model(pretrained=tmp_path, head_type="multiclass", num_labels=7)


def tagged_rows(n, seed=0):
    "Texts in which a word after `in` is a place, two words when the first is `new`; a colour is never one."
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        place = [["ulm"], ["new", "york"], ["paris"]][rng.integers(3)]
        before = [["we", "are"], ["red", "paris", "is"], ["the", "new", "one", "is"]][rng.integers(3)]
        rows.append({"tokens": [*before, "in", *place, "."],
                     "tags": [*["O"] * (len(before) + 1), "B-place", *["I-place"] * (len(place) - 1), "O"]})
    return rows


def test_a_tagger_learns_and_gives_spans(tmp_path):
    for name, n, seed in (("train", 160, 0), ("test", 12, 1)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in tagged_rows(n, seed)))
    (tmp_path / "run.yaml").write_text(f"""\
model: {{head_type: token_classification, dropout_rate: 0.0, config: {json.dumps(SMALL)}}}
data: {{train_path: train.jsonl, test_path: test.jsonl, text_column: tokens, target_column: tags, batch_size: 16,
       num_workers: 0}}
optimizer: {{learning_rate: 0.01}}
training: {{num_epochs: 6, best_metric: eval_span_f1, early_stopping: false, save_strategy: no, baselines: true,
           class_weights: balanced}}
environment: {{output_dir: {tmp_path}, run_name: tagger, device: cpu, compile: false}}
""")
    run = run_training(tmp_path / "run.yaml")
    assert run.result.metrics["eval_span_f1"] > 0.95
    assert run.scores.index.tolist() == ["most frequent tag", "most frequent tag of the word", "this model"]
    assert run.scores["span_f1"].iloc[1] < run.scores["span_f1"].iloc[2]
    words, spans = (pd.read_csv(run.result.output_dir / f"predictions{end}.csv") for end in ("", "_spans"))
    truth = [tag for row in tagged_rows(12, 1) for tag in row["tags"]]
    assert (words["tags"] == truth).mean() > 0.95 and words.columns.tolist()[:4] == ["id", "place", "word", "tags"]
    assert set(spans["label"]) == {"place"} and spans["id"].nunique() == 12
    finished = load(run.result.output_dir)
    predicted = finished.predict(["we are in New York."])
    (span,) = predicted.spans()[0]
    assert (span.label, span.text, span.start, span.end) == ("place", "New York", 10, 18)
    assert 0.5 < span.probability <= 1
    assert predicted.labels()[0] == ["O", "O", "O", "B-place", "I-place", "O"]
    assert finished.predict([["we", "are", "in", "ulm"]]).labels()[0][-1] == "B-place"
    assert "New York" in predicted._repr_html_()
    trainer = run.trainer
    report = ErrorReport(trainer.outputs.labels, trainer.task.predictions(trainer.outputs.logits), trainer.task,
                         trainer.model.label_names, trainer.data.texts["validation"].first)
    assert report.confusion.to_numpy().sum() == sum(len(t.words) for t in trainer.data.texts["validation"].first)
    assert ", word " in report.hardest(1)["row"][0] and " in: " in report.hardest(1)["text"][0]
    with pytest.raises(DataError, match="item 0: 3 holds no words|'3' holds no words"): finished.predict([3])


def test_tags_that_mark_no_spans(tmp_path):
    rows = [{"tokens": ["the", "cat", "sat"], "tags": ["DT", "NN", "VB"]}] * 8
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = run_training({
        "model": {"head_type": {"type": "token_classification", "options": {"scheme": "plain"}}, "config": SMALL},
        "data": {"train_path": str(tmp_path / "a.jsonl"), "test_path": str(tmp_path / "a.jsonl"),
                 "text_column": "tokens", "target_column": "tags", "batch_size": 8, "num_workers": 0},
        "optimizer": {"learning_rate": 0.02}, "training": {"num_epochs": 8, "save_strategy": "no"},
        "environment": {"output_dir": str(tmp_path), "run_name": "pos", "device": "cpu", "compile": False}})
    assert run.result.metrics["eval_word_accuracy"] == 1.0
    predicted = load(tmp_path / "pos").predict(["the cat sat"])
    assert predicted.labels()[0] == ["DT", "NN", "VB"] and not (tmp_path / "pos" / "predictions_spans.csv").exists()
    with pytest.raises(MLXBertError, match="mark no spans"): predicted.spans()
