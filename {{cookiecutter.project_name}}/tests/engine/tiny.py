"""The task of these tests: points of two classes. It knows nothing of the project's own task.

`python tests/engine/tiny.py COMMAND ...` is the project's command line with this task in place.
"""

import json
import random
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from {{ cookiecutter.__package_name }} import evaluate as evaluate_module
from {{ cookiecutter.__package_name }} import train as train_module
from {{ cookiecutter.__package_name }}.__main__ import main
from {{ cookiecutter.__package_name }}.engine.loader import Seeded
from {{ cookiecutter.__package_name }}.engine.task import DataError, TaskDefaults
from {{ cookiecutter.__package_name }}.engine.trainer import Output

FEATURES = 16


class RightAnswers:
    """The share of right answers, over all processes."""

    higher_is_better = True

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.right = torch.zeros(2, dtype=torch.int64)  # right answers, all answers

    def update(self, preds: Tensor, target: Tensor) -> None:
        right = (preds.argmax(1) == target).sum()
        self.right += torch.tensor([int(right), len(target)])

    def compute(self) -> Tensor:
        right = self.right.clone()
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(right)
        return right[0] / right[1].double()


class Noisy:
    """A dataset whose samples are another's with random numbers of three kinds added."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs, target = self.dataset[index]
        return inputs + torch.rand(1) + random.random() + float(numpy.random.random()), target


class TinyTask(TaskDefaults):
    """Tell points whose coordinates have a positive sum from the others."""

    defaults = ("trainer.monitor=right", "loader.batch_size=16", "trainer.epochs=2")
    learnt = ("mean",)

    # What tests change, by monkeypatch or by `options`.
    sizes: dict[str, int] = {"train": 60, "val": 60, "test": 60}  # noqa: RUF012
    file = Path(__file__)
    hidden = 8
    dropout = 0.5
    dtype = torch.float32
    is_noisy = False
    is_balanced = False

    def __init__(self, data: Any, model: Any, root: Path) -> None:
        super().__init__(data, model, root)
        self.mean = torch.empty(0)  # not learnt yet

    def points(self, split: str) -> tuple[Tensor, Tensor]:
        inputs = self.draw(split)
        folds = getattr(self.data, "folds", 0)  # an option of the project's own task
        if folds and split != "test":
            pool = torch.cat([self.draw("train"), self.draw("val")])
            is_val = torch.arange(len(pool)) % folds == self.data.fold
            inputs = pool[is_val if split == "val" else ~is_val]
        return inputs.to(self.dtype), (inputs.sum(1) > 0).long()

    def draw(self, split: str) -> Tensor:
        seed = ["train", "val", "test"].index(split)
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(self.sizes[split], FEATURES, generator=generator) + 0.1

    def learn(self) -> None:
        inputs, _ = self.points("train")
        self.mean = inputs.mean(0)

    def datasets(self) -> dict[str, Any]:
        datasets: dict[str, Any] = {}
        for split in self.sizes:
            inputs, target = self.points(split)
            datasets[split] = TensorDataset(inputs - self.mean, target)
        if self.is_noisy:
            datasets["train"] = Seeded(Noisy(datasets["train"]))
        return datasets

    def groups(self, dataset: Any) -> Any:
        _, target = self.points("train")
        return target if self.is_balanced else None

    def data_files(self) -> list[Path]:
        return [self.file]

    def build_model(self) -> nn.Module:
        first = nn.Linear(FEATURES, self.hidden)
        last = nn.Linear(self.hidden, 2)
        return nn.Sequential(first, nn.ReLU(), nn.Dropout(self.dropout), last).to(self.dtype)

    def forward(self, model: nn.Module, batch: Any) -> Output:
        inputs, target = batch
        scores = model(inputs.to(self.dtype))
        losses = nn.functional.cross_entropy(scores, target, reduction="none")
        return Output(losses, scores, target)

    def metrics(self) -> dict[str, Any]:
        return {"right": RightAnswers()}

    def report(self) -> dict[str, Any]:
        return {"features": FEATURES}

    def example(self) -> str:
        return json.dumps([0.5] * FEATURES)

    def parse(self, text: str) -> Tensor:
        numbers = json.loads(text)
        if len(numbers) != FEATURES:
            raise DataError(f"expected {FEATURES} numbers, found {len(numbers)}")
        return torch.tensor(numbers, dtype=self.dtype)

    def predict(self, model: nn.Module, samples: list[Any]) -> Iterable[dict[str, Any]]:
        device = next(model.parameters()).device
        inputs = torch.stack(samples) - self.mean
        for scores in model(inputs.to(device)).detach():
            yield {"positive": bool(scores.argmax()), "score": round(float(scores.max()), 4)}


def install(patch: Callable[[Any, str, Any], None] = setattr, task: Any = TinyTask) -> None:
    """Put the task in place of the project's own."""
    patch(train_module, "Task", task)
    patch(evaluate_module, "Task", task)


if __name__ == "__main__":
    install()
    sys.exit(main())
