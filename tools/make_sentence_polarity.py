"""Lay sentences.csv out as a competition: python tools/make_sentence_polarity.py path/to/sentences.csv

The source is the sentence polarity dataset v1.0 of Bo Pang and Lillian Lee, rt-polarity.pos and rt-polarity.neg, as
UTF-8 with the header text,label; its sha256 is checked. Writes train.csv, test.csv and sample_submission.csv into the
package and the answers into tests/fixtures/.
"""
import hashlib
import sys
from pathlib import Path

from tables import read_rows, write_rows

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "mlx_bert_training/demo/sentence_polarity"
SOLUTION = ROOT / "tests/fixtures/sentence_polarity_solution.csv"
SHA256 = "7796136698a5df4f7e363dabb0be16824d3bb299c609a99d6e13b0b45b0f8265"
TRAIN, TEST = 2000, 500     # rows; as many positive as negative ones


def shuffled(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    "The rows in an order that is the same on every machine and for good; a text that is there twice stands once."
    once = {row["text"]: row for row in rows}
    keys = {text: hashlib.sha256(f"sentence_polarity {text}".encode()).hexdigest() for text in once}
    return sorted(once.values(), key=lambda row: keys[row["text"]])


def main(source: Path) -> None:
    rows = shuffled(read_rows(source, SHA256))
    half = (TRAIN + TEST) // 2
    balanced = [[row for row in rows if row["label"] == label][:half] for label in ("0", "1")]
    mixed = [row for pair in zip(*balanced, strict=True) for row in pair]
    train, test = shuffled(mixed[:TRAIN]), shuffled(mixed[TRAIN:])
    for number, row in enumerate([*train, *test], 1): row.update(id=str(number), positive=row["label"])
    write_rows(DEMO / "train.csv", ["id", "text", "positive"], train)
    write_rows(DEMO / "test.csv", ["id", "text"], test)
    write_rows(DEMO / "sample_submission.csv", ["id", "positive"], [{**row, "positive": "0"} for row in test])
    write_rows(SOLUTION, ["id", "positive"], test)
    print(f"{len(train)} training rows, {len(test)} test rows")


if __name__ == "__main__":
    if len(sys.argv) != 2: raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
