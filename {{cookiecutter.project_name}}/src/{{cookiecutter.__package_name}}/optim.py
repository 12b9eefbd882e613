"""The optimizer and its learning rate. Works alone."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau


@dataclass(frozen=True)
class OptimConfig:
    lr: Annotated[float, 0] = 0.01  # highest learning rate
    weight_decay: Annotated[float, 0] = 0.5  # AdamW's; 0: off
    scheduler: Literal["constant", "cosine", "linear", "plateau"] = "cosine"  # shape of the lr
    warmup: Annotated[int, 0] = 0  # steps over which the lr rises; 0: off; not with plateau
    factor: Annotated[float, 0, 0.99] = 0.1  # plateau: what multiplies the lr after patience
    patience: Annotated[int, 0] = 2  # plateau: evaluations that the monitor may stand still for

    def __post_init__(self) -> None:
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
