"""Small models of each architecture: what the fixtures are made from and what the live comparison starts from."""
from __future__ import annotations

from importlib import import_module
from zlib import crc32

import numpy as np

_BERT = dict(vocab_size=60, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
             max_position_embeddings=530)
_DEBERTA = {**_BERT, "type_vocab_size": 0, "relative_attention": True, "pos_att_type": "c2p|p2c",
            "position_biased_input": False, "norm_rel_ebd": "layer_norm", "pooler_hidden_size": 16}
_MODERN = dict(vocab_size=60, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24,
               max_position_embeddings=530, pad_token_id=0, local_attention=8,
               global_attn_every_n_layers=2)
# name: (module and attribute of the architecture, configuration under Hugging Face's names); a new one is one line
CASES = {
    "roberta": ("roberta:ARCHITECTURE", _BERT),
    "xlm-roberta": ("roberta:XLM_ROBERTA", {**_BERT, "type_vocab_size": 1}),
    "distilbert": ("distilbert:ARCHITECTURE", dict(vocab_size=60, dim=16, n_layers=2, n_heads=2, hidden_dim=24)),
    "electra": ("electra:ARCHITECTURE", {**_BERT, "embedding_size": 10}),
    "electra-wide": ("electra:ARCHITECTURE", {**_BERT, "embedding_size": 16}),
    "albert": ("albert:ARCHITECTURE", {**_BERT, "embedding_size": 10, "num_hidden_layers": 4}),
    "albert-groups": ("albert:ARCHITECTURE", {**_BERT, "embedding_size": 10, "num_hidden_layers": 5,
                                              "num_hidden_groups": 2, "inner_group_num": 2}),
    "deberta-v2": ("deberta_v2:ARCHITECTURE", {**_DEBERTA, "max_relative_positions": 6, "type_vocab_size": 2,
                                               "position_biased_input": True}),
    "deberta-v2-conv": ("deberta_v2:ARCHITECTURE", {**_DEBERTA, "position_buckets": 8, "share_att_key": True,
                                                    "conv_kernel_size": 3, "conv_act": "gelu"}),
    "deberta-v3": ("deberta_v2:ARCHITECTURE", {**_DEBERTA, "position_buckets": 8, "share_att_key": True}),
    "modernbert": ("modernbert:ARCHITECTURE", _MODERN),
    "modernbert-mean": ("modernbert:ARCHITECTURE", {**_MODERN, "classifier_pooling": "mean", "num_hidden_layers": 4,
                                                    "global_attn_every_n_layers": 3}),
    "mpnet": ("mpnet:ARCHITECTURE", _BERT),
}

# the same, and BERT, as models that guess words
MASKED = {"bert": ("bert:ARCHITECTURE", _BERT), **CASES}


def architecture(case: str):
    module, attribute = MASKED[case][0].split(":")
    return getattr(import_module(f"mlx_bert_training.models.architectures.{module}"), attribute)


def configuration(case: str):
    return architecture(case).config(**MASKED[case][1])


def texts(case: str, lengths=(9, 6, 1), left: bool = False, seed: int = 0):
    "Token ids, mask and token types (None where an architecture has none)."
    arch, config = architecture(case), configuration(case)
    rng, width = np.random.default_rng(seed), max(lengths)
    mask = (np.arange(width) < np.array(lengths)[:, None]).astype(np.int32)
    if left: mask = mask[:, ::-1].copy()
    ids = np.where(mask > 0, rng.integers(5, config.vocab_size, mask.shape), config.pad_token_id).astype(np.int32)
    segments = arch.segments(config)
    types = (rng.integers(0, segments, mask.shape) * mask).astype(np.int32) if segments else None
    return ids, mask, types


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    "Values of a parameter, wide enough to be far from linear, the same wherever its name in Hugging Face's file is."
    rng = np.random.RandomState(crc32(name.encode()))   # a generator whose stream is fixed for good
    is_norm = len(shape) == 1 and name.endswith("weight")
    # biases are small: what all tokens have in common would make them equal after the many layers of `albert-groups`
    return (rng.standard_normal(shape) * (0.05 if len(shape) == 1 else 0.2) + is_norm).astype(np.float32)


def their_name(arch, name: str) -> str:
    "The name in Hugging Face's file of a parameter of `encoder`, `pooler` or `output`."
    part, _, rest = name.partition(".")
    return {"encoder": arch.prefix, "pooler": arch.pooler_path, "output": arch.output_path}[part] + "." + rest
