"""The task: say of each pixel whether it belongs to the disc."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .engine.task import TaskDefaults
from .engine.trainer import Output
from .metrics import Metric


class IoU(Metric):
    """Intersection over union: of the pixels predicted or true, the share that are both."""

    higher_is_better = True

    def update(self, preds: Tensor, target: Tensor) -> None:
        is_predicted = (preds > 0) & (target >= 0)
        is_true = target == 1
        union = (is_predicted | is_true).sum()
        self.add(intersection=(is_predicted & is_true).sum(), union=union)

    def compute(self) -> Tensor:
        return self.sums["intersection"] / self.sums["union"]


class Task(TaskDefaults):
    """Find discs in pictures."""

    defaults = ("trainer.monitor=iou", "trainer.epochs=3", "loader.batch_size=16")

    def datasets(self) -> dict[str, Any]:
        """Of ten pictures, eight are for training, one for val and one for test."""
        data = torch.load(self.path)
        pairs = list(zip(data["images"], data["masks"], strict=True))
        train = [pair for number, pair in enumerate(pairs) if number % 10 < 8]
        return {"train": train, "val": pairs[8::10], "test": pairs[9::10]}

    def units(self, batch: Any) -> int:
        _, masks = batch
        return int((masks >= 0).sum())

    def build_model(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, self.model.hidden, kernel_size=5, padding=2),
            nn.ReLU(),
            nn.Conv2d(self.model.hidden, 1, kernel_size=5, padding=2),
        )

    def forward(self, model: nn.Module, batch: Any) -> Output:
        images, masks = batch  # (batch, height, width) each
        scores = model(images[:, None])[:, 0]  # (batch, height, width), above 0 for the disc
        is_true = (masks == 1).float()
        losses = nn.functional.binary_cross_entropy_with_logits(scores, is_true, reduction="none")
        return Output(losses * (masks >= 0), scores, masks)

    def metrics(self) -> dict[str, Any]:
        return {"iou": IoU()}

    def example(self) -> str:
        return "8"

    def parse(self, text: str) -> Tensor:
        """The picture (height, width) with this number in the data."""
        images: Tensor = torch.load(self.path)["images"]
        return images[int(text)]

    def predict(self, model: nn.Module, samples: list[Any]) -> Iterable[dict[str, Any]]:
        images = torch.stack(samples).to(next(model.parameters()).device)
        for scores in model(images[:, None])[:, 0].tolist():  # (height, width)
            yield {"mask": ["".join(".#"[score > 0] for score in row) for row in scores]}
