"""A table is read as it is written, and what is wrong with it is an error with its line."""

import os
from pathlib import Path

import pytest

from {{ cookiecutter.__package_name }}.engine import table
from {{ cookiecutter.__package_name }}.engine.table import (
    TableError,
    parse_table,
    read_table,
)

COLUMNS = "expected columns of different names, among them name and kind, found "
CELLS = "expected a cell for each of ['name', 'kind'], found "


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "FILE:1: " + COLUMNS + "[]"),
        (b"word,kind\na,b\n", "FILE:1: " + COLUMNS + "['word', 'kind']"),
        (b"name,name,kind\n", "FILE:1: " + COLUMNS + "['name', 'name', 'kind']"),
        (b"name,kind\na,b\nc,d,e\n", "FILE:3: " + CELLS + "['c', 'd', 'e']"),
        (b"name,kind\na,b\n\nc\n", "FILE:4: " + CELLS + "['c']"),
        (b"name,kind\n  ,b\n", "FILE:2: expected name and kind, found ['  ', 'b']"),
        (b"name,kind\na,\n", "FILE:2: expected name and kind, found ['a', '']"),
        (b"name,kind\na,b\nc\xff,d\n", "FILE:3: not UTF-8: ['c\\udcff', 'd']"),
        (b'name,kind\na,b\n"c,d\n', "FILE:3: not valid CSV: unexpected end of data"),
    ],
)
def test_a_bad_table_is_an_error_with_its_line(tmp_path: Path, content: bytes, error: str) -> None:
    path = tmp_path / "d.csv"
    path.write_bytes(content)
    with pytest.raises(TableError) as caught:
        read_table(path, ["name", "kind"])
    assert str(caught.value).replace(str(path), "FILE") == error


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="expected a CSV file, found: No such file"):
        read_table(tmp_path / "d.csv", ["name"])


def test_quotes_commas_line_ends_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    content = '\ufeffname,kind,more\r\n"one, ""two""\nthree",A,\r\n\r\nfour, B ,x\r\n'
    path.write_bytes(content.encode())
    lines, columns = read_table(path, ["name", "kind"])
    assert lines == [3, 5]
    assert columns == {
        "name": ['one, "two"\nthree', "four"],
        "kind": ["A", "B"],
        "more": ["", "x"],
    }


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_cells_are_separated_by_what_separates_the_names(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "d.csv"
    rows = [["name", "kind"], ["a; b, c\td", "x"]]
    path.write_text("\n".join(delimiter.join(f'"{cell}"' for cell in row) for row in rows), "utf-8")
    assert read_table(path, ["kind"]).columns == {"name": ["a; b, c\td"], "kind": ["x"]}


def test_the_name_of_a_column_may_have_quotes_delimiters_and_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text('size;"a, b, c";"kind\nof ""it"""\n1;2;3\n', "utf-8")
    table = read_table(path, ["size"])
    assert table.columns == {"size": ["1"], "a, b, c": ["2"], 'kind\nof "it"': ["3"]}
    assert table.lines == [3]
    path.write_text('size,"kind\n1,2\n', "utf-8")
    with pytest.raises(TableError, match=r"d\.csv:2: not valid CSV: unexpected end of data"):
        read_table(path, ["size"])


def test_a_long_cell_is_read_and_shown_in_part_where_it_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    long = "x" * 200_000
    path.write_text(f"name,kind\n{long},a\n", "utf-8")
    assert read_table(path, ["name"]).columns["name"] == [long]
    path.write_text(f"name,kind\n{long}\n", "utf-8")
    with pytest.raises(TableError) as caught:
        read_table(path, ["name"])
    assert len(str(caught.value)) < 400


def test_lines_that_are_no_file_are_named_by_their_source() -> None:
    assert parse_table(["a,b", "1,2"], "stdin", ["a"]).columns == {"a": ["1"], "b": ["2"]}
    with pytest.raises(TableError, match=r"^stdin:2: expected a cell for each"):
        parse_table(["a,b", "1"], "stdin", ["a"])


def test_a_line_or_cell_without_end_is_an_error_before_it_is_all_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "MAX_CHARACTERS", 1000)
    path = tmp_path / "d.csv"
    for content in ("name,kind\n" + "a" * 5000, 'name,kind\n"' + "a\n" * 5000, "a" * 5000):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(TableError) as caught:
            read_table(path, ["name"])
        assert len(str(caught.value)) < 500


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes on Windows")
def test_a_pipe_or_a_device_is_no_table_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(TableError, match="found a pipe or a device"):
            read_table(path, ["name"])


def test_blanks_around_names_do_not_count_and_every_cell_is_utf8(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b" name ; kind\na;b\n")
    assert read_table(path, ["name", "kind"]).columns == {"name": ["a"], "kind": ["b"]}
    path.write_bytes(b"name,kind\na,\xff\n")
    with pytest.raises(TableError, match=r"t\.csv:2: not UTF-8: "):
        read_table(path, ["name"])
