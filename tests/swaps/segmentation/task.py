"""The task: say of each pixel whether it belongs to the disc."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .data import DataConfig, Masks, read_pgm
from .engine.trainer import Output, Trainer
from .metrics import Metric
from .model import ModelConfig

UNKNOWN = 128  # pixels that nobody has labelled


class IoU(Metric):
    """Intersection over union: of the pixels predicted or true, the share that are both."""

    higher_is_better = True

    def update(self, preds: Tensor, target: Tensor) -> None:
        is_known = target != UNKNOWN
        is_predicted = (preds > 0) & is_known
        is_true = target == 255
        intersection = (is_predicted & is_true).sum()
        self.add(intersection=intersection, union=(is_predicted | is_true).sum())

    def compute(self) -> Tensor:
        return self.sums["intersection"] / self.sums["union"]


class Task:
    """Find discs in pictures."""

    defaults = ("trainer.monitor=iou", "trainer.epochs=3", "loader.batch_size=16")
    collate = None
    trainer = Trainer

    def __init__(self, data: DataConfig, model: ModelConfig, root: Path) -> None:
        self.folder = root / data.path
        self.model = model

    def learn(self) -> None:
        """Nothing has to be learnt before training."""

    def datasets(self) -> dict[str, Any]:
        """The splits. Of ten pictures, eight are for training, one for val and one for test."""
        files: dict[str, list[Path]] = {"train": [], "val": [], "test": []}
        for path in sorted(self.folder.glob("images/*.pgm")):
            split = {8: "val", 9: "test"}.get(int(path.stem) % 10, "train")
            files[split].append(path)
        return {split: Masks(paths) for split, paths in files.items()}

    def units(self, batch: Any) -> int:
        """The number of pixels that the loss counts."""
        _, masks = batch
        return int((masks != UNKNOWN).sum())

    def data_files(self) -> list[Path]:
        return [self.folder]

    def build_model(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, self.model.hidden, kernel_size=5, padding=2),
            nn.ReLU(),
            nn.Dropout(self.model.dropout),
            nn.Conv2d(self.model.hidden, 1, kernel_size=5, padding=2),
        )

    def forward(self, model: nn.Module, batch: Any) -> Output:
        images, masks = batch  # (batch, 1, height, width), (batch, height, width)
        scores = model(images).squeeze(1)  # (batch, height, width), above 0 for the disc
        losses = nn.functional.binary_cross_entropy_with_logits(
            scores, (masks == 255).float(), reduction="none"
        )  # (batch, height, width)
        return Output(losses * (masks != UNKNOWN), scores, masks)

    def metrics(self) -> dict[str, Any]:
        return {"iou": IoU()}

    def report(self) -> dict[str, Any]:
        return {}

    def example(self) -> str:
        return os.path.relpath(self.folder / "images" / "8.pgm")

    def parse(self, text: str) -> tuple[str, Tensor]:
        return text, read_pgm(Path(text))[None] / 255

    def predict(self, model: nn.Module, samples: list[Any]) -> Iterable[dict[str, Any]]:
        device = next(model.parameters()).device
        for name, image in samples:  # one by one, since their sizes may differ
            scores = model(image[None].to(device))[0, 0]  # (height, width)
            rows = ["".join(".#"[pixel > 0] for pixel in row) for row in scores.tolist()]
            yield {"input": name, "mask": rows}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing was learnt."""
