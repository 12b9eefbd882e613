"""The log of a run: lines on stderr, metrics.jsonl, and TensorBoard.

What is logged is in metrics.jsonl when `log` returns, and in TensorBoard's file within seconds or
at the next checkpoint. This module can be used alone:

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
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from tqdm import tqdm

NOT_SCALARS = ("step", "epoch", "split", "time")
TYPES = {"step": int, "split": str}  # of what is not just any number
SECONDS_BETWEEN_LINES = 10  # of the train split, where no progress bar can be shown
SECONDS_BETWEEN_FLUSHES = 10  # of TensorBoard's file, which a checkpoint flushes too
CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")  # all but the end of a line
TITLES = {
    "lr": "learning rate",
    "rate": "samples a second",
    "grad_norm": "gradient norm",
    "memory": "peak memory of the GPU, GB",
}
"""what TensorBoard's charts of these names are called; others are called by the name"""

Item = TypeVar("Item")
Record = dict[str, Any]
"""One line of the log: `step`, `epoch`, `split`, and numbers by their names."""
State = dict[str, Any]
"""What a checkpoint notes of the log: its length in bytes, and the seconds so far."""
Tracker = Callable[[Record], object]
"""Gets each line of the log."""


@dataclass(frozen=True)
class LoggerConfig:
    """Options of the log."""

    tensorboard: bool = True
    """write event files for TensorBoard"""
    trace: bool = False
    """note each step in trace.jsonl, so that `reproduce` names the one where two runs part"""


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

    def __init__(self, config: LoggerConfig | None = None) -> None:
        self.config = config or LoggerConfig()
        self._file: BinaryIO | None = None
        self._board: Board | None = None  # made when something is first shown
        self._purge_step: int | None = None
        self._kept: list[Record] = []  # of before the purge step
        self._text = ""
        self._options: Mapping[str, Any] = {}
        self._tracker: Tracker | None = None
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
        self._file = file

    def describe(self, text: str, options: Mapping[str, Any]) -> None:
        """Take the config of the run, as text and as options by name, for TensorBoard to show."""
        self._text = text
        self._options = options

    def send_to(self, tracker: Tracker | None) -> None:
        """Call `tracker` with each line as it is written, and first with those of before a resume.

        An error in it is a warning, and ends the sending, not the run.
        """
        self._tracker = tracker

    def close(self) -> None:
        """Close both files. A logger that is not open stays as it is."""
        self._bar = None  # it holds the loader, and so the loader's workers
        self._close_board()
        if self._file is not None:
            with suppress(OSError):  # each line is flushed: there is nothing left to be lost
                self._file.close()

    def log(self, record: Record) -> Record:
        """Write one record, and return it as it is in `metrics.jsonl`.

        A record has `step`, `epoch`, `split` and numbers under any other names: those of Python
        and NumPy, tensors without a dimension, or None. `time`, the seconds since the run began, is
        added, and to records of training on CUDA `memory`, the most memory that was in use, in GB.
        Numbers that are not finite become null.

        Raises LogError for anything else in it, and LogWriteError if it cannot be written.
        """
        record = {name: _plain(name, value) for name, value in record.items()}
        if record["split"] == "train":
            record |= _memory()
        record["time"] = round(self.seconds, 3)
        line: Record = null_if_not_finite(record)
        file = self._open_file()
        try:
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            self._write_scalars(line)
        except OSError as error:
            raise LogWriteError(f"{file.name}: cannot be written: {error}") from error
        self._send(line)
        self._show(record)
        return line

    def show(self, step: int, page: Mapping[str, Any]) -> None:
        """Show texts in Markdown and pictures (3, height, width) of uint8 in TensorBoard."""
        if self._board is not None:
            self._board.show(step, page)

    def finish(self, step: int) -> None:
        """Let TensorBoard's table of runs say that this one is finished."""
        if self._board is not None:
            self._board.finish(step)

    def track(self, steps: Iterable[Item], epoch: int, start: int, total: int) -> Iterable[Item]:
        """Return the steps of an epoch, with a progress bar if stderr is a terminal.

        `start` is how many of the `total` steps were taken before, in a run that was resumed.
        """
        if sys.stderr is None or not sys.stderr.isatty():
            return steps
        self._bar = tqdm(steps, desc=f"epoch {epoch}", initial=start, total=total)
        return self._bar

    @staticmethod
    def info(text: str) -> None:
        """Print a text on stderr, above the progress bar if there is one.

        Training continues if the terminal or pipe behind stderr was closed. Characters that control
        a terminal, which a name may have, become question marks.
        """
        if sys.stderr is not None:
            with suppress(OSError, ValueError):
                tqdm.write(CONTROLS.sub("?", text), file=sys.stderr)

    def state_dict(self) -> State:
        """Return the length of the log in bytes, all of them synced, and the seconds so far."""
        file = self._open_file()
        try:
            os.fsync(file.fileno())
            if self._board is not None:
                self._board.writer.flush()
        except OSError as error:
            raise LogWriteError(f"{file.name}: cannot be written: {error}") from error
        size = file.seek(0, os.SEEK_END)
        return {"bytes": size, "seconds": self.seconds}

    def check(self, state: State) -> list[Record]:
        """Return the records of before `state` was taken, and change nothing.

        Raises LogError if the log is shorter than `state` says, or is not a log.
        """
        file = self._open_file()
        file.seek(0)  # to open the file a second time, and close it, would end the lock
        content = file.read()
        length = state["bytes"]
        kept = content[:length]
        is_whole = len(kept) == length and kept.endswith(b"\n" if kept else b"")
        if not is_whole:
            raise LogError(
                f"{file.name}: expected the {length} bytes that the checkpoint counts on, "
                f"found {len(content)}: the log was changed"
            )
        return _parse(kept, file.name)

    def load_state_dict(self, state: State) -> None:
        """Remove what was logged after `state` was taken, from both files.

        TensorBoard drops all that it has from one step on when it reads a file that says so. A
        removed line of the test split has the step of the best weights, which can be lower than
        the steps of lines that are kept: those are written again.

        Raises LogError if `state` does not fit the log: see `check`.
        """
        kept = self.check(state)
        steps = [kept[-1]["step"] if kept else 0]
        file = self._open_file()
        file.seek(state["bytes"])
        for line in file.read().splitlines():
            with suppress(LogError):  # the end of a line may be missing
                steps += [record["step"] for record in _parse(line, file.name)]
        file.truncate(state["bytes"])
        self._started = time.monotonic() - state["seconds"]
        self._close_board()
        self._purge_step = min(steps)
        self._kept = [record for record in kept if record["step"] < self._purge_step]
        for record in kept:
            if record["step"] >= self._purge_step:
                self._write_scalars(record)
            self._send(record)

    @property
    def seconds(self) -> float:
        """The seconds since the run began; the time between a stop and a resume does not count."""
        return time.monotonic() - self._started

    def _open_file(self) -> BinaryIO:
        if self._file is None:
            raise LogError("the log is not open: call open(folder) first")
        return self._file

    def _close_board(self) -> None:
        if self._board is not None:
            with suppress(OSError):
                self._board.writer.close()
        self._board = None

    def _write_scalars(self, record: Record) -> None:
        """Add the numbers of a record to TensorBoard."""
        if not self.config.tensorboard:
            return
        if self._board is None:
            folder = Path(self._open_file().name).parent
            self._board = Board(folder, self._purge_step, self._kept)
            self._board.describe(self._text, self._options)
        self._board.add(record)

    def _send(self, line: Record) -> None:
        """Give a line to the tracker, if there is one."""
        if self._tracker is None:
            return
        try:
            self._tracker(line)
        except Exception as error:  # the run is worth more than what is shown of it
            self._tracker = None
            reason = f"{type(error).__name__}: {error}"
            self.info(f"warning: tracker: {reason}: nothing more is sent until the run is resumed")

    def _show(self, record: Record) -> None:
        """Show a record of training in the progress bar or now and then, any other as a line."""
        names = [name for name in record if name not in (*NOT_SCALARS, "lr")]
        numbers = "  ".join(f"{name} {record[name]:,.4f}" for name in names)
        now = time.monotonic()
        is_train = record["split"] == "train"
        is_due = now - self._shown >= SECONDS_BETWEEN_LINES
        if is_train and self._bar is not None:
            self._bar.set_postfix_str(numbers, refresh=False)
        elif is_due or not is_train:
            self._shown = now
            where = "epoch {epoch:<3} step {step:<6} {split:<5}".format(**record)
            self.info(f"{where}  {numbers}")


class Board:
    """What TensorBoard shows of a run: an event file, in the run's folder, for each start of it.

    With a `purge_step`, TensorBoard drops what earlier files have from that step on; `kept` are the
    records that they have of before.
    """

    def __init__(
        self, folder: Path, purge_step: int | None = None, kept: Iterable[Record] = ()
    ) -> None:
        from unittest.mock import patch

        from torch.utils.tensorboard import SummaryWriter  # takes 0.2 s

        # TensorBoard reads event files in the order of their names, which begin with the second
        # in which they were made. Two of the same second could be read in the wrong order.
        while any(folder.glob(f"events.out.tfevents.{int(time.time())}.*")):
            time.sleep(0.05)
        with patch("socket.gethostname", return_value="run"):  # it would be in the file's name
            self.writer: Any = SummaryWriter(
                str(folder), purge_step=purge_step, flush_secs=SECONDS_BETWEEN_FLUSHES
            )
        self.first_step = purge_step or 0
        self.names: dict[str, list[str]] = {}  # of the numbers that each split has
        for record in kept:
            self.note(record)
        self.has_layout = self.has_names

    def describe(self, text: str, options: Mapping[str, Any]) -> None:
        """Show the config: as text, and as the run's row in the table of runs (HParams)."""
        from torch.utils.tensorboard import summary

        block = "\n".join("    " + line for line in text.splitlines())
        self.writer.add_text("config", block, self.first_step)
        cells = {name: _cell(value) for name, value in options.items()}
        # The first summary is left out. It says which columns there are, and TensorBoard would take
        # those of one run for all runs. Without it, the table has the options of all runs, also
        # those that were added later; all scalars are then columns too.
        _, start, _ = summary.hparams(cells, {})  # type: ignore[no-untyped-call]
        self.writer.file_writer.add_summary(start, self.first_step)

    @property
    def has_names(self) -> bool:
        """Whether the names of what there is to draw are known."""
        return {"train", "val"} <= self.names.keys()

    def note(self, record: Record) -> None:
        """Note the names of the numbers in a record."""
        names = self.names.setdefault(record["split"], [])
        names += [name for name in record if name not in names and _tag(name, record["split"])]

    def add(self, record: Record) -> None:
        """Draw the numbers of a record, under tags such as `loss/val`."""
        self.note(record)
        step = record["step"]
        for name, value in record.items():
            tag = _tag(name, record["split"])
            if tag:
                number = math.nan if value is None else value
                self.writer.add_scalar(tag, number, step)
        if self.has_names and not self.has_layout:
            self.has_layout = True
            # It has the step of its record, so that it is purged and written again with it.
            self.add_layout(step)

    def add_layout(self, step: int) -> None:
        """Put the splits of one quantity into one chart (Custom Scalars)."""
        from torch.utils.tensorboard import summary

        shared = self.names["val"]
        alone = [name for name in self.names["train"] if name not in shared]
        layout = {
            "train, val and test": {_title(name): _chart(name) for name in shared},
            "training": {_title(name): _chart(name) for name in alone},
        }
        charts = summary.custom_scalars(layout)  # type: ignore[no-untyped-call]
        self.writer.file_writer.add_summary(charts, step)

    def show(self, step: int, page: Mapping[str, Any]) -> None:
        """Show texts in Markdown and pictures (3, height, width) of uint8, by their names."""
        for name, part in page.items():
            if isinstance(part, str):
                self.writer.add_text(name, part, step)
            else:
                self.writer.add_image(name, part, step)

    def finish(self, step: int) -> None:
        """Let the table of runs say that this one is finished."""
        from torch.utils.tensorboard import summary

        *_, end = summary.hparams({}, {})  # type: ignore[no-untyped-call]
        self.writer.file_writer.add_summary(end, step)


class SilentLogger:
    """A logger that writes and prints nothing: for all processes but the first."""

    def open(self, folder: Path) -> None:
        """Do nothing."""

    def describe(self, text: str, options: Mapping[str, Any]) -> None:
        """Do nothing."""

    def send_to(self, tracker: Tracker | None) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def log(self, record: Record) -> Record:
        """Return the record."""
        return record

    def check(self, state: State) -> list[Record]:
        """Return no records."""
        return []

    def track(self, steps: Iterable[Item], epoch: int, start: int, total: int) -> Iterable[Item]:
        """Return the steps."""
        return steps

    def show(self, step: int, page: Mapping[str, Any]) -> None:
        """Do nothing."""

    def finish(self, step: int) -> None:
        """Do nothing."""

    def info(self, text: str) -> None:
        """Do nothing."""


def null_if_not_finite(value: Any) -> Any:
    """Return a value as JSON has it, with None for NaN and infinity, at any depth."""
    return json.loads(json.dumps(value), parse_constant=lambda _: None)


def read_log(path: Path) -> list[Record]:
    """Return the records in a `metrics.jsonl`; raise LogError if there is none, or in a line."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise LogError(f"{path}: expected a log, found: {error.strerror}") from None
    return _parse(content, str(path))


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
        Logger.info(f"warning: {folder}: {reason}: do not resume this run twice at the same time")


def _memory() -> dict[str, float]:
    """The most memory that tensors took on the GPU since the start, in GB; nothing without CUDA."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    return {"memory": round(torch.cuda.max_memory_allocated() / 1e9, 3)}


def _tag(name: str, split: str) -> str:
    """The tag of a number in TensorBoard; empty for what is not drawn."""
    if name in NOT_SCALARS:
        return ""
    if name == "lr":  # it is the same in all splits
        return name if split == "train" else ""
    return f"{name}/{split}"


def _title(name: str) -> str:
    """The title of a chart."""
    return TITLES.get(name, name)


def _chart(name: str) -> list[Any]:
    """A chart of a number in all splits that have it: each tag that its pattern matches."""
    return ["Multiline", [f"{re.escape(name)}(/|$)"]]


def _cell(value: Any) -> Any:
    """The value of an option as a table of TensorBoard can show it: a number or a text."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number or isinstance(value, str) else json.dumps(value)


def _plain(name: str, value: Any) -> Any:
    """A value of a record in plain Python; raises LogError if it cannot be logged.

    None becomes NaN, which is null in the log, as all numbers that are not finite are.
    """
    if getattr(value, "ndim", None) == 0:  # of torch or NumPy
        value = value.item()
    kind: Any = TYPES.get(name, int | float | None)
    is_huge = isinstance(value, int) and value.bit_length() > 63  # for TensorBoard
    if is_huge or not isinstance(value, kind):
        expected = "a text" if kind is str else "a number"
        raise LogError(f"{name}: expected {expected}, found {value!r:.60}")
    return math.nan if value is None else value


def _parse(content: bytes, path: str) -> list[Record]:
    """Return the records in the lines of a log; raise LogError for a line that is none."""
    records = []
    for number, line in enumerate(content.splitlines(), 1):
        try:
            record = json.loads(line)
            for name in ("step", "split", *record):  # the first two must be there
                _plain(name, record[name])
        except (ValueError, TypeError, LookupError, RecursionError):
            found = f"expected a JSON object with a step and a split, found {line[:40]!r}"
            raise LogError(f"{path}:{number}: {found}") from None
        records.append(record)
    return records
