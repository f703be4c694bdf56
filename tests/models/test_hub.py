"""The real client of the Hugging Face hub against a local server: revisions, gates, caches and broken downloads."""
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest
from hub_server import serving

pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
FIXTURES = Path(__file__).parents[1] / "fixtures"
ASK = """
import sys
from mlx_bert_training.errors import MLXBertError
from mlx_bert_training.models.weights import read_tensors, resolve_pretrained
try:
    folder = resolve_pretrained(sys.argv[1])
    print("found", sorted(p.name for p in folder.iterdir()), len(read_tensors(folder)))
except MLXBertError as error: print("refused", error)
"""


@pytest.fixture
def hub():
    with serving() as (hub, address):
        tiny = {f.name: f.read_bytes() for f in (FIXTURES / "tiny_bert").iterdir()}
        hub.revisions["main"] = {**tiny, "README.md": b"# tiny"}
        hub.address = address
        yield hub


def ask(hub, folder, name="acme/tiny", **environment):
    "What a fresh process says: the client reads its settings when it is imported."
    settings = {"HF_ENDPOINT": hub.address, "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_XET": "1",
                "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "5", "MLX_BERT_CACHE": str(folder / "ours")}
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HTTP", "http"))}
    done = subprocess.run([sys.executable, "-c", ASK, name], capture_output=True, text=True, cwd=folder,
                          env={**inherited, **settings, **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_only_what_is_needed_is_downloaded_and_then_kept(hub, tmp_path):
    said = ask(hub, tmp_path)
    assert said.startswith("found") and "model.safetensors" in said and "README.md" not in said
    hub.asked.clear()
    assert ask(hub, tmp_path, HF_HUB_OFFLINE="1") == said and not hub.asked
    assert "refused" in ask(hub, tmp_path / "..", name="acme/other", HF_HUB_OFFLINE="1")


def test_a_revision(hub, tmp_path):
    hub.revisions["v2"] = {**hub.revisions["main"], "spm.model": b"two"}
    assert "spm.model" in ask(hub, tmp_path, "acme/tiny@v2") and "spm.model" not in ask(hub, tmp_path)
    said = ask(hub, tmp_path, "acme/tiny@v9")
    assert said.startswith("refused") and "acme/tiny@v9" in said and "RevisionNotFound" in said


def test_a_gated_model_needs_a_token(hub, tmp_path):
    hub.token = "hf_right"
    said = ask(hub, tmp_path)
    assert said.startswith("refused") and "GatedRepoError" in said and "HF_TOKEN" in said
    assert ask(hub, tmp_path, HF_TOKEN="hf_wrong").startswith("refused")
    assert ask(hub, tmp_path, HF_TOKEN="hf_right").startswith("found")


@pytest.mark.long
def test_a_broken_download_is_an_error_and_leaves_nothing_that_would_be_taken_for_whole(hub, tmp_path):
    hub.broken.add("model.safetensors")
    assert ask(hub, tmp_path).startswith("refused")
    assert ask(hub, tmp_path, HF_HUB_OFFLINE="1").startswith("refused")
    hub.broken.clear()
    assert ask(hub, tmp_path).startswith("found")


AGAIN = """
import huggingface_hub.constants, logging, sys
huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 500
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
from mlx_bert_training.models import weights
from mlx_bert_training.runtime.transfer import TransferError, TransferLimits
weights.HUB_LIMITS = TransferLimits(breaks=3, pause=0.01)
try: weights.fetch_pretrained("acme/tiny")
except TransferError as error: print("given up:", error)
"""


@pytest.mark.long
def test_a_download_that_breaks_again_and_again_says_so_and_ends(hub, tmp_path):
    "Each answer brings a fiftieth of the file. The hub's client alone would go on for ever."
    hub.broken.add("model.safetensors")
    hub.piece = len(hub.revisions["main"]["model.safetensors"]) // 50
    settings = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1",
                "MLX_BERT_CACHE": str(tmp_path / "ours")}
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HTTP", "http"))}
    done = subprocess.run([sys.executable, "-c", AGAIN], capture_output=True, text=True, env={**inherited, **settings})
    assert "download acme/tiny: broken after" in done.stdout and "try 2 of 3" in done.stdout, done.stderr
    assert "given up: download acme/tiny: given up after" in done.stdout and "broke 3 x" in done.stdout
    assert "the same call goes on with the others" in done.stdout
    assert sum(path.endswith("model.safetensors") for path in hub.asked) <= 4   # one asks for its size
    hub.broken.clear()
    assert ask(hub, tmp_path).startswith("found")


def test_shards_and_bin_files_come_where_there_is_nothing_better(hub, tmp_path):
    files = hub.revisions["main"]
    whole = files.pop("model.safetensors")
    size, = struct.unpack("<Q", whole[:8])
    names = [n for n in json.loads(whole[8:8 + size]) if n != "__metadata__"]
    (tmp_path / "whole.safetensors").write_bytes(whole)
    tensors = mx.load(str(tmp_path / "whole.safetensors"))
    for i in (0, 1):
        mx.save_safetensors(str(tmp_path / "part.safetensors"), {n: tensors[n] for n in names[i::2]})
        files[f"model-{i}.safetensors"] = (tmp_path / "part.safetensors").read_bytes()
    weight_map = {n: f"model-{i}.safetensors" for i in (0, 1) for n in names[i::2]}
    files["model.safetensors.index.json"] = json.dumps({"weight_map": weight_map}).encode()
    files["pytorch_model.bin"] = b"no pickle at all"
    said = ask(hub, tmp_path)
    assert "model-1.safetensors" in said and "pytorch_model.bin" not in said and f" {len(names)}" in said
    for name in [n for n in files if n.startswith("model")]: del files[name]
    (tmp_path / "again").mkdir()
    said = ask(hub, tmp_path / "again")
    assert said.startswith("refused") and "pytorch_model.bin is refused: it is damaged" in said
