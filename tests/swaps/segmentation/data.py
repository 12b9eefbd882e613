"""The data: grey pictures, and a mask for each."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor


@dataclass(frozen=True)
class DataConfig:
    """Options of the data."""

    path: str = "data/discs"
    """folder of images/N.pgm and masks/N.pgm; a mask is 255 inside, 0 outside, 128 if unknown"""


def read_pgm(path: Path) -> Tensor:
    """A picture (height, width) of uint8."""
    header, _, pixels = path.read_bytes().partition(b"\n")
    words = header.decode("ascii", "replace").split()
    if len(words) != 4 or words[0] != "P5" or words[3] != "255":
        raise ValueError(f"{path}: expected a PGM file with a header such as P5 16 16 255")
    return torch.tensor(list(pixels), dtype=torch.uint8).view(int(words[2]), int(words[1]))


class Masks:
    """Pairs of a picture (1, height, width), from 0 to 1, and its mask (height, width)."""

    def __init__(self, images: list[Path]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        path = self.images[index]
        mask = path.parents[1] / "masks" / path.name
        return read_pgm(path)[None] / 255, read_pgm(mask)
