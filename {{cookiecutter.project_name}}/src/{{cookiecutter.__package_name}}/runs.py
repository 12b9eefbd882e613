"""List runs and compare them, as a table or as a JSON object a line.

Of each run only three small files and the end of its log are read, and torch is not imported, so
that a thousand runs take less than a second. Nothing that a run folder holds is trusted: the row of
a run says what in it cannot be read.
"""

import functools
import json
import math
import os
import re
import stat
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

FILES = ("config.yaml", "manifest.json", "metrics.jsonl", "result.json")
FACTS = ("source", "data", "parent")  # of manifest.json: what else two runs may differ in
STATUSES = ("finished", "stopped", "failed")  # of result.json
WITHOUT_EFFECT = {
    "name",
    "output_dir",
    "device",
    "loader.num_workers",
    "trainer.log_every",
    "trainer.save_every",
    "trainer.keep",
}
"""options that do not change what a run learns"""
NOT_METRICS = ("step", "epoch", "split", "lr", "time", "rate")  # of a line of the log
SORT_KEYS = ("name", "status", "step", "began", "best", "test")
GROUP_SORT_KEYS = ("n", "best", "test")
METRIC_CELLS = ("best", "best_deviation", "test", "test_deviation")
MAX_BYTES = 1_000_000  # of a file, but for the log
END_BYTES = (8_192, MAX_BYTES)  # of the log; more only if its last line is longer
OVER = "seed,data.fold"  # what --over groups over if it is not told
WIDTH = 24  # longer values of options are shortened in the table
HASH_WIDTH = 8
DATE = re.compile(r"-(\d{4})(\d\d)(\d\d)-(\d\d)(\d\d)(\d\d)(?:-(\d{1,9}))?")

# The values that engine/config.py writes; what else there is needs YAML, which is slow.
OPTION = re.compile(r"((?:  )*)([A-Za-z_]\w*):(?: (.+))?")
INT = re.compile(r"[-+]?[0-9]{1,18}")
FLOAT = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
TEXT = re.compile(r"[A-Za-z_/.][\w/.+-]*", re.ASCII)
CONSTANTS = {"true": True, "false": False, "null": None}
NEEDS_MORE_LINES = "|>&*!"  # a value that begins so cannot be read without the lines around it

Values = dict[str, Any]


class RunsError(ValueError):
    """There is no such folder, or no such key to sort or to group by."""

    exit_code = 2


class Damage(ValueError):
    """A file of a run folder is damaged; the message says which, and how, in plain words."""


@dataclass
class Run:
    """What is known of a run."""

    folder: Path
    began: tuple[float, int] = (0.0, 0)
    """seconds since 1970, and a number that orders the runs of one second"""
    status: str = "damaged"
    """finished, stopped, failed, running, interrupted, unfinished or damaged"""
    is_locked: bool | None = False
    """whether a process is writing to the run; None: this system cannot tell"""
    step: int | None = None
    values: Values = field(default_factory=dict)
    """the options by their keys, such as `optim.lr`, and then the FACTS"""
    best: Values = field(default_factory=dict)
    """metric, value and step"""
    test: Values = field(default_factory=dict)
    """the numbers in the test line of the log"""
    damage: list[str] = field(default_factory=list)

    @property
    def monitor(self) -> str:
        """The metric that selects the best checkpoint."""
        return str(self.best.get("metric") or self.values.get("trainer.monitor"))

    def record(self) -> Values:
        """What --json prints."""
        options = {key: value for key, value in self.values.items() if key not in FACTS}
        return {
            "name": self.folder.name,
            "run": os.path.relpath(self.folder),
            "status": self.status,
            "step": self.step,
            "began": self.began[0],
            "options": options,
            **{name: self.values.get(name) for name in FACTS},
            "best": self.best,
            "test": self.test,
            "damage": self.damage,
        }


class Spread(NamedTuple):
    """The mean of a metric over the runs of a group, and its standard deviation."""

    mean: float | None
    """None if a run lacks the metric, or has a value that is not finite"""
    deviation: float | None
    """that of a sample, by n - 1; None for a single run"""


@dataclass
class Group:
    """Finished runs that differ only in the options that they are grouped over."""

    runs: list[Run]
    options: Values
    """those in which the group differs from other groups"""
    over: list[str]
    """the keys of the options that they are grouped over"""
    best: Spread
    test: dict[str, Spread]

    def record(self) -> Values:
        """What --json prints."""
        return {
            "options": self.options,
            "over": self.over,
            "n": len(self.runs),
            "runs": [os.path.relpath(run.folder) for run in self.runs],
            "best": {"metric": self.runs[0].monitor, **self.best._asdict()},
            "test": {name: numbers._asdict() for name, numbers in self.test.items()},
        }


class Row(NamedTuple):
    """A row of the table."""

    subject: Run | Group
    cells: Values
    """what can be shown and sorted by; what is missing has no entry, or None"""


class Comparison(NamedTuple):
    """The rows, and the columns in which the table shows them."""

    rows: list[Row]
    columns: list[tuple[str, str]]
    """the key of the cells, and the title"""
    sort_keys: list[str]
    """the keys to name in an error; any other option can be sorted by too"""


def list_runs(folders: list[Path], sort: str | None, over: str | None, as_json: bool) -> list[str]:
    """The lines of a table of the runs in `folders`, newest last, or of JSON.

    A folder is that of a run, or holds folders of runs. `sort`: the key to sort by, in ascending
    order, what lacks it last. `over`: options separated by commas; finished runs that differ in
    these alone then become one row, with mean and standard deviation; "" stands for OVER.
    """
    own = own_files()
    runs = [read_run(folder, own) for folder in find_runs(folders)]
    runs.sort(key=lambda run: (run.began, run.folder.name))
    if not runs:
        where = ", ".join(str(folder) for folder in folders)
        print(f"no runs in {where}" if where else "no runs", file=sys.stderr)
        return []
    comparison = compare(runs) if over is None else compare_groups(runs, over)
    rows = comparison.rows
    if not rows:
        return []
    if sort:
        key = find_sort_key(sort, comparison)
        rows = sorted(rows, key=lambda row: sort_value(row.cells.get(key)))
    if as_json:
        return [json.dumps(row.subject.record()) for row in rows]
    return format_table(comparison.columns, [row.cells for row in rows])


# Find and read.


def find_runs(folders: list[Path]) -> list[Path]:
    """The folders of runs, each once."""
    found = {}
    for folder in folders:
        try:
            names = sorted(os.listdir(folder))
        except OSError as error:
            raise RunsError(
                f"{folder}: expected a folder of runs, found: {error.strerror}"
            ) from None
        paths = [folder / name for name in names if not name.startswith(".")]
        if not set(FILES).isdisjoint(names):
            paths = [folder]  # it is a run itself
        else:
            paths = [path for path in paths if may_be_run(path)]
        found.update({os.path.abspath(path): path for path in paths})
    return list(found.values())


def may_be_run(path: Path) -> bool:
    """Whether a path in a folder of runs is a run, even one of which little or nothing is left."""
    try:
        names = os.listdir(path)
    except NotADirectoryError:
        return False
    except OSError:  # a folder that cannot be read, or a link to one that is gone
        return True
    return not names or not set(FILES).isdisjoint(names)


def read_run(folder: Path, own: dict[tuple[int, int], int]) -> Run:
    """What is known of a run. `own`: see `own_files`."""
    run = Run(folder, began=time_of_start(folder))
    if not folder.is_dir():
        run.damage.append("a link to a folder that is gone")
        return run
    # The log comes before the result: a run that ends in between is seen as running.
    readers = (read_config, read_manifest, functools.partial(read_log, own=own), read_result)
    for reader in readers:
        try:
            reader(run)
        except Damage as damage:
            run.damage.append(str(damage))
        except OSError as error:
            run.damage.append(f"{error.strerror} while it is read")
    if run.damage:
        run.status = "damaged"
    return run


def time_of_start(folder: Path) -> tuple[float, int]:
    """When a run began: what its name says, else the time of the first file that it wrote.

    A copy keeps its name, and often not its times. Later changes, as by a resume, make times later,
    so the earliest is taken.
    """
    match = DATE.search(folder.name)
    if match:
        *date, number = (int(part or 1) for part in match.groups())
        with suppress(ValueError, OverflowError):
            return time.mktime((*date, 0, 0, -1)), number  # type: ignore[arg-type]
    times = []
    for name in (*FILES, "requirements.txt", "data.sha256"):
        with suppress(OSError):
            times.append(os.stat(folder / name).st_mtime)
    return min(times, default=0.0), 1


def open_file(path: Path) -> FileIO:
    """Open a file to read its bytes. Raises FileNotFoundError, or Damage for what is no file."""
    try:
        file = open(path, "rb", buffering=0, opener=open_at_once)  # noqa: SIM115  # the caller closes it
    except FileNotFoundError:
        if path.is_symlink():
            raise Damage(f"{path.name} is a link to a file that is gone") from None
        raise
    except IsADirectoryError:
        raise Damage(f"{path.name} is a folder") from None
    except OSError as error:
        raise Damage(f"{path.name} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise Damage(f"{path.name} is not a file")
    return file


def open_at_once(path: str, flags: int) -> int:
    """Open a file, even a pipe that nobody writes to, without waiting."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_text(path: Path) -> str:
    """The text of a file. Raises FileNotFoundError or Damage."""
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_BYTES:
            raise Damage(f"{path.name} is too long: it has more than {MAX_BYTES:,} bytes")
        content = file.read(size)
    if not content.strip():
        raise Damage(f"{path.name} is empty")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Damage(f"{path.name} is not UTF-8") from None


DECODER = json.JSONDecoder(parse_constant=lambda _: None)  # NaN and infinity are no JSON


def parse_object(text: str, name: str) -> Values:
    """The JSON object in a text; `name` says in errors what it is."""
    try:
        value = DECODER.decode(text)
    except (ValueError, RecursionError):
        raise Damage(f"{name} is cut off, or not JSON") from None
    if not isinstance(value, dict):
        raise Damage(f"{name} is not a JSON object")
    return value


def numbers_of(values: Values) -> Values:
    """The finite numbers among the values; None for one that was not finite."""
    found = {}
    for name, value in values.items():
        if value is None or is_number(value):
            is_usable = value is not None and is_finite(value)
            found[name] = value if is_usable else None
    return found


def is_finite(number: float) -> bool:
    """Whether a number is finite, and can be a float."""
    try:
        return math.isfinite(number)
    except OverflowError:  # a whole number with hundreds of digits
        return False


def read_config(run: Run) -> None:
    """Read the options of a run."""
    try:
        text = read_text(run.folder / "config.yaml").replace("\r\n", "\n")
    except FileNotFoundError:
        raise Damage("config.yaml is missing") from None
    try:
        run.values.update(parse_options(text))
    except ValueError:
        run.values.update(parse_yaml(text))


def parse_options(text: str) -> Values:
    """The options by their keys, in a text as engine/config.py writes it: one option a line.

    Raises ValueError for any other text.
    """
    options = {}
    path: list[str] = []
    for line in text.removesuffix("\n").split("\n"):
        option = parse_option(line)
        if option.depth > len(path):
            raise ValueError
        path[option.depth :] = [option.name]
        if not option.is_section:
            options[".".join(path)] = option.value
    return options


class Option(NamedTuple):
    """A line of a config: an option, or the title of a section."""

    depth: int
    """the number of sections that it is in"""
    name: str
    is_section: bool
    value: Any


@functools.cache  # most lines are the same in all runs
def parse_option(line: str) -> Option:
    """The option in a line. Raises ValueError for any other line."""
    match = OPTION.fullmatch(line)
    if not match:
        raise ValueError
    indent, name, text = match.groups()
    value = read_value(text) if text else None
    return Option(len(indent) // 2, name, is_section=not text, value=value)


def read_value(text: str) -> Any:
    """The value of an option. Raises ValueError for what only the whole file can tell."""
    if text in CONSTANTS or INT.fullmatch(text) or FLOAT.fullmatch(text) or TEXT.fullmatch(text):
        return plain_value(text)
    if text[0] in NEEDS_MORE_LINES:
        raise ValueError
    value = load_yaml(text)
    is_quoted = isinstance(value, str) and text[0] in "'\""
    return value if is_quoted else plain_value(value)


def plain_value(value: Any) -> Any:
    """A value whose scalars YAML has left as texts, as numbers, texts and lists of them."""
    if isinstance(value, list):
        return [plain_value(item) for item in value]
    if not isinstance(value, str):
        raise ValueError
    if value in CONSTANTS:
        return CONSTANTS[value]
    if INT.fullmatch(value):
        return int(value)
    if FLOAT.fullmatch(value) and is_finite(float(value)):
        return float(value)
    return value


def load_yaml(text: str) -> Any:
    """What a text is in YAML, with each scalar as a text. Raises ValueError if it is not YAML."""
    import yaml  # takes longer than all the rest, and is hardly ever needed

    loader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    try:
        # A few aliases of aliases can stand for more than memory can hold.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, loader)):
            raise ValueError
        return yaml.load(text, loader)
    except (yaml.YAMLError, RecursionError):
        raise ValueError from None


def parse_yaml(text: str) -> Values:
    """The options by their keys, in any YAML."""
    try:
        tree = load_yaml(text)
        if not isinstance(tree, dict):
            raise Damage("config.yaml has no options")
        return dict(flatten(tree, ""))
    except (ValueError, RecursionError) as error:
        if isinstance(error, Damage):
            raise
        raise Damage("config.yaml is not valid YAML") from None


def flatten(section: Values, prefix: str) -> Iterator[tuple[str, Any]]:
    """The options of a section and of those in it, by their keys."""
    for name, value in section.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", plain_value(value)


def read_manifest(run: Run) -> None:
    """Read what else makes runs differ: the code, the data, and the run it started from."""
    try:
        text = read_text(run.folder / "manifest.json")
    except FileNotFoundError:
        raise Damage("manifest.json is missing") from None
    manifest = parse_object(text, "manifest.json")
    for name in FACTS:
        value = manifest.get(name)
        if isinstance(value, str):
            run.values.setdefault(name, value or "none")


def read_result(run: Run) -> None:
    """Read how a run ended, if it has, and decide its status."""
    if run.is_locked:
        run.status = "running"
        return
    try:
        text = read_text(run.folder / "result.json")
    except FileNotFoundError:
        run.status = "unfinished" if run.is_locked is None else "interrupted"
        return
    result = parse_object(text, "result.json")
    run.status = str(result.get("status"))
    if run.status not in STATUSES:
        raise Damage(f"result.json has no status that is one of {', '.join(STATUSES)}")
    run.step = numbers_of(result).get("steps") or run.step
    best = result.get("best")
    if isinstance(best, dict) and best:
        numbers = numbers_of(best)
        run.best = {key: numbers.get(key) for key in ("value", "step")}
        run.best["metric"] = str(best.get("metric"))


# The log, which may be long, and which the run may be writing.


class End(NamedTuple):
    """The end of a log."""

    lines: list[bytes]
    """its last lines, without one that is not complete"""
    is_locked: bool | None
    """whether a process is writing to it; None: this system cannot tell"""


def read_log(run: Run, own: dict[tuple[int, int], int]) -> None:
    """Read the step and the numbers of the test split from the end of the log."""
    path = run.folder / "metrics.jsonl"
    try:
        end = read_end(path, own)
    except FileNotFoundError:
        if (run.folder / "result.json").exists():
            raise Damage("metrics.jsonl is missing") from None
        return  # the run was killed before it logged anything
    run.is_locked = end.is_locked
    if end.lines:
        run.step = parse_line(end.lines[-1])["step"]
    for line in reversed(end.lines):
        record = parse_line(line) if b'"test"' in line else {}
        if record.get("split") == "test":
            numbers = numbers_of(record)
            run.test = {name: numbers[name] for name in numbers if name not in NOT_METRICS}
            return


def parse_line(line: bytes) -> Values:
    """A line of the log."""
    record = parse_object(line.decode("utf-8", "replace"), "a line of metrics.jsonl")
    if numbers_of(record).get("step") is None:
        raise Damage("a line of metrics.jsonl has no step")
    return record


def own_files() -> dict[tuple[int, int], int]:
    """The files that this process has open, as a notebook that trains in a thread has its log.

    To open such a file again, and to close it, would end its lock: they are read as they are.
    """
    own = {}
    with suppress(OSError):
        for name in os.listdir("/dev/fd"):
            with suppress(OSError, ValueError):
                status = os.fstat(int(name))
                own[status.st_dev, status.st_ino] = int(name)
    return own


def read_end(path: Path, own: dict[tuple[int, int], int]) -> End:
    """Read the end of a log, and ask whether it is locked. Raises FileNotFoundError or Damage."""
    with suppress(OSError):
        status = os.stat(path)
        descriptor = own.get((status.st_dev, status.st_ino))
        if descriptor is not None:
            return End(last_lines(descriptor), is_locked=True)
    with open_file(path) as file:
        return End(last_lines(file.fileno()), is_locked(file))


def last_lines(descriptor: int) -> list[bytes]:
    """The last complete lines of an open file; none if it has none."""
    size = os.fstat(descriptor).st_size
    for count in END_BYTES:
        start = max(0, size - count)
        # The last line may not be complete yet, and the first may have begun before.
        *lines, _ = read_at(descriptor, start, size - start).split(b"\n")
        if start > 0:
            del lines[:1]
        if lines or start == 0:
            return lines
    raise Damage(f"metrics.jsonl has no line in its last {MAX_BYTES:,} bytes")


def read_at(descriptor: int, start: int, count: int) -> bytes:
    """Read from a position in an open file, whose own position stays as it is if possible."""
    if sys.platform != "win32":
        return os.pread(descriptor, count, start)
    os.lseek(descriptor, start, os.SEEK_SET)
    return os.read(descriptor, count)


def is_locked(file: FileIO) -> bool | None:
    """Whether another process has locked a file; None if the system cannot tell.

    This only asks. To try and take the lock would refuse it to a run that starts at that moment.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    # Question and answer are the struct flock of C, in which systems order the fields differently.
    start_and_length = (0, 0)
    process = 0
    if sys.platform == "linux":
        place_of_type = 0
        head = (fcntl.F_WRLCK, os.SEEK_SET)
        question = struct.pack("hhqqi4x", *head, *start_and_length, process)
    elif sys.platform == "darwin":
        place_of_type = 20
        tail = (fcntl.F_WRLCK, os.SEEK_SET)
        question = struct.pack("qqihh", *start_and_length, process, *tail)
    else:
        return None
    try:
        answer = fcntl.fcntl(file, fcntl.F_GETLK, question)
    except OSError:
        return None
    (type_of_lock,) = struct.unpack_from("h", answer, place_of_type)
    return bool(type_of_lock != fcntl.F_UNLCK)


# Compare.


def compare(runs: list[Run]) -> Comparison:
    """A row for each run, with the options in which they differ."""
    keys = differing_keys(runs)
    best, test = titles_of_metrics(runs)
    columns = [(key, key) for key in ("name", "status", "step")]
    columns += [*titles(keys).items(), ("best", best), ("test", test)]
    if any(run.damage for run in runs):
        columns.append(("damage", "damage"))
    names = Counter(run.folder.name for run in runs)
    rows = []
    for run in runs:
        is_unique = names[run.folder.name] == 1
        rows.append(row_of_run(run, run.folder.name if is_unique else os.path.relpath(run.folder)))
    metrics = unique(name for run in runs for name in run.test)
    return Comparison(rows, columns, [*SORT_KEYS, *metrics, *keys])


def row_of_run(run: Run, name: str) -> Row:
    """The row of a run."""
    facts = {
        "name": name,
        "status": run.status,
        "step": run.step,
        "best": run.best.get("value"),
        "test": run.test.get(run.monitor),
        "began": run.began[0],
        "damage": shown_damage(run.damage),
    }
    return Row(run, {**run.test, **cells_of(run.values), **facts})


def compare_groups(runs: list[Run], over: str) -> Comparison:
    """A row for each group of finished runs that differ in the options `over` alone.

    A run that repeats another, as `reproduce` makes it, tells nothing new and is not counted.
    """
    over_keys = find_over_keys(over, runs)
    finished = [run for run in runs if run.status == "finished"]
    report_left_out(len(runs) - len(finished), "not finished")
    keys = [key for key in differing_keys(finished) if key not in over_keys]
    groups: dict[str, dict[str, Run]] = {}
    for run in finished:
        same = fingerprint(run, keys)
        group = groups.pop(same, {})
        group[fingerprint(run, over_keys)] = run
        groups[same] = group  # the group of the newest run comes last
    counted = sum(len(group) for group in groups.values())
    report_left_out(len(finished) - counted, f"repeated with the same {', '.join(over_keys)}")
    best, test = titles_of_metrics(finished)
    columns = [*titles(keys).items(), ("n", "n")]
    columns += [("best", best), ("best_deviation", "+-")]
    columns += [("test", test), ("test_deviation", "+-")]
    rows = []
    for group in groups.values():
        rows.append(row_of_group(group_of(list(group.values()), keys, over_keys)))
    metrics = unique(name for run in finished for name in run.test)
    return Comparison(rows, columns, [*GROUP_SORT_KEYS, *metrics, *keys])


def find_over_keys(over: str, runs: list[Run]) -> list[str]:
    """The keys that runs are grouped over. Raises RunsError for one that no run has."""
    known = {key for run in runs for key in run.values} | {*OVER.split(",")}
    listed = differing_keys(runs) or OVER.split(",")
    return [find_key("--over", word, known, listed) for word in (over or OVER).split(",")]


def report_left_out(count: int, reason: str) -> None:
    """Say on stderr how many runs are in no group, if any, and why."""
    if count:
        print(f"{count} run{'s' if count > 1 else ''} left out: {reason}", file=sys.stderr)


def fingerprint(run: Run, keys: Iterable[str]) -> str:
    """A text that two runs share if they have the same values of these options."""
    return repr({key: run.values[key] for key in keys if key in run.values})


def spread(values: list[float | None]) -> Spread:
    """The mean and the standard deviation of the values of a group."""
    numbers = [value for value in values if value is not None]
    count = len(numbers)
    if not numbers or count < len(values):
        return Spread(None, None)
    try:
        mean = math.fsum(numbers) / count
        if count == 1:
            return Spread(mean, None)
        squares = math.fsum((number - mean) ** 2 for number in numbers)
        return Spread(mean, math.sqrt(squares / (count - 1)))
    except OverflowError:  # of numbers near the largest float
        return Spread(None, None)


def group_of(runs: list[Run], keys: list[str], over_keys: list[str]) -> Group:
    """The group of these runs, which have the same values of `keys`."""
    metrics = unique(name for run in runs for name in run.test)
    return Group(
        runs,
        options={key: runs[0].values[key] for key in keys if key in runs[0].values},
        over=over_keys,
        best=spread([run.best.get("value") for run in runs]),
        test={name: spread([run.test.get(name) for run in runs]) for name in metrics},
    )


def row_of_group(group: Group) -> Row:
    """The row of a group."""
    means = {name: numbers.mean for name, numbers in group.test.items()}
    test = group.test.get(group.runs[0].monitor, Spread(None, None))
    facts = {
        "n": len(group.runs),
        "best": group.best.mean,
        "best_deviation": group.best.deviation,
        "test": test.mean,
        "test_deviation": test.deviation,
    }
    return Row(group, {**means, **cells_of(group.options), **facts})


def differing_keys(runs: list[Run]) -> list[str]:
    """The options that have an effect, and of which the runs that have them have several values."""
    first: Values = {}
    differing = set()
    for run in runs:
        for key, value in run.values.items():
            other = first.setdefault(key, value)
            # Equal is not enough: 1, 1.0 and true are.
            if other is not value and repr(other) != repr(value):
                differing.add(key)
    return [key for key in first if key in differing and key not in WITHOUT_EFFECT]


def unique(names: Iterable[str]) -> list[str]:
    """The names, each once, in their order."""
    return list(dict.fromkeys(names))


def find_sort_key(word: str, comparison: Comparison) -> str:
    """The key of the cells that a word stands for. Raises RunsError if there is none."""
    known = {key for row in comparison.rows for key in row.cells}
    return find_key("--sort", word, known, comparison.sort_keys)


def find_key(option: str, word: str, known: set[str], listed: list[str]) -> str:
    """The known key that a word stands for: the key itself, or its last part, if that is one's.

    Raises RunsError if there is none; the message names those that are `listed`.
    """
    if word in known:
        return word
    matches = sorted(key for key in known if key.rpartition(".")[2] == word)
    if len(matches) == 1:
        return matches[0]
    raise RunsError(f"{option} {word}: expected one of {', '.join(matches or listed)}")


def sort_value(value: Any) -> tuple[int, float, str]:
    """What to sort a value by: numbers first, then texts, then what is missing."""
    if value is None:
        return (2, 0, "")
    if is_number(value):
        return (0, value, "")
    return (1, 0, shown(value))


# Show.


def titles_of_metrics(runs: list[Run]) -> tuple[str, str]:
    """The titles of the columns best and test, with the metric, if it is one for all runs."""
    metrics = {run.monitor for run in runs if run.best or run.monitor in run.test}
    if len(metrics) != 1:
        return "best", "test"
    (metric,) = metrics
    return f"best {metric}", f"test {metric}"


def titles(keys: list[str]) -> dict[str, str]:
    """The title of each option: the last part of its key, if that cannot be mistaken."""
    last = {key: key.rpartition(".")[2] for key in keys}
    counts = Counter([*last.values(), *SORT_KEYS, *GROUP_SORT_KEYS])
    return {key: name if counts[name] == 1 else key for key, name in last.items()}


def cells_of(values: Values) -> Values:
    """The values of options as the table has them, in which null is a text, and not missing."""
    cells = {key: "null" if value is None else value for key, value in values.items()}
    for name in ("source", "data"):
        if name in cells:
            cells[name] = str(cells[name])[:HASH_WIDTH]
    return cells


def shown_damage(damage: list[str]) -> str | None:
    """What is damaged, or the first of it."""
    if not damage:
        return None
    more = len(damage) - 1
    return damage[0] + (f", and {more} more" if more else "")


def format_table(columns: list[tuple[str, str]], rows: list[Values]) -> list[str]:
    """The lines of a table, numbers to the right."""
    texts = []
    for key, title in columns:
        values = [row.get(key) for row in rows]
        column = [printable(title), *(format_cell(key, value) for value in values)]
        width = max(map(len, column))
        is_right = all(value is None or is_number(value) for value in values)
        texts.append([cell.rjust(width) if is_right else cell.ljust(width) for cell in column])
    return ["  ".join(line).rstrip() for line in zip(*texts, strict=True)]


def format_cell(key: str, value: Any) -> str:
    """The text of a value in the table."""
    if value is None:
        return "" if key == "damage" else "-"
    if key in METRIC_CELLS:
        return f"{value:,.4f}"
    text = printable(shown(value))
    is_long = len(text) > WIDTH and key not in ("name", "damage")
    half = WIDTH // 2 - 1
    return f"{text[:half]}..{text[-half:]}" if is_long else text


def shown(value: Any) -> str:
    """A value as a config has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(shown, value))}]"
    return str(value)


def printable(text: str) -> str:
    """The text in one line, with nothing that moves the cursor or changes colours."""
    return text if text.isprintable() else repr(text)[1:-1]


def is_number(value: Any) -> bool:
    """Whether a value is a number, which a truth value is not."""
    return isinstance(value, int | float) and not isinstance(value, bool)
