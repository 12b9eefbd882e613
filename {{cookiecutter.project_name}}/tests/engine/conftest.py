"""What the tests of the machine share: a tiny task, and quick runs by the real command line."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from {{ cookiecutter.__package_name }}.__main__ import main
from {{ cookiecutter.__package_name }}.engine import (
    checkpoint,
    distributed,
    record,
)
from {{ cookiecutter.__package_name }}.engine.trainer import Step, Trainer

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def tiny_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train the tiny task, whatever the project's own one is."""
    tiny.install(monkeypatch.setattr)


@pytest.fixture
def default_signals() -> Iterator[None]:
    """Let no signal be ignored, as some are where a shell starts the tests in the background."""
    before = {}
    for name in distributed.SIGNALS:
        number = getattr(signal, name, None)  # Windows does not have them all
        if number:
            is_interrupt = number == signal.SIGINT
            handler = signal.default_int_handler if is_interrupt else signal.SIG_DFL
            before[number] = signal.signal(number, handler)
    yield
    for number, earlier in before.items():
        signal.signal(number, earlier)


@pytest.fixture
def empty_config(tmp_path: Path) -> Path:
    """A config file that leaves each option at its default."""
    path = tmp_path / "tiny.yaml"
    path.write_text("", encoding="utf-8")
    return path


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Type a command; get its exit code, stdout and stderr. {tmp} stands for tmp_path."""

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        arguments = [word.replace("{tmp}", str(tmp_path)) for word in words]
        try:
            code = main(arguments)
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else 1
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def train(command: Command, empty_config: Path) -> Callable[..., Path]:
    """Train a tiny run with these overrides; get its folder, which is in tmp_path/runs."""

    def run(*overrides: str) -> Path:
        words = ("train", str(empty_config), "output_dir={tmp}/runs", *overrides)
        code, out, err = command(*words)
        assert code == 0, err
        return Path(out.strip())

    return run


def nudge(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Change a weight before this step of each run from now on."""
    train_step = Trainer.train_step

    def nudged(trainer: Trainer, batches: Step) -> None:
        if trainer.step == step - 1:
            with torch.no_grad():
                list(trainer.model.parameters())[-1][0] += 0.01
        train_step(trainer, batches)

    monkeypatch.setattr(Trainer, "train_step", nudged)


def read_log(run: Path, split: str = "") -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, of one split or of all, without what the clock decides."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    found: list[dict[str, Any]] = [json.loads(line) for line in lines]
    for line in found:
        line.pop("time")
        line.pop("rate", None)
    return [line for line in found if line["split"] == (split or line["split"])]


def assert_same_run(one: Path, other: Path) -> None:
    """The same weights, states, log and result."""
    names = [{path.name for path in run.glob("checkpoints/best*.pt")} for run in (one, other)]
    assert names[0] == names[1]
    for name in ("last.pt", *names[0]):
        states = [checkpoint.load(run / "checkpoints" / name) for run in (one, other)]
        for state in states:
            state.pop("config")
            state.pop("logger")
        assert_equal(*states)
    assert read_log(one) == read_log(other)
    assert record.read(one / "result.json") == record.read(other / "result.json")
    if (one / "trace.jsonl").exists():
        assert (one / "trace.jsonl").read_bytes() == (other / "trace.jsonl").read_bytes()


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
