"""An architecture of one's own: a bag of words, each of which also sees the mean of its text."""
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from mlx_bert_training.models.architecture import Architecture
from mlx_bert_training.models.layers import Embedding, Linear

USED = []


@dataclass
class BagConfig:
    "Only what the package asks of every encoder."
    vocab_size: int = 100
    hidden_size: int = 16
    num_hidden_layers: int = 1
    num_attention_heads: int = 1
    intermediate_size: int = 16
    max_position_embeddings: int = 512
    hidden_dropout_prob: float = 0.0
    initializer_range: float = 0.1


class Bag(nn.Module):
    "Token vectors plus the mean of the text's token vectors."

    def __init__(self, config: BagConfig):
        super().__init__()
        self.config, self.gradient_checkpointing = config, False
        self.words = Embedding(config.vocab_size, config.hidden_size)
        self.context = Linear(config.hidden_size, config.hidden_size)

    def __call__(self, input_ids, attention_mask=None, token_type_ids=None, *, first_token_only=False):
        USED.append(type(self.config).__name__)
        words = self.words(input_ids)
        mask = mx.ones(input_ids.shape) if attention_mask is None else attention_mask
        mask = mask[..., None].astype(words.dtype)
        mean = (words * mask).sum(axis=1, keepdims=True) / mx.maximum(mask.sum(axis=1, keepdims=True), 1)
        return words + mx.tanh(self.context(mean))


class BagPooler(Linear):
    "The first token through a layer."

    def __init__(self, config: BagConfig): super().__init__(config.hidden_size, config.hidden_size)

    def __call__(self, hidden, attention_mask=None): return mx.tanh(super().__call__(hidden[:, 0]))


BAG = Architecture(name="bag", config=BagConfig, encoder=Bag, prefix="bag", hub="Bag", pooler=BagPooler,
                   pooler_path="bag_pooler", dropouts=("hidden_dropout_prob",), segments=lambda config: 0)
