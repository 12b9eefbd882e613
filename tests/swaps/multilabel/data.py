"""The data: a file of JSON objects, one on each line."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DataConfig:
    """Options of the data."""

    path: str = "data/dishes.jsonl"
    """file of lines such as {"ingredients": ["rice", "mint"], "tags": ["sweet"]}"""
