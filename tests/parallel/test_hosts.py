"""A host file: ranks that `mlx.launch` starts, here all of them on this machine."""
import io
import json
import socket

import pytest
import yaml
from tiny_competition import declaration, write_files

from mlx_bert_training.cli import main
from mlx_bert_training.parallel.hosts import failed_ranks, launch_command
from mlx_bert_training.run import run_training
from mlx_bert_training.runtime.ranks import RankError


@pytest.fixture
def source(tmp_path):
    write_files(tmp_path)
    config = declaration(tmp_path)
    del config["kaggle"]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "hosts.json").write_text(json.dumps([{"ssh": "127.0.0.1", "ips": ["127.0.0.1"]}] * 2))
    return tmp_path


def free_port():
    "One whose neighbour is free too."
    for _ in range(100):
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            try: two.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError): continue
            return port
    raise AssertionError("no free ports")


@pytest.mark.slow       # each rank is a whole start of the package
def test_two_ranks_by_a_host_file(source):
    shell = ["train", str(source / "run.yaml"), "--hosts", str(source / "hosts.json"), "--port", str(free_port())]
    assert main([*shell, "run_name=two"]) == 0
    one = run_training(source / "run.yaml", run_name="one")
    two = json.loads((source / "runs" / "two" / "result.json").read_text())
    assert two["steps"] == one.result.steps
    assert two["metrics"] == pytest.approx(one.result.metrics, rel=1e-4)


@pytest.mark.slow
def test_a_rank_that_fails_is_an_error_of_the_whole(source, capfd):
    shell = ["train", str(source / "run.yaml"), "--hosts", str(source / "hosts.json"), "--port", str(free_port())]
    assert main([*shell, "target_column=no_such"]) == 2
    assert "ended with code 2" in capfd.readouterr().err


def test_ranks_that_failed_in_the_order_in_which_they_did():
    lines = ["[WARN] Node with rank 1 exited with code -9\n", "[WARN] Node with rank 0 was killed\n",
             "[WARN] Node with rank 1 was killed\n"]
    shown = io.StringIO()
    assert list(failed_ranks(lines, shown).items()) == [(1, "ended with code -9"), (0, "was killed")]
    assert shown.getvalue() == "".join(lines)
    assert not failed_ranks(["update 1/9\n", "Node with rank 0 completed\n"])


def test_no_host_file(tmp_path):
    with pytest.raises(RankError, match="no such host file"): launch_command(tmp_path / "hosts.json", ["train"])
