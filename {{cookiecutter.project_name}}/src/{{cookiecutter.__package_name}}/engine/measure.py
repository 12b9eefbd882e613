"""The metrics of a task as a group, which the trainer updates and reads. Works alone.

    metrics = MetricGroup({"error": MeanError()}, torch.device("cpu"))
    metrics.reset()
    metrics.update(output, batch)
    metrics.compute()  # {"error": 0.5}

The group knows nothing of its metrics but their three methods.
"""

import inspect
from collections.abc import Mapping
from typing import Any, Literal

import torch

TAKEN = {"loss", "step", "epoch", "split", "lr", "rate", "memory", "time"}
"""names that a line of the log has already"""


class MetricError(ValueError):
    """A metric has a name that is taken, or cannot be what selects the best checkpoint."""

    exit_code = 2


class MetricGroup:
    """Metrics by name: objects with `update`, `compute` and `reset`, as torchmetrics has them.

    `update` of a metric gets (preds, target), or what its parameters named `output` and `batch`
    ask for. Metrics that have `.to` are moved to the device. Raises MetricError for names that the
    log uses for something else.
    """

    def __init__(self, metrics: Mapping[str, Any], device: torch.device) -> None:
        taken = TAKEN & set(metrics)
        if taken:
            raise MetricError(f"Task.metrics: the names {sorted(taken)} are taken; use others")
        self.metrics = metrics
        self.wanted: dict[str, list[str]] = {}  # what `update` of each metric asks for by name
        for name, metric in metrics.items():
            if hasattr(metric, "to"):
                metric.to(device)
            parameters = inspect.signature(metric.update).parameters
            self.wanted[name] = [word for word in ("output", "batch") if word in parameters]

    def reset(self) -> None:
        """Let each metric start anew."""
        for metric in self.metrics.values():
            metric.reset()

    def update(self, output: Any, batch: Any) -> None:
        """Give a batch, and what the model makes of it, to each metric."""
        offered = {"output": output, "batch": batch}
        for name, metric in self.metrics.items():
            wanted = self.wanted[name]
            if wanted:
                metric.update(**{word: offered[word] for word in wanted})
            else:
                metric.update(output.preds, output.target)

    def compute(self) -> dict[str, Any]:
        """The metrics as numbers or nested lists; one that returns a dict has a name per entry."""
        values: dict[str, Any] = {}
        for name, metric in self.metrics.items():
            result = metric.compute()
            entries = {name: result}
            if isinstance(result, Mapping):
                entries = {f"{name}_{key}": value for key, value in result.items()}
            for key, value in entries.items():
                values[key] = value.tolist() if hasattr(value, "tolist") else value
        return values

    def mode(self, monitor: str) -> Literal["min", "max"]:
        """Whether this metric, or the loss, is to become small or large.

        Raises MetricError for a metric that does not say it by `higher_is_better`.
        """
        if monitor == "loss":
            return "min"
        metric = self.metrics.get(monitor)
        if metric is None:
            names = ", ".join(["loss", *self.metrics])
            raise MetricError(f"trainer.monitor: unknown metric {monitor!r}; there are: {names}")
        higher_is_better = getattr(metric, "higher_is_better", None)
        if higher_is_better is None:
            raise MetricError(
                f"trainer.monitor: the metric {monitor!r} does not say which values are better; "
                f"add `higher_is_better = True` or `= False` to the class {type(metric).__name__}"
            )
        return "max" if higher_is_better else "min"
