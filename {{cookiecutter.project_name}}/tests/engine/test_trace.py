"""A trace names the very step in which two runs part, and what parts first."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Command, nudge
from torch import nn

from {{ cookiecutter.__package_name }} import train as train_module
from {{ cookiecutter.__package_name }}.engine import trace
from {{ cookiecutter.__package_name }}.engine.logger import Logger
from {{ cookiecutter.__package_name }}.engine.trace import (
    TraceError,
    TraceWriteError,
    tracing,
)

Train = Callable[..., Path]
Patch = pytest.MonkeyPatch
BASE = ("logger.trace=true", "trainer.epochs=3", "trainer.log_every=4")
FIRST = "0.weight"  # the first parameter of the tiny model
LAST = "3.bias"


@pytest.fixture(autouse=True)
def without_tensorboard(monkeypatch: Patch) -> None:
    """Write no event files: a second one has to wait for another second."""
    monkeypatch.setattr(Logger, "_write_scalars", lambda *_: None)


class Counter:
    """Has a step, as a trainer has."""

    def __init__(self, step: int = 0) -> None:
        self.step = step


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The lines of a trace."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def steps_of(path: Path) -> list[int]:
    """The steps of a trace."""
    return [line["step"] for line in lines_of(path)]


def line(step: int, gradient: float = 0.5, weight: float = 1.0, name: str = "w") -> str:
    """A line of a trace with one parameter."""
    sums = {"gradients": {name: gradient}, "weights": {name: weight}}
    return json.dumps({"step": step, **sums}) + "\n"


def reproduce(command: Command, run: Path, code: int = 3) -> dict[str, Any]:
    """The verdict of `reproduce`."""
    found, out, err = command("reproduce", str(run))
    assert found == code, err
    return dict(json.loads(out))


def train_steps(model: nn.Module, path: Path, counter: Counter, count: int) -> None:
    """Make some steps of SGD, each noted in a trace."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with tracing(path, model, optimizer, counter):
        for _ in range(count):
            optimizer.zero_grad()
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
            counter.step += 1
    optimizer.step()  # is not noted


def test_each_step_has_the_sums_of_gradients_and_weights(tmp_path: Path) -> None:
    model = nn.Linear(2, 3)
    model.bias.requires_grad_(False)
    with torch.no_grad():
        model.weight.fill_(1.0)
        model.bias.fill_(0.25)
    train_steps(model, tmp_path / "trace.jsonl", Counter(), 2)
    assert lines_of(tmp_path / "trace.jsonl") == [
        {"step": 1, "gradients": {"weight": 6.0}, "weights": {"weight": 3.0, "bias": 0.75}},
        {"step": 2, "gradients": {"weight": 6.0}, "weights": {"weight": 0.0, "bias": 0.75}},
    ]


def test_the_last_bit_of_one_weight_among_many_shows() -> None:
    model = nn.Linear(1000, 1000)
    before = trace.sums_of(model)
    with torch.no_grad():
        weight = model.weight[500, 500]
        weight.copy_(torch.nextafter(weight, torch.tensor(9.0)))
    after = trace.sums_of(model)
    assert before["weights"]["weight"] != after["weights"]["weight"]
    assert before["weights"]["bias"] == after["weights"]["bias"]


def test_what_is_still_to_be_made_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    model = nn.Linear(2, 3)
    train_steps(model, path, Counter(), 5)
    before = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(before) + b'{"step": 6, "gra')  # as a kill leaves it
    train_steps(model, path, Counter(step=3), 1)
    assert steps_of(path) == [1, 2, 3, 4]
    assert path.read_bytes().splitlines(keepends=True)[:3] == before[:3]


def test_a_run_without_the_option_has_no_trace(train: Train) -> None:
    assert not (train() / "trace.jsonl").exists()


def test_a_run_has_a_line_for_each_step_whatever_is_logged(train: Train) -> None:
    run = train(*BASE)
    assert steps_of(run / "trace.jsonl") == list(range(1, 13))
    assert list(lines_of(run / "trace.jsonl")[0]["weights"]) == [FIRST, "0.bias", "3.weight", LAST]


def test_a_trace_changes_no_bit(train: Train) -> None:
    with_trace = json.loads((train(*BASE) / "result.json").read_text("utf-8"))
    without = json.loads((train(*BASE[1:]) / "result.json").read_text("utf-8"))
    assert with_trace["digest"] == without["digest"]


def test_equal_runs_have_equal_traces(train: Train, command: Command) -> None:
    run = train(*BASE)
    verdict = reproduce(command, run, code=0)
    traces = [folder / "trace.jsonl" for folder in (run, Path(verdict["run"]))]
    assert traces[0].read_bytes() == traces[1].read_bytes()
    assert trace.compare(*traces) is None


@pytest.mark.parametrize("step", [1, 6, 12])
def test_reproduce_names_the_step_whose_gradient_differs(
    train: Train, command: Command, monkeypatch: Patch, step: int
) -> None:
    run = train(*BASE)
    nudge(monkeypatch, step)
    verdict = reproduce(command, run)
    assert verdict["first_step"] == step
    assert verdict["repeats"] is True
    sums = [
        lines_of(folder / "trace.jsonl")[step - 1]["gradients"][FIRST]
        for folder in (run, Path(verdict["run"]))
    ]
    assert sums[0] != sums[1]
    assert verdict["first_parameter"] == {
        "step": step,
        "name": FIRST,
        "sum_of": "gradients",
        "value": "{} -> {}".format(*sums),
    }


def test_reproduce_names_the_weight_where_no_gradient_differs(
    train: Train, command: Command, monkeypatch: Patch
) -> None:
    run = train(*BASE)

    def move(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        state = next(iter(optimizer.state.values()))
        if state["step"] == 7:
            with torch.no_grad():
                optimizer.param_groups[0]["params"][-1][0, 0] += 1.0

    def moved(path: Path, model: Any, optimizer: Any, trainer: Any) -> Any:
        optimizer.register_step_post_hook(move)  # comes before that of the trace
        return tracing(path, model, optimizer, trainer)

    monkeypatch.setattr(train_module, "tracing", moved)
    verdict = reproduce(command, run)
    parameter = verdict["first_parameter"]
    assert (verdict["first_step"], parameter["step"]) == (7, 7)
    assert (parameter["name"], parameter["sum_of"]) == ("3.weight", "weights")
    before, after = map(float, parameter["value"].split(" -> "))
    assert after - before == pytest.approx(1.0)


def test_without_a_trace_of_both_the_log_tells(train: Train, command: Command) -> None:
    run = train(*BASE)
    result = json.loads((run / "result.json").read_text("utf-8"))
    (run / "result.json").write_text(json.dumps({**result, "digest": "0" * 64}), "utf-8")
    traces = run / "trace.jsonl"
    lines = traces.read_text("utf-8").splitlines(keepends=True)
    traces.write_text("".join([line(1), *lines[1:]]), "utf-8")
    assert reproduce(command, run)["first_step"] == 1
    traces.unlink()
    assert reproduce(command, run)["first_step"] is None


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        (line(1) + line(2), line(1), None),  # one of them ended earlier
        (line(1, float("nan")), line(1, float("nan")), None),
        (line(1), line(3), {"step": 1}),  # fp16 has skipped a step
        (
            line(1) + line(2, gradient=0.25, weight=3),
            line(1) + line(2, weight=4),
            {"step": 2, "name": "w", "sum_of": "gradients", "value": "0.25 -> 0.5"},
        ),
        (
            line(1, weight=float("inf")),
            line(1, weight=float("nan")),
            {"step": 1, "name": "w", "sum_of": "weights", "value": "Infinity -> NaN"},
        ),
        (
            '{"step": 1, "gradients": {}, "weights": {"v": 1.0, "w": 2.0}}\n',
            '{"step": 1, "gradients": {}, "weights": {"w": 2.0, "v": 1.0}}\n',
            {"step": 1},  # another order
        ),
        (
            line(1),
            line(1, name="v"),
            {"step": 1, "name": "w", "sum_of": "gradients", "value": "0.5 -> null"},
        ),
    ],
)
def test_traces_are_compared(
    tmp_path: Path, one: str, other: str, found: dict[str, Any] | None
) -> None:
    (tmp_path / "one").write_text(one, encoding="utf-8")
    (tmp_path / "other").write_text(other, encoding="utf-8")
    assert trace.compare(tmp_path / "one", tmp_path / "other") == found


BROKEN = [
    b"\xff\xfe\n",
    b"\n",
    b"[1]\n",
    b"[" * 100_000 + b"\n",
    b'{"step": "x", "gradients": {}, "weights": {}}\n',
    b'{"step": 1, "gradients": [], "weights": {}}\n',
    b'{"step": 1, "gradients": {}}\n',
]


@pytest.mark.parametrize("broken", BROKEN)
def test_a_line_that_is_none_is_named(tmp_path: Path, broken: bytes) -> None:
    path = tmp_path / "trace.jsonl"
    other = tmp_path / "other.jsonl"
    path.write_bytes(line(1).encode() + broken)
    other.write_text(line(1) + line(2), encoding="utf-8")
    expected = r"trace.jsonl:2: expected a step with gradients and weights, found b'"
    with pytest.raises(TraceError, match=expected):
        trace.compare(path, other)
    with pytest.raises(TraceError, match=expected):
        trace.check(path)
    before = path.read_bytes()
    with pytest.raises(TraceError, match=expected):
        train_steps(nn.Linear(2, 3), path, Counter(step=5), 1)
    assert path.read_bytes() == before


def test_a_damaged_trace_is_one_line_for_resume_and_reproduce(
    train: Train, command: Command
) -> None:
    run = train(*BASE)
    path = run / "trace.jsonl"
    path.write_bytes(b"x\n" + path.read_bytes())
    code, out, err = command("reproduce", str(run))
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith(f"error: {path}:1: expected a step with gradients")
    (run / "result.json").unlink()
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    code, out, err = command("train", "--resume", str(run))
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith(f"error: {path}:1: expected a step with gradients")
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before
    path.unlink()
    path.mkdir()
    code, _, err = command("train", "--resume", str(run))
    assert code == 2
    assert err.splitlines()[-1] == f"error: {path}: cannot be opened: Is a directory"


def test_a_run_whose_trace_is_gone_is_continued_with_a_new_one(
    train: Train, command: Command
) -> None:
    run = train(*BASE)
    (run / "trace.jsonl").unlink()
    (run / "checkpoints" / "last.prev.pt").replace(run / "checkpoints" / "last.pt")
    (run / "result.json").unlink()
    code, _, err = command("train", "--resume", str(run))
    assert code == 0, err
    assert steps_of(run / "trace.jsonl") == [9, 10, 11, 12]


def test_a_full_disk_ends_the_run_in_one_line(tmp_path: Path, monkeypatch: Patch) -> None:
    class Full:
        """A file on a full disk."""

        name = "trace.jsonl"
        is_closed = False

        def seek(self, _: int) -> None:
            return

        def __iter__(self) -> Any:
            return iter(())

        def truncate(self, _: int) -> None:
            return

        def write(self, _: bytes) -> None:
            return

        def flush(self) -> None:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            self.is_closed = True
            self.flush()

    file = Full()
    monkeypatch.setattr(trace, "_open", lambda *_: file)
    expected = r"trace.jsonl: cannot be written: \[Errno 28\] No space left"
    with pytest.raises(TraceWriteError, match=expected) as caught:
        train_steps(nn.Linear(2, 3), tmp_path / "trace.jsonl", Counter(), 1)
    assert caught.value.exit_code == 1
    assert file.is_closed


def test_a_sharded_run_has_no_trace(command: Command, empty_config: Path) -> None:
    words = ("train", str(empty_config), "output_dir={tmp}/runs", "sharding=true")
    code, _, err = command(*words, "logger.trace=true")
    assert (code, err) == (2, "error: logger.trace: no process has the sums of a sharded model\n")
