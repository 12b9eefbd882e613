"""The log of a run: lines on stderr, metrics.jsonl, and TensorBoard. Works alone."""

#     logger = Logger()
#     logger.open(folder)
#     logger.log({"step": 1, "epoch": 1, "split": "train", "loss": 0.5})
#     logger.close()
#
# What is logged is on disk when `log` returns.

import json
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

PLAIN_SECONDS = 10  # at least this long between two lines on train, where no bar can be shown
NOT_SCALARS = ("step", "epoch", "split", "time")


class Logger:
    def __init__(self) -> None:
        self.start = self.shown = time.monotonic()
        self.bar: tqdm[Any] | None = None

    def open(self, folder: Path) -> None:
        """Start or continue the log in `folder`."""
        self.folder = folder
        self.file = (folder / "metrics.jsonl").open("a", encoding="utf-8", newline="\n")
        self.writer: Any = None  # TensorBoard's, imported and opened when it is first needed
        self.purge_step: int | None = None

    def close(self) -> None:
        self.file.close()
        if self.writer:
            self.writer.close()

    def log(self, record: dict[str, Any]) -> None:
        """Write one record: step, epoch, split and any numbers; NaN becomes null in the file."""
        record = {**record, "time": round(time.monotonic() - self.start, 3)}
        clean = {key: value if _is_finite(value) else None for key, value in record.items()}
        self.file.write(json.dumps(clean) + "\n")
        self.file.flush()
        self._write_scalars(record)
        self._show(record)

    def track(self, steps: Iterable[Any], epoch: int, start: int, total: int) -> Iterator[Any]:
        """Pass the steps of an epoch on, under a progress bar where stderr is a terminal."""
        quiet = not sys.stderr.isatty()
        with tqdm(steps, f"epoch {epoch}", total, True, initial=start, disable=quiet) as self.bar:
            yield from self.bar
        self.bar = None

    def say(self, text: str) -> None:
        """Print a line for people, above the bar if there is one."""
        tqdm.write(text, file=sys.stderr)

    def table(self, **rows: str) -> None:
        for name, text in rows.items():
            self.say(f"{name:{max(map(len, rows))}}  {text}")

    def state_dict(self) -> dict[str, int]:
        """How many bytes of metrics.jsonl are safely on disk."""
        self.file.flush()
        os.fsync(self.file.fileno())
        return {"bytes": self.file.tell()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Cut the log back; TensorBoard drops what it has from the last step on, and gets it anew."""
        self.file.truncate(state["bytes"])
        lines = (self.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
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
                number = math.nan if value is None else value
                self.writer.add_scalar(f"{record['split']}/{name}", number, record["step"])
        self.writer.flush()

    def _show(self, record: dict[str, Any]) -> None:
        loss = f"loss {record['loss']:.4f}" if "loss" in record else ""
        is_train, now = record["split"] == "train", time.monotonic()
        if is_train and self.bar is not None and not self.bar.disable:
            self.bar.set_postfix_str(loss, refresh=False)
        elif not is_train or now - self.shown >= PLAIN_SECONDS:
            self.shown = now
            skip = (*NOT_SCALARS, "loss", "lr")
            numbers = [f"{name} {value:.4g}" for name, value in record.items() if name not in skip]
            where = f"epoch {record['epoch']:<3} step {record['step']:<6} {record['split']:<5}"
            self.say("  ".join([where, loss, *numbers]))


def _is_finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)
