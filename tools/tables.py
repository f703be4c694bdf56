"""What the tools that lay data out as a competition have in common."""
import csv
import hashlib
from pathlib import Path


def read_rows(source: Path, sha256: str) -> list[dict[str, str]]:
    "The rows of a CSV file. Exits where it is not the expected one."
    data = source.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise SystemExit(f"{source} is not the expected file: its sha256 is not {sha256}")
    return list(csv.DictReader(data.decode("utf-8").splitlines()))


def write_rows(path: Path, columns: list[str], rows: list[dict[str, str]]) -> None:
    "Some columns of the rows as a CSV file."
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
