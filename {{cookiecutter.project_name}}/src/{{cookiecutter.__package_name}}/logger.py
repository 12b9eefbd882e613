"""The log of a run: lines on stderr, metrics.jsonl, and TensorBoard. Works alone."""

#     logger = Logger()
#     logger.open(folder)
#     logger.log({"step": 1, "epoch": 1, "split": "train", "loss": 0.5})
#     logger.close()
#
# What is logged is on disk when `log` returns.

import json
import os
import sys
import time
from collections.abc import Iterable
from math import isfinite, nan
from pathlib import Path
from typing import Any

from tqdm import tqdm

NOT_SCALARS = ("step", "epoch", "split", "time")


class LogError(ValueError):
    exit_code = 2  # a log that is shorter than its checkpoint says, or that another run has open


class Logger:
    folder = Path()

    def __init__(self) -> None:
        self.start = self.shown = time.monotonic()
        self.bar: tqdm[Any] | None = None

    def open(self, folder: Path) -> None:
        self.folder = folder
        self.file = (folder / "metrics.jsonl").open("a+", encoding="utf-8", newline="\n")
        if sys.platform != "win32":
            import fcntl

            try:  # lockf, since workers would inherit and keep a lock of flock
                fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise LogError(f"{folder}: expected it to rest, found it in use") from None
        self.writer: Any = None  # TensorBoard's, imported and opened when it is first needed
        self.purge_step: int | None = None

    def close(self) -> None:
        self.file.close()
        self.bar = None  # and what it held: the workers of a loader
        if self.writer:
            self.writer.close()

    def log(self, record: dict[str, Any]) -> dict[str, Any]:
        record = {**record, "time": round(time.monotonic() - self.start, 3)}
        # NaN is no JSON: it is written as null.
        clean = {k: None if type(v) is float and not isfinite(v) else v for k, v in record.items()}
        self.file.write(json.dumps(clean) + "\n")
        self.file.flush()
        self._write_scalars(record)
        self._show(record)
        return clean

    def track(self, steps: Iterable[Any], epoch: int, start: int, total: int) -> Iterable[Any]:
        # The steps of an epoch, under a progress bar where stderr is a terminal.
        self.bar = tqdm(steps, f"epoch {epoch}", total, True, initial=start, disable=None)
        return self.bar

    def say(self, text: str) -> None:
        tqdm.write(text, file=sys.stderr)  # above the bar, if there is one

    def state_dict(self) -> dict[str, Any]:
        os.fsync(self.file.fileno())  # bytes are those of metrics.jsonl, safely on disk
        return {"bytes": os.path.getsize(self.file.name), "seconds": time.monotonic() - self.start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        # Cut the log back; TensorBoard drops what it has from that step on, and gets it anew.
        self.start = time.monotonic() - state["seconds"]
        if (size := self.state_dict()["bytes"]) < state["bytes"]:
            raise LogError(f"{self.file.name}: expected {state['bytes']} bytes, found {size}")
        self.file.truncate(state["bytes"])
        self.file.seek(0)  # to read it in another file object would end the lock
        records = [json.loads(line) for line in self.file]
        self.purge_step = records[-1]["step"] if records else 0
        for record in records:
            if record["step"] == self.purge_step:
                self._write_scalars(record)

    def _write_scalars(self, record: dict[str, Any]) -> None:
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter  # 0.2 s, not spent before a run

            self.writer = SummaryWriter(str(self.folder), purge_step=self.purge_step)
        for name, value in record.items():
            if name not in NOT_SCALARS:
                number = nan if value is None else value
                self.writer.add_scalar(f"{name}/{record['split']}", number, record["step"])
        self.writer.flush()

    def _show(self, record: dict[str, Any]) -> None:
        is_train, now = record["split"] == "train", time.monotonic()
        numbers = [f"{k} {v:,.4f}" for k, v in record.items() if k not in (*NOT_SCALARS, "lr")]
        if is_train and self.bar is not None and not self.bar.disable:
            self.bar.set_postfix_str("  ".join(numbers), refresh=False)
        elif not is_train or now - self.shown >= 10:  # s, where no bar can be shown
            self.shown = now
            where = f"epoch {record['epoch']:<3} step {record['step']:<6} {record['split']:<5}"
            self.say("  ".join([where, *numbers]))
