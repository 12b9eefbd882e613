"""What each step made of a model, in `trace.jsonl`, to find the step where two runs part.

    with tracing(folder / "trace.jsonl", model, optimizer, trainer):
        trainer.fit(train_loader, val_loader)

    print(compare(folder / "trace.jsonl", other / "trace.jsonl"))

Each step of the optimizer adds a line: the sums of the gradients and of the weights of each
parameter. They are added in double precision, so that a change of the last bit of one weight shows.
Training waits for the device in each step, and all weights are read once more. Works alone.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol

import torch
from torch import Tensor, nn

Line = dict[str, Any]
"""A line of a trace: `step`, and `gradients` and `weights` by the names of the parameters."""


class TraceError(ValueError):
    """A trace is missing, cannot be opened, or has a line that is none."""

    exit_code = 2


class TraceWriteError(OSError):
    """A line cannot be written, for example to a full disk; the run can be resumed later."""

    exit_code = 1


class HasStep(Protocol):
    """What a trace needs of a trainer."""

    step: int
    """number of finished steps"""


@contextmanager
def tracing(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, trainer: HasStep
) -> Iterator[None]:
    """Add a line to a trace for each step that the optimizer makes meanwhile.

    Lines of steps that the trainer has still to make are removed first: a run that is continued
    makes them again. A step that the scaler of fp16 skips has no line.

    Raises TraceError if the trace cannot be opened, or has a line that is none, and TraceWriteError
    if a line cannot be written.
    """
    file = _open(path, "a+b")

    def write(*_: Any) -> None:
        line = {"step": trainer.step + 1, **sums_of(model)}
        try:
            file.write(f"{json.dumps(line)}\n".encode())
            file.flush()
        except OSError as error:
            raise TraceWriteError(f"{path}: cannot be written: {error}") from error

    hook = optimizer.register_step_post_hook(write)
    try:
        file.truncate(_end_of(file, trainer.step))
        yield
    finally:
        hook.remove()
        with suppress(OSError):  # what could not be written
            file.close()


def sums_of(model: nn.Module) -> Line:
    """The sums of the gradients and of the weights of each parameter, by name."""
    gradients: dict[str, float] = {}
    weights: dict[str, float] = {}
    for name, parameter in model.named_parameters():
        weights[name] = _sum(parameter.detach())
        if parameter.grad is not None:
            gradients[name] = _sum(parameter.grad)
    return {"gradients": gradients, "weights": weights}


def check(path: Path) -> None:
    """Raise TraceError if a trace cannot be opened, or has a line that is none."""
    with _open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            _parse(line, path, number)


def check_until(path: Path, step: int) -> None:
    """Do the same for the lines up to a step, with which a run is to be continued."""
    with _open(path, "rb") as file:
        _end_of(file, step)


def compare(path: Path, other: Path) -> Line | None:
    """The first step at which two traces differ; None if all steps that both have are equal.

    `name` is the first parameter, in the order of the model, of which a sum differs, that of its
    `gradients` or that of its `weights`, as `sum_of` says. `value` has both. There is no name if a
    step has a line in one trace alone.

    Raises TraceError if a trace cannot be opened, or a line that differs is none.
    """
    with _open(path, "rb") as lines, _open(other, "rb") as other_lines:
        for number, pair in enumerate(zip(lines, other_lines, strict=False), 1):
            if pair[0] != pair[1]:
                before = _parse(pair[0], path, number)
                after = _parse(pair[1], other, number)
                return _compare(before, after)
    return None


def _compare(before: Line, after: Line) -> Line:
    """The difference between two lines that are not equal."""
    step = min(before["step"], after["step"])
    if before["step"] != after["step"]:
        return {"step": step}
    for name in {**before["weights"], **after["weights"]}:
        for what in ("gradients", "weights"):
            one = json.dumps(before[what].get(name))  # as text, since NaN does not equal itself
            other = json.dumps(after[what].get(name))
            if one != other:
                return {"step": step, "name": name, "sum_of": what, "value": f"{one} -> {other}"}
    return {"step": step}


def _open(path: Path, mode: str) -> IO[bytes]:
    """Open a trace; raise TraceError if that cannot be done."""
    try:
        return path.open(mode)
    except OSError as error:
        raise TraceError(f"{path}: cannot be opened: {error.strerror}") from None


def _end_of(file: IO[bytes], step: int) -> int:
    """Where the line of a step ends. A line that a kill has cut is not counted."""
    end = 0
    file.seek(0)
    for number, line in enumerate(file, 1):
        if not line.endswith(b"\n") or _parse(line, Path(file.name), number)["step"] > step:
            break
        end += len(line)
    return end


def _parse(text: bytes, path: Path, number: int) -> Line:
    """The line of a trace; raises TraceError if it is none."""
    try:
        line: Line = json.loads(text)
        is_line = isinstance(line["step"], int)
        is_line = is_line and isinstance(line["gradients"], dict)
        is_line = is_line and isinstance(line["weights"], dict)
    except (ValueError, TypeError, LookupError, RecursionError):
        is_line = False
    if not is_line:
        expected = "expected a step with gradients and weights"
        raise TraceError(f"{path}:{number}: {expected}, found {text[:40]!r}")
    return line


def _sum(tensor: Tensor) -> float:
    """The sum of a tensor, in double precision where the device has it."""
    dtype = torch.float32 if tensor.device.type == "mps" else torch.float64
    return tensor.sum(dtype=dtype).item()
