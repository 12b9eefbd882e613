"""The learning rate follows its schedule, step by step."""

import math
import re
from collections import OrderedDict

import pytest
import torch

from {{ cookiecutter.__package_name }}.engine.optim import (
    OptimConfig,
    OptimError,
    build_average,
    build_optimizer,
    build_scheduler,
    describe_groups,
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


def test_plateau_waits_and_drops_as_its_options_say() -> None:
    config = OptimConfig(lr=1.0, scheduler="plateau", factor=0.5, patience=0)
    optimizer = build_optimizer(config, torch.nn.Linear(1, 1))
    scheduler = build_scheduler(config, optimizer, 0, "min")
    found = []
    for value in (0.3, 0.3, 0.2, 0.2):
        scheduler.step(value)  # type: ignore[arg-type]
        found.append(optimizer.param_groups[0]["lr"])
    assert found == [1.0, 0.5, 0.5, 0.25]


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


def layers() -> torch.nn.Module:
    names = ("embedding", "encoder", "head")
    return torch.nn.Sequential(OrderedDict((name, torch.nn.Linear(2, 2)) for name in names))


def test_the_first_pattern_that_matches_a_name_decides_its_learning_rate() -> None:
    config = OptimConfig(
        lr=0.5,
        weight_decay=0.25,
        groups={"embedding.*": 0, "*.bias": 2, "encoder.*": 0.1},
    )
    model = layers()
    optimizer = build_optimizer(config, model)
    found = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            found[id(parameter)] = (group["lr"], group["weight_decay"])
    named = {name: found.get(id(parameter)) for name, parameter in model.named_parameters()}
    assert named == {
        "embedding.weight": None,
        "embedding.bias": None,
        "encoder.weight": (0.05, 0.25),
        "encoder.bias": (1.0, 0.0),
        "head.weight": (0.5, 0.25),
        "head.bias": (1.0, 0.0),
    }
    assert not model.embedding.weight.requires_grad  # type: ignore[union-attr]
    assert optimizer.param_groups[0]["lr"] == 0.5  # the one in the log
    assert list(describe_groups(config, model)) == [
        "optim.groups: embedding.*: 6 parameters, frozen",
        "optim.groups: *.bias: 4 parameters, learning rate x 2",
        "optim.groups: encoder.*: 4 parameters, learning rate x 0.1",
    ]


def test_the_schedule_scales_each_group() -> None:
    config = OptimConfig(lr=1.0, scheduler="linear", groups={"*": 0.5})
    optimizer = build_optimizer(config, layers())
    scheduler = build_scheduler(config, optimizer, 4, "min")
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.75, 0.75, 0.375, 0.375]


@pytest.mark.parametrize("groups", [{"decoder.*": 0.1}, {"*": 0.5, "head.*": 0.1}, {"": 0}])
def test_a_pattern_that_matches_nothing_is_an_error(groups: dict[str, float]) -> None:
    pattern = list(groups)[-1]
    with pytest.raises(OptimError, match=re.escape(f"{pattern!r} matches no parameter")) as caught:
        build_optimizer(OptimConfig(groups=groups), layers())
    assert "there are: embedding.weight, embedding.bias, encoder.weight" in str(caught.value)


def test_a_model_that_is_frozen_as_a_whole_is_an_error() -> None:
    with pytest.raises(OptimError, match="nothing can be trained"):
        build_optimizer(OptimConfig(groups={"*": 0}), layers())


def test_the_average_follows_the_weights_and_has_the_buffers_of_the_model() -> None:
    model = torch.nn.BatchNorm1d(1)
    assert build_average(OptimConfig(), model) is None
    average = build_average(OptimConfig(ema=0.9), model)
    assert average is not None
    for weight in (2.0, 3.0):
        torch.nn.init.constant_(model.weight, weight)
        torch.nn.init.constant_(model.running_mean, 10 * weight)  # type: ignore[arg-type]
        average.update_parameters(model)
    weight_of_average = dict(average.module.named_parameters())["weight"].detach()
    assert float(weight_of_average) == pytest.approx(0.9 * 2 + 0.1 * 3)
    assert average.module.running_mean == torch.tensor([30.0])


def test_the_optimizer_gets_its_options() -> None:
    group = build_optimizer(OptimConfig(0.5, 0.25), torch.nn.Linear(1, 1)).param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.25)
    assert group["fused"]
