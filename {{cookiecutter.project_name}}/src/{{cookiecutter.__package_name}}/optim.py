"""The optimizer and its learning rate. Works alone."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau


@dataclass(frozen=True)
class OptimConfig:
    lr: Annotated[float, 0] = 0.01  # highest learning rate
    weight_decay: Annotated[float, 0] = 0.5  # AdamW's; 0: off
    scheduler: Literal["constant", "cosine", "linear", "plateau"] = "cosine"  # shape of the lr
    warmup: Annotated[int, 0] = 0  # steps over which the lr rises; 0: off; plateau has none
    factor: Annotated[float, 0, 0.99] = 0.1  # plateau: what multiplies the lr after patience
    patience: Annotated[int, 0] = 2  # plateau: evaluations that the monitor may stand still for


def build_optimizer(config: OptimConfig, model: torch.nn.Module) -> torch.optim.Optimizer:
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups: Any = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]  # biases, norms
    return torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay, fused=True)


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
