"""The optimizer and its learning rate. Works alone."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau


@dataclass(frozen=True)
class OptimConfig:
    lr: float = 0.01  # highest learning rate
    weight_decay: float = 0.5  # AdamW's; 0: off
    scheduler: Literal["constant", "cosine", "linear", "plateau"] = "cosine"  # shape of the lr
    warmup: int = 0  # steps over which the lr rises to its height; 0: off; not with plateau
    factor: float = 0.1  # plateau: what the lr is multiplied by when the monitor stands still
    patience: int = 2  # plateau: evaluations that the monitor may stand still for

    def __post_init__(self) -> None:
        for key in ("lr", "weight_decay", "warmup", "patience"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key}: expected at least 0, found {getattr(self, key)}")
        if not 0 < self.factor < 1:
            raise ValueError(f"factor: expected more than 0 and below 1, found {self.factor}")
        if self.warmup and self.scheduler == "plateau":
            raise ValueError(f"warmup: expected 0 with plateau, found {self.warmup}")


def build_optimizer(config: OptimConfig, model: nn.Module) -> torch.optim.Optimizer:
    parameters, decay = model.parameters(), config.weight_decay
    return torch.optim.AdamW(parameters, lr=config.lr, weight_decay=decay, fused=True)


def build_scheduler(
    config: OptimConfig, optimizer: torch.optim.Optimizer, steps: int, mode: Literal["min", "max"]
) -> LRScheduler:
    """The learning rate over a run of `steps`; plateau watches a value that is to go to `mode`."""
    if config.scheduler == "plateau":
        return ReduceLROnPlateau(optimizer, mode, config.factor, config.patience)

    def scale(step: int) -> float:
        if step < config.warmup:
            return (step + 1) / config.warmup
        done = (step - config.warmup) / max(1, steps - config.warmup)
        falls = {"cosine": (1 + math.cos(math.pi * done)) / 2, "linear": 1 - done}
        return falls.get(config.scheduler, 1.0)

    return LambdaLR(optimizer, scale)
