"""Data that a run is trained on: CSV files, and pictures in a folder or a zip file."""

import functools
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import Program, Target, changed, scratch
from hypothesis import strategies as st
from PIL import Image

QUICK = ("trainer.max_steps=1", "logger.tensorboard=false", "model.hidden=2")
SMALL = {
    "text": (*QUICK, "data.buckets=64"),
    "image": (*QUICK[:2], "model.width=1", "model.depth=1"),
    "tabular": QUICK,
}
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO")
CELLS = (
    "1",
    "2.5",
    "-3e5",
    "1e400",
    "nan",
    "NA",
    "",
    "?",
    "a",
    "b",
    "é",
    "e\u0301",
    "🙂",
    '"',
    '""',
    '"a,b"',
    '"a\nb"',
    " ",
    "\0",
    "\udcff",
    "\ufeff",
    "\x1b[2J",
    "\u2028",
    "9" * 400,
    "x" * 200_000,
    "null",
    "=1+1",
    "'",
    "\\",
    "\r",
    "\x85",
)
NAMES = (
    "a/1.png",
    "a/2.png",
    "a/3.png",
    "b/1.png",
    "b/2.png",
    "b/3.png",
    "c/é.png",
    "train/a/1.png",
    "train/b/1.png",
    "val/a/1.png",
    "val/b/2.png",
    "test/a/1.png",
    "1.png",
    "../x/1.png",
    "/a/1.png",
    "a//1.png",
    "a/./1.png",
    "a/../b/1.png",
    "a\\1.png",
    "C:/1.png",
    "a/\x1b[2J.png",
    "a/x\ny.png",
    "a/.png",
    ".a/1.png",
    "a/",
    "__MACOSX/a/1.png",
    "a/" + "x" * 300 + ".png",
    "a/\udc80.png",
)


def csv_file(data: st.DataObject, text: str) -> bytes:
    """A file that was right with changes, or one of odd cells."""
    if data.draw(st.booleans()):
        return changed(data, text.encode())
    names = data.draw(
        st.one_of(
            st.just([*text.splitlines()[0].split(",")]),
            st.lists(st.sampled_from(CELLS), max_size=3),
        )
    )
    delimiter = data.draw(st.sampled_from(",;\t"))
    cell = st.one_of(st.sampled_from(CELLS), st.text(max_size=5))
    rows = data.draw(
        st.lists(st.lists(cell, min_size=len(names), max_size=len(names)), max_size=12)
    )
    lines = [delimiter.join(row) for row in [names, *rows]]
    end = data.draw(st.sampled_from(["\n", "\r\n", "\r"]))
    return end.join(lines).encode(errors="surrogateescape")


@functools.cache
def picture(kind: str, mode: str = "RGB", size: int = 9) -> bytes:
    """A picture of this format."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize((size, size)).convert(mode).save(file, kind)
    return file.getvalue()


def any_picture(data: st.DataObject) -> bytes:
    """A picture, a picture that is cut or changed, or anything else."""
    content = picture(data.draw(st.sampled_from(FORMATS)))
    how = data.draw(st.sampled_from(["whole", "whole", "changed", "cut", "bytes"]))
    if how == "cut":
        return content[: data.draw(st.integers(0, len(content)))]
    if how == "bytes":
        return data.draw(st.binary(max_size=60))
    return changed(data, content) if how == "changed" else content


def picture_folder(data: st.DataObject, folder: Path) -> Path:
    """A folder or a zip file with such pictures under odd names, some right ones among them."""
    names = data.draw(st.lists(st.sampled_from(NAMES), max_size=6))
    names += [f"{label}/{n}.png" for label in "de" for n in range(12)] * data.draw(st.booleans())
    files = {name: any_picture(data) if name in NAMES else picture("PNG") for name in names}
    if data.draw(st.booleans()):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", data.draw(st.sampled_from([0, 8]))) as archive:
            for name, content in files.items():
                archive.writestr(name.encode(errors="replace").decode(), content)
        content = buffer.getvalue()
        path = folder / "data.zip"
        path.write_bytes(changed(data, content) if data.draw(st.booleans()) else content)
        return path
    path = folder / "data"
    for name, content in files.items():
        file = path / name.replace("..", "up").lstrip("/")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        except (OSError, ValueError):
            continue  # no such name in this file system
    return path


def quick(program: Program) -> None:
    """Ask once for what is the same for all runs, and takes most of their time."""
    record: Any = program.module("engine.record")
    for name in ("_installed_packages", "_requirements", "_git", "_cpu_model"):
        value = getattr(record, name)
        if value.__name__ != "call":
            setattr(record, name, once(value))


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose first answer is that to all calls with the same texts."""
    answers: dict[str, Any] = {}

    def call(*arguments: Any) -> Any:
        key = str([text for text in arguments if isinstance(text, str)])
        if key not in answers:
            answers[key] = function(*arguments)
        return answers[key]

    return call


def targets(project: Path) -> dict[str, Target]:
    """`file`: train a step with it."""
    program = Program(project)
    quick(program)
    kind = program.kind
    options = SMALL[kind]
    if kind != "image":
        (path,) = (project / "data").glob("*.csv")
        text = "".join(path.read_text("utf-8").splitlines(keepends=True)[:40])

    def file(data: st.DataObject) -> None:
        with scratch() as folder:
            if kind == "image":
                path = picture_folder(data, folder)
            else:
                path = folder / "data.csv"
                path.write_bytes(csv_file(data, text))
            words = [f"data.path={path}", f"output_dir={folder}/runs", *options]
            program.check("train", *words)

    return {"file": file}
