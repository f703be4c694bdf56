"""Checks and measures this package on a GPU against transformers + torch, in ten minutes at most and without a network.

    python benchmarks/gpu.py --out results                     # everything, on the GPU
    python benchmarks/gpu.py --out results --only rates,base   # some sections
    python benchmarks/gpu.py --out results --device cpu --tiny # proves the script anywhere; times mean nothing

Each section runs in a process of its own and has to end by its time of the schedule; one that crashes, hangs or fails
costs nothing but its own remaining figures. After each section everything found so far is in `results/figures.json`
and, as tables, in `results/report.md`, which is printed at the end.
"""
from __future__ import annotations

import argparse
import csv
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np

# section -> seconds of the schedule; what one leaves over, the next ones have too
SCHEDULE = {"rates": 35, "checks": 75, "trainer": 45, "base": 100, "profile": 60, "minilm": 90, "modernbert": 75,
            "deberta": 75, "tests": 35}
SHAPES = ((32, 128), (16, 512))     # texts, tokens
LEARNING_RATE, WEIGHT_DECAY, MAX_GRAD_NORM = 2e-5, 0.01, 1.0
BERT = {"model_type": "bert", "vocab_size": 30522, "max_position_embeddings": 512}
MODELS: dict[str, dict[str, Any]] = {
    "minilm": {
        **BERT, "num_hidden_layers": 6, "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536},
    "base": {**BERT, "num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
    "deberta": {
        "model_type": "deberta-v2", "vocab_size": 128100, "num_hidden_layers": 12, "hidden_size": 768,
        "num_attention_heads": 12, "intermediate_size": 3072, "max_position_embeddings": 512, "type_vocab_size": 0,
        "relative_attention": True, "position_buckets": 256, "pos_att_type": ["p2c", "c2p"], "share_att_key": True,
        "norm_rel_ebd": "layer_norm", "position_biased_input": False, "max_relative_positions": -1,
        "layer_norm_eps": 1e-7},
    "modernbert": {
        "model_type": "modernbert", "vocab_size": 50368, "num_hidden_layers": 22, "hidden_size": 768,
        "num_attention_heads": 12, "intermediate_size": 1152, "max_position_embeddings": 8192},
}
TINY = {"vocab_size": 500, "num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
ENCODERS = {"deberta-v2": ("deberta_v2", "DebertaV2"), "modernbert": ("modernbert", "ModernBert")}
Batch = dict[str, np.ndarray]


class MissingArchitecture(Exception):
    "This version of the package does not have it."


# ---- a section: where its figures go, and until when it may run


@dataclass
class Section:
    "The figures of a section, which are on disk as soon as they are known."
    path: Path
    device: str
    tiny: bool
    end: float                                              # by `time.time()`
    found: dict[str, Any] = field(default_factory=dict)

    def put(self, name: str, value: Any) -> None:
        self.found[name] = value
        self.path.write_text(json.dumps(self.found, indent=1, default=str), encoding="utf-8")
        print(f"  {name}: {value}", flush=True)

    def attempt(self, name: str, work: Callable[[], Any], seconds: float = 5) -> Any:
        "The result of `work`, kept; the error's text if it fails, and no try with less than `seconds` left."
        if self.left() < seconds:
            self.put(name, f"skipped: {self.left():.0f} s are left and it may take {seconds:.0f}")
            return None
        start = time.time()
        try: result = work()
        except MissingArchitecture as error:
            self.put(name, f"skipped: {error}")
            return None
        except Exception as error:
            traceback.print_exc()
            self.put(name, f"FAILED after {time.time() - start:.1f} s: {type(error).__name__}: {str(error)[:300]}")
            return None
        self.put(name, result)
        return result

    def left(self) -> float: return self.end - time.time()


def model_config(name: str, tiny: bool) -> dict[str, Any]:
    config = dict(MODELS[name])
    if tiny: config.update(TINY, **({"position_buckets": 16} if name == "deberta" else {}))
    if name == "modernbert":
        config.update(pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2)
    return config


def make_batch(batch: int, length: int, vocabulary: int, seed: int = 0) -> Batch:
    "Random tokens; the texts have between half and all of the length."
    rng = np.random.default_rng(seed)
    lengths = rng.integers(length // 2, length + 1, batch)
    lengths[0] = length
    mask = (np.arange(length) < lengths[:, None]).astype(np.int32)
    ids = rng.integers(3, vocabulary, (batch, length)).astype(np.int32) * mask
    labels = rng.integers(0, 2, batch).astype(np.int32)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids), "labels": labels}


def step_flops(config: dict[str, Any], batch: int, length: int) -> float:
    "Floating-point operations of the matrix products of a forward pass; a training step does three times as many."
    hidden, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    matrices = 4 * hidden * hidden + (3 if config["model_type"] == "modernbert" else 2) * hidden * inner
    per_layer = 2 * batch * length * matrices + 4 * batch * length * length * hidden
    if config["model_type"] == "deberta-v2":
        rows = min(2 * config["position_buckets"], 2 * length)
        per_layer += 2 * 2 * rows * hidden * hidden + 2 * 2 * batch * length * rows * hidden
    return float(layers * per_layer)


# ---- this package's side


def use_device(device: str) -> None:
    from mlx_bert_training import runtime
    runtime.select_device(device)


def cross_entropy(logits: Any, labels: Any) -> tuple[Any, Any]:
    "The loss of each text, and its weight."
    import mlx.core as mx
    import mlx.nn as nn
    return nn.losses.cross_entropy(logits, labels), mx.ones(labels.shape)


def our_model(config: dict[str, Any], seed: int = 0) -> Any:
    "A random classifier by `create_model`; where that does not know the kind, the encoder with a linear head."
    import mlx.core as mx
    import mlx.nn as nn
    from mlx.utils import tree_map_with_path

    from mlx_bert_training import MLXBertError, create_model
    known = {key: value for key, value in config.items() if key not in ("bos_token_id", "eos_token_id", "cls_token_id",
                                                                         "sep_token_id")}
    if config["model_type"] == "bert":
        del known["model_type"]     # the default
        return create_model(head_type="binary", config=known, seed=seed)
    try: return create_model(head_type="binary", config=known, seed=seed)
    except (MLXBertError, TypeError): pass      # a version that makes BERT alone
    place, prefix = ENCODERS[config["model_type"]]
    try: module = importlib.import_module(f"mlx_bert_training.models.architectures.{place}")
    except ModuleNotFoundError as error:
        raise MissingArchitecture(f"this version of the package has no {place} ({error})") from None
    kind = getattr(module, f"{prefix}Config", None) or module.Config
    encoder_kind = getattr(module, f"{prefix}Encoder", None) or module.Encoder
    fields = {key: value for key, value in config.items() if key in kind.__dataclass_fields__}

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.classifier = encoder_kind(kind(**fields)), nn.Linear(config["hidden_size"], 2)

        def __call__(self, input_ids: Any, attention_mask: Any = None, token_type_ids: Any = None) -> Any:
            states = self.encoder(input_ids, attention_mask, token_type_ids, first_token_only=True)
            return self.classifier(states[:, 0])

    model, counter = Classifier(), iter(range(10 ** 6))

    def first(path: str, value: Any) -> Any:
        if path.endswith("bias"): return mx.zeros(value.shape)
        if value.ndim < 2: return mx.ones(value.shape)
        return mx.random.normal(value.shape, scale=0.02, key=mx.random.key(seed * 10 ** 6 + next(counter)))

    model.update(tree_map_with_path(first, model.parameters()))
    mx.eval(model.parameters())
    return model


def our_training(model: Any, dtype: Any = None, compiled: bool = True, rate: float = LEARNING_RATE) -> tuple[Any, Any]:
    "A training step as the trainer makes it, and its optimizer."
    from mlx_bert_training.core.config import OptimizerConfig
    from mlx_bert_training.core.optimization import create_optimizer
    from mlx_bert_training.core.step import TrainingStep
    settings = OptimizerConfig(learning_rate=rate, weight_decay=WEIGHT_DECAY)
    optimizer = create_optimizer(settings, model.trainable_parameters())
    step = TrainingStep(model, cross_entropy, optimizer, max_grad_norm=MAX_GRAD_NORM, dtype=dtype, compiled=compiled)
    return step, optimizer


Run = Callable[[int], None]      # computes a number of times and returns when the device has finished


def our_runs(config: dict[str, Any], batches: list[Batch], precision: str) -> dict[str, list[Run]]:
    "train and infer, one function for each batch."
    import mlx.core as mx

    from mlx_bert_training.core.step import InferenceStep
    dtype = mx.bfloat16 if precision == "bf16" else None
    model = our_model(config)
    step, optimizer = our_training(model, dtype)
    inference = InferenceStep(model, cross_entropy, dtype=dtype)

    def train(batch: Batch, times: int) -> None:
        model.train()
        before = mx.zeros(())
        for _ in range(times):
            total, weight, norm = step.update(batch, LEARNING_RATE)
            mx.async_eval(norm, total, weight, model.parameters(), optimizer.state)
            mx.eval(before)
            before = norm
        mx.eval(before, model.parameters(), optimizer.state)
        mx.synchronize()

    def infer(batch: Batch, times: int) -> None:
        model.eval()
        before = mx.zeros(())
        for _ in range(times):
            logits = inference(batch)[0]
            mx.async_eval(logits)
            mx.eval(before)
            before = logits
        mx.eval(before)
        mx.synchronize()

    return {name: [partial(run, batch) for batch in batches] for name, run in (("train", train), ("infer", infer))}


# ---- the other side


def torch_model(config: dict[str, Any], device: str) -> Any:
    "Transformers' classifier with random weights and SDPA where it has it."
    import transformers
    fields = {key: value for key, value in config.items() if key != "model_type"}
    settings = transformers.AutoConfig.for_model(config["model_type"], **fields, num_labels=2)
    if config["model_type"] == "modernbert": settings.reference_compile = False
    attention = "eager" if config["model_type"] == "deberta-v2" else "sdpa"     # it has no SDPA for DeBERTa
    model = transformers.AutoModelForSequenceClassification.from_config(settings, attn_implementation=attention)
    return model.to("cuda" if device == "gpu" else "cpu")


def torch_runs(config: dict[str, Any], batches: list[Batch], precision: str, device: str) -> dict[str, list[Run]]:
    "As `our_runs`, with two names more: compiled_train and compiled_infer."
    import torch
    place = "cuda" if device == "gpu" else "cpu"
    torch.set_float32_matmul_precision("high")  # TF32, as MLX has by default
    model = torch_model(config, device)
    matrices, others = ([p for p in model.parameters() if (p.ndim > 1) == wanted] for wanted in (True, False))
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, fused=True)
    keys = ("input_ids", "attention_mask", "labels", *(("token_type_ids",) if config["model_type"] == "bert" else ()))

    @cache
    def compiled(of: Any) -> Any: return torch.compile(of, dynamic=False)

    @cache
    def inference_model() -> Any:
        "Weights in bf16, the fastest that torch offers; made when training has been measured."
        made = torch_model(config, device).eval()
        return made.bfloat16() if precision == "bf16" else made

    def arrays(batch: Batch) -> dict[str, Any]:
        return {key: torch.from_numpy(batch[key]).to(place, non_blocking=True).long() for key in keys}

    def wait() -> None:
        if place == "cuda": torch.cuda.synchronize()

    def train(compile_it: bool, batch: Batch, times: int) -> None:
        model.train()
        runner = compiled(model) if compile_it else model
        for _ in range(times):
            with torch.autocast(place, dtype=torch.bfloat16, enabled=precision == "bf16"):
                loss = runner(**arrays(batch)).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        wait()

    def infer(compile_it: bool, batch: Batch, times: int) -> None:
        runner = compiled(inference_model()) if compile_it else inference_model()
        with torch.inference_mode():
            for _ in range(times): runner(**arrays(batch))
        wait()

    return {prefix + name: [partial(run, bool(prefix), batch) for batch in batches]
            for prefix in ("", "compiled_") for name, run in (("train", train), ("infer", infer))}


# ---- measuring


def timed(run: Run, times: int) -> float:
    start = time.perf_counter()
    run(times)
    return (time.perf_counter() - start) / times


def turns(sides: dict[str, Run], count: int, seconds: float = 0.08) -> dict[str, list[float]]:
    "Seconds a step of each side, in turns of about `seconds` each, after one turn that is not counted."
    times = {name: max(2, min(50, int(seconds / timed(run, 2)))) for name, run in sides.items()}
    rounds = [{name: timed(run, times[name]) for name, run in sides.items()} for _ in range(count)]
    return {name: [each[name] for each in rounds] for name in sides}


def spread(values: list[float], scale: float = 1.0, digits: int = 3) -> list[float]:
    "First quartile, median, third quartile."
    low, _, high = quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
    return [round(scale * v, digits) for v in (low, median(values), high)]


def memory_of(side: str, run: Run, device: str) -> dict[str, float | None]:
    "GiB as the library of that side counts: the peak of three steps, and how much of it was not there before."
    if side == "ours":
        import mlx.core as mx
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        run(3)
        peak = mx.get_peak_memory()
    elif device == "gpu":
        import torch
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run(3)
        peak = torch.cuda.max_memory_allocated()
    else: return {"peak_gib": None, "working_gib": None}
    return {"peak_gib": round(peak / 2**30, 2), "working_gib": round((peak - before) / 2**30, 2)}


def compare(section: Section, sides: dict[str, Run], flops: float, tokens: int, rate: float | None) -> dict[str, Any]:
    "One row of the table: milliseconds, ratios, tokens a second, share of the matrix rate, memory."
    seconds = turns(sides, 3 if section.tiny else 11)
    row: dict[str, Any] = {}
    for side, values in seconds.items():
        best = median(values)
        row[side] = {
            "ms": spread(values, 1000), "tokens_per_second": round(tokens / best),
            "tflops": round(flops / best / 1e12, 2),
            "share_of_rate": round(flops / best / rate, 3) if rate else None,
            **memory_of(side, sides[side], section.device)}
    for side in sides:
        if side == "ours": continue
        ratios = [mine / other for mine, other in zip(seconds["ours"], seconds[side], strict=True)]
        row[f"ratio_to_{side}"] = spread(ratios)
    return row


def measured_rate(section: Section, precision: str) -> float | None:
    "The better of both libraries' matrix rates, from the first section; operations a second."
    path = section.path.parent / "rates.json"
    if not path.exists(): return None
    rates = json.loads(path.read_text(encoding="utf-8"))
    values = [v for k, v in rates.items() if precision in k and isinstance(v, (int, float))]
    return max(values) * 1e12 if values else None


# ---- the sections


def rates(section: Section) -> None:
    "How fast either library multiplies matrices: the ceiling for everything else. TFLOP/s, best of several."
    import mlx.core as mx
    use_device(section.device)
    section.attempt("machine", lambda: machine(section.device))
    shapes = [(256, 256, 256)] if section.tiny else [(8192, 8192, 8192), (4096, 768, 3072), (8192, 768, 768)]

    def ours(m: int, k: int, n: int, dtype: Any) -> float:
        a, b = mx.random.normal((m, k)).astype(dtype), mx.random.normal((k, n)).astype(dtype)
        mx.eval(a, b)

        def run(times: int) -> None:
            for _ in range(times): mx.async_eval(a @ b)
            mx.synchronize()
        run(3)
        return round(2 * m * k * n / min(timed(run, 10) for _ in range(5)) / 1e12, 2)

    def theirs(m: int, k: int, n: int, dtype: Any) -> float:
        import torch
        torch.set_float32_matmul_precision("high")
        place = "cuda" if section.device == "gpu" else "cpu"
        a, b = torch.randn(m, k, device=place).to(dtype), torch.randn(k, n, device=place).to(dtype)

        def run(times: int) -> None:
            for _ in range(times): a @ b
            if place == "cuda": torch.cuda.synchronize()
        run(3)
        return round(2 * m * k * n / min(timed(run, 10) for _ in range(5)) / 1e12, 2)

    for shape in shapes:
        label = "x".join(map(str, shape))
        for precision, dtype in (("bf16", mx.bfloat16), ("fp32", mx.float32)):
            section.attempt(f"mlx {precision} {label}", lambda shape=shape, dtype=dtype: ours(*shape, dtype))
        for precision in ("bf16", "fp32"):
            def work(shape: Any = shape, precision: str = precision) -> float:
                import torch
                return theirs(*shape, torch.bfloat16 if precision == "bf16" else torch.float32)
            section.attempt(f"torch {precision} {label}", work)


def machine(device: str) -> dict[str, Any]:
    "Names and versions."
    import mlx.core as mx

    from mlx_bert_training import runtime
    facts = {"python": platform.python_version(), "mlx": runtime.version("mlx"),
             "device": str(mx.device_info().get("device_name", mx.default_device())), "processors": os.cpu_count()}
    try:
        import torch
        import transformers
        facts |= {"torch": torch.__version__, "transformers": transformers.__version__}
        if device == "gpu": facts |= {"torch device": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    except (ImportError, RuntimeError) as error: facts["torch"] = f"not usable: {error}"
    return facts


def deviation(got: Any, want: Any) -> float:
    "Norm of the difference over the norm; NaN stays NaN."
    got, want = np.asarray(got, dtype=np.float64), np.asarray(want, dtype=np.float64)
    return float(np.linalg.norm(got - want) / max(np.linalg.norm(want), 1e-30))


def check_ops(section: Section) -> None:
    "What the models are made of, forward and backward, on the device against the CPU."
    import mlx.core as mx
    import mlx.nn as nn
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 33, 64)).astype(np.float32), rng.normal(size=(64, 96)).astype(np.float32)
    q = rng.normal(size=(2, 4, 50, 16)).astype(np.float32)
    mask = rng.random((2, 1, 1, 50)) < 0.7
    mask[..., 0] = True
    ids = rng.integers(0, 20, (8, 50))
    norm_weight = rng.normal(size=64).astype(np.float32)

    def gradient(function: Callable[..., Any], argument: int = 0) -> Callable[..., Any]:
        weights = mx.array(rng.normal(size=1 << 16).astype(np.float32))

        def total(*inputs: Any) -> Any:
            out = function(*inputs)
            return (out * weights[:out.size].reshape(out.shape)).sum()
        return mx.grad(total, argnums=argument)

    def attention(a: Any) -> Any:
        return mx.fast.scaled_dot_product_attention(a, a, a, scale=0.25, mask=mx.array(mask))

    def norm(a: Any) -> Any: return mx.fast.layer_norm(a, mx.array(norm_weight), mx.array(norm_weight), 1e-12)

    table = rng.normal(size=(20, 64)).astype(np.float32)
    cases: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]] = {
        "matmul": (mx.matmul, (x, y)), "matmul, transposed": (lambda a, b: a.swapaxes(1, 2) @ (a @ b), (x, y)),
        "softmax": (lambda a: mx.softmax(a, axis=-1), (x,)), "logsumexp": (lambda a: mx.logsumexp(a, axis=-1), (x,)),
        "gelu": (nn.gelu, (x,)), "layer norm": (norm, (x,)), "attention with a mask": (attention, (q,)),
        "embedding": (lambda t: t[mx.array(ids)], (table,)), "argsort": (lambda a: mx.argsort(a, axis=-1), (x,)),
        "cumsum": (lambda a: mx.cumsum(a, axis=1), (x,)),
        "random": (lambda a: mx.random.normal((1000,), key=mx.random.key(7)) + a.sum() * 0, (x,)),
    }
    for name in ("matmul", "softmax", "gelu", "layer norm", "attention with a mask", "embedding"):
        cases[f"gradient of {name}"] = (gradient(cases[name][0]), cases[name][1])
    exact = {cases["matmul"][0]: lambda a, b: a.astype(float) @ b.astype(float),
             cases["softmax"][0]: lambda a: np.exp(a.astype(float)) / np.exp(a.astype(float)).sum(-1, keepdims=True),
             norm: lambda a: (a - a.mean(-1, keepdims=True, dtype=float)) / a.std(-1, keepdims=True, dtype=float)
             * norm_weight + norm_weight}
    for name, (function, inputs) in cases.items():
        def work(function: Callable[..., Any] = function, inputs: tuple[np.ndarray, ...] = inputs) -> str:
            results = []
            for place in (mx.default_device(), mx.Device(mx.cpu, 0)):
                with mx.stream(place):
                    out = function(*map(mx.array, inputs))
                    mx.eval(out)
                results.append(np.array(out))
            error = deviation(*results)
            if function in exact: error = max(error, deviation(results[0], exact[function](*inputs)))
            return f"{'ok' if error < 2e-5 else 'DIFFERENT'}, {error:.1e}"
        section.attempt(f"op: {name}", work)


def losses_and_weights(config: dict[str, Any], device: str, steps: int, dtype: Any = None,
                       rate: float = 1e-3) -> tuple[list[float], np.ndarray, np.ndarray]:
    "Losses of a few training steps without dropout, the weights after them, and the first logits."
    import mlx.core as mx
    from mlx.utils import tree_flatten

    from mlx_bert_training.core.step import apply_model, batch_arrays
    use_device(device)
    rates = {key: 0.0 for key in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")}
    model = our_model({**config, **(rates if config["model_type"] != "modernbert" else {})})
    batch = make_batch(8, 24, config["vocab_size"])
    model.eval()
    logits = np.array(apply_model(model, batch_arrays(batch)))
    step, optimizer = our_training(model, dtype, rate=rate)
    model.train()
    losses = []
    for _ in range(steps):
        total, weight, _ = step.update(batch, rate)
        mx.eval(total, weight, model.parameters(), optimizer.state)
        losses.append(total.item() / weight.item())
    flat = np.concatenate([np.array(value, dtype=np.float32).ravel() for _, value in tree_flatten(model.parameters())])
    kinds = {value.dtype for _, value in tree_flatten(model.trainable_parameters())}
    assert kinds == {mx.float32}, "the masters are fp32"
    return losses, flat, logits


def checks(section: Section) -> None:
    "Is it right? Ops, logits and training on device and CPU; bf16 learns; a run repeats itself."
    import mlx.core as mx
    use_device(section.device)
    check_ops(section)

    def same(name: str, steps: int = 3) -> str:
        config = model_config(name, tiny=True)
        here, there = (losses_and_weights(config, device, steps) for device in (section.device, "cpu"))
        errors = deviation(here[2], there[2]), deviation(here[0], there[0]), deviation(here[1], there[1])
        verdict = "ok" if errors[0] < 1e-4 and errors[1] < 1e-4 and errors[2] < 2e-3 else "DIFFERENT"
        return f"{verdict}: logits {errors[0]:.1e}, losses of {steps} steps {errors[1]:.1e}, weights {errors[2]:.1e}"

    def learns() -> str:
        losses, _, _ = losses_and_weights(model_config("minilm", tiny=True), section.device, 60, mx.bfloat16, 3e-3)
        return f"{'ok' if losses[-1] < 0.3 * losses[0] else 'DOES NOT LEARN'}: loss {losses[0]:.3f} to {losses[-1]:.3f}"

    def repeats() -> str:
        config = model_config("minilm", tiny=True)
        first, second = (losses_and_weights(config, section.device, 5)[1] for _ in range(2))
        return "ok: the same bits" if np.array_equal(first, second) else f"other bits, {deviation(first, second):.1e}"

    for name in MODELS: section.attempt(f"{name}: device against CPU", lambda name=name: same(name))
    section.attempt("bf16 with fp32 masters learns", learns)
    section.attempt("a run repeated", repeats)


def write_texts(path: Path, rows: int, seed: int) -> None:
    "Texts of made-up words; the label says whether the words of one kind outnumber the others."
    rng = np.random.default_rng(seed)
    words = np.array([f"{a}{b}{c}" for a in "bdfgk" for b in ("al", "en", "or", "ut") for c in ("o", "in", "es", "a")])
    good = set(words[::2])
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "text", "label"))
        for number in range(rows):
            chosen = rng.choice(words, 2 * rng.integers(4, 30) + 1)
            share = sum(word in good for word in chosen) / len(chosen)
            writer.writerow((number, " ".join(chosen), int(share > 0.5)))


def trainer(section: Section) -> None:
    "A whole run as a user starts it: `create_trainer` on a file of texts, then evaluation and prediction."
    from mlx_bert_training import create_trainer

    def run(folder: Path) -> str:
        write_texts(folder / "train.csv", 300 if section.tiny else 8000, 1)
        write_texts(folder / "test.csv", 50 if section.tiny else 1000, 2)
        model = TINY if section.tiny else {**MODELS["minilm"], "num_hidden_layers": 3}
        model = {key: value for key, value in model.items() if key not in ("model_type", "vocab_size")}
        declaration = {
            "model": {"head_type": "binary_classification", "pooling": "mean", "config": model},
            "data": {"train_path": str(folder / "train.csv"), "test_path": str(folder / "test.csv"),
                     "text_column": "text", "target_column": "label", "id_column": "id", "max_length": 64,
                     "batch_size": 32},
            "training": {"num_epochs": 2, "early_stopping": False, "mixed_precision": section.device == "gpu"},
            "optimizer": {"learning_rate": 3e-4},
            "environment": {"device": section.device, "output_dir": str(folder / "runs")}}
        made = create_trainer(config=declaration)
        start = time.perf_counter()
        result = made.train(dashboard=False)
        seconds = time.perf_counter() - start
        scores = made.evaluate()
        predicted = np.asarray(made.predict().values)
        assert np.isfinite(predicted).all(), "predictions are finite"
        accuracy, half = scores["eval_accuracy"], "bf16" if made.dtype is not None else "fp32"
        return (f"{result.steps} updates in {seconds:.1f} s, {result.tokens_per_second:.0f} tokens/s, {half}, "
                f"accuracy {accuracy:.3f}, {len(predicted)} predictions")

    with tempfile.TemporaryDirectory() as folder: section.attempt("create_trainer", lambda: run(Path(folder)))


def bench(name: str) -> Callable[[Section], None]:
    "The section that measures one model."
    def run(section: Section) -> None:
        use_device(section.device)
        gpu = section.device == "gpu"
        for precision in ("bf16", "fp32") if name == "minilm" and gpu else ("bf16",) if gpu else ("fp32",):
            measure(section, model_config(name, section.tiny), precision, compiled=precision == "bf16" or not gpu)
    return run


def measure(section: Section, config: dict[str, Any], precision: str, compiled: bool) -> None:
    "Training and inference at every shape: first without torch.compile, so that there are figures, then with it."
    shapes = ((4, 16), (2, 32)) if section.tiny else SHAPES
    batches = [make_batch(*shape, config["vocab_size"]) for shape in shapes]
    ours = section.attempt(f"{precision}: our model", lambda: Runs(our_runs(config, batches, precision)))
    if ours is None: return
    theirs = section.attempt(f"{precision}: torch's model", lambda: Runs(
        torch_runs(config, batches, precision, section.device)))
    rate = measured_rate(section, precision)
    ready: dict[tuple[str, int], dict[str, Run]] = {}

    def add(side: str, run: Run, action: str, number: int, seconds: float) -> None:
        "Take a side into the comparison if its first steps work."
        label = f"{precision} {shapes[number][0]}x{shapes[number][1]} {action}"
        name = f"{label}: first three steps of {side}, s"
        if section.attempt(name, lambda: round(3 * timed(run, 3), 2), seconds) is None: return
        sides = ready.setdefault((action, number), {})
        sides[side] = run
        if side == "ours" and theirs is not None: return    # compared as soon as there is somebody to compare with
        flops = step_flops(config, *shapes[number]) * (3 if action == "train" else 1)
        tokens = shapes[number][0] * shapes[number][1]
        section.attempt(label, lambda: compare(section, sides, flops, tokens, rate), 5)

    jobs = [(action, number) for action in ("train", "infer") for number in range(len(shapes))]
    for action, number in jobs:
        add("ours", ours.by_name[action][number], action, number, 8)
        if theirs is not None: add("torch", theirs.by_name[action][number], action, number, 6)
    if not compiled or theirs is None: return
    for action, number in sorted(jobs, key=lambda job: job[1]):
        if (action, number) in ready:
            add("compiled", theirs.by_name[f"compiled_{action}"][number], action, number, 25)


@dataclass
class Runs:
    "The functions of one side; prints as a word."
    by_name: dict[str, list[Run]]

    def __str__(self) -> str: return "made"


def profile(section: Section) -> None:
    "Where the time of BERT-base goes: parts of the step, parts of the network, and kernels, on both sides."
    use_device(section.device)
    config = model_config("base", section.tiny)
    for batch, length in ((4, 16),) if section.tiny else SHAPES:
        label = f"{batch}x{length}"
        section.attempt(f"{label}: parts of our step, ms", lambda b=batch, n=length: our_parts(
            section, config, b, n), 15)
        section.attempt(f"{label}: parts of torch's step, ms", lambda b=batch, n=length: torch_parts(
            section, config, b, n), 10)
        for name, work in pieces(section, config, batch, length).items():
            section.attempt(f"{label}: {name}, ms a piece: ours, torch", work)
        for name, kernels in (("our", our_kernels), ("torch's", torch_kernels)):
            section.attempt(f"{label}: {name} kernels of a training step, ms", lambda b=batch, n=length, k=kernels: k(
                section, config, b, n), 10)


def precision_of(section: Section) -> str: return "bf16" if section.device == "gpu" else "fp32"


def our_parts(section: Section, config: dict[str, Any], batch: int, length: int) -> dict[str, Any]:
    "Forward; forward and backward and adding up; norm, clipping and Adam; the whole in one; and the host's share."
    import mlx.core as mx

    from mlx_bert_training.core.step import apply_model, batch_arrays, cast
    dtype = mx.bfloat16 if section.device == "gpu" else None
    model = our_model(config)
    data = make_batch(batch, length, config["vocab_size"])
    step, optimizer = our_training(model, dtype)
    model.train()
    arrays = batch_arrays(data)

    def forward_pass(inputs: dict[str, Any]) -> Any:
        masters = model.parameters()
        model.update(cast(masters, dtype))
        out = apply_model(model, inputs)
        model.update(masters)
        return out
    forward_compiled = mx.compile(forward_pass, inputs=[model.state, mx.random.state], outputs=[mx.random.state])

    def forward(times: int) -> None:
        for _ in range(times): mx.eval(forward_compiled(arrays))

    def gather(times: int) -> None:
        for _ in range(times): mx.eval(*step.accumulate(data), step.window)

    def update(times: int) -> None:
        for _ in range(times):
            kept = step.window
            mx.eval(step.apply(LEARNING_RATE), model.parameters(), optimizer.state)
            step.window = kept

    def whole(times: int) -> None:
        for _ in range(times): mx.eval(*step.update(data, LEARNING_RATE), model.parameters(), optimizer.state)

    host: list[float] = []

    def launched(times: int) -> None:
        for _ in range(times):
            start = time.perf_counter()
            out = step.update(data, LEARNING_RATE)
            mx.async_eval(*out, model.parameters(), optimizer.state)
            host.append(time.perf_counter() - start)
            mx.synchronize()

    gather(1)
    parts: dict[str, Any] = {}
    for name, run in (("forward, training", forward), ("forward, backward, add", gather), ("norm, clip, Adam", update),
                      ("whole step", whole), ("whole step until the device has it", launched)):
        run(2)
        values = [timed(run, 1) for _ in range(3 if section.tiny else 15)]
        parts[name] = spread(host[2:] if run is launched else values, 1000)
    with tempfile.TemporaryDirectory() as folder:
        out = step.update(data, LEARNING_RATE)
        graph = Path(folder) / "graph.dot"
        mx.export_to_dot(str(graph), *out)
        parts["operations in the graph"] = primitives(graph.read_text(encoding="utf-8"))
    mx.eval(out)
    return parts


def primitives(dot: str) -> dict[str, Any]:
    "How many operations of each kind a graph has, the commonest first."
    nodes = [line for line in dot.splitlines() if 'label ="' in line and "rectangle" in line]
    names = [line.split('label ="')[1].split('"')[0] for line in nodes]
    kinds = Counter("Compiled" if name.startswith("Compiled") else name for name in names)
    return {"all": len(names), **dict(kinds.most_common(14))}


def torch_parts(section: Section, config: dict[str, Any], batch: int, length: int) -> dict[str, Any]:
    "The same of the eager step."
    import torch
    place = "cuda" if section.device == "gpu" else "cpu"
    model = torch_model(config, section.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    data = make_batch(batch, length, config["vocab_size"])
    arrays = {key: torch.from_numpy(value).to(place).long() for key, value in data.items()}

    def loss() -> Any:
        with torch.autocast(place, dtype=torch.bfloat16, enabled=section.device == "gpu"): return model(**arrays).loss

    def done() -> None:
        if place == "cuda": torch.cuda.synchronize()

    def forward(times: int) -> None:
        for _ in range(times): loss()
        done()

    def both(times: int) -> None:
        for _ in range(times):
            model.zero_grad(set_to_none=True)
            loss().backward()
        done()

    def update(times: int) -> None:
        for _ in range(times):
            torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
            optimizer.step()
        done()

    parts = {}
    for name, run in (("forward, training", forward), ("forward, backward", both), ("norm, clip, Adam", update)):
        run(2)
        parts[name] = spread([timed(run, 1) for _ in range(3 if section.tiny else 15)], 1000)
    return parts


def pieces(section: Section, config: dict[str, Any], batch: int, length: int) -> dict[str, Callable[[], list[float]]]:
    "Single operations at the sizes of a layer, forward and backward; each returns milliseconds of ours and of torch's."
    import mlx.core as mx
    import mlx.nn as nn
    import torch
    import torch.nn.functional as F
    place = "cuda" if section.device == "gpu" else "cpu"
    ours_type, torch_type = (mx.bfloat16, torch.bfloat16) if section.device == "gpu" else (mx.float32, torch.float32)
    hidden, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    rng = np.random.default_rng(0)

    def both(shapes: list[tuple[int, ...]], ours: Callable[..., Any], theirs: Callable[..., Any]) -> list[float]:
        values = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
        mine = [mx.array(value).astype(ours_type) for value in values]
        other = [torch.from_numpy(value).to(place, torch_type).requires_grad_() for value in values]
        numbers = list(range(len(shapes)))
        gradient = mx.compile(mx.grad(lambda *a: ours(*a).astype(mx.float32).sum(), argnums=numbers))

        def run_ours(times: int) -> None:
            for _ in range(times): mx.async_eval(gradient(*mine))
            mx.synchronize()

        def run_theirs(times: int) -> None:
            for _ in range(times): torch.autograd.grad(theirs(*other).float().sum(), other)
            if place == "cuda": torch.cuda.synchronize()
        results = []
        for run in (run_ours, run_theirs):
            run(3)
            results.append(round(1000 * min(timed(run, 10) for _ in range(3)), 4))
        return results

    tokens = (batch, length, hidden)
    parts = (batch, heads, length, hidden // heads)
    scale = (hidden // heads) ** -0.5
    ids = rng.integers(0, config["vocab_size"], (batch, length))
    our_ids, torch_ids = mx.array(ids), torch.from_numpy(ids).to(place)
    package = importlib.import_module("mlx_bert_training.models.ops")
    norm = [tokens, (hidden,), (hidden,)]
    cases: dict[str, Callable[[], list[float]]] = {
        "linear, square": lambda: both([tokens, (hidden, hidden)], lambda x, w: x @ w.T, F.linear),
        "linear, wide": lambda: both([tokens, (inner, hidden)], lambda x, w: x @ w.T, F.linear),
        "attention, mx.fast": lambda: both([parts] * 3, lambda q, k, v: mx.fast.scaled_dot_product_attention(
            q, k, v, scale=scale), F.scaled_dot_product_attention),
        "layer norm, mx.fast": lambda: both(norm, lambda x, w, b: mx.fast.layer_norm(x, w, b, 1e-12),
                                            lambda x, w, b: F.layer_norm(x, (hidden,), w, b, 1e-12)),
        "gelu, mlx.nn": lambda: both([(batch, length, inner)], nn.gelu, F.gelu),
        "dropout": lambda: both([tokens], nn.Dropout(0.1), lambda x: F.dropout(x, 0.1)),
        "word embedding": lambda: both([(config["vocab_size"], hidden)], lambda t: t[our_ids],
                                       lambda t: F.embedding(torch_ids, t)),
    }
    if hasattr(package, "gelu"):
        cases["gelu, this package's"] = lambda: both([(batch, length, inner)], package.gelu, F.gelu)
    if hasattr(package, "layer_norm"):
        cases["layer norm, this package's"] = lambda: both(norm, lambda x, w, b: package.layer_norm(x, w, b, 1e-12),
                                                           lambda x, w, b: F.layer_norm(x, (hidden,), w, b, 1e-12))
    return cases


def kernels_of(run: Run, section: Section, times: int = 5) -> dict[str, Any]:
    "Kernels of a step by the profiler of torch, which sees every kernel of the process, whoever started it."
    import torch
    run(3)
    kinds = [torch.profiler.ProfilerActivity.CUDA] if section.device == "gpu" else [torch.profiler.ProfilerActivity.CPU]
    start = time.perf_counter()
    with torch.profiler.profile(activities=kinds) as profiler: run(times)
    wall = time.perf_counter() - start
    spent: dict[str, list[float]] = {}
    for event in profiler.events():
        device = str(getattr(event, "device_type", "")).endswith("CUDA")
        if section.device == "gpu" and not device: continue
        micros = event.device_time_total if device else event.self_cpu_time_total
        spent.setdefault(event.name, []).append(micros)
    total = sum(sum(values) for values in spent.values())
    longest = sorted(spent.items(), key=lambda item: -sum(item[1]))[:18]
    return {"kernels": round(sum(map(len, spent.values())) / times), "busy ms": round(total / times / 1000, 3),
            "wall ms, profiled": round(1000 * wall / times, 3),
            "longest": {name[:90]: [round(sum(values) / times / 1000, 3), round(len(values) / times)]
                        for name, values in longest}}


def our_kernels(section: Section, config: dict[str, Any], batch: int, length: int) -> dict[str, Any]:
    runs = our_runs(config, [make_batch(batch, length, config["vocab_size"])], precision_of(section))
    return kernels_of(runs["train"][0], section)


def torch_kernels(section: Section, config: dict[str, Any], batch: int, length: int) -> dict[str, Any]:
    runs = torch_runs(config, [make_batch(batch, length, config["vocab_size"])], precision_of(section), section.device)
    return kernels_of(runs["train"][0], section)


def tests(section: Section) -> None:
    "The package's own tests of ops, models and steps, on this device."
    root = Path(__file__).resolve().parent.parent / "tests"
    names = ("test_ops.py", "test_models.py", "test_step.py", "test_losses.py", "test_optimization.py")
    files = sorted(str(path) for path in root.rglob("test_*.py")
                   if path.name in names or path.parent.name == "architectures")

    def run() -> str:
        some = files[:1] if section.tiny else files
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *some]
        seconds = max(5, section.left() - 2)
        done = subprocess.run(command, cwd=root.parent, capture_output=True, text=True, timeout=seconds)
        return " | ".join(done.stdout.strip().splitlines()[-6:])
    section.attempt(f"pytest of {len(files)} files", run, 15)


SECTIONS: dict[str, Callable[[Section], None]] = {
    "rates": rates, "checks": checks, "trainer": trainer, "profile": profile, "tests": tests,
    **{name: bench(name) for name in MODELS}}


# ---- the schedule and the report


def start_section(name: str, folder: Path, options: argparse.Namespace, end: float) -> str:
    "Run a section in a process of its own; how it ended."
    command = [sys.executable, __file__, "--section", name, "--out", str(folder), "--device", options.device,
               "--end", str(end - 3)] + ["--tiny"] * options.tiny
    exact = {"MLX_ENABLE_TF32": "0"} if name in ("checks", "tests") else {}
    try: code = subprocess.run(command, env={**os.environ, **exact}, timeout=max(1.0, end - time.time())).returncode
    except subprocess.TimeoutExpired: return "stopped at the end of its time"
    return "ended" if code == 0 else f"ended with code {code}"


def cell(value: Any) -> str:
    return f"{value[1]} [{value[0]}, {value[2]}]" if isinstance(value, list) and len(value) == 3 else str(value)


def report(figures: dict[str, dict[str, Any]], ended: dict[str, str]) -> str:
    "Everything that was found, as Markdown."
    lines = ["# This package on a GPU", "",
             "Times and ratios are medians [quartiles] of interleaved turns; below 1 this package is faster.", ""]
    for name, how in ended.items():
        found = figures[name]
        lines += [f"## {name}", "", f"{how}.", ""]
        rows = {key: value for key, value in found.items() if isinstance(value, dict) and "ours" in value}
        if rows: lines += table(rows)
        for key, value in found.items():
            if key in rows or value == "made": continue
            if isinstance(value, dict):
                lines += [f"- {key}", *(f"  - {inner}: {cell(each)}" for inner, each in value.items())]
            else: lines.append(f"- {key}: {cell(value)}")
        lines.append("")
    return "\n".join(lines)


def table(rows: dict[str, dict[str, Any]]) -> list[str]:
    head = ["", "ms", "torch ms", "compiled ms", "to torch", "to compiled", "tokens/s",
            "share of rate: ours / torch / compiled", "peak GiB: ours / torch / compiled",
            "of which working"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, row in rows.items():
        sides = [row.get(side, {}) for side in ("ours", "torch", "compiled")]
        cells = [name, *(cell(side.get("ms", "-")) for side in sides), cell(row.get("ratio_to_torch", "-")),
                 cell(row.get("ratio_to_compiled", "-")), str(sides[0].get("tokens_per_second", "-")),
                 " / ".join(str(side.get("share_of_rate", "-")) for side in sides),
                 *(" / ".join(str(side.get(key, "-")) for side in sides) for key in ("peak_gib", "working_gib"))]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def chosen(text: str) -> Iterator[str]:
    for name in text.split(","):
        if name not in SECTIONS: raise SystemExit(f"there is no section {name!r}: {', '.join(SCHEDULE)}")
        yield name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu_results"), help="folder for the figures")
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--minutes", type=float, default=9.75, help="for everything")
    parser.add_argument("--only", default=",".join(SCHEDULE), help="sections, separated by commas")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to prove the script")
    parser.add_argument("--section", help=argparse.SUPPRESS)
    parser.add_argument("--end", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.section:
        section = Section(options.out / f"{options.section}.json", options.device, options.tiny, options.end)
        section.attempt("section", lambda: SECTIONS[options.section](section) or "complete")
        return
    options.out.mkdir(parents=True, exist_ok=True)
    names = list(chosen(options.only))
    scale, end = options.minutes * 60 / sum(SCHEDULE[name] for name in names), time.time()
    figures: dict[str, dict[str, Any]] = {}
    ended: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            end += SCHEDULE[name] * scale
            print(f"== {name}, {end - time.time():.0f} s at most", flush=True)
            start, path = time.time(), Path(folder) / f"{name}.json"
            ended[name] = start_section(name, Path(folder), options, end) + f", {time.time() - start:.0f} s"
            figures[name] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            (options.out / "figures.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")
            (options.out / "report.md").write_text(report(figures, ended), encoding="utf-8")
    print((options.out / "report.md").read_text(encoding="utf-8"))


if __name__ == "__main__": main()
