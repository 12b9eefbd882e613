"""The task: a language model of characters."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from .engine.task import TaskDefaults
from .engine.trainer import Output
from .metrics import Metric
from .model import ModelConfig

END = "\n"  # begins and ends each text; its token is 0
PADDING = -1  # is not predicted


class LanguageModel(nn.Module):
    """From tokens (batch, length) to scores (batch, length, vocabulary) of the next ones."""

    def __init__(self, vocabulary: int, config: ModelConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, config.hidden)
        self.gru = nn.GRU(config.hidden, config.hidden, batch_first=True)
        self.output = nn.Linear(config.hidden, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        states, _ = self.gru(self.embedding(tokens))  # (batch, length, config.hidden)
        scores: Tensor = self.output(states)
        return scores


class Perplexity(Metric):
    """The exponential of the mean loss of the tokens."""

    higher_is_better = False

    def update(self, output: Output) -> None:
        self.add(loss=output.losses.sum(), tokens=(output.target != PADDING).sum())

    def compute(self) -> Tensor:
        return (self.sums["loss"] / self.sums["tokens"]).exp()


class Task(TaskDefaults):
    """Predict the next character."""

    defaults = ("trainer.monitor=perplexity", "loader.batch_size=16")
    learnt = ("characters",)

    def learn(self) -> None:
        lines = self.path.read_text("utf-8").splitlines()
        train = [line for number, line in enumerate(lines) if number % 10 < 8]
        self.characters = [END, *sorted(set("".join(train)))]

    def encode(self, text: str) -> Tensor:
        """The tokens (length,). Raises ValueError for a character that was not trained on."""
        unknown = sorted(set(text) - set(self.characters))
        if unknown:
            raise ValueError(f"{unknown} do not occur in the training split")
        return torch.tensor([self.characters.index(character) for character in text])

    def datasets(self) -> dict[str, Any]:
        lines = self.path.read_text("utf-8").splitlines()
        texts = [self.encode(END + line + END) for line in lines]
        train = [text for number, text in enumerate(texts) if number % 10 < 8]
        return {"train": train, "val": texts[8::10], "test": texts[9::10]}

    def collate(self, samples: list[Tensor]) -> Tensor:
        return pad_sequence(samples, batch_first=True, padding_value=PADDING)

    def units(self, batch: Tensor) -> int:
        return int((batch[:, 1:] != PADDING).sum())

    def build_model(self) -> nn.Module:
        return LanguageModel(len(self.characters), self.model)

    def forward(self, model: nn.Module, batch: Any) -> Output:
        inputs = batch[:, :-1].clamp(min=0)  # (batch, length)
        target = batch[:, 1:]  # at each place, the next character
        scores = model(inputs).transpose(1, 2)  # (batch, vocabulary, length)
        losses = F.cross_entropy(scores, target, ignore_index=PADDING, reduction="none")
        return Output(losses, scores, target)  # losses (batch, length), 0 at padding

    def metrics(self) -> dict[str, Any]:
        return {"perplexity": Perplexity()}

    def example(self) -> str:
        return "the owl"

    def parse(self, text: str) -> Tensor:
        return self.encode(END + text)

    def predict(self, model: nn.Module, samples: list[Any]) -> Iterable[dict[str, Any]]:
        for tokens in samples:
            scores = model(tokens[None].to(next(model.parameters()).device))
            yield {"next": self.characters[scores[0, -1].argmax()]}
