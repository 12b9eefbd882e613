"""The data: rows of a CSV file, with cells that may be empty."""

from dataclasses import dataclass

NUMBERS = ["area", "age", "price"]  # the columns of numbers, the target last


@dataclass(frozen=True)
class DataConfig:
    """Options of the data."""

    path: str = "data/houses.csv"
    """CSV file with the columns split (train, val or test), area, age, district and price"""
