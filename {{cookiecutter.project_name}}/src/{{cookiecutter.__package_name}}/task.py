"""The task: which data, model, loss and metrics, and what a prediction says. Start reading here.

All other files that know what is learnt are data.py, model.py and metrics.py. The commands and
engine/ work with any class that has the methods and attributes of `Task`.
"""

from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from .data import (
    SPLITS,
    CustomDataset,
    DataConfig,
    DataError,
    EncodedDataset,
    NgramEncoder,
    Row,
    is_utf8,
    read_rows,
    split_of,
)
from .engine.trainer import Output, Trainer
from .metrics import Accuracy, ConfusionMatrix, MacroF1
from .model import Classifier, ModelConfig


class Task:
    """Classify texts."""

    defaults = ("trainer.monitor=accuracy",)
    """options whose default is not that of the machine"""
    collate: Callable[[list[Any]], Any] | None = None
    """makes a batch of a list of samples; None: torch's `default_collate`"""
    units: Callable[[Any], int] | None = None
    """how many units, such as tokens, the loss of a batch counts; None: one for each sample"""
    trainer = Trainer
    """the training loop; a subclass may override `update`, for two optimizers, say"""

    def __init__(self, data: DataConfig, model: ModelConfig, root: Path) -> None:
        self.data = data
        self.model = model
        self.path = root / data.path
        self.encode = NgramEncoder(data.features, data.ngram)
        self.classes: list[str] = []

    @cached_property
    def rows(self) -> list[Row]:
        """The rows of the data, read when they are first needed."""
        return read_rows(self.path)

    def learn(self) -> None:
        """Learn from the training split what prediction needs: here the names of the classes.

        Only a new run calls this. All other commands load what the run has learnt.
        """
        train = [row for row in self.rows if split_of(row.text) == "train"]
        self.classes = sorted({row.label for row in train})
        if len(self.classes) < 2:
            raise DataError(f"{self.path}: expected at least two labels, found {self.classes}")

    def datasets(self) -> dict[str, Dataset[Any]]:
        """The splits: train and val, and test if there is one."""
        for row in self.rows:
            if row.label not in self.classes:
                raise DataError(
                    f"{self.path}:{row.line}: label {row.label!r} has no row in the training "
                    "split; add more rows with it"
                )
        datasets: dict[str, Dataset[Any]] = {}
        for split in SPLITS:
            rows = [row for row in self.rows if split_of(row.text) == split]
            if rows:
                samples = CustomDataset([row.text for row in rows], [row.label for row in rows])
                datasets[split] = EncodedDataset(samples, self.encode, self.classes)
        return datasets

    def data_files(self) -> list[Path]:
        """The files and folders whose content a run depends on."""
        return [self.path]

    def build_model(self) -> nn.Module:
        """The model, with new weights."""
        return Classifier(self.data.features, len(self.classes), self.model)

    def forward(self, model: nn.Module, batch: Any) -> Output:
        """Losses, predictions and target of a batch, in training and evaluation."""
        inputs, target = batch  # (batch, features), (batch,)
        scores = model(inputs)  # (batch, classes)
        losses = nn.functional.cross_entropy(scores, target, reduction="none")  # (batch,)
        return Output(losses, scores, target)

    def metrics(self) -> dict[str, Any]:
        """The metrics by name; scalars are logged, all are reported by `evaluate`."""
        count = len(self.classes)
        return {
            "accuracy": Accuracy(count),
            "f1": MacroF1(count),
            "confusion": ConfusionMatrix(count),
        }

    def report(self) -> dict[str, Any]:
        """What `evaluate` reports beside the metrics: the order of the rows of `confusion`."""
        return {"classes": self.classes}

    def example(self) -> str:
        """An input that `predict` can take: tried before the first step, shown after the last."""
        return "happy"

    def parse(self, text: str) -> tuple[str, Tensor]:
        """Turn an input of `predict` into a sample.

        Raises DataError for an input that is not a text; no answer is given for it.
        """
        if not text.strip() or not is_utf8(text):
            raise DataError(f"expected a text in UTF-8, found {text!r}")
        return text, self.encode(text)

    def predict(self, model: nn.Module, samples: list[Any]) -> Iterable[dict[str, Any]]:
        """An answer for each sample, in order: the likeliest class and its probability."""
        device = next(model.parameters()).device
        inputs = torch.stack([encoded for _, encoded in samples]).to(device)  # (batch, features)
        probabilities, indices = model(inputs).softmax(dim=1).max(dim=1)  # (batch,) each
        answers = zip(samples, probabilities.tolist(), indices.tolist(), strict=True)
        for (text, _), probability, index in answers:
            label = self.classes[index]
            yield {"input": text, "class": label, "probability": round(probability, 4)}

    def state_dict(self) -> dict[str, Any]:
        """What was learnt, as plain data or tensors: it is saved in each checkpoint."""
        return {"classes": self.classes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what an earlier run has learnt."""
        self.classes = state["classes"]
