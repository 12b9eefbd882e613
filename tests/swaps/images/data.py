"""The data: pictures, which are decoded when they are needed."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

HEADER = b"P6 16 16 255\n"


@dataclass(frozen=True)
class DataConfig:
    """Options of the data."""

    path: str = "data/shapes"
    """folder of train, val and test, each with a folder of PPM files for each class"""


def read_image(path: Path) -> Tensor:
    """A picture (3, 16, 16), with values from 0 to 1."""
    content = path.read_bytes()
    pixels = content.removeprefix(HEADER)
    if not content.startswith(HEADER) or len(pixels) != 3 * 16 * 16:
        raise ValueError(f"{path}: expected a PPM file of 16 x 16 pixels")
    image = torch.tensor(list(pixels)).view(16, 16, 3)
    return image.permute(2, 0, 1) / 255


class Images:
    """Pairs of a picture and the index of its class, which the folder names."""

    def __init__(self, files: list[Path], classes: list[str], augment: bool) -> None:
        self.files = files
        self.classes = classes
        self.augment = augment

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        file = self.files[index]
        image = read_image(file)
        if self.augment:
            shift = torch.randint(-2, 3, (2,)).tolist()
            image = image.roll(shift, dims=(1, 2))
        return image, self.classes.index(file.parent.name)
