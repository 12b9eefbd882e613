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
)
from {{ cookiecutter.__package_name }}.engine.table import read_table

WORDS = Path(__file__).parents[1] / "data" / "words.csv"
TEXTS = ["Happy", "Amazing", "Sad", "Unhappy", "Glum"]
LABELS = ["Positive", "Positive", "Negative", "Negative", "Negative"]


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


def test_the_split_of_the_words_is_80_10_10() -> None:
    table = read_table(WORDS, ["text", "label"])
    splits = Counter(data.split_of(text) for text in table.columns["text"])
    assert splits == {"train": 5735, "val": 748, "test": 726}


def test_texts_that_the_model_cannot_tell_apart_are_in_one_split() -> None:
    for i in range(40):
        assert data.split_of(f"Stra\u00dfe {i}") == data.split_of(f" STRASSE  {i} ")
