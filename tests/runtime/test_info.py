"""What `mlx-bert info` prints."""
import json

from mlx_bert_training import runtime


def test_info_is_complete_and_plain():
    info = runtime.machine_info()
    assert json.loads(json.dumps(info.as_dict())) == info.as_dict()
    text = str(info)
    for word in ("python", "mlx", "BLAS", "GFLOP/s", "compiler", "threads", "bfloat16", "numpy"): assert word in text
    assert info.gflops > 0 and info.gflops_bundled > 0
    for extra, command in info.missing_extras.items(): assert command == f"pip install 'mlx_bert_training[{extra}]'"
