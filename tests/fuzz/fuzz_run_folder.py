"""Damage to a run folder: every command ends in what is right, or in one line.

    python tests/fuzz/run.py PROJECTS_FOLDER --only run_folder

A finished run and one that was stopped are made once, of the tiny task of the project's own tests.
Each input is a copy of one of them with one or two damages, and one command on it, in this process.
"""

import contextlib
import importlib
import io
import json
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from hypothesis import note
from hypothesis import strategies as st

SECONDS = 2.0  # of processor time that a command may take
FILES = (
    "config.yaml",
    "manifest.json",
    "result.json",
    "metrics.jsonl",
    "trace.jsonl",
    "data.sha256",
    "requirements.txt",
    "source",
    "checkpoints",
    "checkpoints/last.pt",
    "checkpoints/last.prev.pt",
    "checkpoints/best.pt",
    "checkpoints/last.pt.tmp",
    "checkpoints/best-4.pt",
    "manifest.json.tmp",
)
JSON_FILES = ("manifest.json", "result.json", "metrics.jsonl", "trace.jsonl")
STATES = ("last.pt", "last.prev.pt", "best.pt")
WAYS = (
    *("missing", "empty", "folder", "full folder", "file", "dead link", "loop"),
    *("cut", "bytes", "flipped", "not UTF-8", "doubled", "nested"),
)
COMMANDS = ("resume", "named", "evaluate", "predict", "reproduce", "runs")
VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 5, 1_000_000, 10**30, 0.5, -0.5, 1e300),
    *(float("nan"), float("inf"), float("-inf"), "", "x", "\0", "\ud800", "../..", "3" * 300),
    *([], [1], ["x"], {}, {"a": 1}, [{}], [[]], {"step": 1}),
)
TENSORS = (torch.zeros(3), torch.tensor(float("nan")), torch.zeros(0), torch.ones(8, 16) > 0)
LEFT_OUT = object()  # in place of a value: the key is removed


@dataclass
class Damage:
    """What is done to a run folder."""

    file: str
    way: str
    """one of WAYS, or "value": the one at a place in JSON or in a checkpoint is another"""
    place: tuple[Any, ...] = ()
    value: Any = None
    number: int = 0
    """where a file is cut or flipped, and what random bytes are drawn from"""


@dataclass
class Base:
    """What the copies are made of."""

    main: Callable[[list[str]], int]
    runs: Path
    """the folder of runs, which is emptied before each command"""
    originals: dict[str, Path]
    """a finished and a stopped run, somewhere else"""
    config: Path
    answers: dict[tuple[str, str], Any] = field(default_factory=dict)
    """what each command says of each run without damage"""


class Failure(AssertionError):
    """A command has ended in something else than what is right or one line."""


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places in nested dicts and lists, those of containers too."""
    if place:
        yield place
    if isinstance(value, dict):
        for key, item in value.items():
            yield from places(item, (*place, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from places(item, (*place, index))


def changed(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    """A copy of nested dicts and lists with another value at a place."""
    if not place:
        return new
    key, *rest = place
    if isinstance(value, dict):
        copy: Any = dict(value)
    else:
        copy = list(value)
    if not rest and new is LEFT_OUT:
        del copy[key]
    else:
        copy[key] = changed(copy[key], tuple(rest), new)
    return tuple(copy) if isinstance(value, tuple) else copy


def value_at(value: Any, place: tuple[Any, ...]) -> Any:
    """The value at a place."""
    for key in place:
        value = value[key]
    return value


def read(path: Path) -> Any:
    """What a JSON file, a log or a checkpoint holds."""
    if path.suffix == ".pt":
        return torch.load(path, weights_only=True)
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return json.loads(path.read_text("utf-8"))


def write(path: Path, content: Any) -> None:
    """Write what `read` returned."""
    if path.suffix == ".pt":
        torch.save(content, path)
    elif path.suffix == ".jsonl":
        lines = content if isinstance(content, list) else [content]
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), "utf-8")
    else:
        path.write_text(json.dumps(content, indent=2), "utf-8")


def remove(path: Path) -> None:
    """Remove a file, a link or a folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def apply(damage: Damage, run: Path) -> None:
    """Do it to a run folder, as far as the file is still there."""
    path = run / damage.file
    if damage.way == "value":
        with contextlib.suppress(Exception):  # the damage before has left no such place
            write(path, changed(read(path), damage.place, damage.value))
        return
    content = path.read_bytes() if path.is_file() else b"{}\n"
    if not path.parent.is_dir():
        return
    remove(path)
    draw = random.Random(damage.number)
    at = draw.randrange(len(content) + 1)
    whole = len(content)
    contents = {
        "empty": b"",
        "file": content,
        "cut": content[:at],
        "bytes": draw.randbytes(draw.choice([1, 10, whole])),
        "flipped": content[:at] + bytes(byte ^ 1 << draw.randrange(8) for byte in content[at:][:1])
        + content[at + 1 :],
        "not UTF-8": content[:at] + b"\xff\xfe" + content[at:],
        "doubled": content + content,
        "nested": b"[" * 100_000,
    }  # fmt: skip
    if damage.way in contents:
        path.write_bytes(contents[damage.way])
    elif damage.way == "folder":
        path.mkdir()
    elif damage.way == "full folder":
        (path / "inside").mkdir(parents=True)
    elif damage.way == "dead link":
        path.symlink_to(run.parent / "nowhere")
    elif damage.way == "loop":
        path.symlink_to(path)


def damages(run: Path) -> Iterator[Damage]:
    """Every damage of a list: each file in each way, each place with each value."""
    for file in FILES:
        for way in WAYS:
            draws = 6 if way in ("cut", "bytes", "flipped", "not UTF-8") else 1
            for number in range(draws):
                yield Damage(file, way, number=number)
    names = [*JSON_FILES, *(f"checkpoints/{name}" for name in STATES)]
    for name in names:
        if not (run / name).exists():
            continue
        content = read(run / name)
        values = (*VALUES, *(TENSORS if name.endswith(".pt") else ()), LEFT_OUT)
        for place in places(content):
            # What a task has learnt is known to the task alone.
            if {"packages", "config"} & set(map(str, place[:-1])) or place[0] == "task":
                continue
            for value in values:
                yield Damage(name, "value", place, value)


def is_possible(damage: Damage, run: Path) -> bool:
    """Whether a value is one that the run could have had: nobody can know that it is another."""
    if damage.file == "config.yaml":
        return True
    if damage.way != "value":
        return False
    if damage.place[:2] == ("optimizer_state_dict", "state") and len(damage.place) == 3:
        return damage.value is LEFT_OUT  # a parameter that never got a gradient has no state
    before = value_at(read(run / damage.file), damage.place)
    value = damage.value
    if isinstance(before, torch.Tensor) and isinstance(value, torch.Tensor):
        return before.shape == value.shape
    if isinstance(before, int | float):
        return isinstance(value, int | float)
    return type(before) is type(value)


def is_mended(found: list[Damage]) -> bool:
    """Whether a file was written anew, with a value changed, after another damage.

    Nobody can see that one then: a bit of a weight that was flipped has become a weight.
    """
    files = [damage.file for damage in found]
    return len(set(files)) < len(files) and found[-1].way == "value"


def files_of(run: Path) -> dict[str, bytes]:
    """The files of a folder."""
    found = {}
    for path in run.rglob("*"):
        if path.is_file() and not path.is_symlink():
            found[path.relative_to(run).as_posix()] = path.read_bytes()
        else:
            found[path.relative_to(run).as_posix()] = b""
    return found


def call(base: Base, words: list[str], limit: float = SECONDS) -> tuple[int, str, str]:
    """The exit code, stdout and stderr of a command; raises Failure if an error comes out."""
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace")
    err = io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace")
    began = time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = base.main(words)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException as error:
            raise Failure(f"{type(error).__name__} at {where(error)}: {error!s:.150}") from error
        finally:
            torch.set_num_threads(1)
    seconds = time.process_time() - began
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())
    if seconds > limit:
        raise Failure(f"it took {seconds:.1f} s")
    return code, texts[0], texts[1]


def where(error: BaseException) -> str:
    """The last lines of the project in a traceback."""
    frames = [
        f"{Path(frame.filename).name}:{frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)
        if "/src/" in frame.filename or "/engine/" in frame.filename
    ]
    return " ".join(frames[-2:])


def outcome(run: Path) -> Any:
    """What a finished run is known by: its result, and its log without what the clock decides."""
    try:
        log = read(run / "metrics.jsonl")
    except ValueError:
        raise Failure("the log is damaged") from None
    for line in log:
        for name in ("time", "rate"):
            line.pop(name, None)
    result = read(run / "result.json")
    return {name: result[name] for name in ("status", "digest", "steps", "test")}, log


def words_of(command: str, base: Base, run: Path) -> list[str]:
    """The words of a command on a run."""
    example = json.dumps([0.5] * 16)
    options = ["trainer.epochs=3", "logger.tensorboard=false", "logger.trace=true"]
    options.append(f"output_dir={base.runs}")
    return {
        "resume": ["train", "--resume", str(run)],
        "named": ["train", str(base.config), "--run", run.name, *options],
        "evaluate": ["evaluate", str(run)],
        "predict": ["predict", str(run), example],
        "reproduce": ["reproduce", str(run)],
        "runs": ["runs", str(base.runs)],
    }[command]


def answer(command: str, base: Base, run: Path) -> tuple[int, str, Any]:
    """The exit code of a command, what it wrote on stderr, and what it found."""
    code, out, err = call(base, words_of(command, base, run))
    found: Any = None
    if code == 0 and "this run is finished" in err:
        found = "finished"
    elif code in (0, 3):
        found = out.replace(str(run), "RUN")
        if command in ("resume", "named"):
            found = outcome(run)
        elif command == "reproduce":
            found = json.loads(out)["identical"]
        elif command == "runs":
            found = None
    return code, err, found


def prepare(project: Path) -> Base:
    """Import a project, and make the two runs."""
    sys.path[:0] = [str(project / "src"), str(project / "tests" / "engine")]
    package = next((project / "src").glob("*/__main__.py")).parent.name
    tiny = importlib.import_module("tiny")
    main = importlib.import_module(f"{package}.__main__").main
    trainer = importlib.import_module(f"{package}.engine.trainer").Trainer
    tiny.install()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    config = folder / "tiny.yaml"
    config.write_text("", "utf-8")
    base = Base(main, folder / "runs", {}, config)
    for kind in ("finished", "stopped"):
        run = base.runs / kind
        original = trainer.train_step

        def step(self: Any, step: Any, original: Any = original, kind: str = kind) -> None:
            original(self, step)
            if self.step == 10 and kind == "stopped":
                signal.raise_signal(signal.SIGTERM)

        trainer.train_step = step
        code, _, err = call(base, words_of("named", base, run), limit=60)
        trainer.train_step = original
        assert code == (143 if kind == "stopped" else 0), err
        base.originals[kind] = Path(shutil.copytree(run, folder / kind))
        shutil.rmtree(base.runs)
    for kind, original in base.originals.items():
        for command in COMMANDS:
            run = Path(shutil.copytree(original, base.runs / "run"))
            base.answers[command, kind] = answer(command, base, run)
            shutil.rmtree(base.runs)
    return base


def try_damage(base: Base, command: str, kind: str, found: list[Damage]) -> None:
    """Do damages to a copy of a run, call a command on it; raises Failure if it ends badly."""
    original = base.originals[kind]
    shutil.rmtree(base.runs, ignore_errors=True)
    run = Path(shutil.copytree(original, base.runs / "run", symlinks=True))
    for damage in found:
        apply(damage, run)
    before = files_of(run)
    code, err, result = answer(command, base, run)
    last = err.strip().split("\n")[-1]
    errors = err.count("error: ")
    if "Traceback" in err:
        raise Failure("a traceback on stderr: " + last)
    if code in (1, 2) and (errors != 1 or not last.startswith("error: ")):
        raise Failure(f"exit code {code} without one line: {err[-300:]!r}")
    if code not in (0, 1, 2, 3):
        raise Failure(f"exit code {code}")
    after = files_of(run)
    if code == 2 and "metrics.jsonl" not in before:
        after.pop("metrics.jsonl", None)  # it is made to be locked
    if code == 2 and after != before:
        names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
        raise Failure(f"refused, but changed {names[:3]}: {last}")
    is_open = any(is_possible(damage, original) for damage in found) or is_mended(found)
    expected = base.answers[command, kind]
    right = [expected[2]]
    if right == ["finished"]:  # if nothing says so any more, it is continued to the same end
        right.append(outcome(original))
    if code == 0 and not is_open and expected[0] == 0 and result not in right:
        raise Failure(f"another result than without damage: {last}")


def targets(project: Path) -> dict[str, Callable[[st.DataObject], None]]:
    """For each command a function that draws damages to a run folder and tries them."""
    base = prepare(project)
    known = {kind: list(damages(run)) for kind, run in base.originals.items()}

    def target(command: str) -> Callable[[st.DataObject], None]:
        def run(data: st.DataObject) -> None:
            kind = data.draw(st.sampled_from(sorted(known)))
            found = []
            for _ in range(data.draw(st.integers(1, 2))):
                index = data.draw(st.integers(0, len(known[kind]) - 1))
                found.append(known[kind][index])
            note(f"{kind}: {found}")
            try_damage(base, command, kind, found)

        return run

    return {command: target(command) for command in COMMANDS}
