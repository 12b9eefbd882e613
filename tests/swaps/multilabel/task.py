"""The task: which tags a dish has; it may have several, or none."""

import json
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.classification import MultilabelF1Score

from .engine.task import TaskDefaults
from .engine.trainer import Output
from .model import MyLinear


class Task(TaskDefaults):
    """Tag dishes by their ingredients."""

    defaults = ("trainer.monitor=f1", "trainer.epochs=3", "loader.batch_size=16")
    learnt = ("ingredients", "tags")

    def read(self) -> list[Any]:
        return [json.loads(line) for line in self.path.read_text("utf-8").splitlines()]

    def learn(self) -> None:
        train = [dish for number, dish in enumerate(self.read()) if number % 10 < 8]
        self.ingredients = sorted({name for dish in train for name in dish["ingredients"]})
        self.tags = sorted({tag for dish in train for tag in dish["tags"]})

    def datasets(self) -> dict[str, Any]:
        """Of ten dishes, eight are for training, one for val and one for test."""
        pairs = []
        for dish in self.read():
            inputs = one_for_each(dish["ingredients"], self.ingredients)  # (ingredients,)
            pairs.append((inputs, one_for_each(dish["tags"], self.tags)))  # (tags,)
        train = [pair for number, pair in enumerate(pairs) if number % 10 < 8]
        return {"train": train, "val": pairs[8::10], "test": pairs[9::10]}

    def build_model(self) -> nn.Module:
        return nn.Sequential(
            MyLinear(len(self.ingredients), self.model.hidden),
            nn.ReLU(),
            MyLinear(self.model.hidden, len(self.tags)),
        )

    def forward(self, model: nn.Module, batch: Any) -> Output:
        inputs, target = batch  # (batch, ingredients), (batch, tags)
        scores = model(inputs.float())  # (batch, tags)
        truth = target.float()
        losses = nn.functional.binary_cross_entropy_with_logits(scores, truth, reduction="none")
        return Output(losses.mean(dim=1), scores.sigmoid(), target)

    def metrics(self) -> dict[str, Any]:
        return {"f1": MultilabelF1Score(len(self.tags))}

    def report(self) -> dict[str, Any]:
        return {"tags": self.tags}

    def example(self) -> str:
        return "rice mint honey"

    def parse(self, text: str) -> Tensor:
        return one_for_each(text.split(), self.ingredients)

    def predict(self, model: nn.Module, samples: list[Any]) -> Iterable[dict[str, Any]]:
        inputs = torch.stack(samples).to(next(model.parameters()).device)
        for row in model(inputs.float()).sigmoid().tolist():  # (tags,)
            yield {tag: round(value, 4) for tag, value in zip(self.tags, row, strict=True)}


def one_for_each(names: list[str], known: list[str]) -> Tensor:
    """A tensor (known,) of int64: 1 for each of the names, 0 for all others."""
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"{unknown} do not occur in the training split")
    encoded = torch.zeros(len(known), dtype=torch.int64)
    encoded[[known.index(name) for name in names]] = 1
    return encoded
