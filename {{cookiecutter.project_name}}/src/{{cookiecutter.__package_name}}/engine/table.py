"""The columns of a CSV file, read strictly: what is wrong is an error with its line. Works alone.

    table = read_table(Path("people.csv"), ["name", "age"])
    for line, name in zip(table.lines, table.columns["name"]):
        print(line, name)

Cells are separated by commas, semicolons or tabs, whichever the first line is made of.
"""

import csv
import re
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

MAX_CHARACTERS = 10_000_000  # of a cell, and of a line: a quote that nothing closes takes no more


class TableError(ValueError):
    """A file is not such a CSV file; the message is `FILE:LINE: what is wrong`."""

    exit_code = 2


class Table(NamedTuple):
    """A CSV file, column by column."""

    lines: list[int]
    """the line of the file in which each row ends"""
    columns: dict[str, list[str]]
    """the cells of each column, by its name, without blanks around them"""


def read_table(path: Path, required: Sequence[str]) -> Table:
    """The columns of a CSV file in UTF-8 whose first line has their names.

    Blank lines are skipped. Raises TableError if one of the `required` columns is missing or has an
    empty cell, if a row has more or fewer cells than there are columns, and for what is not CSV in
    UTF-8.
    """
    try:
        if path.is_fifo() or path.is_char_device():  # which may never end
            raise TableError(f"{path}: expected a CSV file, found a pipe or a device")
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            lines = iter(partial(file.readline, MAX_CHARACTERS), "")
            return parse_table(lines, str(path), required)
    except OSError as error:
        raise TableError(f"{path}: expected a CSV file, found: {error.strerror}") from None


def parse_table(file: Iterable[str], source: str, required: Sequence[str]) -> Table:
    """The columns of the CSV in some lines; errors name them by `source`. See `read_table`."""
    csv.field_size_limit(MAX_CHARACTERS - 1)  # without this, 131,072
    lines = iter(file)
    header = next(lines, "")
    outside_quotes = re.sub('"[^"]*("|$)', "", header)
    delimiter = max(",;\t", key=outside_quotes.count)
    reader = csv.reader(chain([header], lines), delimiter=delimiter, strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        if len(set(names)) < len(names) or not set(required) <= set(names):
            raise TableError(
                f"{source}:1: expected columns of different names, among them "
                f"{' and '.join(required)}, found {names!s:.200}"
            )
        table = Table([], {name: [] for name in names})
        for values in filter(None, reader):  # blank lines have no values
            row = _checked(f"{source}:{reader.line_num}", values, names, required)
            table.lines.append(reader.line_num)
            for name, cell in row.items():
                table.columns[name].append(cell)
    except csv.Error as error:
        raise TableError(f"{source}:{reader.line_num}: not valid CSV: {error}") from None
    return table


def _checked(
    place: str, values: list[str], names: list[str], required: Sequence[str]
) -> dict[str, str]:
    """The cells of a row by the names of their columns."""
    if len(values) != len(names):
        raise TableError(
            f"{place}: expected a cell for each of {names!s:.200}, found {values!r:.200}"
        )
    row = dict(zip(names, map(str.strip, values), strict=True))
    if not all(row[name] for name in required):
        raise TableError(f"{place}: expected {' and '.join(required)}, found {values!r:.200}")
    if not is_utf8("".join(values)):
        raise TableError(f"{place}: not UTF-8: {values!r:.200}")
    return row


def is_utf8(text: str) -> bool:
    """Whether a text that was decoded with "surrogateescape" was valid UTF-8."""
    return text.isascii() or not re.search("[\ud800-\udfff]", text)
