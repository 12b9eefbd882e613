"""The data: a CSV file of texts and labels."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DataConfig:
    """Options of the data."""

    path: str = "data/reviews.csv"
    """CSV file with the columns split (train, val or test), text and label"""
