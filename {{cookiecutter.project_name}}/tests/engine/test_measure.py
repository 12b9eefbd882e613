"""The group of metrics: each gets what it asks for, and what it gives is a number or a list."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from {{ cookiecutter.__package_name }}.engine.measure import (
    MetricError,
    MetricGroup,
)

CPU = torch.device("cpu")


class Fixed:
    """A metric that always has the same result."""

    higher_is_better: bool | None = True

    def __init__(self, result: Any = 0.0) -> None:
        self.result = result
        self.seen: list[Any] = []

    def update(self, preds: Any, target: Any) -> None:
        self.seen.append((preds, target))

    def reset(self) -> None:
        self.seen = []

    def compute(self) -> Any:
        return self.result


class OfOutputAndBatch(Fixed):
    def update(self, output: Any, batch: Any) -> None:
        self.seen.append((output, batch))


def test_a_metric_gets_predictions_and_target_or_what_it_asks_for_until_a_reset() -> None:
    plain = Fixed()
    asking = OfOutputAndBatch()
    group = MetricGroup({"plain": plain, "asking": asking}, CPU)
    output = SimpleNamespace(preds="p", target="t")
    group.update(output, "b")
    assert plain.seen == [("p", "t")]
    assert asking.seen == [(output, "b")]
    group.reset()
    assert plain.seen == asking.seen == []


def test_numbers_tensors_and_dicts_become_numbers_and_lists_by_name() -> None:
    result = {"f1": torch.tensor(0.5), "recall": 0.25}
    metrics = {"one": Fixed(1), "matrix": Fixed(torch.eye(2)), "macro": Fixed(result)}
    assert MetricGroup(metrics, CPU).compute() == {
        "one": 1,
        "matrix": [[1.0, 0.0], [0.0, 1.0]],
        "macro_f1": 0.5,
        "macro_recall": 0.25,
    }


def test_a_metric_is_moved_to_the_device() -> None:
    class Movable(Fixed):
        def to(self, device: torch.device) -> None:
            self.device = device

    metric = Movable()
    MetricGroup({"score": metric}, torch.device("meta"))
    assert metric.device == torch.device("meta")


def test_a_name_that_the_log_uses_is_refused() -> None:
    for name in ("loss", "step", "lr", "memory"):
        with pytest.raises(MetricError, match=rf"the names \['{name}'\] are taken; use others"):
            MetricGroup({name: Fixed()}, CPU)


def test_the_loss_is_to_fall_and_a_metric_says_what_it_is_to_do() -> None:
    falling = Fixed()
    falling.higher_is_better = False
    group = MetricGroup({"score": Fixed(), "error": falling}, CPU)
    modes = {name: group.mode(name) for name in ("loss", "score", "error")}
    assert modes == {"loss": "min", "score": "max", "error": "min"}


def test_a_monitor_that_does_not_say_what_is_better_is_refused() -> None:
    class Unclear(Fixed):
        higher_is_better = None

    group = MetricGroup({"score": Unclear()}, CPU)
    error = r"'score' does not say which values are better; .* to the class Unclear"
    with pytest.raises(MetricError, match=f"trainer.monitor: the metric {error}"):
        group.mode("score")
    assert group.mode("loss") == "min"  # it has to say so as the monitor only


def test_an_unknown_monitor_is_refused_with_the_names_that_there_are() -> None:
    group = MetricGroup({"score": Fixed(), "error": Fixed()}, CPU)
    names = "there are: loss, score, error"
    with pytest.raises(MetricError, match=f"trainer.monitor: unknown metric 'scor'; {names}"):
        group.mode("scor")


def test_each_name_of_the_log_is_taken() -> None:
    for name in ("loss", "step", "epoch", "split", "lr", "rate", "memory", "time"):
        with pytest.raises(MetricError, match=name):
            MetricGroup({name: Fixed()}, CPU)
