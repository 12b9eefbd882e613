"""The task: tell pictures apart."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .data import DataConfig, Images, read_image
from .engine.loader import Seeded
from .engine.trainer import Output, Trainer
from .metrics import Accuracy
from .model import ModelConfig


class Task:
    """Classify pictures."""

    # A last batch of one picture has no deviation, which batch norm needs.
    defaults = ("trainer.monitor=accuracy", "loader.batch_size=16", "loader.drop_last=true")
    collate = None
    units = None
    trainer = Trainer

    def __init__(self, data: DataConfig, model: ModelConfig, root: Path) -> None:
        self.folder = root / data.path
        self.model = model

    def files(self, split: str) -> list[Path]:
        return sorted(self.folder.glob(f"{split}/*/*.ppm"))

    def learn(self) -> None:
        self.classes = sorted({file.parent.name for file in self.files("train")})

    def datasets(self) -> dict[str, Any]:
        return {
            "train": Seeded(Images(self.files("train"), self.classes, augment=True)),
            "val": Images(self.files("val"), self.classes, augment=False),
            "test": Images(self.files("test"), self.classes, augment=False),
        }

    def data_files(self) -> list[Path]:
        return [self.folder]

    def build_model(self) -> nn.Module:
        hidden = self.model.hidden
        return nn.Sequential(
            nn.Conv2d(3, hidden, kernel_size=3, stride=2, padding=1),  # (batch, hidden, 8, 8)
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, kernel_size=3),  # (batch, hidden, 6, 6)
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
            nn.Dropout(self.model.dropout),
            nn.Linear(hidden, len(self.classes)),
        )

    def forward(self, model: nn.Module, batch: Any) -> Output:
        images, target = batch  # (batch, 3, 16, 16), (batch,)
        scores = model(images)  # (batch, classes)
        losses = nn.functional.cross_entropy(scores, target, reduction="none")
        return Output(losses, scores, target)

    def metrics(self) -> dict[str, Any]:
        return {"accuracy": Accuracy(len(self.classes))}

    def report(self) -> dict[str, Any]:
        return {"classes": self.classes}

    def example(self) -> str:
        return os.path.relpath(self.files("val")[0])

    def parse(self, text: str) -> tuple[str, Tensor]:
        return text, read_image(Path(text))

    def predict(self, model: nn.Module, samples: list[Any]) -> Iterable[dict[str, Any]]:
        device = next(model.parameters()).device
        images = torch.stack([image for _, image in samples]).to(device)
        for (name, _), scores in zip(samples, model(images), strict=True):
            yield {"input": name, "class": self.classes[scores.argmax()]}

    def state_dict(self) -> dict[str, Any]:
        return {"classes": self.classes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.classes = state["classes"]
