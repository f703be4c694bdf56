"""Eight writers of one ledger of submissions lose no line."""
from __future__ import annotations

import subprocess
import sys

from faults.conftest import LONG

from mlx_bert_training.kaggle.ledger import Ledger


def test_many_writers_lose_no_line(place, count):
    each = 25 if LONG else 5
    script = """import sys
from mlx_bert_training.kaggle.ledger import Ledger, LedgerEntry
for i in range(int(sys.argv[3])):
    Ledger(sys.argv[1]).append(LedgerEntry("tiny", "auc", 0.5, 0.01, run_dir=f"runs/{sys.argv[2]}-{i}", message="m",
                            file="x.csv", file_sha256=f"{sys.argv[2]}-{i}"))
"""
    path = place / "ledger.jsonl"
    writers = [subprocess.Popen([sys.executable, "-c", script, str(path), str(w), str(each)]) for w in range(8)]
    assert [writer.wait(120) for writer in writers] == [0] * 8
    runs = {entry.run_dir for entry in Ledger(path).entries()}
    for w in range(8): count("ledger writers", lines_lost=sum(f"runs/{w}-{i}" not in runs for i in range(each)))
    assert len(runs) == 8 * each
