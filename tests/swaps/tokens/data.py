"""The data: a file of texts, one on each line."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DataConfig:
    """Options of the data."""

    path: str = "data/lines.txt"
    """text file in UTF-8; of ten lines, eight are for training, one for val and one for test"""
