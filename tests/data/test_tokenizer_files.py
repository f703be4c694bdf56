"""Tokenizers from every kind of file: the numbers are those of SentencePiece and of `tokenizers` itself."""
import json
import shutil
from pathlib import Path

import pytest
import tokenizers

from mlx_bert_training.data.sentencepiece import FAMILIES, read_sentencepiece, sentencepiece_backend
from mlx_bert_training.data.tokenization import Tokenizer
from mlx_bert_training.data.tokenizer_files import SENTENCEPIECE_FILES, load_backend
from mlx_bert_training.errors import DataError
from mlx_bert_training.models.weights import TOKENIZER_FILES

FIXTURES = Path(__file__).parents[1] / "fixtures"
EXPECTED = json.loads((FIXTURES / "tiny_spm" / "expected.json").read_text(encoding="utf-8"))
STRANGE = [*EXPECTED, "Ⅷ ½ ﷺ\u200b ㍿", "a\u0301 e\u0301  \u3000x", "``quoted'' 12, 7,", "(cat)(dog)", "\r\n\t ",
           "ＣＡＴ…"]


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(FIXTURES / "tiny_spm", tmp_path / "spm"))


def test_deberta_numbers_are_sentencepieces_with_special_tokens_around(folder):
    tokenizer = Tokenizer.load(folder)
    encoded = tokenizer.encode(list(EXPECTED))
    assert [encoded[i].tolist() for i in range(len(EXPECTED))] == [[1, *ids, 2] for ids in EXPECTED.values()]
    size = len(read_sentencepiece(folder / "spm.model").pieces)
    assert (tokenizer.pad_id, tokenizer.vocab_size) == (0, size + 1)
    assert tokenizer.backend.token_to_id("[MASK]") == size      # where transformers has it
    assert tokenizer.backend.encode("the [MASK] sat").ids[2] == size
    tokenizer.save(folder)
    assert Tokenizer.load(folder).encode(list(EXPECTED)).ids.tolist() == encoded.ids.tolist()


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("rules", ["nmt_nfkc", "identity"])
def test_live_against_sentencepiece(kind, rules, tmp_path, monkeypatch):
    sentencepiece = pytest.importorskip("sentencepiece", reason="sentencepiece is not installed; it is the other side")
    monkeypatch.syspath_prepend(str(FIXTURES))
    import make_spm
    content = make_spm.model(kind, tmp_path, normalization_rule_name=rules)
    (tmp_path / "spm.model").write_bytes(content)
    processor = sentencepiece.SentencePieceProcessor(model_proto=content)
    settings = {"do_lower_case": False, "keep_accents": True}
    backend = sentencepiece_backend(tmp_path / "spm.model", kind, settings)
    for text in STRANGE:
        plain = text.replace("``", '"').replace("''", '"') if kind == "albert" else text
        ids = processor.encode(plain)
        if kind == "xlm-roberta": ids = [3 if i == 0 else i + 1 for i in ids]
        assert backend.encode(text, add_special_tokens=False).ids == ids, text


def test_xlm_roberta_is_fairseqs(tmp_path, monkeypatch):
    pytest.importorskip("sentencepiece", reason="sentencepiece is not installed; it makes the model")
    monkeypatch.syspath_prepend(str(FIXTURES))
    import make_spm
    (tmp_path / "sentencepiece.bpe.model").write_bytes(make_spm.model("xlm-roberta", tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "xlm-roberta"}')
    tokenizer = Tokenizer.load(tmp_path)
    ids = {token: tokenizer.backend.token_to_id(token) for token in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")}
    assert list(ids.values()) == [0, 1, 2, 3, tokenizer.vocab_size - 1] and tokenizer.pad_id == 1
    pair = tokenizer.encode(["the cat"], ["a dog"])
    assert pair[0].tolist().count(2) == 3 and not pair.type_ids.any()


def test_byte_level_bpe_equals_the_same_in_one_file(tmp_path):
    parts = tokenizers.ByteLevelBPETokenizer()
    parts.train_from_iterator(["the cat sat on the mat", "naïve dogs, 🐈 cats"] * 20, vocab_size=300,
                              special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    parts.save_model(str(tmp_path))
    tokenizer = Tokenizer.load(tmp_path)
    for text in ("the cat's naïve mat", " 🐈  new\nwords", ""):
        ids = parts.encode(text).ids
        assert tokenizer.encode([text])[0].tolist() == [0, *ids, 2]
        assert tokenizer.decode(tokenizer.encode([text])[0]) == text
    assert tokenizer.encode(["a"], ["b"])[0].tolist().count(2) == 3 and tokenizer.pad_id == 1
    (tmp_path / "tokenizer_config.json").write_text('{"add_prefix_space": true}')
    assert Tokenizer.load(tmp_path).encode(["cat"]).ids.tolist() == tokenizer.encode([" cat"]).ids.tolist()
    vocab = json.loads((tmp_path / "vocab.json").read_text())
    vocab["<start>"] = vocab.pop("<s>")
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    with pytest.raises(DataError, match="lacks <s>"): Tokenizer.load(tmp_path)


def test_added_tokens_have_their_numbers(folder):
    size = len(read_sentencepiece(folder / "spm.model").pieces)
    (folder / "added_tokens.json").write_text(json.dumps({"<user>": size + 1, "[MASK]": size}))
    assert load_backend(folder).encode("a <user>").ids[-2] == size + 1
    (folder / "added_tokens.json").write_text(json.dumps({"<user>": 9000}))
    with pytest.raises(DataError, match=f"'<user>' the number 9000; the vocabulary has room for it at {size + 1}"):
        load_backend(folder)


def test_accents_of_a_word_piece_vocabulary(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "café", "cafe"]))
    assert Tokenizer.load(tmp_path).encode(["Café"])[0].tolist() == [2, 5, 3]
    (tmp_path / "tokenizer_config.json").write_text('{"strip_accents": false}')
    assert Tokenizer.load(tmp_path).encode(["Café"])[0].tolist() == [2, 4, 3]


def test_a_model_that_cannot_be_used_says_why(folder):
    content = (folder / "spm.model").read_bytes()
    for damaged in (content[:-1], content[:500], b"", b"\xff" * 40, b"not a model", bytes([0x0B]) + content):
        (folder / "spm.model").write_bytes(damaged)
        with pytest.raises(DataError, match="SentencePiece model"): Tokenizer.load(folder)
    (folder / "spm.model").write_bytes(content)
    (folder / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(DataError, match="model of t5; those of deberta-v2, xlm-roberta, albert can be read"):
        Tokenizer.load(folder)
    (folder / "config.json").write_text('{"model_type": "albert"}')
    with pytest.raises(DataError, match=r"lacks .*<pad>"): Tokenizer.load(folder)


def test_a_bpe_model_is_refused(folder):
    sentencepiece = pytest.importorskip("sentencepiece", reason="sentencepiece is not installed; it makes the model")
    import io
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(["the cat sat"] * 9), model_writer=out,
                                             vocab_size=20,
                                             model_type="bpe", minloglevel=2, hard_vocab_limit=False)
    (folder / "spm.model").write_bytes(out.getvalue())
    with pytest.raises(DataError, match="of kind 2, not a Unigram model"): Tokenizer.load(folder)


def test_every_file_that_is_read_is_also_downloaded_and_copied():
    assert set(SENTENCEPIECE_FILES) | {"vocab.json", "merges.txt", "added_tokens.json"} <= set(TOKENIZER_FILES)


PLAIN = {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}}
NEW = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def saved(folder: Path, model: dict, **others) -> Path:
    (folder / "tokenizer.json").write_text(json.dumps(PLAIN | {"model": model} | others))
    return folder


@pytest.mark.parametrize("model, message", [
    ({"type": "WordLevel", "unk_token": "[UNK]", "vocab": {}}, "empty vocabulary"),
    ({"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 9,
      "vocab": {}}, "empty vocabulary"),
    ({"type": "Unigram", "unk_id": None, "vocab": []}, "empty vocabulary"),
    ({"type": "BPE", "vocab": {}, "merges": []}, "empty vocabulary"),
    ({"type": "WordLevel", "unk_token": "[UNK]", "vocab": {"a": 0}}, "no unknown token '\\[UNK\\]'"),
    ({"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 9,
      "vocab": {"a": 0}}, "no unknown token '\\[UNK\\]'"),
    ({"type": "Unigram", "unk_id": None, "vocab": [["a", -1.0]]}, "no unknown token"),
    ({"type": "BPE", "vocab": {"a": 0}, "merges": []}, "no unknown token"),
    ({"type": "WordLevel", "unk_token": "[UNK]", "vocab": {"[UNK]": 0, "a": 1, "b": 1}}, "same number, 1")])
def test_a_vocabulary_that_cannot_be_right_is_refused_when_it_is_loaded(tmp_path, model, message):
    with pytest.raises(DataError, match=message): Tokenizer.load(saved(tmp_path, model))


def test_bytes_need_no_unknown_token(tmp_path):
    vocab = {letter: i for i, letter in enumerate(tokenizers.pre_tokenizers.ByteLevel.alphabet())}
    levels = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "vocab": vocab, "merges": []}
    assert len(Tokenizer.load(saved(tmp_path, model, pre_tokenizer=levels)).encode(["aé"]).ids) == 3


def test_an_added_token_has_the_number_of_the_file(tmp_path):
    model = {"type": "WordLevel", "unk_token": "[UNK]", "vocab": {"[UNK]": 0, "a": 1}}
    saved(tmp_path, model, added_tokens=[NEW | {"id": 2, "content": "<user>"}])
    assert Tokenizer.load(tmp_path).encode(["a <user> b"]).ids.tolist() == [1, 2, 0]
    saved(tmp_path, model, added_tokens=[NEW | {"id": 1, "content": "<user>"}])
    with pytest.raises(DataError, match="'<user>' the number 1"): Tokenizer.load(tmp_path)


def test_bytes_of_one_number_in_vocab_json_are_refused(tmp_path):
    names = {"<s>": 0, "</s>": 1, "<pad>": 2, "<unk>": 3, "a": 4, "b": 4}
    (tmp_path / "vocab.json").write_text(json.dumps(names))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(DataError, match="the same number, 4"): Tokenizer.load(tmp_path)
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(DataError): Tokenizer.load(tmp_path)


@pytest.mark.long
def test_a_vocabulary_with_holes_needs_room_for_its_largest_number(tmp_path):
    model = {"type": "WordLevel", "unk_token": "[UNK]", "vocab": {"[UNK]": 0, "a": 10**9}}
    assert Tokenizer.load(saved(tmp_path, model)).vocab_size == 10**9 + 1
