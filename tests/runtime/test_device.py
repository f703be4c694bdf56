"""The device, the buffer cache and the compiler: what the environment asks for, and what there is."""
import os
import subprocess
import sys

import mlx.core as mx
import pytest

from mlx_bert_training import runtime
from mlx_bert_training.errors import UnknownNameError
from mlx_bert_training.runtime import device
from mlx_bert_training.runtime.device import cache_limit

linux_cpu = pytest.mark.skipif(not runtime.is_linux_cpu(), reason="only a Linux CPU needs a larger cache")


def python(code: str, **environment: str) -> str:
    env = {k: v for k, v in os.environ.items() if not k.startswith("MLX_BERT_")} | environment
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("text, size", [("1000", 1000), ("512k", 512 << 10), ("2G", 2 << 30), ("0.5GiB", 1 << 29),
                                        ("3mb", 3 << 20)])
def test_cache_limit_of_the_environment(monkeypatch, text, size):
    monkeypatch.setenv("MLX_BERT_CACHE_LIMIT", text)
    assert cache_limit() == size


def test_a_cache_limit_that_is_no_number_is_reported_and_ignored(monkeypatch, caplog):
    default = cache_limit()
    monkeypatch.setenv("MLX_BERT_CACHE_LIMIT", "plenty")
    limit = cache_limit()
    assert "plenty" in caplog.text and (limit is None) == (default is None)


@linux_cpu
def test_the_cache_is_no_larger_than_three_quarters_of_the_peak():
    code = """
import mlx.core as mx
from mlx_bert_training import runtime
runtime.ensure_ready()
arrays = [mx.zeros((1 << 22,)) + i for i in range(16)]     # 256 MiB
mx.eval(arrays)
print(runtime.fit_cache_limit(), mx.get_peak_memory())
del arrays
print(mx.get_cache_memory())
"""
    limit, peak, cached = map(int, python(code, MLX_BERT_HEAP="off").split())
    assert limit == peak * 3 // 4 and 0 < cached <= limit
    for heap in ("on", "off"):
        assert python(code, MLX_BERT_HEAP=heap, MLX_BERT_CACHE_LIMIT="100m").split()[0] == str(100 << 20)


@linux_cpu
def test_without_a_compiler_the_results_are_the_same(tmp_path):
    code = """
import mlx.core as mx
from mlx_bert_training import runtime
x = mx.arange(100) / 7
print(runtime.can_compile(), mx.compile(lambda x: x * 3.25 + mx.abs(x - 2.5))(x).sum().item())
"""
    without, value = python(code, PATH=str(tmp_path)).split()
    _, usual = python(code).split()
    assert without == "False" and float(value) == pytest.approx(float(usual))


def test_select_device():
    before = mx.default_device()
    try:
        assert runtime.select_device("cpu").type == mx.DeviceType.cpu
        with pytest.raises(UnknownNameError, match="gpu"): runtime.select_device("gpuu")
        if mx.is_available(mx.gpu):
            assert runtime.select_device("gpu").type == mx.DeviceType.gpu
        else:
            assert runtime.select_device("auto").type == mx.DeviceType.cpu
            with pytest.raises(runtime.DeviceError, match="gpu"): runtime.select_device("gpu")
    finally:
        mx.set_default_device(before)


def test_bfloat16_on_a_cpu_is_refused_with_a_reason():
    cpu = mx.Device(mx.cpu, 0)
    assert "float32" in runtime.bf16_problem(cpu)


def files(monkeypatch, contents: dict[str, str]) -> None:
    monkeypatch.setattr(device, "read_line", lambda path: contents.get(str(path), ""))


V1, V2 = "/sys/fs/cgroup/memory", "/sys/fs/cgroup"


@pytest.mark.parametrize("contents, room", [
    ({}, None),
    ({f"{V2}/memory.max": "max", f"{V2}/memory.current": "5"}, None),
    ({f"{V2}/memory.max": "3000", f"{V2}/memory.current": "1000"}, (3000, 1000)),
    ({f"{V1}/memory.limit_in_bytes": "9223372036854771712", f"{V1}/memory.usage_in_bytes": "5"}, None),
    ({f"{V1}/memory.limit_in_bytes": "3000", f"{V1}/memory.usage_in_bytes": "1000"}, (3000, 1000)),
    ({"/proc/self/cgroup": "0::/user/job", f"{V2}/user/memory.max": "2000", f"{V2}/user/memory.current": "500",
      f"{V2}/user/job/memory.max": "max", f"{V2}/user/job/memory.current": "400"}, (2000, 500)),
    ({"/proc/self/cgroup": "9:name=systemd:/\n4:memory:/docker/1", f"{V1}/memory.limit_in_bytes": "9223372036854771712",
      f"{V1}/memory.usage_in_bytes": "7", f"{V1}/docker/1/memory.limit_in_bytes": "1000",
      f"{V1}/docker/1/memory.usage_in_bytes": "1200"}, (1000, 1200))])
def test_the_memory_of_a_container_in_both_versions_of_cgroup(monkeypatch, contents, room):
    files(monkeypatch, contents | {"/proc/meminfo": "MemTotal: 16 kB\nMemAvailable: 8 kB"})
    assert device.container_memory() == room
    assert device.available_memory() == (8192 if room is None else max(0, room[0] - room[1]))
    assert device.total_memory() == room[0] if room else device.total_memory() > 1 << 20
