"""What the tests share: small data, and quick runs made by the real command line."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from {{ cookiecutter.__package_name }} import checkpoint, data, record
from {{ cookiecutter.__package_name }} import train as train_module
from {{ cookiecutter.__package_name }}.__main__ import main

Command = Callable[..., tuple[int, str, str]]
TINY = ("data.limit=60", "data.features=64", "model.hidden=8", "trainer.epochs=2")


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Type a command; get its exit code, stdout and stderr. Runs go to tmp_path/runs."""

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        arguments = [word.format(tmp=tmp_path) for word in words]
        try:
            code = main(arguments)
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else 1
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def train(command: Command) -> Callable[..., Path]:
    """Train a tiny run with these overrides; get its folder."""

    def run(*overrides: str) -> Path:
        code, out, err = command("train", *TINY, "output_dir={tmp}/runs", *overrides)
        assert code == 0, err
        return Path(out.strip())

    return run


def read_log(run: Path, split: str = "") -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, of one split or of all, without what the clock decides."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    found: list[dict[str, Any]] = [json.loads(line) for line in lines]
    for line in found:
        line.pop("time"), line.pop("rate", None)
    return [line for line in found if line["split"] == (split or line["split"])]


@dataclass
class Noisy:
    """A dataset whose samples are another's with random numbers of three kinds added."""

    dataset: Any

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        inputs, target = self.dataset[index]
        return inputs + torch.rand(1) + random.random() + float(numpy.random.random()), target

    @classmethod
    def install(cls, patch: Callable[[Any, str, Any], None]) -> None:
        """Make it the training data of the runs that follow."""

        def build(*arguments: Any) -> Any:
            datasets, classes = data.build_datasets(*arguments)
            return {**datasets, "train": data.Seeded(cls(datasets["train"]))}, classes

        patch(train_module, "build_datasets", build)


def assert_same_run(one: Path, other: Path) -> None:
    """The same weights, states, log and result."""
    for name in ("last.pt", "best.pt"):
        states = [checkpoint.load(run / "checkpoints" / name) for run in (one, other)]
        for state in states:
            state.pop("config"), state.pop("logger")
        assert_equal(*states)
    assert read_log(one) == read_log(other)
    assert record.read(one / "result.json") == record.read(other / "result.json")


def assert_equal(one: Any, other: Any) -> None:
    """Equal to the bit, in every tensor of a nest of dicts and lists."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, list | tuple):
        for a, b in zip(one, other, strict=True):
            assert_equal(a, b)
    else:
        assert one == other
