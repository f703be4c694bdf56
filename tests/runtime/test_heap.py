"""The heap that keeps freed memory: steps of mixed lengths find theirs, results are the same, and it lets go."""
import json
import os
import subprocess
import sys

import pytest

from mlx_bert_training import runtime
from mlx_bert_training.runtime import heap

STEPS = """
import hashlib, json, resource
import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_bert_training import create_model, runtime
from mlx_bert_training.core.config import OptimizerConfig
from mlx_bert_training.core.optimization import create_optimizer
from mlx_bert_training.core.step import TrainingStep
from mlx_bert_training.runtime.device import buffer_cache, heap_in_use
from mlx_bert_training.tasks.losses import create_loss

mx.random.seed(0)
model = create_model(config={"vocab_size": 8000, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
                             "intermediate_size": 512}, dropout_rate=0.1)
optimizer = create_optimizer(OptimizerConfig(), model.trainable_parameters())
step = TrainingStep(model, create_loss(task="binary"), optimizer, max_grad_norm=1.0)
model.train()


def turn():
    for length in (40, 16, 64, 24, 48):
        ids = mx.arange(16 * length).reshape(16, length) % 8000
        batch = {"input_ids": ids, "attention_mask": mx.ones_like(ids), "labels": mx.arange(16) % 2}
        mx.eval(step.update(batch, 1e-4), model.state, optimizer.state)
        runtime.fit_cache_limit()


def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def resident(): return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()


turn()
turn()
before = faults()
turn()
found = faults() - before
full = resident()
mx.clear_cache()
runtime.release_freed()
weights = hashlib.sha256(b"".join(bytes(memoryview(value)) for _, value in tree_flatten(model.parameters())))
print(json.dumps({"heap": heap_in_use(), "cache": buffer_cache(), "faults": found, "given back": full - resident(),
                  "weights": weights.hexdigest()}))
"""


def steps(**environment: str) -> dict:
    "Three turns of five lengths, in a process of their own."
    env = {k: v for k, v in os.environ.items() if not k.startswith("MLX_BERT_")} | environment
    done = subprocess.run([sys.executable, "-c", STEPS], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(not runtime.is_linux_cpu() or heap._glibc() is None, reason="the heap of glibc, on a Linux CPU")
def test_steps_of_mixed_lengths_find_their_memory_and_give_the_same_bits():
    kept, usual = steps(), steps(MLX_BERT_HEAP="off")
    assert kept["heap"] and kept["cache"] == heap.CACHE
    assert not usual["heap"] and usual["cache"] > heap.CACHE
    assert kept["weights"] == usual["weights"]
    assert kept["faults"] < usual["faults"] / 4
    assert kept["given back"] > 8 << 20


def test_an_allocator_whose_blocks_are_not_of_the_heap_is_left_alone(monkeypatch):
    class Other:
        "A C library whose options do nothing, as where another allocator was loaded before it."
        def __init__(self): self.options = []

        def mallopt(self, *option): self.options.append(option)

        def malloc(self, size): return 1

        def free(self, block): pass

        def mallinfo2(self): return heap._Use()

    other = Other()
    monkeypatch.setattr(heap, "_glibc", lambda: other)
    assert heap.keep_freed() is False
    assert other.options[-3:] == [(option, usual) for option, _, usual in heap._OPTIONS.values()]


def test_no_glibc_no_heap(monkeypatch):
    monkeypatch.setattr(heap, "_glibc", lambda: None)
    assert heap.keep_freed() is False
    heap.release_freed()


@pytest.mark.parametrize("word", ["off", "OFF ", "0", "none"])
def test_the_switch(monkeypatch, word):
    monkeypatch.setenv(heap.SWITCH, word)
    monkeypatch.setattr(heap, "_glibc", lambda: pytest.fail("asked for"))
    assert heap.keep_freed() is False
