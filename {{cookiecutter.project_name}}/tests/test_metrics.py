"""Metrics are exact, however the samples are batched."""

import pytest
import torch

from {{ cookiecutter.__package_name }}.metrics import (
    Accuracy,
    ConfusionMatrix,
    MacroF1,
)

TARGET = torch.tensor([0, 0, 0, 1, 1, 2, 0, 1, 2, 2])
PREDS = torch.tensor([0, 0, 1, 1, 0, 2, 0, 1, 2, 1])
# By hand: class 0 has TP 3, FP 1, FN 1; class 1 has 2, 2, 1; class 2 has 2, 0, 1.
F1 = (6 / 8 + 4 / 7 + 4 / 5) / 3


@pytest.mark.parametrize("size", [1, 3, 4, 10])
def test_every_batch_size_gives_the_result_counted_by_hand(size: int) -> None:
    accuracy, f1, confusion = Accuracy(3), MacroF1(3), ConfusionMatrix(3)
    for preds, target in zip(torch.split(PREDS, size), torch.split(TARGET, size), strict=True):
        for metric in (accuracy, f1, confusion):
            metric.update(preds, target)
    assert accuracy.compute().item() == 0.7
    assert f1.compute().item() == pytest.approx(F1, abs=1e-15)
    assert confusion.compute().tolist() == [[3, 1, 0], [1, 2, 0], [0, 1, 2]]


def test_scores_count_as_the_class_of_the_highest() -> None:
    scores = torch.nn.functional.one_hot(PREDS, 3) * 0.1 - 5
    for metric in (Accuracy(3), ConfusionMatrix(3)):
        metric.update(scores, TARGET)
        by_scores = metric.compute()
        metric.reset()
        metric.update(PREDS, TARGET)
        assert torch.equal(by_scores, metric.compute())


def test_a_class_that_never_occurs_does_not_count() -> None:
    f1 = MacroF1(5)
    f1.update(PREDS, TARGET)
    assert f1.compute().item() == pytest.approx(F1, abs=1e-15)


def test_reset_forgets_everything() -> None:
    for metric in (Accuracy(3), MacroF1(3)):
        metric.update(1 - TARGET.clamp(max=1), TARGET)
        metric.reset()
        metric.update(TARGET, TARGET)
        assert metric.compute().item() == 1


def test_nothing_seen_gives_nan_and_no_crash() -> None:
    assert Accuracy(3).compute().isnan()
    assert MacroF1(2).compute().isnan()
