"`mlx-bert benchmark`: a table whose figures belong to its shapes, and words for what is no shape."
import re

import pytest

from mlx_bert_training.benchmark import Speed, parse_shape, run_benchmark, timed
from mlx_bert_training.cli import main
from mlx_bert_training.errors import MLXBertError


def test_the_command_prints_one_table(capsys):
    assert main(["benchmark", "2x8", "1x4", "--seconds", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("mlx_bert_training ") and "minilm" in lines[2]
    rows = [line for line in lines if re.match(r"\| \d+ x \d+ ", line)]
    assert rows[0].startswith("| 2 x 8 | 1 |") and rows[-1].startswith("| 1 x 4 | 1 |")
    assert all(float(cell.replace(",", "")) > 0 for cell in rows[0].split("|")[3:-1])


def test_rates_are_of_the_median_run():
    assert Speed("training", 2, 10, 1, (0.5, 0.1, 0.2), 0).tokens_per_second == pytest.approx(100)
    assert len(timed(lambda: None, 0, least=4)) == 4


@pytest.mark.parametrize("text", ["32", "x128", "axb", "32x-1"])
def test_what_is_no_shape_is_said(text):
    with pytest.raises(MLXBertError, match="such as 32x128"): parse_shape(text)


def test_a_wrong_size_or_too_many_tokens_are_refused(capsys):
    with pytest.raises(MLXBertError, match="513"): run_benchmark(shapes=[(1, 513)])
    assert main(["benchmark", "--size", "bas"]) == 2
    assert "base" in capsys.readouterr().err
