"""What several test modules share."""
import os
import signal
import subprocess
import sys

import pytest
from hypothesis import settings

from mlx_bert_training.registry import Registry

# The same examples on each machine and day, so that a change is judged by itself; FAULTS=50 looks for new ones.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("new", deadline=None, max_examples=1000)
settings.load_profile("new" if os.environ.get("FAULTS") else "same")


@pytest.fixture(scope="session", autouse=True)
def interruptible():
    "An interrupt is heard as in a terminal, also where a shell runs the tests in the background and ignores it."
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def names_of_before():
    "A name that a test gives to a part is gone after it."
    places = [module for name, module in sys.modules.items() if name.startswith("mlx_bert_training.")]
    registries = {id(value): value for place in places for value in vars(place).values() if isinstance(value, Registry)}
    before = {key: dict(registry.entries) for key, registry in registries.items()}
    yield
    for key, registry in registries.items(): registry.entries = before[key]


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory):
    "An empty database of MLflow, made by two processes at the same time; to be copied, for making one takes seconds."
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    script = ("from mlx_bert_training.integrations.mlflow_store import *\nimport_mlflow()\n"
              f"print(len(open_client('sqlite:///{path}').search_experiments()))")
    both = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}) for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=300)
        assert (process.returncode, out.strip()) == (0, "1"), err
    return path
