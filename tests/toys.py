"""A model and a loader that train in a second and have what real ones have: dropout, a mask, filler rows."""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_bert_training.callbacks import Callback
from mlx_bert_training.core.config import BaseTrainerConfig
from mlx_bert_training.declaration.load import load_config


class ToyModel(nn.Module):
    "Mean of token embeddings, dropout, a hidden layer with a norm, two logits."
    head_type, num_labels, label_names = "binary_classification", 2, ["no", "yes"]

    def __init__(self, dropout: float = 0.0, seed: int = 0):
        super().__init__()
        mx.random.seed(seed)
        self.embedding = nn.Embedding(50, 16)
        self.dropout = nn.Dropout(dropout)
        self.hidden, self.norm, self.out = nn.Linear(16, 16), nn.LayerNorm(16), nn.Linear(16, 2)
        mx.eval(self.parameters())

    def __call__(self, input_ids: mx.array, attention_mask: mx.array | None = None,
                 token_type_ids: mx.array | None = None) -> mx.array:
        mask = mx.ones(input_ids.shape) if attention_mask is None else attention_mask
        x = self.embedding(input_ids) * mask[..., None].astype(self.embedding.weight.dtype)
        x = x.sum(axis=1) / mx.maximum(mask.sum(axis=1, keepdims=True), 1).astype(x.dtype)
        return self.out(self.dropout(nn.relu(self.norm(self.hidden(x)))))


class ToyLoader:
    "Rows of random tokens; the label says whether token 7 is among them. The last batch is filled up with weight 0."

    def __init__(self, n: int = 40, batch_size: int = 8, seed: int = 0, shuffle: bool = True, labelled: bool = True):
        rng = np.random.default_rng(seed)
        self.ids = rng.integers(8, 50, (n, 6)).astype(np.int32)
        self.labels = (rng.random(n) < 0.5).astype(np.int32)
        self.ids[self.labels == 1, 2] = 7
        self.batch_size, self.shuffle, self.labelled, self.rows = batch_size, shuffle, labelled, np.arange(n)

    @property
    def num_examples(self) -> int: return len(self.ids)

    def __len__(self) -> int: return -(-len(self.ids) // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]: return self.batches(0)

    def batches(self, epoch: int, start: int = 0) -> Iterator[dict[str, np.ndarray]]:
        order = np.arange(len(self.ids))
        if self.shuffle: np.random.default_rng([5, epoch]).shuffle(order)
        for i in range(start, len(self)):
            rows = order[i * self.batch_size:(i + 1) * self.batch_size]
            filler = self.batch_size - len(rows)
            taken = np.concatenate([rows, np.repeat(rows[:1], filler)])
            weight = np.concatenate([np.ones(len(rows)), np.zeros(filler)]).astype(np.float32)
            batch = {"input_ids": self.ids[taken], "attention_mask": np.ones_like(self.ids[taken]),
                     "example_weight": weight, "row": np.where(weight > 0, self.rows[taken], -1)}
            yield {**batch, "labels": self.labels[taken]} if self.labelled else batch

    def subset(self, indices: np.ndarray) -> ToyLoader:
        other = ToyLoader(0, self.batch_size, shuffle=self.shuffle, labelled=self.labelled)
        other.ids, other.labels, other.rows = self.ids[indices], self.labels[indices], np.arange(len(indices))
        return other


def toy_config(tmp_path: Any, **overrides: Any) -> BaseTrainerConfig:
    "A short run without checkpoints or compilation, unless asked for."
    base = {"training": {"num_epochs": 3, "logging_steps": 2, "save_strategy": "no", "early_stopping": False},
            "optimizer": {"learning_rate": 0.01}, "scheduler": {"type": "none"},
            "environment": {"output_dir": str(tmp_path), "run_name": "toy", "device": "cpu", "compile": False}}
    return load_config(base, **overrides)


class Named(Callback):
    "A callback to be named in a declaration."

    def __init__(self, greeting: str = ""): self.greeting = greeting


class Breaks(Callback):
    "Kills a run before the first batch that follows an update."
    order = 100

    def __init__(self, step: int): self.step = step

    def on_batch_begin(self, trainer: Any, state: Any) -> None:
        if state.step == self.step: raise KeyboardInterrupt


def same(a: dict[str, mx.array], b: dict[str, mx.array]) -> bool:
    "Whether two sets of arrays have the same names and the same bits."
    return a.keys() == b.keys() and all(mx.array_equal(a[name], b[name]).item() for name in a)
