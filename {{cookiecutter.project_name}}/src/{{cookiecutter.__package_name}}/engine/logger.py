"""The log of a run: lines on stderr, metrics.jsonl, and TensorBoard.

What is logged is in both files when `log` returns. This module can be used alone:

    logger = Logger()
    logger.open(folder)
    for batch in logger.track(loader, epoch=1, start=0, total=len(loader)):
        ...
    logger.log({"step": 100, "epoch": 1, "split": "train", "loss": 0.5})
    logger.close()
"""

import errno
import json
import math
import os
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from tqdm import tqdm

NOT_SCALARS = ("step", "epoch", "split", "time")
SECONDS_BETWEEN_LINES = 10  # of the train split, where no progress bar can be shown

Item = TypeVar("Item")


class LogError(ValueError):
    """A log is in use by another process, or does not fit the checkpoint that continues it."""

    exit_code = 2


class LogWriteError(OSError):
    """A line cannot be written, for example to a full disk; the run can be resumed later."""

    exit_code = 1


class Logger:
    """Writes records to the console, to `metrics.jsonl` and to TensorBoard.

    Call `open` before `log`. `state_dict` and `load_state_dict` continue a log exactly where a
    checkpoint was taken: what was logged after it is removed from both files.
    """

    def __init__(self) -> None:
        self.folder: Path | None = None
        self._file: BinaryIO | None = None
        self._writer: Any = None  # TensorBoard's SummaryWriter, made when it is first needed
        self._purge_step: int | None = None
        self._bar: tqdm[Any] | None = None
        self._started = time.monotonic()
        self._shown = time.monotonic()

    def open(self, folder: Path) -> None:
        """Open the log in a run's folder, or continue the one that is there.

        Raises LogError if another process has it open.
        """
        path = folder / "metrics.jsonl"
        try:
            file = path.open("a+b")
        except OSError as error:
            raise LogError(f"{path}: cannot be opened: {error.strerror}") from None
        _lock(file, folder)
        self.folder = folder
        self._file = file

    def close(self) -> None:
        """Close both files. A logger that is not open stays as it is."""
        self._bar = None  # it holds the loader, and so the loader's workers
        self._close_writer()
        if self._file is not None:
            with suppress(OSError):  # each line is flushed: there is nothing left to be lost
                self._file.close()

    def log(self, record: dict[str, Any]) -> dict[str, Any]:
        """Write one record, and return it as it is in `metrics.jsonl`.

        A record has `step`, `epoch`, `split` and numbers under any other names. `time`, the
        seconds since the run began, is added. Numbers that are not finite become null.

        Raises LogWriteError if it cannot be written.
        """
        record = {**record, "time": round(time.monotonic() - self._started, 3)}
        line: dict[str, Any] = null_if_not_finite(record)
        file = self._open_file()
        try:
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            self._write_scalars(record)
        except OSError as error:
            raise LogWriteError(f"{file.name}: cannot be written: {error}") from error
        self._show(record)
        return line

    def track(self, steps: Iterable[Item], epoch: int, start: int, total: int) -> Iterable[Item]:
        """Return the steps of an epoch, with a progress bar if stderr is a terminal.

        `start` is how many of the `total` steps were taken before, in a run that was resumed.
        """
        has_console = sys.stderr is not None
        bar = tqdm(
            steps,
            desc=f"epoch {epoch}",
            initial=start,
            total=total,
            disable=None if has_console else True,  # None: unless stderr is a terminal
        )
        self._bar = bar
        return bar

    def info(self, text: str) -> None:
        """Print a text on stderr, above the progress bar if there is one."""
        _print(text)

    def state_dict(self) -> dict[str, Any]:
        """Return the length of the log in bytes, all of them synced, and the seconds so far."""
        file = self._open_file()
        try:
            os.fsync(file.fileno())
        except OSError as error:
            raise LogWriteError(f"{file.name}: cannot be written: {error}") from error
        size = os.fstat(file.fileno()).st_size
        return {"bytes": size, "seconds": time.monotonic() - self._started}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Remove what was logged after `state` was taken, from both files.

        TensorBoard drops all that it has from one step on when it reads a file that says so. A
        removed line of the test split has the step of the best weights, which can be lower than
        the steps of lines that are kept: those are written again.

        Raises LogError if the log is shorter than `state` says, or is not a log.
        """
        file = self._open_file()
        path = file.name
        file.seek(0)  # to open the file a second time, and close it, would end the lock
        content = file.read()
        length = state["bytes"]
        if len(content) < length:
            message = f"expected the {length} bytes that the checkpoint counts on"
            raise LogError(f"{path}: {message}, found {len(content)}: the log was changed")
        kept = _parse(content[:length], path)
        steps = [record["step"] for record in kept[-1:]] or [0]
        for line in content[length:].splitlines():
            with suppress(ValueError, TypeError, KeyError):  # the end of a line may be missing
                steps.append(int(json.loads(line)["step"]))
        file.truncate(length)
        self._started = time.monotonic() - state["seconds"]
        self._close_writer()
        self._purge_step = min(steps)
        for record in kept:
            if record["step"] >= self._purge_step:
                self._write_scalars(record)

    def _open_file(self) -> BinaryIO:
        if self._file is None:
            raise LogError("the log is not open: call open(folder) first")
        return self._file

    def _close_writer(self) -> None:
        if self._writer is not None:
            with suppress(OSError):
                self._writer.close()
        self._writer = None

    def _write_scalars(self, record: dict[str, Any]) -> None:
        """Add the numbers of a record to TensorBoard, under tags such as `loss/val`."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # takes 0.2 s

            folder = Path(self._open_file().name).parent
            _wait_for_later_name(folder)
            self._writer = SummaryWriter(str(folder), purge_step=self._purge_step)
        for name, value in record.items():
            if name not in NOT_SCALARS:
                number = math.nan if value is None else value
                self._writer.add_scalar(f"{name}/{record['split']}", number, record["step"])
        self._writer.flush()

    def _show(self, record: dict[str, Any]) -> None:
        """Show a record of training in the progress bar or now and then, any other as a line."""
        hidden = (*NOT_SCALARS, "lr")
        numbers = [f"{key} {value:,.4f}" for key, value in record.items() if key not in hidden]
        is_train = record["split"] == "train"
        if is_train and self._bar is not None and not self._bar.disable:
            self._bar.set_postfix_str("  ".join(numbers), refresh=False)
            return
        is_due = time.monotonic() - self._shown >= SECONDS_BETWEEN_LINES
        if not is_train or is_due:
            self._shown = time.monotonic()
            epoch = f"epoch {record['epoch']:<3}"
            step = f"step {record['step']:<6}"
            self.info("  ".join([f"{epoch} {step} {record['split']:<5}", *numbers]))


class SilentLogger:
    """A logger that writes and prints nothing: for all processes but the first."""

    def __init__(self) -> None:
        self.folder: Path | None = None

    def open(self, folder: Path) -> None:
        """Note the folder, and open nothing."""
        self.folder = folder

    def close(self) -> None:
        """Do nothing."""

    def log(self, record: dict[str, Any]) -> dict[str, Any]:
        """Return the record."""
        return record

    def track(self, steps: Iterable[Item], epoch: int, start: int, total: int) -> Iterable[Item]:
        """Return the steps."""
        return steps

    def info(self, text: str) -> None:
        """Do nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing."""


def null_if_not_finite(value: Any) -> Any:
    """Return None for NaN and infinity, also inside of lists and dicts: JSON has no such numbers.

    Anything else is returned as it is.
    """
    if isinstance(value, dict):
        return {key: null_if_not_finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [null_if_not_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _lock(file: BinaryIO, folder: Path) -> None:
    """Lock a file until it is closed; raise LogError if another process has locked it."""
    if sys.platform == "win32":
        return
    import fcntl

    try:
        # A lock of flock would be inherited by workers, which may outlive a killed run.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            file.close()
            raise LogError(f"{folder}: another process is writing to this run") from None
        reason = f"this file system has no locks ({error.strerror})"
        _print(f"warning: {folder}: {reason}: do not resume this run twice at the same time")


def _parse(content: bytes, path: str) -> list[dict[str, Any]]:
    """Return the records in the lines of a log; raise LogError for a line that is none."""
    records = []
    for number, line in enumerate(content.splitlines(), 1):
        try:
            record = dict(json.loads(line))
            record["step"] = int(record["step"])
        except (ValueError, TypeError, KeyError):
            message = "expected a JSON object with a step"
            raise LogError(f"{path}:{number}: {message}, found {line[:40]!r}") from None
        records.append(record)
    return records


def _print(text: str) -> None:
    """Print on stderr. Training goes on if the terminal or pipe behind it was closed."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            tqdm.write(text, file=sys.stderr)


def _wait_for_later_name(folder: Path) -> None:
    """Wait for the next second if an event file was made in this one.

    TensorBoard reads event files in the order of their names. These begin with the second in
    which they were made, and what follows it does not tell which of two files is later.
    """
    now = time.time()
    newest = max((path.name for path in folder.glob("events.out.tfevents.*")), default="")
    if newest.startswith(f"events.out.tfevents.{int(now):010d}."):
        time.sleep(1.01 - now % 1)
