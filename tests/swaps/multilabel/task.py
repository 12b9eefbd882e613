"""The task: which tags a dish has; it may have several, or none."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.classification import MultilabelF1Score

from .data import DataConfig, read_splits
from .engine.trainer import Output, Trainer
from .model import Classifier, ModelConfig


class Task:
    """Tag dishes by their ingredients."""

    defaults = ("trainer.monitor=f1", "trainer.epochs=3", "loader.batch_size=16")
    collate = None
    units = None
    trainer = Trainer

    def __init__(self, data: DataConfig, model: ModelConfig, root: Path) -> None:
        self.path = root / data.path
        self.model = model

    def learn(self) -> None:
        dishes = read_splits(self.path)["train"]
        self.ingredients = sorted({name for dish in dishes for name in dish["ingredients"]})
        self.tags = sorted({tag for dish in dishes for tag in dish["tags"]})

    def datasets(self) -> dict[str, Any]:
        datasets = {}
        for split, dishes in read_splits(self.path).items():
            datasets[split] = [self.sample(dish) for dish in dishes]
        return datasets

    def sample(self, dish: dict[str, list[str]]) -> tuple[Tensor, Tensor]:
        inputs = one_for_each(dish["ingredients"], self.ingredients)  # (ingredients,)
        target = one_for_each(dish["tags"], self.tags)  # (tags,)
        return inputs, target

    def data_files(self) -> list[Path]:
        return [self.path]

    def build_model(self) -> nn.Module:
        return Classifier(len(self.ingredients), len(self.tags), self.model)

    def forward(self, model: nn.Module, batch: Any) -> Output:
        inputs, target = batch  # (batch, ingredients), (batch, tags)
        scores = model(inputs)  # (batch, tags)
        losses = nn.functional.binary_cross_entropy_with_logits(
            scores, target.float(), reduction="none"
        )  # (batch, tags)
        return Output(losses.mean(dim=1), scores.sigmoid(), target)

    def metrics(self) -> dict[str, Any]:
        return {"f1": MultilabelF1Score(len(self.tags))}

    def report(self) -> dict[str, Any]:
        return {"tags": self.tags}

    def example(self) -> str:
        return "rice, mint, honey"

    def parse(self, text: str) -> tuple[str, Tensor]:
        names = [name.strip() for name in text.split(",")]
        return text, one_for_each(names, self.ingredients)

    def predict(self, model: nn.Module, samples: list[Any]) -> Iterable[dict[str, Any]]:
        device = next(model.parameters()).device
        inputs = torch.stack([encoded for _, encoded in samples]).to(device)
        probabilities = model(inputs).sigmoid()  # (batch, tags)
        for (text, _), row in zip(samples, probabilities.tolist(), strict=True):
            likely = zip(self.tags, row, strict=True)
            tags = {tag: round(value, 4) for tag, value in likely if value > 0.5}
            yield {"input": text, "tags": tags}

    def state_dict(self) -> dict[str, Any]:
        return {"ingredients": self.ingredients, "tags": self.tags}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.ingredients = state["ingredients"]
        self.tags = state["tags"]


def one_for_each(names: list[str], known: list[str]) -> Tensor:
    """A tensor (known,) of int64: 1 for each of the names, 0 for all others."""
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"{unknown} do not occur in the training split")
    encoded = torch.zeros(len(known), dtype=torch.int64)
    encoded[[known.index(name) for name in names]] = 1
    return encoded
