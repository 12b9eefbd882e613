"""List runs and compare them. It does not import torch, so that it answers at once.

Of a run it reads manifest.json, result.json and, if the run has not ended, the end of its log. It
takes a run folder as it finds it: the row of a damaged one says what is wrong with it.
"""

import json
import os
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from .engine.task import relative

MAX_BYTES = 1_000_000  # of a JSON file, and of what is read of a log
HASH_WIDTH = 8
SORT_KEYS = ("name", "status", "step", "best", "test")
# Options, and names in a manifest, in which two runs may differ that learn the same.
WITHOUT_EFFECT = (
    "name",
    "output_dir",
    "device",
    "loader.num_workers",
    "trainer.log_every",
    "trainer.save_every",
    "trainer.keep",
    "logger.tensorboard",
    "logger.trace",
)

Row = dict[str, Any]
"""What is known of a run, or of a group of runs."""


class RunsError(ValueError):
    """There is no such folder, or no such key."""

    exit_code = 2


class DamageError(Exception):
    """A file of a run is missing or damaged."""


def list_runs(folders: Iterable[Path]) -> list[Row]:
    """A row for each run in these folders, or that one of them is, in the order of their start.

    A row has name, run (the folder), status, step, began (in seconds since 1970), options (with
    source, data and parent), metric, best, test (numbers by name) and, if need be, damage.

    Raises RunsError if a folder cannot be listed.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        if is_run(folder):
            found[os.path.abspath(folder)] = folder
            continue
        try:
            paths = sorted(folder.iterdir())
        except OSError as error:
            message = f"{folder}: expected a folder of runs, found: {error.strerror}"
            raise RunsError(message) from None
        found |= {os.path.abspath(path): path for path in paths if is_run(path)}
    rows = [read_run(folder) for folder in found.values()]
    return sorted(rows, key=lambda row: (row["began"], row["name"]))


def is_run(folder: Path) -> bool:
    """Whether a folder is a run, though it may be a damaged one."""
    names = ("config.yaml", "manifest.json", "metrics.jsonl", "checkpoints")
    return any(os.path.lexists(folder / name) for name in names)


def read_run(folder: Path) -> Row:
    """The row of a run."""
    row: Row = {
        "name": folder.name,
        "run": relative(folder),
        "status": "damaged",
        "step": None,
        "began": folder.stat().st_mtime,  # unless its manifest says it
        "options": {},
        "metric": None,
        "best": None,
        "test": {},
    }
    try:
        read_manifest(folder, row)
        if (folder / "result.json").exists():
            read_result(folder, row)
        else:
            read_log(folder, row)
        if not (folder / "config.yaml").is_file():
            raise DamageError("config.yaml is missing")
    except (DamageError, OSError) as damage:
        row |= {"status": "damaged", "damage": str(damage)}
    return row


def read_manifest(folder: Path, row: Row) -> None:
    """Read when a run began, and what decided it."""
    manifest = read_object(folder / "manifest.json")
    row["began"] = number_or_none(manifest.get("began")) or row["began"]
    options = entry(manifest, "config")
    resumes = manifest.get("resumes")
    if isinstance(resumes, list) and resumes and isinstance(resumes[-1], dict):
        options = entry(resumes[-1], "config")  # it may have got more epochs
    row["options"] = {**options, "parent": manifest.get("parent")}
    for name in ("source", "data"):
        row["options"][name] = str(manifest.get(name))[:HASH_WIDTH]
    row["metric"] = row["options"].get("trainer.monitor")


def read_result(folder: Path, row: Row) -> None:
    """Read how a run ended."""
    result = read_object(folder / "result.json")
    test = entry(result, "test")
    row["status"] = str(result.get("status"))
    row["step"] = number_or_none(result.get("steps"))
    row["best"] = number_or_none(entry(result, "best").get("value"))
    row["test"] = {name: number_or_none(value) for name, value in test.items()}


def read_log(folder: Path, row: Row) -> None:
    """Read how far a run has come, and whether a process is still at it."""
    path = folder / "metrics.jsonl"
    row["status"] = "interrupted"
    if not os.path.lexists(path):
        return
    try:
        with path.open("rb") as log:
            if is_locked(log):
                row["status"] = "running"
            log.seek(max(0, path.stat().st_size - MAX_BYTES))
            *_, last, _ = (b"\n\n" + log.read()).split(b"\n")  # after the last line is nothing yet
        if last:
            row["step"] = number_or_none(json.loads(last)["step"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        raise DamageError("metrics.jsonl cannot be read") from None


def read_object(path: Path) -> Row:
    """The JSON object in a file."""
    if not path.is_file():
        raise DamageError(f"{path.name} is missing")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DamageError(f"{path.name} is too large")
        value = json.loads(path.read_text("utf-8"), parse_constant=lambda _: None)
    except (OSError, ValueError, RecursionError):
        raise DamageError(f"{path.name} cannot be read") from None
    if not isinstance(value, dict):
        raise DamageError(f"{path.name} is not a JSON object")
    return value


def entry(values: Row, name: str) -> Row:
    """The dict of this name, or an empty one."""
    value = values.get(name)
    return value if isinstance(value, dict) else {}


def number_or_none(value: Any) -> float | None:
    """The value if it is a number, but no truth value."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def is_locked(log: Any) -> bool:
    """Whether a process has locked a log, as far as this system tells.

    This only asks: to try and take the lock could refuse it to a run that starts at that moment.
    """
    if sys.platform != "linux":
        return False
    import fcntl

    # The struct flock of C: type, whence, start, length and process.
    question = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    with suppress(OSError):
        answer = fcntl.fcntl(log, fcntl.F_GETLK, question)
        return bool(struct.unpack_from("h", answer)[0] != fcntl.F_UNLCK)
    return False


def differing_options(rows: list[Row]) -> list[str]:
    """The options that have several values among the rows, and an effect."""
    values: dict[str, set[str]] = {}
    for row in rows:
        for key, value in row["options"].items():
            values.setdefault(key, set()).add(shown(value))
    return [key for key in values if len(values[key]) > 1 and key not in WITHOUT_EFFECT]


def group_runs(rows: list[Row], over: list[str]) -> list[Row]:
    """A row for each group of finished runs that differ in the options `over` alone.

    It has the mean of best and of each number of test, with the deviation of a sample (by n - 1),
    and n, the number of runs. Of runs that are equal, such as a reproduction, the last one counts.
    """
    rows = [row for row in rows if row["status"] == "finished"]
    over = [find_key(key, option_names(rows), "--over") for key in over]
    keys = [key for key in differing_options(rows) if key not in over]
    groups: dict[str, dict[str, Row]] = {}
    for row in rows:
        same = shown([row["options"].get(key) for key in keys])
        place = shown([row["options"].get(key) for key in over])
        groups.setdefault(same, {})[place] = row
    return [group_row(list(group.values()), keys) for group in groups.values()]


def group_row(rows: list[Row], keys: list[str]) -> Row:
    """The row of a group."""
    first = rows[0]
    group: Row = {
        "n": len(rows),
        "runs": [row["run"] for row in rows],
        "options": {},
        "metric": first["metric"],
        "test": {},
    }
    for key in keys:
        if key in first["options"]:
            group["options"][key] = first["options"][key]
    group["best"], group["best +-"] = mean_and_deviation([row["best"] for row in rows])
    for name in first["test"]:
        mean, deviation = mean_and_deviation([row["test"].get(name) for row in rows])
        group["test"] |= {name: mean, f"{name} +-": deviation}
    return group


def mean_and_deviation(values: list[float | None]) -> tuple[float | None, float | None]:
    """The mean and the deviation of a sample; None if a value is missing, or for one alone."""
    numbers = [value for value in values if value is not None]
    if not numbers or len(numbers) < len(values):
        return None, None
    return fmean(numbers), stdev(numbers) if len(numbers) > 1 else None


def sort_rows(rows: list[Row], key: str) -> list[Row]:
    """The rows by a column, an option or a number of test; what lacks it comes last."""
    names = set(SORT_KEYS)
    for row in rows:
        names.update(row["options"], row["test"])
    key = find_key(key, sorted(names), "--sort")

    def place(row: Row) -> tuple[bool, bool, Any]:
        value = cell(row, key)
        is_text = number_or_none(value) is None
        return value is None, is_text, shown(value) if is_text else value

    return sorted(rows, key=place)


def option_names(rows: list[Row]) -> list[str]:
    """The options of all rows."""
    return list(dict.fromkeys(key for row in rows for key in row["options"]))


def find_key(word: str, keys: Iterable[str], option: str) -> str:
    """The key that a word stands for: it, or the only one with this last part, as `lr`."""
    keys = list(keys)
    found = [word]
    if word not in keys:
        found = [key for key in keys if key.rpartition(".")[2] == word]
    if len(found) != 1:
        raise RunsError(f"{option} {word}: expected one of {', '.join(found or keys)}")
    return found[0]


def cell(row: Row, key: str) -> Any:
    """The value of a row in a column."""
    if key in ("test", "test +-"):  # of the number that decides which checkpoint is best
        return row["test"].get(key.replace("test", str(row["metric"])))
    for values in (row, row["options"], row["test"]):
        if key in values:
            return values[key]
    return None


def table(rows: list[Row]) -> list[str]:
    """The rows as lines of text."""
    options = differing_options(rows)
    last = Counter(key.rpartition(".")[2] for key in [*options, *SORT_KEYS])
    metrics = {row["metric"] for row in rows}
    metric = f" {metrics.pop()}" if len(metrics) == 1 else ""
    titles = {"name": "name", "status": "status", "step": "step"}
    for key in options:
        short = key.rpartition(".")[2]
        titles[key] = short if last[short] == 1 else key
    titles["n"] = "n"
    titles["best"] = f"best{metric}"
    titles["best +-"] = "+-"
    titles["test"] = f"test{metric}"
    titles["test +-"] = "+-"
    titles["damage"] = "damage"
    columns = []
    for key, title in titles.items():
        values = [cell(row, key) for row in rows]
        if any(value is not None for value in values):
            show = shown_metric if key.startswith(("best", "test")) else shown
            columns.append(column(title, values, show))
    return ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]


def column(title: str, values: list[Any], show: Callable[[Any], str]) -> list[str]:
    """The texts of a column, as wide as the widest; numbers are to the right."""
    texts = [title, *("-" if value is None else show(value) for value in values)]
    width = max(map(len, texts))
    are_numbers = all(value is None or number_or_none(value) is not None for value in values)
    return [text.rjust(width) if are_numbers else text.ljust(width) for text in texts]


def shown_metric(value: float) -> str:
    """A metric as the console shows it."""
    return f"{value:,.4f}"


def shown(value: Any) -> str:
    """A value in one line, with nothing that moves the cursor or changes colours."""
    if isinstance(value, str):
        return value if value.isprintable() else repr(value)
    return json.dumps(value)
