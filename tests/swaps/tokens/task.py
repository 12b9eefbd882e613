"""The task: a language model of characters."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from .data import DataConfig, read_splits
from .engine.trainer import Output, Trainer
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
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(config.hidden, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        states, _ = self.gru(self.embedding(tokens))  # (batch, length, config.hidden)
        scores: Tensor = self.output(self.dropout(states))
        return scores


class Perplexity(Metric):
    """The exponential of the mean loss of the tokens."""

    higher_is_better = False

    def update(self, output: Output) -> None:
        self.add(loss=output.losses.sum(), tokens=(output.target != PADDING).sum())

    def compute(self) -> Tensor:
        return (self.sums["loss"] / self.sums["tokens"]).exp()


class Task:
    """Predict the next character."""

    defaults = ("trainer.monitor=perplexity", "loader.batch_size=16", "model.dropout=0.1")
    trainer = Trainer

    def __init__(self, data: DataConfig, model: ModelConfig, root: Path) -> None:
        self.path = root / data.path
        self.model = model

    def learn(self) -> None:
        lines = read_splits(self.path)["train"]
        self.characters = [END, *sorted(set("".join(lines)))]

    def encode(self, text: str) -> Tensor:
        """The tokens (length,). Raises ValueError for a character that was not trained on."""
        unknown = sorted(set(text) - set(self.characters))
        if unknown:
            raise ValueError(f"{unknown} do not occur in the training split")
        return torch.tensor([self.characters.index(character) for character in text])

    def datasets(self) -> dict[str, Any]:
        datasets = {}
        for split, lines in read_splits(self.path).items():
            datasets[split] = [self.encode(END + line + END) for line in lines]
        return datasets

    def collate(self, samples: list[Tensor]) -> Tensor:
        return pad_sequence(samples, batch_first=True, padding_value=PADDING)

    def units(self, batch: Tensor) -> int:
        return int((batch[:, 1:] != PADDING).sum())

    def data_files(self) -> list[Path]:
        return [self.path]

    def build_model(self) -> nn.Module:
        return LanguageModel(len(self.characters), self.model)

    def forward(self, model: nn.Module, batch: Any) -> Output:
        inputs = batch[:, :-1].clamp(min=0)  # (batch, length)
        target = batch[:, 1:]  # at each place, the next character
        scores = model(inputs).transpose(1, 2)  # (batch, vocabulary, length)
        losses = nn.functional.cross_entropy(
            scores, target, ignore_index=PADDING, reduction="none"
        )  # (batch, length), 0 at padding
        return Output(losses, scores, target)

    def metrics(self) -> dict[str, Any]:
        return {"perplexity": Perplexity()}

    def report(self) -> dict[str, Any]:
        return {"characters": "".join(self.characters)}

    def example(self) -> str:
        return "the owl"

    def parse(self, text: str) -> Tensor:
        return self.encode(END + text)

    def predict(self, model: nn.Module, samples: list[Any]) -> Iterable[dict[str, Any]]:
        for tokens in samples:
            tokens = tokens.to(next(model.parameters()).device)
            for _ in range(80):
                scores = model(tokens[None])  # (1, length, vocabulary)
                tokens = torch.cat([tokens, scores[0, -1:].argmax(dim=1)])
                if tokens[-1] == 0:
                    break
            yield {"text": "".join(self.characters[token] for token in tokens).strip(END)}

    def state_dict(self) -> dict[str, Any]:
        return {"characters": self.characters}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.characters = state["characters"]
