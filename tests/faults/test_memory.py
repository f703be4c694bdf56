"""Memory stays where it is while texts of all lengths go by."""
from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from faults.conftest import LONG
from toys import ToyLoader, ToyModel, toy_config

from mlx_bert_training.callbacks import Callback
from mlx_bert_training.core.base import Trainer

UPDATES = 10_000 if LONG else 600


class Lengths(ToyLoader):
    "Batches whose rows have another length each time, within bounds."

    def batches(self, epoch, start=0):
        rng = np.random.default_rng([epoch, start])
        for batch in super().batches(epoch, start):
            size = 8 * int(rng.integers(1, 17))
            tokens = np.resize(batch["input_ids"], (len(batch["labels"]), size)).astype(np.int32)
            yield {**batch, "input_ids": tokens, "attention_mask": np.ones_like(tokens)}


def resident() -> float:
    "MiB of this process in memory."
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


class Watch(Callback):
    "Memory after a tenth, the half and the end of a run."

    def __init__(self): self.seen = {}

    def on_step_end(self, trainer, state):
        if state.step not in (UPDATES // 10, UPDATES // 2, UPDATES): return
        self.seen[state.step] = resident(), mx.get_active_memory() / 2**20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_memory_is_flat(place, count):
    watch = Watch()
    config = toy_config(place, num_epochs=UPDATES // 5, max_steps=UPDATES, eval_strategy="no", logging_steps=50)
    Trainer(ToyModel(), config, callbacks=[watch]).train(Lengths())
    early, half, late = (watch.seen[step] for step in (UPDATES // 10, UPDATES // 2, UPDATES))
    count("memory", updates=UPDATES, kib_more_after_the_half=max(0, int(1024 * (late[0] - half[0]))))
    assert late[1] <= early[1] + 1, watch.seen      # arrays that live
    assert late[0] <= half[0] + 16, watch.seen      # the process


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_the_bound_can_be_missed(place):
    class Leak(Callback):
        def __init__(self): self.kept = []

        def on_step_end(self, trainer, state): self.kept.append(mx.eval(array := mx.ones(4096)) or array)

    watch = Watch()
    config = toy_config(place, num_epochs=UPDATES // 5, max_steps=UPDATES, eval_strategy="no", logging_steps=50)
    Trainer(ToyModel(), config, callbacks=[Leak(), watch]).train(Lengths())
    assert watch.seen[UPDATES][1] > watch.seen[UPDATES // 10][1] + 1
