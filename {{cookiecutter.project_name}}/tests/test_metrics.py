"""Metrics are exact, however the samples are batched."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from {{ cookiecutter.__package_name }} import metrics as metrics_module
from {{ cookiecutter.__package_name }}.metrics import (
    MAE,
    R2,
    RMSE,
    Accuracy,
    ConfusionMatrix,
    MacroF1,
    Metric,
    TopK,
)

TARGET = torch.tensor([0, 0, 0, 1, 1, 2, 0, 1, 2, 2])
PREDS = torch.tensor([0, 0, 1, 1, 0, 2, 0, 1, 2, 1])
# By hand: class 0 has TP 3, FP 1, FN 1; class 1 has 2, 2, 1; class 2 has 2, 0, 1.
F1 = (6 / 8 + 4 / 7 + 4 / 5) / 3


@pytest.mark.parametrize("size", [1, 3, 4, 10])
def test_every_batch_size_gives_the_result_counted_by_hand(size: int) -> None:
    accuracy = Accuracy(3)
    f1 = MacroF1(3)
    confusion = ConfusionMatrix(3)
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


class Largest(Metric):
    """A metric as the docstring of metrics.py shows it."""

    higher_is_better = False

    def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
        self.add(error=(preds - target).sum(), count=target.numel())

    def compute(self) -> torch.Tensor:
        return self.sums["error"] / self.sums["count"]


def test_a_metric_of_ones_own_is_a_few_sums() -> None:
    metric = Largest()
    metric.update(torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3))
    metric.update(torch.tensor([10.0]), torch.zeros(1))
    assert metric.compute().item() == 4.0


@pytest.mark.parametrize("size", [1, 3, 4])
def test_errors_of_numbers_are_those_counted_by_hand(size: int) -> None:
    preds = torch.tensor([1.0, 2.0, 3.0, 6.0])
    target = torch.tensor([1.0, 4.0, 3.0, 2.0])  # mean 2.5, squares around it 5
    mae = MAE()
    rmse = RMSE()
    r2 = R2()
    for part, wanted in zip(torch.split(preds, size), torch.split(target, size), strict=True):
        for metric in (mae, rmse, r2):
            metric.update(part, wanted)
    assert mae.compute().item() == 1.5
    assert rmse.compute().item() == 5**0.5
    assert r2.compute().item() == 1 - 20 / 5


def test_r2_of_a_target_without_variance_is_nan() -> None:
    r2 = R2()
    r2.update(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 3.0]))
    assert r2.compute().isnan()


def test_top_k_counts_the_class_among_the_k_highest() -> None:
    scores = torch.tensor([[0.1, 0.5, 0.4], [0.1, 0.5, 0.4], [0.1, 0.5, 0.4]])
    top = TopK(2)
    top.update(scores, torch.tensor([0, 1, 2]))
    assert top.compute().item() == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("preds", "target"),
    [
        (torch.zeros(3, 1), torch.tensor([0, 1, 0])),
        (torch.zeros(3, 3), torch.tensor([0, 3, 0])),
        (torch.zeros(3, 3), torch.tensor([0, -1, 0])),
        (torch.zeros(3, 4), torch.tensor([0, 1, 0])),
        (torch.tensor([0, 5, 1]), torch.tensor([0, 1, 0])),
        (torch.zeros(3), torch.tensor([0, 1, 0])),
    ],
)
def test_wrong_shapes_and_classes_are_errors(preds: torch.Tensor, target: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="expected "):
        Accuracy(3).update(preds, target)


def test_numbers_of_other_shapes_are_errors() -> None:
    for metric in (MAE(), RMSE(), R2()):
        with pytest.raises(ValueError, match=r"shape \(3,\), found \(3, 1\)"):
            metric.update(torch.zeros(3, 1), torch.zeros(3))


def test_two_processes_add_up_though_one_has_seen_nothing(tmp_path: Path) -> None:
    script = tmp_path / "both.py"
    script.write_text(BOTH, encoding="utf-8")
    source = Path(metrics_module.__file__).parent
    words = [sys.executable, str(script), str(source), str(tmp_path / "store")]
    processes = [
        subprocess.Popen([*words, str(rank)], stdout=subprocess.PIPE, text=True) for rank in (0, 1)
    ]
    printed = [process.communicate(timeout=120)[0].strip() for process in processes]
    assert printed == ["0.25", "0.25"]


BOTH = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from metrics import Accuracy

store = torch.distributed.FileStore(sys.argv[2], 2)
rank = int(sys.argv[3])
torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
accuracy = Accuracy(2)
if rank == 1:
    accuracy.update(torch.tensor([0, 1, 1, 1]), torch.tensor([1, 1, 0, 0]))
print(accuracy.compute().item())
torch.distributed.destroy_process_group()
"""
