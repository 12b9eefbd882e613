"""The data: pictures, which are decoded when they are needed."""

from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class DataConfig:
    """Options of the data."""

    path: str = "data/shapes"
    """folder of train, val and test, each with a folder of PGM files for each class"""


@dataclass
class Images:
    """Pairs of a picture and the index of its class, which the folder names."""

    files: list[Path]
    classes: list[str]
    augment: bool

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = read_image(self.files[index])
        if self.augment:
            image = image.roll(torch.randint(-2, 3, (2,)).tolist(), dims=(1, 2))
        return image, self.classes.index(self.files[index].parent.name)


def read_image(path: Path) -> torch.Tensor:
    """A picture (1, 16, 16), with values from 0 to 1."""
    content = path.read_bytes()
    if not content.startswith(b"P5 16 16 255\n") or len(content) != 13 + 256:
        raise ValueError(f"{path}: expected a PGM file of 16 x 16 pixels")
    return torch.tensor(list(content[13:])).view(1, 16, 16) / 255
