"""The model: MyLinear, and a classifier made of it."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ModelConfig:
    """Options of the model."""

    hidden: Annotated[int, 1] = 64
    """width of the hidden layer"""
    dropout: Annotated[float, 0, 1] = 0.5
    """probability that a hidden unit is dropped in training (0: no dropout)"""


class MyLinear(nn.Module):
    """y = x W^T + b of (..., in_features), with names, shapes and initialisation of nn.Linear."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new values from the uniform distribution between -1 and 1 / sqrt(in_features)."""
        bound = 1 / math.sqrt(self.in_features)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


class Classifier(nn.Module):
    """One hidden layer, from inputs (batch, features) to scores (batch, classes)."""

    def __init__(self, features: int, classes: int, config: ModelConfig) -> None:
        super().__init__()
        self.hidden = MyLinear(features, config.hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.output = MyLinear(config.hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.relu(self.hidden(x.float()))  # (batch, hidden)
        scores: Tensor = self.output(self.dropout(x))  # (batch, classes)
        return scores
