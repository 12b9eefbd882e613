"""The task: classify texts of unequal length, word by word."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from .engine.table import read_table
from .engine.task import TaskDefaults
from .engine.trainer import Output
from .metrics import Accuracy, MacroF1
from .model import ModelConfig


class Reader(nn.Module):
    """From words (batch, length), padded, and their lengths (batch,) to scores (batch, classes)."""

    def __init__(self, words: int, classes: int, config: ModelConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, config.hidden)
        self.gru = nn.GRU(config.hidden, config.hidden, batch_first=True)
        self.output = nn.Linear(config.hidden, classes)

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        states, _ = self.gru(self.embedding(words))  # (batch, length, config.hidden)
        rows = torch.arange(len(words), device=words.device)
        last = states[rows, lengths - 1]  # (batch, hidden), before the padding
        scores: Tensor = self.output(last)
        return scores


class Task(TaskDefaults):
    """Classify texts."""

    defaults = ("trainer.monitor=f1", "trainer.epochs=3")
    learnt = ("vocabulary", "classes")

    def rows(self, split: str) -> list[dict[str, str]]:
        columns = read_table(self.path, ["split", "text", "label"]).columns
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return [row for row in rows if row["split"] == split]

    def learn(self) -> None:
        words = sorted({word for row in self.rows("train") for word in row["text"].split()})
        self.vocabulary = {word: index for index, word in enumerate(words, start=1)}
        self.classes = sorted({row["label"] for row in self.rows("train")})

    def sample(self, text: str, target: int) -> dict[str, Any]:
        """Words as numbers (length,), 0 if they are not in the vocabulary, and the class."""
        numbers = [self.vocabulary.get(word, 0) for word in text.split()]
        return {"words": torch.tensor(numbers), "target": target}

    def datasets(self) -> dict[str, Any]:
        datasets: dict[str, Any] = {"train": [], "val": [], "test": []}
        for split, samples in datasets.items():
            for row in self.rows(split):
                samples.append(self.sample(row["text"], self.classes.index(row["label"])))
        return datasets

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, Tensor]:
        words = [sample["words"] for sample in samples]
        return {
            "words": pad_sequence(words, batch_first=True),  # (batch, length)
            "lengths": torch.tensor([len(text) for text in words]),  # (batch,)
            "target": torch.tensor([sample["target"] for sample in samples]),  # (batch,)
        }

    def build_model(self) -> nn.Module:
        return Reader(len(self.vocabulary) + 1, len(self.classes), self.model)

    def forward(self, model: nn.Module, batch: Any) -> Output:
        scores = model(batch["words"], batch["lengths"])  # (batch, classes)
        losses = nn.functional.cross_entropy(scores, batch["target"], reduction="none")
        return Output(losses, scores, batch["target"])

    def metrics(self) -> dict[str, Any]:
        return {"accuracy": Accuracy(len(self.classes)), "f1": MacroF1(len(self.classes))}

    def example(self) -> str:
        return "the film was not good"

    def parse(self, text: str) -> dict[str, Any]:
        sample = self.sample(text, target=0)
        if not sample["words"].any():
            raise ValueError(f"expected a text with words that were trained on, found {text!r}")
        return sample

    def predict(self, model: nn.Module, samples: list[Any]) -> Iterable[dict[str, Any]]:
        batch = self.collate(samples)
        device = next(model.parameters()).device
        scores = model(batch["words"].to(device), batch["lengths"].to(device))
        for index in scores.argmax(dim=1).tolist():
            yield {"class": self.classes[index]}
