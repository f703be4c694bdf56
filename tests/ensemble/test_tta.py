"""Test-time augmentation changes the input, averages probabilities, and is dropped where it does not help."""
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.nn as nn
import numpy as np
import pandas as pd
import pytest

from mlx_bert_training.core.base import Trainer
from mlx_bert_training.data.prepare import PreparedData, Texts, prepare
from mlx_bert_training.data.tokenization import tiny_tokenizer
from mlx_bert_training.declaration.load import load_config
from mlx_bert_training.ensemble.tta import (
    HEAD_SHARE,
    TTAError,
    TTAResult,
    Variant,
    average,
    choose_tta,
    cut_texts,
    default_kinds,
    drop_words,
    make_variants,
    predict_variants,
    reorder_template,
)
from mlx_bert_training.errors import UnknownNameError

WORDS = "red green blue small large round flat heavy light warm cold new old left right near far up down".split()
SIZE, LENGTH = 24, 16
TASKS: dict[str, dict[str, Any]] = {
    "template": {"head_type": "binary", "target_column": "class2", "template": "{first}. It is {number}, {colour}."},
    "text": {"head_type": "multiclass", "target_column": "class3", "text_column": "long"},
    "pair": {"head_type": "regression", "target_column": "value", "text_column": "long", "text_pair_column": "first"},
}
KINDS = {"template": ["template", "column_order", "word_dropout", "mc_dropout"],
         "text": ["truncation", "word_dropout", "mc_dropout"],
         "pair": ["column_order", "truncation", "word_dropout", "mc_dropout"]}


def frame(seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    def text(low: int, high: int) -> str: return " ".join(rng.choice(WORDS, rng.integers(low, high)))
    return pd.DataFrame({"id": np.arange(SIZE) + 100, "first": [text(3, 6) for _ in range(SIZE)],
                         "long": [text(5, 40) for _ in range(SIZE)], "number": rng.integers(0, 90, SIZE),
                         "colour": rng.choice(WORDS[:3], SIZE), "class2": np.arange(SIZE) % 2,
                         "class3": np.arange(SIZE) % 3, "value": rng.normal(size=SIZE)})


def prepared(folder: Path, kind: str, dropout: float = 0.2) -> tuple[PreparedData, Trainer]:
    "Data of a kind, and a trainer with a random model."
    for seed, part in enumerate(("train", "test")): frame(seed).to_csv(folder / f"{part}.csv", index=False)
    task = dict(TASKS[kind])
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
             "vocab_size": 400, "initializer_range": 0.3}
    config = load_config({
        "model": {"head_type": task.pop("head_type"), "config": sizes, "dropout_rate": dropout},
        "data": {"train_path": str(folder / "train.csv"), "test_path": str(folder / "test.csv"), "id_column": "id",
                 "validation_fraction": 0, "max_length": LENGTH, "batch_size": 5, "num_workers": 0, **task},
        "training": {"eval_strategy": "no"}, "environment": {"device": "cpu", "output_dir": str(folder)}})
    from mlx_bert_training.models.create import create_model
    data = prepare(config)
    model = create_model("bert_with_head", head_type=config.model.head_type, config=sizes, dropout_rate=dropout,
                         num_labels=data.labels.num_labels if data.labels else None)
    return data, Trainer(model, config, data=data)


def variants_of(data: PreparedData, kind: str, part: str = "train", seed: int = 3, **options: Any) -> list[Variant]:
    return make_variants(data, part, options.pop("kinds", KINDS[kind]), 2, seed, max_length=LENGTH, word_dropout=0.3,
                         **options)


@pytest.mark.parametrize("kind", TASKS)
def test_variants_differ_in_input_and_output(kind, tmp_path):
    data, trainer = prepared(tmp_path, kind)
    variants = variants_of(data, kind)
    assert {v.kind for v in variants} == {"none", *KINDS[kind]}
    assert data.train is not None
    plain = data.train.dataset.encoded
    for v in variants[1:]:
        assert v.changed.any(), v
        if v.dropout_seed is None:
            mine = v.loader.dataset.encoded
            same = [np.array_equal(mine[i], plain[i]) for i in range(SIZE)]
            pair_swapped = kind == "pair" and v.kind == "column_order"
            assert pair_swapped or (~v.changed).tolist() == same
            assert mine.lengths.max() <= LENGTH
    p = predict_variants(trainer, variants)
    assert p.shape[:2] == (len(variants), SIZE)
    for i in range(len(variants)):
        for j in range(i): assert not np.allclose(p[i], p[j], atol=1e-7), (variants[i], variants[j])
    assert p[0] == pytest.approx(trainer.predict(data.train.subset(np.arange(SIZE), shuffle=False)).values, abs=1e-6)


@pytest.mark.parametrize("kind", TASKS)
def test_averages_are_of_probabilities(kind, tmp_path):
    data, trainer = prepared(tmp_path, kind)
    p = predict_variants(trainer, variants_of(data, kind))
    mean = average(p)
    assert mean == pytest.approx(p.mean(0))
    if kind == "pair": assert mean.shape == (SIZE,)
    else:
        assert p.min() >= 0 and p.max() <= 1 and mean.shape[1] == (2 if kind == "template" else 3)
        assert mean.sum(1) == pytest.approx(np.ones(SIZE))
        logits = np.log(p)      # a mean of logits would be something else
        wrong = np.exp(logits.mean(0)) / np.exp(logits.mean(0)).sum(1, keepdims=True)
        assert np.abs(mean - wrong).max() > 1e-4


@pytest.mark.parametrize("kind", TASKS)
def test_rows_not_changed_are_as_they_were_and_rows_can_be_chosen(kind, tmp_path):
    data, trainer = prepared(tmp_path, kind)
    variants = [v for v in variants_of(data, kind) if v.dropout_seed is None]
    everything, rows = predict_variants(trainer, variants), np.array([17, 2, 9, 4])
    assert predict_variants(trainer, variants, rows) == pytest.approx(everything[:, rows], abs=1e-5)
    for v, p in zip(variants, everything, strict=True):
        if not v.changed.all(): assert np.array_equal(p[~v.changed], everything[0][~v.changed])
    short = [v for v in variants if not v.changed.all()]
    assert predict_variants(trainer, short) == pytest.approx(       # without the plain ones to copy from
        everything[[variants.index(v) for v in short]], abs=1e-5)


def test_the_seed_decides_everything(tmp_path):
    data, trainer = prepared(tmp_path, "template")
    p = predict_variants(trainer, variants_of(data, "template"))
    np.random.seed(7)
    trainer.predict(data.test)
    assert np.array_equal(predict_variants(trainer, variants_of(data, "template")), p)
    other = predict_variants(trainer, variants_of(data, "template", seed=4))
    random = [i for i, v in enumerate(variants_of(data, "template")) if v.kind in ("word_dropout", "mc_dropout")]
    assert np.array_equal(other[0], p[0]) and all(not np.allclose(other[i], p[i], atol=1e-7) for i in random)


def test_parts_have_the_same_variants(tmp_path):
    for kind in TASKS:
        data, _ = prepared(tmp_path, kind)
        train, test = (variants_of(data, kind, part) for part in ("train", "test"))
        assert [v.name for v in train] == [v.name for v in test] and len({v.name for v in train}) == len(train)
        assert [len(v.loader.dataset) for v in test] == [SIZE] * len(test)
        assert test[0].loader.row_ids.tolist() == [str(i) for i in range(100, 100 + SIZE)]
        assert not test[1].loader.shuffle


@pytest.mark.parametrize("training", [True, False])
def test_the_models_mode_is_put_back(training, tmp_path):
    data, trainer = prepared(tmp_path, "text")
    variants, model = variants_of(data, "text"), trainer.model
    assert isinstance(model, nn.Module)
    model.train(training)
    predict_variants(trainer, variants)
    assert all(module.training is training for module in model.modules())

    class Broken:
        def subset(self, *_: Any, **__: Any) -> Any: return self
        def __iter__(self) -> Any: raise OSError("the data are gone")

    last = replace(variants[-1], loader=Broken())  # type: ignore[arg-type]
    assert last.dropout_seed is not None    # it fails while dropout is on
    with pytest.raises(OSError, match="gone"): predict_variants(trainer, [*variants[:-1], last])
    assert all(module.training is training for module in model.modules())


def test_dropout_of_a_model_without_any_is_reported(tmp_path, caplog):
    data, trainer = prepared(tmp_path, "text", dropout=0.0)
    p = predict_variants(trainer, variants_of(data, "text", kinds=["mc_dropout"]))
    assert "mc_dropout 1 changes nothing: the model has no dropout" in caplog.text and np.allclose(p[0], p[1])


def test_templates_of_the_user(tmp_path):
    data, _ = prepared(tmp_path, "template")
    variants = variants_of(data, "template", kinds=["template"], templates=["{colour}", "Only {first}", "{number}"])
    assert [v.name for v in variants] == ["none", "template 1", "template 2"]
    decoded = [data.tokenizer.decode(v.loader.dataset.encoded[0]) for v in variants]
    row = data.frames["train"].iloc[0]
    assert decoded[1] == row["colour"] and decoded[2].endswith(row["first"])
    with pytest.raises(TTAError, match="would tell the target, column 'class2'"):
        variants_of(data, "template", kinds=["template"], templates=["{colour} {class2}"])


def test_what_the_data_do_not_allow_is_said(tmp_path):
    text, _ = prepared(tmp_path, "text")
    with pytest.raises(TTAError, match="column_order needs data.template"):
        make_variants(text, "train", ["column_order"])
    with pytest.raises(UnknownNameError, match="Did you mean 'truncation'"): make_variants(text, "train", ["truncate"])
    with pytest.raises(UnknownNameError, match="validation"): make_variants(text, "validation")
    with pytest.raises(TTAError, match="at least 1"): make_variants(text, "train", iterations=0)
    template, trainer = prepared(tmp_path, "template")
    assert default_kinds(text) == ["truncation"] and default_kinds(template) == ["column_order"]
    with pytest.raises(TTAError, match="no variants"): predict_variants(trainer, [])


@pytest.mark.parametrize(("template", "clauses", "expected"), [
    ("A {a:.1f} old, {b}.", True, {"{b}, A {a:.1f} old."}),
    ("Person: {a}. Job: {b}", False, {"Job: {b}. Person: {a}"}),
    ("Intro, then. {a}; {b}", True, {"Intro, then. {b}; {a}"}),     # a clause without a column stays
    ("{x, y} | {b:,}", True, {"{b:,} | {x, y}"}),                   # never inside braces
    ("{{{a}}}, {b}", True, {"{b}, {{{a}}}"}),                       # a brace itself
    ("{a} [SEP] {b}", True, {"{b} [SEP] {a}"}),
    ("{a} {b}", True, {"{b} {a}"}),
    ("{a}.{b}", True, set()), ("{a}, {a}", True, set()), ("One {a} and {b}", True, set()),
])
def test_orders_of_a_template(template, clauses, expected):
    assert set(reorder_template(template, 5, clauses=clauses)) == expected


def test_many_orders_are_different():
    template = ", ".join(f"{{c{i}}}" for i in range(8))
    found = reorder_template(template, 20, seed=1)
    assert len(set(found)) == 20 and template not in found
    assert found[:5] == reorder_template(template, 20, seed=1)[:5] != reorder_template(template, 20, seed=2)[:5]


def test_dropped_words():
    texts = [" ".join(WORDS)] * 200 + ["one", "", "  two  words "]
    out = drop_words(texts, 0.25, 0)
    counts = [len(t.split()) for t in out[:200]]
    assert np.mean(counts) == pytest.approx(0.75 * len(WORDS), rel=0.05) and len(set(out[:200])) > 150
    assert out[200:202] == ["one", ""]
    assert all(drop_words(["two words"], 0.99, i)[0] in ("two", "words") for i in range(9))
    order = {w: i for i, w in enumerate(WORDS)}
    assert all([order[w] for w in t.split()] == sorted(order[w] for w in t.split()) for t in out[:200])
    with pytest.raises(TTAError, match="above 0 and below 1"): drop_words(texts, 1.0, 0)


@pytest.mark.parametrize("paired", [False, True])
def test_cut_texts_keep_their_end(paired):
    first = [" ".join(WORDS), "red green"]
    second = ["up down", " ".join(reversed(WORDS))] if paired else None
    texts, tokenizer = Texts(first, second), tiny_tokenizer([" ".join(WORDS)])
    plain = tokenizer.encode(first, second, max_length=LENGTH)
    tail, both = (cut_texts(tokenizer, texts, plain, LENGTH, share) for share in (0, HEAD_SHARE))
    row = 0
    room = LENGTH - (3 + 2 if paired else 2)
    head = round(room * HEAD_SHARE)
    end = f" {second[0]}" if second else ""
    assert tokenizer.decode(plain[row]) == " ".join(WORDS[:room]) + end
    assert tokenizer.decode(tail[row]) == " ".join(WORDS[-room:]) + end
    assert tokenizer.decode(both[row]) == " ".join(WORDS[:head] + WORDS[-(room - head):]) + end
    for cut in (tail, both):
        assert cut[row][[0, -1]].tolist() == plain[row][[0, -1]].tolist()      # the special tokens
        assert np.array_equal(cut.type_ids, plain.type_ids) and np.array_equal(cut.offsets, plain.offsets)
    if not paired: assert np.array_equal(tail[1], plain[1])
    else: assert tokenizer.decode(tail[1]) == "red green " + " ".join(list(reversed(WORDS))[-room:])


def choice(noise: float, seed: int = 0, head: str = "binary") -> tuple[TTAResult, np.ndarray, np.ndarray]:
    "A choice between none and two kinds, whose own noise is `noise` times that of none."
    rng, n = np.random.default_rng(seed), 300
    names = ["none", "template", "template", "word_dropout"]
    stub: Any = None
    variants = [Variant(f"{k} {i}", k, stub, np.ones(n, bool)) for i, k in enumerate(names)]
    y = rng.normal(size=n) if head == "regression" else rng.integers(0, 2, n)
    signal = y if head == "regression" else 2.0 * y - 1
    z = np.stack([signal + rng.normal(size=n) * (1 if k == "none" else noise) for k in names])
    p = 1 / (1 + np.exp(-z))
    values = z if head == "regression" else np.stack([1 - p, p], -1)
    folds = np.arange(n) % 5
    return choose_tta(values, variants, y, folds, "rmse" if head == "regression" else "auc", head), values, y


@pytest.mark.parametrize("head", ["binary", "regression"])
def test_what_helps_is_chosen_and_what_does_not_is_not(head):
    good, values, _ = choice(1.0, head=head)
    assert good.chosen == "all" and good.members == (0, 1, 2, 3) and good.gain.mean > 0
    assert np.allclose(good.apply(values), values.mean(0))
    bad, values, _ = choice(6.0, head=head)
    assert bad.chosen == "none" and bad.members == (0,) and np.array_equal(bad.apply(values), values[0])
    assert bad.gain.mean == 0 and bad.nested.values == bad.options[0].values


def test_identical_variants_are_not_worth_anything():
    result, values, y = choice(1.0)
    variants = [Variant(f"{k} {i}", k, None, np.zeros(300, bool)) for i, k in enumerate(["none", "template"])]  # type: ignore[arg-type]
    same = choose_tta(np.stack([values[0], values[0]]), variants, y, np.arange(300) % 5, "auc", "binary")
    assert same.chosen == "none" and same.gain.mean == 0


def test_luck_is_mostly_refused():
    "Options that are as good as none on average are rarely chosen, and the nested gain does not flatter."
    gains = []
    rng, n, chosen = np.random.default_rng(0), 200, 0
    variants = [Variant(f"v{i}", k, None, np.ones(n, bool)) for i, k in enumerate(["none", "template", "truncation"])]  # type: ignore[arg-type]
    for _ in range(30):
        y = rng.normal(size=n)
        plain = y + rng.normal(size=n)
        p = np.stack([plain, *(2 * (y + rng.normal(size=n)) - plain for _ in range(2))])    # means as good as plain
        result = choose_tta(p, variants, y, np.arange(n) % 5, "rmse", "regression")
        gains.append(result.nested.mean - result.options[0].mean)
        chosen += result.chosen in ("template", "truncation")
    assert chosen < 20 and abs(np.mean(gains)) < 0.05


def test_the_result_shows_itself():
    result, _, _ = choice(1.0)
    table = result.to_frame()
    assert table["option"].tolist() == ["none", "template", "word_dropout", "all"]
    assert table["variants"].tolist() == [1, 3, 2, 4] and table["rows changed"].tolist() == [0, 1, 1, 1]
    assert table.loc[table["chosen"] == "*", "option"].tolist() == ["all"]
    assert "test-time augmentation: all" in result._repr_html_() and "<table" in result._repr_html_()
    assert len(result.plot().axes[0].get_yticklabels()) == 5


def test_rows_never_validated_do_not_count():
    result, values, y = choice(1.0)
    folds = np.arange(300) % 5
    folds[:50], values[:, :50] = -1, np.nan
    names = ["none", "template", "template", "word_dropout"]
    variants = [Variant(f"{k} {i}", k, None, np.ones(300, bool)) for i, k in enumerate(names)]  # type: ignore[arg-type]
    assert choose_tta(values, variants, y, folds, "auc", "binary").chosen == "all"
    folds[0] = 0
    for p, listed, words in ((values, variants, "have no prediction"), (values[:2], variants, "do not go together"),
                             (values[1:], variants[1:], "must be 'none'")):
        with pytest.raises(TTAError, match=words): choose_tta(p, listed, y, folds, "auc", "binary")
