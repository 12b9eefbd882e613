"""The data: a CSV file of texts and labels, and its splits."""

import csv
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DataConfig:
    """Options of the data."""

    path: str = "data/reviews.csv"
    """CSV file with the columns split (train, val or test), text and label"""


def read_rows(path: Path, split: str) -> list[tuple[str, str]]:
    """The texts of a split and their labels."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        return [(row["text"], row["label"]) for row in rows if row["split"] == split]
