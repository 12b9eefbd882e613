"""Runs commands of a generated project in this process, and checks how they end."""

import importlib
import io
import os
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from hypothesis import strategies as st

Target = Callable[[st.DataObject], None]

# Of processor time that an input may take. Most take a tenth of a second, which a shared machine
# can stretch; what this is to find takes minutes.
MAX_SECONDS = 20.0
USAGE = (
    "usage: "  # begins what argparse says of a wrong command, in which it repeats words as they are
)


class Failure(AssertionError):
    """An input that ended in something else than a result or an error of one line."""


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


class Program:
    """The command line of a generated project. Only one project of a name can be imported."""

    def __init__(self, project: Path) -> None:
        self.project = project
        (package,) = (project / "src").glob("*/__main__.py")
        self.package = package.parent.name
        if str(project / "src") not in sys.path:
            sys.path.insert(0, str(project / "src"))
        import torch

        torch.set_num_threads(1)  # the inputs are small
        self.main = importlib.import_module(f"{self.package}.__main__").main

    @property
    def kind(self) -> str:
        """text, image or tabular."""
        files = {"words.csv": "text", "digits.zip": "image", "penguins.csv": "tabular"}
        return next(kind for name, kind in files.items() if (self.project / "data" / name).exists())

    def module(self, name: str) -> object:
        """A module of the project's package."""
        return importlib.import_module(f"{self.package}.{name}")

    def run(self, *words: str, stdin: bytes = b"") -> Ended:
        """Run a command; an exception that leaves it is a failure."""
        streams = (sys.stdin, sys.stdout, sys.stderr)
        out, err = io.BytesIO(), io.BytesIO()
        mine = (
            io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"),
            io.TextIOWrapper(out, encoding="utf-8"),
            io.TextIOWrapper(err, encoding="utf-8", errors="backslashreplace"),
        )
        sys.stdin, sys.stdout, sys.stderr = mine
        crash = ""
        try:
            code = self.main(list(words))
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        except Exception:
            code = 1
            crash = traceback.format_exc()
        finally:
            mine[1].flush()
            mine[2].flush()
            sys.stdin, sys.stdout, sys.stderr = streams
        if crash:
            raise Failure(f"a traceback:\n{crash}")
        return Ended(code, *(part.getvalue().decode("utf-8", "replace") for part in (out, err)))

    def check(self, *words: str, stdin: bytes = b"", codes: tuple[int, ...] = (0, 2)) -> Ended:
        """Run a command that must end in a result, or in one line with exit code 2, and soon."""
        began = time.process_time()
        ended = self.run(*words, stdin=stdin)
        seconds = time.process_time() - began
        if seconds > MAX_SECONDS:
            raise Failure(f"{seconds:.1f} seconds of processor time")
        return check_end(ended, codes)


def check_end(ended: Ended, codes: tuple[int, ...] = (0, 2)) -> Ended:
    """Refuse an end that is neither a result nor an error of one line."""
    if ended.code not in codes or "Traceback" in ended.err:
        raise Failure(f"exit code {ended.code}: {ended.err}")
    if ended.code == 2 and ended.err.startswith(USAGE):
        return ended
    lines = ended.err.removesuffix("\n").split("\n")
    errors = [line for line in lines if line.startswith("error: ")]
    if len(errors) != int(ended.code != 0) or (errors and errors != lines[-1:]):
        raise Failure(f"exit code {ended.code} with {len(errors)} errors: {ended.err}")
    controls = re.findall(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", ended.out + ended.err)
    if controls:
        raise Failure(f"control characters reach the terminal: {ended.out!r} {ended.err!r}")
    return ended


def changed(data: st.DataObject, content: bytes) -> bytes:
    """A file with one to three changes, such as bytes that are missing."""
    result = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(result)))
        end = start + data.draw(st.integers(0, 20))
        result[start:end] = data.draw(st.binary(max_size=4))
    return bytes(result)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for one input, in memory if that is possible."""
    memory = Path("/dev/shm")
    parent = memory if os.access(memory, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
