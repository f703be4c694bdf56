"""Real forks: safe before a run, a typed error after one, and never a child that waits for ever."""
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
TESTS = Path(__file__).parent.parent

PRELUDE = """
import os, signal, sys, time


def in_a_fork(function, seconds=60):
    "What `function` returns in a forked child, as text; a child that hangs is killed."
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try: answer = str(function())
        except BaseException as error: answer = f"{type(error).__name__}: {error}"
        os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.waitpid(child, os.WNOHANG)[0]: return os.read(reader, 1 << 16).decode()
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hangs"


def show(*values): print(">", *values, flush=True)


def product():
    import mlx.core as mx
    return (mx.ones((64, 64)) @ mx.ones((64, 64))).sum().item()


def trainer(model=None):
    import mlx_bert_training
    from toys import toy_config
    if model is None: model = mlx_bert_training.create_model(seed=1)
    return mlx_bert_training.create_trainer(model, toy_config(FOLDER, compile=True, num_epochs=1))


def train(model=None):
    from toys import ToyLoader
    made = trainer(model)
    return made, made.train(ToyLoader(), ToyLoader(seed=1)).steps


def predict(made):
    from toys import ToyLoader
    return len(made.predict(ToyLoader(labelled=False)).values)
"""


def run(folder: Path, code: str) -> list[str]:
    "The lines that `code` shows in a process of its own."
    program = PRELUDE + f"\nFOLDER = {str(folder)!r}\n" + textwrap.dedent(code)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    return [line[2:] for line in done.stdout.splitlines() if line.startswith("> ")]


def test_the_import_starts_no_thread_and_imports_no_mlx(tmp_path):
    lines = run(tmp_path, """
        threads = lambda: len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1
        before = threads()
        import mlx_bert_training
        show(threads() - before, sorted({"mlx.core", "numpy"} & set(sys.modules)))
        """)
    assert lines == ["0 []"]


def test_a_fork_after_the_import_computes_and_trains(tmp_path):
    lines = run(tmp_path, """
        import mlx_bert_training
        show(in_a_fork(product))
        show(in_a_fork(lambda: train()[1]))
        """)
    assert lines == [str(64.0 ** 3), "5"]


def test_a_fork_after_the_blas_was_checked_computes(tmp_path):
    lines = run(tmp_path, """
        from mlx_bert_training import runtime
        status = runtime.ensure_ready()
        show(in_a_fork(product))
        show(in_a_fork(lambda: runtime.ensure_ready() is status))
        """)
    assert lines == [str(64.0 ** 3), "True"]


def test_a_fork_after_a_model_or_a_trainer_was_created_computes_and_trains(tmp_path):
    lines = run(tmp_path, """
        import mlx_bert_training
        from toys import ToyLoader
        model = mlx_bert_training.create_model(seed=1)
        made = trainer(model)
        show(in_a_fork(product))
        show(in_a_fork(lambda: train(model)[1]))
        show(in_a_fork(lambda: predict(made)))
        show(in_a_fork(lambda: made.start(ToyLoader(), ToyLoader()).result().steps))
        show(train(model)[1])
        """)
    assert lines == [str(64.0 ** 3), "5", "40", "5", "5"]


@pytest.mark.parametrize("use", [
    "train()", "train(model)", "trainer()", "predict(made)", "made.evaluate(ToyLoader())", "made.train(ToyLoader())",
    "made.start(ToyLoader())", "made.save_checkpoint(FOLDER + '/new')", "made.load_checkpoint(FOLDER + '/kept')",
    "mlx_bert_training.create_model()", "mlx_bert_training.runtime.machine_info()"])
def test_a_fork_after_a_training_says_so(tmp_path, use):
    lines = run(tmp_path, f"""
        import mlx_bert_training
        from toys import ToyLoader
        model = mlx_bert_training.create_model(seed=1)
        made, _ = train(model)
        made.save_checkpoint(FOLDER + "/kept")
        show(in_a_fork(lambda: {use}))
        show(made.evaluate(ToyLoader())["eval_loss"] > 0)
        """)
    assert lines[0].startswith("ForkError: ") and "spawn" in lines[0]
    assert lines[1] == "True"       # the parent is none the worse


def test_a_fork_of_that_fork_says_so_too(tmp_path):
    lines = run(tmp_path, """
        import mlx_bert_training
        train()
        show(in_a_fork(lambda: in_a_fork(train)))
        """)
    assert lines[0].startswith("ForkError: ")


def test_mlx_used_without_the_package_before_the_fork_is_noticed(tmp_path):
    lines = run(tmp_path, """
        import mlx_bert_training
        product()
        show(in_a_fork(train))
        """)
    assert lines[0].startswith("ForkError: ")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_workers_of_multiprocessing(tmp_path):
    "Forked workers that make batches go on working; one that trains is told; a spawned one trains."
    (tmp_path / "work.py").write_text(textwrap.dedent("""
        import numpy as np


        def batch(number): return float(np.ones((200, 200)).dot(np.ones((200, 200))).sum()) + number


        def job(number):
            import mlx_bert_training
            try: mlx_bert_training.create_model(seed=number)
            except mlx_bert_training.MLXBertError as error: return type(error).__name__
            return "created"
        """))
    lines = run(tmp_path, """
        import multiprocessing
        sys.path.insert(0, FOLDER)
        import work
        train()
        with multiprocessing.get_context("fork").Pool(2) as pool:
            show(pool.map_async(work.batch, [0, 1]).get(60), pool.map_async(work.job, [0, 1]).get(60))
        with multiprocessing.get_context("spawn").Pool(1) as pool: show(pool.map_async(work.job, [0]).get(60))
        """)
    assert lines == ["[8000000.0, 8000001.0] ['ForkError', 'ForkError']", "['created']"]


def test_a_worker_that_was_forked_before_the_package_was_imported(tmp_path):
    lines = run(tmp_path, """
        import multiprocessing
        product()

        def job(number):
            try: train()
            except Exception as error: return type(error).__name__

        with multiprocessing.get_context("fork").Pool(1) as pool: show(pool.map_async(job, [0]).get(60))
        """)
    assert lines == ["['ForkError']"]
