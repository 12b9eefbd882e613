"""The optimizer and the schedule of its learning rate. Works alone.

    optimizer = build_optimizer(OptimConfig(lr=0.001), model)
    scheduler = build_scheduler(OptimConfig(), optimizer, total_steps=1000, mode="min")

The scheduler steps after each step of the optimizer, plateau after each evaluation.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


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
    """plateau: evaluations without improvement that are allowed; the next one lowers the rate"""
    groups: dict[str, Annotated[float, 0]] = field(default_factory=dict)
    """patterns of parameter names, with the factor of their learning rate (0: frozen)"""
    ema: Annotated[float, 0, 0.999999] = 0.0
    """decay of a moving average of the weights, which is evaluated and saved as best (0: off)"""


class OptimError(ValueError):
    """Options that do not fit together, or a model without parameters to train."""

    exit_code = 2


def build_optimizer(config: OptimConfig, model: torch.nn.Module) -> torch.optim.Optimizer:
    """AdamW for the parameters that need a gradient; matrices decay, biases and norms do not.

    Parameters that `config.groups` freezes need no gradient from now on. The first group of the
    optimizer has the learning rate of the config, whether or not a parameter is in it.
    """
    factors = learning_rate_factors(config, model)
    trained: dict[float, list[torch.nn.Parameter]] = {1.0: []}  # by factor
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and factors[name] > 0)
        if parameter.requires_grad:
            trained.setdefault(factors[name], []).append(parameter)
    if not any(trained.values()):
        raise OptimError("the model has no parameter that needs a gradient: nothing can be trained")
    groups: list[Any] = []
    for factor, parameters in trained.items():
        lr = config.lr * factor
        matrices = [parameter for parameter in parameters if parameter.ndim > 1]
        others = [parameter for parameter in parameters if parameter.ndim <= 1]
        groups.append({"params": matrices, "lr": lr})
        groups.append({"params": others, "lr": lr, "weight_decay": 0.0})
    return torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay, fused=True)


def learning_rate_factors(config: OptimConfig, model: torch.nn.Module) -> dict[str, float]:
    """The factor of the learning rate of each parameter, by name: that of the first match, or 1.

    Raises OptimError for a pattern that is the first match of no parameter.
    """
    patterns = _patterns(config, model)
    for pattern in config.groups:
        if pattern not in patterns.values():
            names = ", ".join(patterns)
            raise OptimError(
                f"optim.groups: {pattern!r} matches no parameter that an earlier pattern has not "
                f"matched; there are: {names:.300}"
            )
    return {
        name: 1.0 if pattern is None else config.groups[pattern]
        for name, pattern in patterns.items()
    }


def describe_groups(config: OptimConfig, model: torch.nn.Module) -> Iterator[str]:
    """Lines that say how many parameters have which factor of the learning rate."""
    sizes: Counter[str | None] = Counter()
    patterns = _patterns(config, model)
    for name, parameter in model.named_parameters():
        sizes[patterns[name]] += parameter.numel()
    for pattern, factor in config.groups.items():
        what = f"learning rate x {factor:g}" if factor else "frozen"
        yield f"optim.groups: {pattern}: {sizes[pattern]:,} parameters, {what}"


def _patterns(config: OptimConfig, model: torch.nn.Module) -> dict[str, str | None]:
    """The pattern that each parameter matches first, by the name of the parameter."""
    patterns: dict[str, str | None] = {}
    for name, _ in model.named_parameters():
        matches = [pattern for pattern in config.groups if fnmatchcase(name, pattern)]
        patterns[name] = matches[0] if matches else None
    return patterns


def build_average(config: OptimConfig, model: torch.nn.Module) -> AveragedModel | None:
    """An exponential moving average of the weights, if the config asks for one.

    It begins with the weights after the first step. Buffers, such as running statistics, are those
    of the model.
    """
    if not config.ema:
        return None
    update = get_ema_multi_avg_fn(config.ema)  # type: ignore[no-untyped-call]
    return AveragedModel(model, multi_avg_fn=update)


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
