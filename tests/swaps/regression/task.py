"""The task: predict the price of a house from a row with cells that may be empty."""

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .data import NUMBERS, DataConfig
from .engine.trainer import Output, Trainer
from .metrics import MAE, R2, RMSE
from .model import ModelConfig


class Task:
    """Predict prices."""

    defaults = ("trainer.monitor=rmse", "loader.batch_size=16", "model.dropout=0.1")
    collate = None
    units = None
    trainer = Trainer

    def __init__(self, data: DataConfig, model: ModelConfig, root: Path) -> None:
        self.path = root / data.path
        self.model = model

    def rows(self, split: str) -> list[dict[str, str]]:
        with self.path.open(encoding="utf-8", newline="") as file:
            return [row for row in csv.DictReader(file) if row["split"] == split]

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

    def data_files(self) -> list[Path]:
        return [self.path]

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
        return {"mae": MAE(), "rmse": RMSE(), "r2": R2()}

    def report(self) -> dict[str, Any]:
        return {}

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

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean, "deviation": self.deviation, "districts": self.districts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mean = state["mean"]
        self.deviation = state["deviation"]
        self.districts = state["districts"]
