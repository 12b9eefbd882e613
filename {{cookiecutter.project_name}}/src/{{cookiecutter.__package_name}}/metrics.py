"""Metrics that are exact over an epoch, and over processes: counts on the device. Works alone."""

# Each has the three methods of a torchmetrics metric, which can stand in its place:
# `update(preds, target)` after each batch, `compute()` at the end, `reset()` before the next.
# preds are scores (batch, classes) or class indices (batch,); target is class indices (batch,).

import torch


class ConfusionMatrix:
    """Counts (classes, classes): how often target class i (row) was predicted as j (column)."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.reset()

    def reset(self) -> None:
        self.counts = torch.zeros(self.classes**2, dtype=torch.int64)

    def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
        self.counts = self.counts.to(target.device)
        pairs = target * self.classes + (preds.argmax(1) if preds.ndim > 1 else preds)  # (batch,)
        self.counts.index_add_(0, pairs, torch.ones_like(pairs))

    def compute(self) -> torch.Tensor:
        counts = self.counts.view(self.classes, self.classes).to("cpu", copy=True)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(counts)
        return counts


class Accuracy(ConfusionMatrix):
    def compute(self) -> torch.Tensor:
        matrix = super().compute().double()
        return matrix.trace() / matrix.sum()


class MacroF1(ConfusionMatrix):
    """The mean of the classes' F1 scores, over the classes that occur in targets or predictions."""

    def compute(self) -> torch.Tensor:
        matrix = super().compute().double()
        occurrences = matrix.sum(0) + matrix.sum(1)  # (classes,): TP + FP + TP + FN
        f1 = 2 * matrix.diagonal() / occurrences
        return f1[occurrences > 0].mean()
