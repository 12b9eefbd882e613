"""The data: samples are read as they are written, and none crosses from test to train."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from {{ cookiecutter.__package_name }} import data
from {{ cookiecutter.__package_name }}.data import (
    CustomDataset,
    EncodedDataset,
    NgramEncoder,
    Row,
)

WORDS = Path(__file__).parents[1] / "data" / "words.csv"
TEXTS = ["Happy", "Amazing", "Sad", "Unhappy", "Glum"]
LABELS = ["Positive", "Positive", "Negative", "Negative", "Negative"]
COLUMNS = "expected the columns text and label, found "
CELLS = "expected a cell for each of ['text', 'label'], found "


def write(folder: Path, *rows: str) -> Path:
    """A CSV file with these rows below the header."""
    path = folder / "d.csv"
    path.write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    return path


def test_the_dataset_of_the_notes() -> None:
    dataset = CustomDataset(TEXTS, LABELS)
    batch = next(iter(DataLoader(dataset, batch_size=2, shuffle=False)))
    assert batch == {"Text": ["Happy", "Amazing"], "Class": ["Positive", "Positive"]}


def test_a_dataset_is_a_sequence() -> None:
    dataset: Any = CustomDataset(TEXTS, LABELS)
    assert len(dataset) == 5
    assert dataset[-1] == {"Text": "Glum", "Class": "Negative"}
    assert [sample["Text"] for sample in dataset] == TEXTS
    for index in (5, -6):
        with pytest.raises(IndexError):
            dataset[index]
    with pytest.raises(ValueError, match="as many labels as texts, found 1, 5"):
        CustomDataset(TEXTS, LABELS[:1])


def test_an_encoded_text_marks_its_ngrams_whatever_its_case() -> None:
    encode = NgramEncoder(features=100_000, ngram=2)
    assert encode("Ab").sum() == len({"<", "a", "b", ">", "<a", "ab", "b>"})
    assert torch.equal(encode(" AB "), encode("ab"))
    assert not torch.equal(encode("ab"), encode("ba"))
    assert encode("ab").dtype == torch.uint8


def test_each_text_is_encoded_once_and_a_batch_at_once_equals_its_samples() -> None:
    seen: list[str] = []

    class Counted(NgramEncoder):
        def __call__(self, text: str) -> torch.Tensor:
            seen.append(text)
            return super().__call__(text)

    encode = Counted(features=50, ngram=3)
    dataset = EncodedDataset(CustomDataset(TEXTS, LABELS), encode, ["Negative", "Positive"])
    inputs, targets = dataset.__getitems__([3, 0])
    for row, index in enumerate((3, 0)):
        assert torch.equal(inputs[row], dataset[index][0])
        assert targets[row] == dataset[index][1]
    assert targets.tolist() == [0, 1]
    assert len(dataset) == 5
    assert seen == TEXTS


def test_the_split_is_80_10_10_and_a_row_stays_when_others_are_added(tmp_path: Path) -> None:
    before = {row.text: data.split_of(row.text) for row in data.read_rows(WORDS)}
    assert Counter(before.values()) == {"train": 5735, "val": 748, "test": 726}
    more = write(tmp_path, *[f"{row.text},{row.label}" for row in data.read_rows(WORDS)], "new,a")
    after = {row.text: data.split_of(row.text) for row in data.read_rows(more)}
    assert before.items() <= after.items()


def test_texts_that_the_model_cannot_tell_apart_are_in_one_split() -> None:
    for i in range(40):
        assert data.split_of(f"Stra\u00dfe {i}") == data.split_of(f" STRASSE  {i} ")


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "FILE:1: " + COLUMNS + "[]"),
        (b"word,label\na,b\n", "FILE:1: " + COLUMNS + "['word', 'label']"),
        (b"text,text,label\n", "FILE:1: " + COLUMNS + "['text', 'text', 'label']"),
        (b"text,label\na,b\nc,d,e\n", "FILE:3: " + CELLS + "['c', 'd', ['e']]"),
        (b"text,label\na,b\n\nc\n", "FILE:4: " + CELLS + "['c', None]"),
        (b"text,label\n  ,b\n", "FILE:2: expected a text and a label, found ['  ', 'b']"),
        (b"text,label\na,\n", "FILE:2: expected a text and a label, found ['a', '']"),
        (b"text,label\na,b\nc\xff,d\n", "FILE:3: not UTF-8: ['c\\udcff', 'd']"),
        (b'text,label\na,b\n"c,d\n', "FILE:3: not valid CSV: unexpected end of data"),
    ],
)
def test_bad_data_is_an_error_with_its_line(tmp_path: Path, content: bytes, error: str) -> None:
    path = tmp_path / "d.csv"
    path.write_bytes(content)
    with pytest.raises(data.DataError) as caught:
        data.read_rows(path)
    assert str(caught.value).replace(str(path), "FILE") == error


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(data.DataError, match="expected a CSV file, found: No such file"):
        data.read_rows(tmp_path / "d.csv")


def test_quotes_commas_line_ends_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    content = '\ufefftext,label\r\n"one, ""two""\nthree",Positive\r\n\r\nfour, Negative \r\n'
    path.write_bytes(content.encode())
    assert data.read_rows(path) == [
        Row(3, 'one, "two"\nthree', "Positive"),
        Row(5, "four", "Negative"),
    ]
