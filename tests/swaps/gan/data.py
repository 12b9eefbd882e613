"""The data: a file of numbers, one on each line."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DataConfig:
    """Options of the data."""

    path: str = "data/points.txt"
    """file of numbers; of ten, eight are for training, one for val and one for test"""
