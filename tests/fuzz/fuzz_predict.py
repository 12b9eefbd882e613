"""What `predict` is given: inputs in the command, and lines on stdin."""

import atexit
import json
import shutil
import tempfile
from pathlib import Path

from fuzz_data import CELLS, NAMES, SMALL, any_picture, csv_file, quick
from harness import Ended, Failure, Program, Target, check_end, scratch
from hypothesis import strategies as st

VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just(10**400)
)


def trained(program: Program) -> str:
    """The folder of a small run."""
    folder = tempfile.mkdtemp(prefix="fuzz-run-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    ended = program.run("train", f"output_dir={folder}", *SMALL[program.kind])
    return check_end(ended, codes=(0,)).out.strip()


def check(ended: Ended, inputs: int = 1) -> None:
    """An answer for each input, or an error that names it, and one more in the end."""
    lines = ended.err.removesuffix("\n").split("\n")
    errors = [line for line in lines if line.startswith("error: input ")]
    others = "\n".join(line for line in lines if line not in errors)
    check_end(Ended(ended.code, ended.out, others))
    for line in ended.out.splitlines():
        json.loads(line)
    is_usage = others.startswith("usage: ")
    if not is_usage and (ended.code == 2) != bool(errors):
        raise Failure(f"exit code {ended.code} with {len(errors)} errors: {ended.err}")
    if not errors and not is_usage and len(ended.out.splitlines()) < inputs:
        raise Failure(f"{inputs} inputs, but {ended.out!r}")


def a_line(data: st.DataObject, kind: str, columns: str) -> str:
    """A text, a line of CSV, or a JSON object."""
    how = data.draw(st.sampled_from(["text", "cells", "object", "nested"]))
    if how == "object" and kind == "tabular":
        names = st.one_of(st.sampled_from(columns.split(",")), st.text(max_size=3))
        row = data.draw(st.dictionaries(names, VALUES, max_size=8))
        full = dict.fromkeys(columns.split(","), 1) if data.draw(st.booleans()) else {}
        return json.dumps({**full, **row}, ensure_ascii=data.draw(st.booleans()))
    if how == "nested":
        return data.draw(st.sampled_from(["{" * 3000, '{"a":' * 3000, "{}", '{"a": [1]}', columns]))
    if how == "cells":
        return ",".join(data.draw(st.lists(st.sampled_from(CELLS), max_size=9)))
    return data.draw(st.text(max_size=20))


def targets(project: Path) -> dict[str, Target]:
    """`words`: inputs in the command; `stdin`; `file`: a picture, or a table."""
    program = Program(project)
    quick(program)
    kind = program.kind
    run = trained(program)
    (path,) = [path for path in (project / "data").iterdir() if path.name != "README.md"]
    text = path.read_text("utf-8") if kind != "image" else ""
    columns = text.partition("\n")[0]
    if kind == "tabular":
        text = "".join(text.splitlines(keepends=True)[:9])

    def words(data: st.DataObject) -> None:
        count = data.draw(st.integers(1, 3))
        inputs = [a_line(data, kind, columns) for _ in range(count)]
        if inputs != ["-"]:
            answers = 0 if kind == "tabular" else count  # a line of CSV may be a header
            check(program.run("predict", run, "--", *inputs), inputs=answers)

    def stdin(data: st.DataObject) -> None:
        lines = [a_line(data, kind, columns).encode(errors="surrogateescape") for _ in range(3)]
        content = b"\n".join(lines) if data.draw(st.booleans()) else data.draw(st.binary())
        check(program.run("predict", run, "-", stdin=content), inputs=0)

    def file(data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(NAMES)).rpartition("/")[2]
        with scratch() as folder:
            path = folder / (name or "x")
            content = any_picture(data) if kind == "image" else csv_file(data, text)
            try:
                path.write_bytes(content)
            except (OSError, ValueError):
                return  # no such name in this file system
            if kind == "tabular":
                path = path.rename(path.with_suffix(".csv"))
            check(program.run("predict", run, str(path)), inputs=0)

    return {"words": words, "stdin": stdin, "file": file}
