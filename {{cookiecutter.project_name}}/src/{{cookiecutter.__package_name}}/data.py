"""The data: texts and their labels, their splits, and how a text becomes a tensor.

`CustomDataset` holds texts and labels, `NgramEncoder` turns a text into a tensor, and
`EncodedDataset` is a `CustomDataset` as tensors, which is what the model is trained on.
"""

import zlib
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.utils.data import Dataset

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class DataConfig:
    """Options of the data."""

    path: str = "data/words.csv"
    """CSV file in UTF-8 with the columns text and label"""
    features: Annotated[int, 1] = 4096
    """number of hash buckets for n-grams (the input size)"""
    ngram: Annotated[int, 1] = 5
    """length of the longest n-gram, in characters"""


class CustomDataset(Dataset[dict[str, str]]):
    """Texts and their labels: `dataset[0]` is `{"Text": "happy", "Class": "Positive"}`."""

    def __init__(self, texts: list[str], labels: list[str]) -> None:
        if len(texts) != len(labels):
            raise ValueError(f"expected as many labels as texts, found {len(labels)}, {len(texts)}")
        self.texts = texts
        self.labels = labels

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> dict[str, str]:
        return {"Text": self.texts[index], "Class": self.labels[index]}


class NgramEncoder:
    """Turns a text into a tensor (features,) of uint8 that says which n-grams it contains.

    The n-grams of "<ab>", of up to three characters, are <, a, b, >, <a, ab, b>, <ab and ab>. Each
    belongs to a bucket, by a hash, and the buckets of those in the text are 1, all others 0.
    """

    def __init__(self, features: int, ngram: int) -> None:
        self.features = features
        self.ngram = ngram

    def __call__(self, text: str) -> Tensor:
        text = f"<{normalize(text)}>"
        ngrams = set()
        for length in range(1, self.ngram + 1):
            for start in range(len(text)):
                ngrams.add(text[start : start + length])
        buckets = [zlib.crc32(ngram.encode()) % self.features for ngram in ngrams]
        encoded = torch.zeros(self.features, dtype=torch.uint8)
        encoded[buckets] = 1
        return encoded


class EncodedDataset(Dataset[tuple[Tensor, Tensor]]):
    """A CustomDataset as tensors: pairs of an encoded text (features,) and the class index ()."""

    def __init__(self, dataset: CustomDataset, encode: NgramEncoder, classes: list[str]) -> None:
        samples = [dataset[index] for index in range(len(dataset))]
        self.inputs = torch.stack([encode(sample["Text"]) for sample in samples])
        self.targets = torch.tensor([classes.index(sample["Class"]) for sample in samples])

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.targets[index]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """A whole batch at once, which is quicker than to put single samples together."""
        return self.inputs[indices], self.targets[indices]


def split_of(text: str) -> str:
    """train, val or test (80/10/10) by a hash of the text, so that it stays when rows are added."""
    bucket = zlib.crc32(normalize(text).encode()) % 10
    if bucket < 8:
        return "train"
    return "val" if bucket == 8 else "test"


def normalize(text: str) -> str:
    """The text without differences of case and blanks: they change neither split nor input."""
    return " ".join(text.casefold().split())
