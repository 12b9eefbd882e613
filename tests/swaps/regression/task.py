"""The task: predict the price of a house from a row with cells that may be empty."""

import json
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError, MeanSquaredError, R2Score

from .data import NUMBERS
from .engine.table import read_table
from .engine.task import TaskDefaults
from .engine.trainer import Output


class Task(TaskDefaults):
    """Predict prices."""

    defaults = ("trainer.monitor=rmse", "loader.batch_size=16", "model.hidden=64")
    learnt = ("mean", "deviation", "districts")

    def rows(self, split: str) -> list[dict[str, str]]:
        columns = read_table(self.path, ["split", "price"]).columns
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return [row for row in rows if row["split"] == split]

    def learn(self) -> None:
        rows = self.rows("train")
        numbers = torch.stack([self.numbers(row) for row in rows])  # (rows, columns)
        self.mean = numbers.nanmean(dim=0)
        self.deviation = (numbers - self.mean).square().nanmean(dim=0).sqrt()
        self.districts = sorted({row["district"] for row in rows})  # "" where it is missing

    def numbers(self, row: dict[str, str]) -> Tensor:
        """The numbers of a row (columns,); NaN where one is missing."""
        return torch.tensor([float(row.get(column) or "nan") for column in NUMBERS])

    def encode(self, row: dict[str, str]) -> tuple[Tensor, Tensor]:
        """The inputs (features,) and the target (), standardised; the mean stands for a gap."""
        numbers = (self.numbers(row) - self.mean) / self.deviation
        district = row.get("district", "")
        if numbers.isinf().any() or district not in self.districts:
            raise ValueError(f"expected numbers, and one of {self.districts}, found {row}")
        one_hot = torch.tensor([float(district == name) for name in self.districts])
        return torch.cat([numbers[:-1].nan_to_num(), one_hot]), numbers[-1]

    def datasets(self) -> dict[str, list[Any]]:
        datasets = {}
        for split in ("train", "val", "test"):
            datasets[split] = [self.encode(row) for row in self.rows(split)]
        return datasets

    def build_model(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(len(NUMBERS) - 1 + len(self.districts), self.model.hidden),
            nn.ReLU(),
            nn.Dropout(self.model.dropout),
            nn.Linear(self.model.hidden, 1),
            nn.Flatten(0),
        )

    def forward(self, model: nn.Module, batch: Any) -> Output:
        inputs, target = batch  # (batch, features), (batch,)
        preds = model(inputs)  # (batch,)
        return Output((preds - target).square(), self.price(preds), self.price(target))

    def price(self, standardised: Tensor) -> Tensor:
        return standardised * self.deviation[-1] + self.mean[-1]

    def metrics(self) -> dict[str, Any]:
        rmse = MeanSquaredError(squared=False)
        return {"mae": MeanAbsoluteError(), "rmse": rmse, "r2": R2Score()}

    def example(self) -> str:
        return '{"area": 120, "age": null, "district": "harbour"}'

    def parse(self, text: str) -> Tensor:
        row = json.loads(text)
        if not isinstance(row, dict) or not set(row) <= {"district", *NUMBERS}:
            raise ValueError(f"expected a JSON object with area, age and district, found {text}")
        cells = {name: str(cell) for name, cell in row.items() if cell is not None}
        inputs, _ = self.encode(cells)
        return inputs

    def predict(self, model: nn.Module, samples: list[Any]) -> Iterable[dict[str, Any]]:
        inputs = torch.stack(samples).to(next(model.parameters()).device)  # (batch, features)
        for price in self.price(model(inputs)).tolist():
            yield {"price": round(price, 1)}
