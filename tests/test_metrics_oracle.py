"""The generated metrics and trainer, each alone, against scikit-learn and torchmetrics."""

import importlib.util
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import (  # type: ignore[import-untyped]
    accuracy_score,
    confusion_matrix,
    f1_score,
)
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

CLASSES = 4


def load_alone(project: Path, name: str, folder: Path) -> Any:
    """A module of a project, copied into an empty folder and imported from there."""
    source = project / "src" / "my_pytorch_project" / f"{name}.py"
    path = Path(shutil.copy(source, folder))
    spec = importlib.util.spec_from_file_location(f"alone_{path.stem}", path)
    assert spec and spec.loader
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def metrics(default_bake: Path, tmp_path: Path) -> Any:
    return load_alone(default_bake, "metrics", tmp_path)


@pytest.fixture
def trainer(default_bake: Path, tmp_path: Path) -> Any:
    return load_alone(default_bake, "engine/trainer", tmp_path)


@pytest.fixture
def measure(default_bake: Path, tmp_path: Path) -> Any:
    return load_alone(default_bake, "engine/measure", tmp_path)


def draw(samples: int, present: int, seed: int) -> tuple[Tensor, Tensor]:
    """Scores (samples, CLASSES) and targets (samples,), of the first `present` classes alone."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(present, (samples,), generator=generator)
    scores = torch.randn(samples, CLASSES, generator=generator)
    scores[:, present:] = -100.0
    return scores + 0.7 * nn.functional.one_hot(targets, CLASSES), targets


def batches(scores: Tensor, targets: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(targets), size):
        yield scores[start : start + size], targets[start : start + size]


@pytest.mark.parametrize("samples", [1, 7, 100])
@pytest.mark.parametrize("present", [CLASSES, CLASSES - 1], ids=["all", "one absent"])
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_metrics_equal_those_of_scikit_learn(
    metrics: Any, samples: int, present: int, size: int
) -> None:
    ours = metrics.Accuracy(CLASSES), metrics.MacroF1(CLASSES), metrics.ConfusionMatrix(CLASSES)
    for seed in range(5):
        scores, targets = draw(samples, present, seed)
        for metric in ours:
            metric.reset()
            for batch in batches(scores, targets, size):
                metric.update(*batch)
        accuracy, f1, matrix = (metric.compute() for metric in ours)
        found = scores.argmax(1)
        assert accuracy.item() == pytest.approx(accuracy_score(targets, found), abs=1e-12)
        assert f1.item() == pytest.approx(f1_score(targets, found, average="macro"), abs=1e-12)
        assert (matrix.numpy() == confusion_matrix(targets, found, labels=range(CLASSES))).all()


def test_metrics_take_class_indices_too(metrics: Any) -> None:
    scores, targets = draw(50, CLASSES, 0)
    for make in (metrics.Accuracy, metrics.MacroF1):
        by_score, by_index = make(CLASSES), make(CLASSES)
        by_score.update(scores, targets)
        by_index.update(scores.argmax(1), targets)
        assert by_score.compute() == by_index.compute()


@pytest.mark.parametrize("size", [1, 3, 50])
def test_metrics_of_torchmetrics_take_the_place_of_ours(
    metrics: Any, trainer: Any, measure: Any, size: int
) -> None:
    ours = {"accuracy": metrics.Accuracy(CLASSES), "f1": metrics.MacroF1(CLASSES)}
    theirs = {
        "accuracy": MulticlassAccuracy(CLASSES, average="micro"),
        "f1": MulticlassF1Score(CLASSES, average="macro"),
    }
    train_data, val_data = draw(50, CLASSES, 1), draw(50, CLASSES, 2)
    train, val = (list(batches(*data, size)) for data in (train_data, val_data))
    results = []

    def forward(model: nn.Module, batch: Any) -> Any:
        inputs, target = batch
        output = model(inputs)
        losses = nn.functional.cross_entropy(output, target, reduction="none")
        return trainer.Output(losses, output, target)

    for choice in (ours, theirs):
        torch.manual_seed(0)
        model = nn.Linear(CLASSES, CLASSES)
        lines: list[dict[str, Any]] = []
        loop = trainer.Trainer(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            forward=forward,
            config=trainer.TrainerConfig(epochs=3, monitor="f1"),
            metrics=measure.MetricGroup(choice, torch.device("cpu")),
            mode="max",
            log=lines.append,
        )
        loop.fit(train, val)
        results.append([line for line in lines if line["split"] == "val"])
        assert loop.best["metric"] == "f1"
        found, target = model(val_data[0]).argmax(1), val_data[1]
        last = results[-1][-1]
        assert last["accuracy"] == pytest.approx(accuracy_score(target, found), abs=1e-6)
        assert last["f1"] == pytest.approx(f1_score(target, found, average="macro"), abs=1e-6)
    assert [line["step"] for line in results[0]] == [len(train), 2 * len(train), 3 * len(train)]
    for one, other in zip(*results, strict=True):
        assert one["loss"] == other["loss"]
        for name in ("accuracy", "f1"):
            assert one[name] == pytest.approx(other[name], abs=1e-6)  # theirs are float32
