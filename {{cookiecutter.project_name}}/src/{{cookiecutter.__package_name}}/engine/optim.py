"""The optimizer and the schedule of its learning rate. Works alone.

    optimizer = build_optimizer(OptimConfig(lr=0.001), model)
    scheduler = build_scheduler(OptimConfig(), optimizer, total_steps=1000, mode="min")

The scheduler steps after each step of the optimizer, plateau after each evaluation.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau


@dataclass(frozen=True)
class OptimConfig:
    """Options of the optimizer and of its learning rate."""

    lr: Annotated[float, 0] = 0.01
    """highest learning rate"""
    weight_decay: Annotated[float, 0] = 0.5
    """weight decay of AdamW; biases and norms do not decay (0: none)"""
    scheduler: Literal["constant", "cosine", "linear", "plateau"] = "cosine"
    """shape of the learning rate schedule"""
    warmup: Annotated[int, 0] = 0
    """linear warm-up steps (0: none)"""
    factor: Annotated[float, 0, 0.99] = 0.1
    """plateau: factor by which the learning rate drops"""
    patience: Annotated[int, 0] = 2
    """plateau: evaluations without improvement before the learning rate drops"""


class OptimError(ValueError):
    """Options that do not fit together, or a model without parameters to train."""

    exit_code = 2


def build_optimizer(config: OptimConfig, model: torch.nn.Module) -> torch.optim.Optimizer:
    """AdamW for the parameters that need a gradient; matrices decay, biases and norms do not."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise OptimError("the model has no parameter that needs a gradient: nothing can be trained")
    matrices = [parameter for parameter in trained if parameter.ndim > 1]
    others = [parameter for parameter in trained if parameter.ndim <= 1]
    groups: list[Any] = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay, fused=True)


def build_scheduler(
    config: OptimConfig,
    optimizer: torch.optim.Optimizer,
    total_steps: int,
    mode: Literal["min", "max"],
) -> LRScheduler:
    """The learning rate over a run of `total_steps`.

    Plateau watches a value that is to become small ("min") or large ("max").
    """
    if config.scheduler == "plateau":
        if config.warmup:
            raise OptimError("optim.warmup: a plateau schedule has no warm-up; set it to 0")
        return ReduceLROnPlateau(optimizer, mode, config.factor, config.patience)
    if config.warmup > total_steps:
        raise OptimError(
            f"optim.warmup: {config.warmup} steps are more than the {total_steps} of the run"
        )

    def scale(step: int) -> float:
        if step < config.warmup:
            return (step + 1) / config.warmup
        done = (step - config.warmup) / max(1, total_steps - config.warmup)
        if config.scheduler == "cosine":
            return (1 + math.cos(math.pi * done)) / 2
        if config.scheduler == "linear":
            return 1 - done
        return 1.0

    return LambdaLR(optimizer, scale)
