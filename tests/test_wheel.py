"""A built wheel, installed in an environment of its own, finds its presets and its demo data outside the checkout."""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = """
import json, mlx_bert_training
from mlx_bert_training.declaration.load import list_presets, load_config
from mlx_bert_training.data import read_frame
config = load_config("german_credit")
print(json.dumps({"home": mlx_bert_training.__file__, "presets": sorted(list_presets()),
                  "rows": len(read_frame(config.data.train_path)), "version": mlx_bert_training.__version__}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"      # a copy, so that building leaves nothing in the checkout
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in tracked.splitlines():
        if not name.startswith(("nbs/", "tests/")) and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, source]
    subprocess.run(build, check=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_the_package_its_presets_and_its_data(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in ("presets/production.yaml", "presets/competitions/german_credit.yaml", "demo/german_credit/train.csv",
                 "demo/german_credit/sample_submission.csv", "demo/sentence_polarity/train.csv", "py.typed",
                 "models/modeling_pooled_bert.py.txt"):
        assert f"mlx_bert_training/{name}" in names
    for data in ("german_credit", "sentence_polarity"):
        assert f"mlx_bert_training/demo/{data}/LICENSE-DATA.txt" in names
    assert not [name for name in names if name.startswith(("tests", "nbs"))]


def test_the_script_before_the_compiler_may_be_run(wheel):
    script = zipfile.ZipFile(wheel).getinfo("mlx_bert_training/runtime/compiler/g++")
    assert script.external_attr >> 16 & 0o111 == 0o111      # pip keeps these bits of a wheel


def test_the_installed_wheel_finds_its_presets_and_data(wheel, tmp_path):
    "The dependencies are those of the environment that runs the tests; the package is the wheel's."
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    site = subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True,
                          text=True, check=True).stdout.strip()
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, wheel], check=True)
    import numpy
    Path(site, "dependencies.pth").write_text(str(Path(numpy.__file__).parent.parent))
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([python, "-c", SCRIPT], cwd=tmp_path, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert Path(found["home"]).is_relative_to(site) and found["rows"] == 800
    assert {"quick_test", "development", "production", "kaggle", "german_credit"} <= set(found["presets"])
