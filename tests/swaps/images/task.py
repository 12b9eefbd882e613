"""The task: tell pictures apart."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .data import Images, read_image
from .engine.loader import Seeded
from .engine.task import TaskDefaults
from .engine.trainer import Output
from .metrics import Accuracy


class Task(TaskDefaults):
    """Classify pictures."""

    defaults = ("model.hidden=64", "loader.drop_last=true")  # the last for batch norm
    learnt = ("classes",)

    def files(self, split: str) -> list[Path]:
        return sorted(self.path.glob(f"{split}/*/*.pgm"))

    def learn(self) -> None:
        self.classes = sorted({file.parent.name for file in self.files("train")})

    def datasets(self) -> dict[str, Any]:
        datasets: dict[str, Any] = {}
        for split in ("train", "val", "test"):
            datasets[split] = Images(self.files(split), self.classes, augment=split == "train")
        return {**datasets, "train": Seeded(datasets["train"])}

    def build_model(self) -> nn.Module:
        hidden = self.model.hidden
        return nn.Sequential(
            nn.Conv2d(1, hidden, kernel_size=3, stride=2, padding=1),  # (batch, hidden, 8, 8)
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
            nn.Linear(hidden, len(self.classes)),
        )

    def forward(self, model: nn.Module, batch: Any) -> Output:
        images, target = batch  # (batch, 1, 16, 16), (batch,)
        scores = model(images)  # (batch, classes)
        losses = nn.functional.cross_entropy(scores, target, reduction="none")
        return Output(losses, scores, target)

    def metrics(self) -> dict[str, Any]:
        return {"accuracy": Accuracy(len(self.classes))}

    def example(self) -> str:
        return str(self.files("val")[0])

    def parse(self, text: str) -> Tensor:
        return read_image(Path(text))

    def predict(self, model: nn.Module, samples: list[Any]) -> Iterable[dict[str, Any]]:
        images = torch.stack(samples).to(next(model.parameters()).device)
        for index in model(images).argmax(dim=1).tolist():
            yield {"class": self.classes[index]}
