"""The data: a file of grey pictures, and a mask for each."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DataConfig:
    """Options of the data."""

    path: str = "data/discs.pt"
    """images (count, height, width) from 0 to 1, and masks of the same shape: 1 inside, -1 unknown
    """
