"""Config files and overrides: anything that may stand in them."""

import tempfile
from pathlib import Path
from typing import Any

import yaml
from harness import Failure, Program, Target, changed, scratch
from hypothesis import strategies as st

# What YAML, or who writes it by hand, may mean something by.
ODD = [
    "~",
    "null",
    "true",
    "no",
    "Off",
    "yes",
    "1e-3",
    "1_000",
    "0x10",
    "0o7",
    "012",
    "1:30",
    "2020-01-01",
    ".inf",
    "-.inf",
    ".nan",
    "nan",
    "inf",
    "1e400",
    "-0",
    "-1",
    "1.5",
    "9223372036854775808",
    "99999999999999999999",
    "[]",
    "{}",
    "[1,2]",
    "[[1]]",
    "{a:1}",
    "''",
    '""',
    "'",
    '"',
    ":",
    ",",
    "#",
    "&",
    "*",
    "!",
    "|",
    ">",
    "%",
    "@",
    "`",
    "---",
    "...",
    "&a",
    "*a",
    "<<:*a",
    "!!python/object:os.system",
    "!!binary",
    "!!set",
    "!!int",
    "!<x>",
    "=",
    "==",
    "a=b",
    "-",
    "?",
    "cpu",
    "cuda",
    "cuda:99",
    "auto",
    "mps",
    "cuda:x",
    "\t",
    "\u2028",
    "\ufeff",
    "\x85",
    "�",
    "\x1b[2J",
    "${HOME}",
    "~/x",
    "../x",
    "/dev/null",
    "cosine",
    "plateau",
    "accuracy",
    "loss",
    "rmse",
    "fp16",
    "bf16",
    "fp32",
    "é",
    "é",
    "🙂",
    "a\nb",
    "{*:1}",
    "{'':1}",
    "[,]",
    "{[]:1}",
]
NESTED = ["[" * 500, "{a: " * 2000, "&a [*a]", "[" * 50 + "]" * 50, "- " * 3000, "x" * 100_001]


def values() -> st.SearchStrategy[str]:
    """The text of a value."""
    numbers = st.one_of(st.integers(), st.floats()).map(str)
    return st.one_of(st.sampled_from(ODD), numbers, st.text(max_size=12), st.sampled_from(NESTED))


def keys_of(program: Program) -> list[str]:
    """The options of a project, as `section.key`, and its sections."""
    train: Any = program.module("train")
    config: Any = program.module("engine.config")
    keys = list(config.flat(train.load_config(None)))
    return [*keys, *{key.split(".")[0] for key in keys if "." in key}]


def words_of(data: st.DataObject, keys: list[str]) -> list[str]:
    """Some overrides."""
    key = st.one_of(st.sampled_from(keys), st.text(max_size=8))
    word = st.one_of(
        st.tuples(key, st.sampled_from(["=", "=", "=", " = ", "==", ""]), values()).map("".join),
        st.text(max_size=10),
        st.sampled_from(ODD),
    )
    return data.draw(st.lists(word, max_size=3))


def file_of(data: st.DataObject, keys: list[str], text: str) -> bytes:
    """A config file: one from scratch, or one that was right, with changes."""
    how = data.draw(st.sampled_from(["lines", "lines", "changed", "bytes"]))
    if how == "bytes":
        return data.draw(st.binary(max_size=40))
    if how == "changed":
        return changed(data, text.encode())
    lines = ""
    for key in data.draw(st.lists(st.sampled_from(keys), max_size=4)):
        indent = ""
        if data.draw(st.booleans()):
            section, _, key = key.rpartition(".")
            lines += f"{section}:\n" if section else ""
            indent = "  " if section else ""
        lines += f"{indent}{key}: {data.draw(values())}\n"
    return (
        lines.encode(errors="surrogateescape")
        if data.draw(st.booleans())
        else yaml.safe_dump(
            {
                key: data.draw(values())
                for key in data.draw(st.lists(st.sampled_from(keys), max_size=3))
            }
        ).encode(errors="replace")
    )


def targets(project: Path) -> dict[str, Target]:
    """`file` and `overrides`, and that what is accepted can be written and read again."""
    program = Program(project)
    keys = keys_of(program)
    text = (project / "configs" / "default.yaml").read_text("utf-8")
    train: Any = program.module("train")
    config: Any = program.module("engine.config")
    nowhere = f"data.path={tempfile.gettempdir()}/no such file.csv"

    def check(path: Path, words: list[str]) -> None:
        program.check("train", str(path), *words, nowhere, codes=(2,))
        try:
            settings = train.load_config(path, words)
        except ValueError:
            return
        path.write_text(config.dump(settings), "utf-8")
        if train.load_config(path) != settings:
            raise Failure(f"is read back in another way: {settings}")

    def file(data: st.DataObject) -> None:
        with scratch() as folder:
            path = folder / "config.yaml"
            path.write_bytes(file_of(data, keys, text))
            check(path, [])

    def overrides(data: st.DataObject) -> None:
        words = words_of(data, keys)
        with scratch() as folder:
            path = folder / "config.yaml"
            path.write_text("", "utf-8")
            check(path, words)

    return {"file": file, "overrides": overrides}
