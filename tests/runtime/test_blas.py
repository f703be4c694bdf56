"""BLAS in fresh processes: the right one, every way of refusing one, and numbers that stay right."""
import ctypes
import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_bert_training import runtime
from mlx_bert_training.runtime.blas import BLAS_TOLERANCE, blas_error
from mlx_bert_training.runtime.elf import ElfFile, loaded_library, memory_maps, write_words

linux_cpu = pytest.mark.skipif(not runtime.is_linux_cpu(), reason="only a Linux CPU needs another BLAS")
needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="builds a small library")

REPORT = """
import json
from mlx_bert_training import runtime
from mlx_bert_training.runtime.blas import blas_error
from mlx_bert_training.runtime.device import buffer_cache
status = runtime.ensure_ready()
print(json.dumps({"library": status.library, "reason": status.reason, "threads": status.threads,
                  "error": blas_error(), "cache_limit": buffer_cache()}))
"""


def python(code: str, **environment: str) -> str:
    env = {k: v for k, v in os.environ.items() if not k.startswith("MLX_BERT_")} | environment
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def report(**environment: str) -> dict:
    return json.loads(python(REPORT, **environment).splitlines()[-1])


def build(folder: Path, source: str) -> str:
    "A shared library made of `source`."
    (folder / "fake.c").write_text(source)
    library = folder / "libfake.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, folder / "fake.c"], check=True)
    return str(library)


@linux_cpu
def test_a_fast_blas_is_found_and_right():
    found = report()
    assert found["library"] and found["error"] < BLAS_TOLERANCE and found["reason"].startswith("checked")


@linux_cpu
def test_off_leaves_the_wheel_alone():
    off = report(MLX_BERT_BLAS="off")
    assert off["library"] is None and "MLX_BERT_BLAS" in off["reason"] and off["error"] < BLAS_TOLERANCE


@linux_cpu
def test_a_path_that_is_not_there():
    gone = report(MLX_BERT_BLAS="/nowhere/libblas.so")
    assert gone["library"] is None and "/nowhere/libblas.so" in gone["reason"]
    assert gone["error"] < BLAS_TOLERANCE


@linux_cpu
def test_a_file_that_is_not_a_library(tmp_path):
    (tmp_path / "text.so").write_text("not a library")
    assert report(MLX_BERT_BLAS=str(tmp_path / "text.so"))["library"] is None


@linux_cpu
@needs_gcc
@pytest.mark.parametrize("body", [
    "",                         # returns without computing anything
    "c[0] = 0.0f / 0.0f;",      # not a number
    "for (int i = 0; i < m; i++) for (int j = 0; j < n; j++) c[i*ldc+j] = 1;",
])
def test_a_library_that_computes_wrongly_is_taken_out_again(tmp_path, body):
    library = build(tmp_path, f"""
        void scipy_cblas_sgemm(int o, int ta, int tb, int m, int n, int k, float al, const float *a, int lda,
                               const float *b, int ldb, float be, float *c, int ldc) {{ {body} }}""")
    fallen = report(MLX_BERT_BLAS=library)
    assert fallen["library"] is None and library in fallen["reason"]
    assert fallen["error"] < BLAS_TOLERANCE


@linux_cpu
@needs_gcc
def test_a_wrong_factorisation_is_noticed(tmp_path):
    library = build(tmp_path, """
        void cblas_cgemm(void) {}   /* MLX imports it, the check does not call it */
        void cblas_sgemm(int o, int ta, int tb, int m, int n, int k, float al, const float *a, int lda,
                         const float *b, int ldb, float be, float *c, int ldc) {
            for (int i = 0; i < m; i++) for (int j = 0; j < n; j++) {
                float s = 0;
                for (int l = 0; l < k; l++)
                    s += (ta == 111 ? a[i*lda+l] : a[l*lda+i]) * (tb == 111 ? b[l*ldb+j] : b[j*ldb+l]);
                c[i*ldc+j] = al * s + (be ? be * c[i*ldc+j] : 0);
            }
        }
        void spotrf_(void) {}       /* leaves the matrix as it was */""")
    fallen = report(MLX_BERT_BLAS=library)
    assert fallen["library"] is None and "wrong" in fallen["reason"] and fallen["error"] < BLAS_TOLERANCE


@linux_cpu
@needs_gcc
@pytest.mark.parametrize("source, why", [
    ("int nothing;", "no cblas_sgemm"),
    ('void cblas_sgemm(void) {} const char *openblas_get_config(void) { return "USE64BITINT"; }', "64-bit integers"),
])
def test_libraries_that_cannot_serve(tmp_path, source, why):
    assert why in report(MLX_BERT_BLAS=build(tmp_path, source))["reason"]


@linux_cpu
def test_products_of_many_shapes_transposes_and_strides():
    print_error = """
import numpy as np, mlx.core as mx
from mlx_bert_training import runtime
assert runtime.ensure_ready().library
rng, worst = np.random.default_rng(0), 0.0
shapes = (1, 1, 1), (1, 7, 1), (2, 3, 4), (17, 1, 33), (64, 64, 64), (129, 65, 257), (300, 1000, 3), (5, 2049, 31)
for m, k, n in shapes:
    for left in (False, True):
        for right in (False, True):
            for step in (1, 2):
                a = rng.normal(size=(2, k, m * step) if left else (2, m, k * step)).astype(np.float32)
                b = rng.normal(size=(2, n, k * step) if right else (2, k, n * step)).astype(np.float32)
                got = [mx.array(x)[..., ::step] for x in (a, b)]
                want = [x[..., ::step] for x in (a, b)]
                got = [x.swapaxes(1, 2) if t else x for x, t in zip(got, (left, right))]
                want = [x.swapaxes(1, 2) if t else x for x, t in zip(want, (left, right))]
                exact = want[0].astype(float) @ want[1].astype(float)
                bias = rng.normal(size=n).astype(np.float32)
                shifted = np.array(mx.addmm(mx.array(bias), *got))
                worst = max(worst, np.abs(np.array(got[0] @ got[1]) - exact).max() / np.abs(exact).max(),
                            np.abs(shifted - exact - bias).max() / np.abs(exact + bias).max())
for f, g in ((mx.linalg.inv, np.linalg.inv), (mx.linalg.cholesky, np.linalg.cholesky),
             (mx.linalg.eigvalsh, np.linalg.eigvalsh)):
    a = rng.normal(size=(40, 40)).astype(np.float32); a = a @ a.T + 40 * np.eye(40, dtype=np.float32)
    worst = max(worst, np.abs(np.array(f(mx.array(a), stream=mx.cpu)) - g(a)).max() / np.abs(g(a)).max())
print(worst)
"""
    assert float(python(print_error)) < 1e-4


@linux_cpu
def test_getting_ready_twice_is_once():
    first = runtime.ensure_ready()
    assert runtime.ensure_ready() is first


@linux_cpu
def test_patch_can_be_taken_back_and_put_in_again():
    patch = runtime.ensure_ready().patch
    if patch is None: pytest.skip("no fast BLAS here")
    slots = lambda: {a: ctypes.c_uint64.from_address(a).value for a in patch.new}  # noqa: E731
    patch.restore()
    try:
        assert slots() == patch.old and blas_error() < BLAS_TOLERANCE
    finally:
        patch.apply()
    assert slots() == patch.new and blas_error() < BLAS_TOLERANCE


@linux_cpu
def test_read_only_pages_are_read_only_again():
    libmlx = loaded_library("libmlx.so")
    assert libmlx is not None
    page = next(m for m in memory_maps() if m.path == libmlx.path and m.protection == "r--p")
    word = ctypes.c_uint64.from_address(page.start).value
    assert write_words({page.start: word}) == {page.start: word}
    assert any(m.start <= page.start < m.end and m.protection == "r--p" for m in memory_maps())


def test_writing_nowhere_is_refused():
    if not memory_maps(): pytest.skip("no /proc")
    with pytest.raises(ValueError, match="not mapped"): write_words({8: 0})


@linux_cpu
@pytest.mark.parametrize("content", [b"", b"short", b"\x7fELF\x02\x01" + b"\xff" * 500,
                                     b"\x7fELF\x01\x01" + b"\0" * 500])
def test_odd_files_raise_instead_of_crashing(tmp_path, content):
    (tmp_path / "odd.so").write_bytes(content)
    with pytest.raises((ValueError, struct.error, StopIteration)): ElfFile(tmp_path / "odd.so")


@linux_cpu
def test_threads_follow_the_environment():
    assert report(OPENBLAS_NUM_THREADS="1")["threads"] == 1
    assert report(OMP_NUM_THREADS="1")["threads"] == 1


@linux_cpu
def test_threads_follow_the_affinity():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n" + REPORT
    without = {k: "" for k in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")}
    assert json.loads(python(code, **without).splitlines()[-1])["threads"] == 1
