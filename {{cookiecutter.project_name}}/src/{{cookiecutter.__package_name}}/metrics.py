"""Metrics that are exact over an epoch: sums that stay on the device. Works alone."""

# Each has the three methods of a torchmetrics metric, which can stand in its place:
# `update(preds, target)` after each batch, `compute()` at the end, `reset()` before the next.
# preds are scores (batch, classes) or class indices (batch,); target is class indices (batch,).

import torch
from torch import Tensor


class Accuracy:
    higher_is_better = True

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.correct, self.count = torch.zeros((), dtype=torch.int64), 0

    def update(self, preds: Tensor, target: Tensor) -> None:
        self.correct = self.correct + (_indices(preds) == target).sum()  # moves to their device
        self.count += target.numel()

    def compute(self) -> Tensor:
        return self.correct.cpu().double() / self.count


class ConfusionMatrix:
    """Counts (classes, classes): how often target class i (row) was predicted as j (column)."""

    higher_is_better = True

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.reset()

    def reset(self) -> None:
        self.counts = torch.zeros(self.classes**2, dtype=torch.int64)

    def update(self, preds: Tensor, target: Tensor) -> None:
        self.counts = self.counts.to(target.device)
        pairs = target * self.classes + _indices(preds)  # (batch,)
        self.counts.index_add_(0, pairs, torch.ones_like(pairs))

    def compute(self) -> Tensor:
        return self.counts.view(self.classes, self.classes).cpu()


class MacroF1(ConfusionMatrix):
    """The mean of the classes' F1 scores, over the classes that occur in targets or predictions."""

    def compute(self) -> Tensor:
        matrix = super().compute().double()
        occurrences = matrix.sum(0) + matrix.sum(1)  # (classes,): TP + FP + TP + FN
        f1 = 2 * matrix.diagonal() / occurrences
        return f1[occurrences > 0].mean()


def _indices(preds: Tensor) -> Tensor:
    return preds.argmax(1) if preds.ndim > 1 else preds
