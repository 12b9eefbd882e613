"""The rows of a CSV file, read strictly: what is wrong is an error with file and line. Works alone.

    for row in read_table(Path("people.csv"), ["name", "age"]):
        print(row.line, row.cells["name"])

The columns that are named must be there and have no empty cells; any others are read as they are.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple


class TableError(ValueError):
    """A file is not such a CSV file; the message is `FILE:LINE: what is wrong`."""

    exit_code = 2


class Row(NamedTuple):
    """A row of a CSV file."""

    line: int
    """its last line in the file"""
    cells: dict[str, str]
    """what is in each column, by the name of the column, without blanks around it"""


def read_table(path: Path, columns: Sequence[str]) -> list[Row]:
    """The rows of a CSV file in UTF-8 whose first line has the names of columns.

    Blank lines are skipped. Raises TableError if one of `columns` is missing or has an empty cell,
    if a row has more or fewer cells than there are columns, and for what is not CSV in UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file, strict=True)
            return list(_rows(path, reader, columns))
    except OSError as error:
        raise TableError(f"{path}: expected a CSV file, found: {error.strerror}") from None
    except csv.Error as error:
        raise TableError(f"{path}:{reader.line_num}: not valid CSV: {error}") from None


def _rows(path: Path, reader: Any, columns: Sequence[str]) -> Iterator[Row]:
    names: list[str] = next(reader, [])
    if any(names.count(name) != 1 for name in columns):
        raise TableError(f"{path}:1: expected the columns {' and '.join(columns)}, found {names}")
    for values in filter(None, reader):  # blank lines have no values
        place = f"{path}:{reader.line_num}"
        if len(values) != len(names):
            raise TableError(f"{place}: expected a cell for each of {names}, found {values}")
        cells = {name: value.strip() for name, value in zip(names, values, strict=True)}
        if not all(cells[name] for name in columns):
            raise TableError(f"{place}: expected {' and '.join(columns)}, found {values}")
        if not is_utf8("".join(values)):
            raise TableError(f"{place}: not UTF-8: {values}")
        yield Row(reader.line_num, cells)


def is_utf8(text: str) -> bool:
    """Whether a text that was decoded with "surrogateescape" was valid UTF-8."""
    return not any("\ud800" <= char <= "\udfff" for char in text)
