"""The learning rate follows its schedule, step by step."""

import math

import pytest
import torch

from {{ cookiecutter.__package_name }}.engine.optim import (
    OptimConfig,
    OptimError,
    build_optimizer,
    build_scheduler,
)


def rates(config: OptimConfig, steps: int) -> list[float]:
    optimizer = build_optimizer(config, torch.nn.Linear(1, 1))
    scheduler = build_scheduler(config, optimizer, steps, "min")
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_constant_stays() -> None:
    assert rates(OptimConfig(lr=0.3, scheduler="constant"), 4) == [0.3] * 4


def test_linear_rises_over_the_warm_up_and_falls_to_zero() -> None:
    found = rates(OptimConfig(lr=1.0, scheduler="linear", warmup=2), 6)
    assert found == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.5, 0.25])


def test_cosine_falls_along_half_a_wave() -> None:
    found = rates(OptimConfig(lr=2.0, scheduler="cosine"), 4)
    assert found == pytest.approx([1 + math.cos(math.pi * i / 4) for i in range(4)])


def test_plateau_falls_when_the_monitor_stands_still() -> None:
    config = OptimConfig(lr=1.0, scheduler="plateau")
    optimizer = build_optimizer(config, torch.nn.Linear(1, 1))
    scheduler = build_scheduler(config, optimizer, 0, "max")
    found = []
    for value in (0.1, 0.2, 0.2, 0.2, 0.2, 0.3):
        scheduler.step(value)  # type: ignore[arg-type]
        found.append(optimizer.param_groups[0]["lr"])
    assert found == [1.0, 1.0, 1.0, 1.0, 0.1, 0.1]


def test_a_warm_up_under_plateau_or_longer_than_the_run_is_refused() -> None:
    config = OptimConfig(scheduler="plateau", warmup=3)
    optimizer = build_optimizer(config, torch.nn.Linear(1, 1))
    with pytest.raises(OptimError, match=r"optim\.warmup: a plateau schedule has no warm-up"):
        build_scheduler(config, optimizer, 10, "max")
    with pytest.raises(OptimError, match=r"optim\.warmup: 3 steps are more than the 2 of the run"):
        build_scheduler(OptimConfig(warmup=3), optimizer, 2, "max")
    build_scheduler(OptimConfig(warmup=3), optimizer, 3, "max")


def test_only_parameters_that_need_a_gradient_are_trained() -> None:
    model = torch.nn.Linear(2, 1)
    model.weight.requires_grad_(False)
    groups = build_optimizer(OptimConfig(), model).param_groups
    assert [len(group["params"]) for group in groups] == [0, 1]
    model.bias.requires_grad_(False)
    with pytest.raises(OptimError, match="no parameter that needs a gradient"):
        build_optimizer(OptimConfig(), model)


def test_biases_and_norms_do_not_decay() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3))
    optimizer = build_optimizer(OptimConfig(0.5, 0.25), model)
    decays = {
        id(parameter): group["weight_decay"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    found = {name: decays[id(parameter)] for name, parameter in model.named_parameters()}
    assert found == {"0.weight": 0.25, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0}


def test_the_optimizer_gets_its_options() -> None:
    group = build_optimizer(OptimConfig(0.5, 0.25), torch.nn.Linear(1, 1)).param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.25)
