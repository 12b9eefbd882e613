"""The data: a file of JSON objects, one on each line."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class DataConfig:
    """Options of the data."""

    path: str = "data/dishes.jsonl"
    """file of lines such as {"ingredients": ["rice", "mint"], "tags": ["sweet"]}"""


def read_splits(path: Path) -> dict[str, list[Any]]:
    """The dishes of each split. They stay in it when lines are added at the end."""
    splits: dict[str, list[Any]] = {"train": [], "val": [], "test": []}
    for number, line in enumerate(path.read_text("utf-8").splitlines()):
        split = {8: "val", 9: "test"}.get(number % 10, "train")
        splits[split].append(json.loads(line))
    return splits
