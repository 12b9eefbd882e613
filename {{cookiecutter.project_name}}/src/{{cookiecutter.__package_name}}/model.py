"""MyLinear, and a classifier made of it. Works alone; needs only torch."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class ModelConfig:
    hidden: int = 64  # width of the hidden layer
    dropout: float = 0.5  # share of the hidden units that are dropped in training; 0: off

    def __post_init__(self) -> None:
        if self.hidden < 1:
            raise ValueError(f"hidden: expected at least 1, found {self.hidden}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: expected at least 0 and below 1, found {self.dropout}")


class MyLinear(nn.Module):
    """y = x W^T + b, with the names, shapes and initialisation of nn.Linear.

    (..., in_features) to (..., out_features); its scale does not grow with the width.
    """

    bias: nn.Parameter | None

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.register_parameter("bias", nn.Parameter(torch.empty(out_features)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = 1 / math.sqrt(self.in_features)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        bias = self.bias is not None
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={bias}"


class Classifier(nn.Module):
    """One hidden layer: (batch, features) of any number type to scores (batch, classes)."""

    def __init__(self, features: int, classes: int, config: ModelConfig) -> None:
        super().__init__()
        self.hidden = MyLinear(features, config.hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.output = MyLinear(config.hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.hidden(x.float()))  # (batch, hidden)
        scores: Tensor = self.output(self.dropout(x))  # (batch, classes)
        return scores
