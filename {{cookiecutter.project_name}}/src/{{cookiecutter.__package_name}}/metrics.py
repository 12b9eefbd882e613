"""Metrics that are exact over an epoch and over processes. Needs only torch.

A metric of your own says which sums it needs of a batch, and what it makes of them in the end:

    class MeanError(Metric):
        higher_is_better = False

        def update(self, preds, target):
            self.add(error=(preds - target).sum(), count=target.numel())

        def compute(self):
            return self.sums["error"] / self.sums["count"]

`update` gets predictions and target, or `Output` whole if its parameter is named `output`, and the
batch if one is named `batch`.
"""

from typing import Any

import torch
from torch import Tensor


class Metric:
    """A metric made of sums over all samples. They stay on the device until they are asked for."""

    higher_is_better: bool

    def __init__(self) -> None:
        self.totals: dict[str, Tensor] = {}

    def reset(self) -> None:
        """Forget all batches."""
        self.totals = {}

    def add(self, **values: Any) -> None:
        """Add tensors or numbers, of any shape, to the sums of these names."""
        for name, value in values.items():
            tensor = precise(torch.as_tensor(value).detach())
            total = self.totals.get(name)
            self.totals[name] = tensor if total is None else total + tensor

    @property
    def sums(self) -> dict[str, Tensor]:
        """The sums over all batches and processes, on the CPU."""
        mine = {name: total.cpu() for name, total in self.totals.items()}
        parts: list[Any] = [mine]
        if torch.distributed.is_initialized():
            parts *= torch.distributed.get_world_size()
            torch.distributed.all_gather_object(parts, mine)
        sums: dict[str, Tensor] = {}
        for part in parts:  # a process that had no sample has no sums
            for name, value in part.items():
                sums[name] = sums[name] + value if name in sums else value
        return sums


class ConfusionMatrix(Metric):
    """Counts (classes, classes): how often target class i (row) was predicted as j (column).

    Predictions are scores (batch, classes) or class indices (batch,), the target class indices
    (batch,). Raises ValueError for other shapes, and for a class that there is not.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count a batch."""
        predicted = class_indices(preds, target, self.classes)
        pairs = target * self.classes + predicted  # (batch,)
        self.add(counts=pairs.bincount(minlength=self.classes**2))

    def compute(self) -> Tensor:
        """The matrix."""
        return self.sums["counts"].view(self.classes, self.classes)


class Accuracy(ConfusionMatrix):
    """The share of samples whose class was predicted."""

    higher_is_better = True

    def compute(self) -> Tensor:
        """A number from 0 to 1."""
        matrix = super().compute().double()
        return matrix.trace() / matrix.sum()


class MacroF1(ConfusionMatrix):
    """The mean of the classes' F1 scores, over the classes that occur in targets or predictions."""

    higher_is_better = True

    def compute(self) -> Tensor:
        """A number from 0 to 1."""
        matrix = super().compute().double()
        occurrences = matrix.sum(0) + matrix.sum(1)  # (classes,): TP + FP + TP + FN
        f1 = 2 * matrix.diagonal() / occurrences
        return f1[occurrences > 0].mean()


class TopK(Metric):
    """The share of samples whose class is among the k with the highest scores."""

    higher_is_better = True

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count a batch of scores (batch, classes) and class indices (batch,)."""
        class_indices(preds, target, preds.shape[-1])
        best = preds.topk(self.k, dim=1).indices  # (batch, k)
        self.add(right=(best == target[:, None]).sum(), count=len(target))

    def compute(self) -> Tensor:
        """A number from 0 to 1."""
        return self.sums["right"] / self.sums["count"]


class Errors(Metric):
    """Sums of errors, for predictions that have the shape of the target; ValueError if not."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add the errors of a batch, and what the variance of its target is made of."""
        if preds.shape != target.shape:
            raise ValueError(
                f"expected predictions of the target's shape {tuple(target.shape)}, "
                f"found {tuple(preds.shape)}"
            )
        target = precise(target)
        errors = precise(preds) - target
        self.add(errors=errors.abs().sum(), squares=errors.square().sum())
        self.add(target=target.sum(), target_squares=target.square().sum())
        self.add(count=target.numel())


class MAE(Errors):
    """The mean absolute error, in units of the target."""

    higher_is_better = False

    def compute(self) -> Tensor:
        """At least 0."""
        return self.sums["errors"] / self.sums["count"]


class RMSE(Errors):
    """The root of the mean squared error, in units of the target."""

    higher_is_better = False

    def compute(self) -> Tensor:
        """At least 0."""
        return (self.sums["squares"] / self.sums["count"]).sqrt()


class R2(Errors):
    """The share of the target's variance that the predictions explain; NaN if it has none."""

    higher_is_better = True

    def compute(self) -> Tensor:
        """At most 1."""
        sums = self.sums
        variance = sums["target_squares"] - sums["target"].square() / sums["count"]
        return torch.where(variance > 0, 1 - sums["squares"] / variance, torch.nan)


def class_indices(preds: Tensor, target: Tensor, classes: int) -> Tensor:
    """The predicted classes (batch,), of scores (batch, classes) or of class indices (batch,)."""
    has_scores = preds.shape == (len(target), classes) and classes > 1
    has_indices = preds.shape == target.shape and not preds.is_floating_point()
    if target.ndim != 1 or not (has_scores or has_indices):
        raise ValueError(
            f"expected predictions of shape (batch, {classes}) or class indices, and a target of "
            f"shape (batch,), found {tuple(preds.shape)} and {tuple(target.shape)}"
        )
    predicted = preds.argmax(dim=1) if has_scores else preds
    for indices in (predicted, target):
        is_known = (indices >= 0) & (indices < classes)
        if not is_known.all():
            raise ValueError(f"expected classes from 0 to {classes - 1}, found others")
    return predicted


def precise(values: Tensor) -> Tensor:
    """Floating-point values in double precision, where the device has it."""
    has_double = values.device.type != "mps"
    return values.double() if values.is_floating_point() and has_double else values
