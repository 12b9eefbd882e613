"""The task: which data, model, loss and metrics, and what a prediction says. Start reading here.

All other files that know what is learnt are data.py, model.py and metrics.py. The commands and
engine/ work with any class that has these methods; engine/task.py lists what else a task can have,
such as a `collate` function for batches, or `units` for a loss of each token or pixel.
"""

from collections.abc import Iterable
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
    EncodedDataset,
    NgramEncoder,
    split_of,
)
from .engine.table import is_utf8, read_table
from .engine.task import DataError, TaskDefaults
from .engine.trainer import Output
from .metrics import Accuracy, ConfusionMatrix, MacroF1
from .model import Classifier, ModelConfig


class Task(TaskDefaults):
    """Classify texts."""

    defaults = ("trainer.monitor=accuracy",)
    """options whose default is not that of the machine"""
    learnt = ("classes",)
    """what `learn` sets: it is saved in each checkpoint, and loaded by all commands but `train`"""

    def __init__(self, data: DataConfig, model: ModelConfig, root: Path) -> None:
        super().__init__(data, model, root)
        self.encode = NgramEncoder(data.features, data.ngram)
        self.classes: list[str] = []

    @cached_property
    def splits(self) -> dict[str, CustomDataset]:
        """The texts and labels of each split, read when they are first needed."""
        table = read_table(self.path, ["text", "label"])
        splits = {split: CustomDataset([], []) for split in SPLITS}
        for text, label in zip(table.columns["text"], table.columns["label"], strict=True):
            split = splits[split_of(text)]
            split.texts.append(text)
            split.labels.append(label)
        return splits

    def learn(self) -> None:
        """Learn from the training split what prediction needs: here the names of the classes."""
        self.classes = sorted(set(self.splits["train"].labels))
        if len(self.classes) < 2:
            raise DataError(f"{self.path}: expected at least two labels, found {self.classes}")

    def datasets(self) -> dict[str, Dataset[Any]]:
        """The splits: train and val, and test if there is one."""
        datasets: dict[str, Dataset[Any]] = {}
        for split, samples in self.splits.items():
            unknown = sorted(set(samples.labels) - set(self.classes))
            if unknown:
                raise DataError(
                    f"{self.path}: the labels {unknown} have no row in the training split; "
                    "add more rows with them"
                )
            if len(samples):
                datasets[split] = EncodedDataset(samples, self.encode, self.classes)
        return datasets

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
