"""What the quickstart's predictions are worth on the 500 answers that it never sees.

    make quickstart && python benchmarks/quickstart_score.py
    python benchmarks/quickstart_score.py RUNS              # another folder of runs
"""
import math
import sys
from pathlib import Path

import pandas as pd

ANSWERS = Path(__file__).parents[1] / "tests/fixtures/sentence_polarity_solution.csv"


def accuracy(predictions: Path) -> tuple[float, float]:
    "Share of right answers, and its standard error."
    answers = pd.read_csv(ANSWERS, index_col="id").positive
    found = pd.read_csv(predictions, index_col="id").positive.reindex(answers.index)
    right = float((found == answers).mean())
    return right, math.sqrt(right * (1 - right) / len(answers))


if __name__ == "__main__":
    runs = Path(sys.argv[1] if len(sys.argv) > 1 else "runs")
    for name, file in (("one model, one split", "one_split/predictions.csv"),
                       ("folds and ensemble", "folds/submission.csv")):
        print("{}: {:.3f} ± {:.3f}".format(name, *accuracy(runs / file)))
