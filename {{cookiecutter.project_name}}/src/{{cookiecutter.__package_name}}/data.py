"""From a CSV file of texts and labels to batches of tensors. Works alone."""

# CustomDataset holds the texts, NgramEncoder turns one into a tensor, EncodedDataset holds them all
# as tensors, and Loader makes batches of any dataset, in an order that (seed, epoch) decides.

import csv
import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class DataConfig:
    path: str = "data/words.csv"  # CSV file in UTF-8, with the columns text and label
    batch_size: int = 64  # samples in one step, over all its micro-batches
    num_workers: int = 0  # processes that load batches; 0: the training process
    limit: int = 0  # samples used of each split; 0: all
    features: int = 4096  # buckets that n-grams are hashed into: the size of an encoded text
    ngram: int = 5  # longest n-gram, in characters

    def __post_init__(self) -> None:
        least = {"batch_size": 1, "num_workers": 0, "limit": 0, "features": 1, "ngram": 1}
        for key, bound in least.items():
            if getattr(self, key) < bound:
                raise ValueError(f"{key}: expected at least {bound}, found {getattr(self, key)}")


class DataError(ValueError):
    exit_code = 2  # a mistake in the data, told as FILE:LINE: expected what, found what


class CustomDataset(Dataset[dict[str, str]]):
    """Texts and their labels, as a sequence of `{"Text": ..., "Class": ...}`."""

    def __init__(self, texts: Sequence[str], labels: Sequence[str]) -> None:
        if len(texts) != len(labels):
            found = f"{len(texts)} texts and {len(labels)} labels"
            raise ValueError(f"expected a label for each text, found {found}")
        self.texts, self.labels = texts, labels

    def __len__(self) -> int:
        return len(self.texts)

    def __iter__(self) -> Iterator[dict[str, str]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return CustomDataset(self.texts[index], self.labels[index])
        return {"Text": self.texts[index], "Class": self.labels[index]}


class NgramEncoder:
    """Which character n-grams a text has: (features,) uint8, with 1 in the bucket of each."""

    def __init__(self, config: DataConfig) -> None:
        self.features, self.ngram = config.features, config.ngram

    def __call__(self, text: str) -> Tensor:
        text = f"<{normalize(text)}>"
        starts = range(len(text))
        ngrams = {text[i : i + n] for n in range(1, self.ngram + 1) for i in starts}
        encoded = torch.zeros(self.features, dtype=torch.uint8)
        encoded[[zlib.crc32(ngram.encode()) % self.features for ngram in ngrams]] = 1
        return encoded


class EncodedDataset(TensorDataset):
    """A CustomDataset as tensors, each text encoded once: (size, features) and classes (size,)."""

    def __init__(
        self, dataset: CustomDataset, encode: Callable[[str], Tensor], classes: list[str]
    ) -> None:
        targets = torch.tensor([classes.index(label) for label in dataset.labels])
        super().__init__(torch.stack([encode(text) for text in dataset.texts]), targets)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, ...]:
        rows = torch.tensor(indices)  # a whole batch at once, for a DataLoader that asks for it
        return tuple(tensor.index_select(0, rows) for tensor in self.tensors)


class Loader:
    """The batches of a dataset, shuffled by (seed, epoch), or in order without a seed."""

    def __init__(self, dataset: Any, config: DataConfig, seed: int | None = None) -> None:
        self.size, self.batch_size, self.seed = len(dataset), config.batch_size, seed
        self.indices: list[list[int]] = []  # of the micro-batches still to come
        self.loader = DataLoader(
            dataset,
            batch_sampler=self.indices,
            num_workers=config.num_workers,
            persistent_workers=config.num_workers > 0,
            collate_fn=_collate,
        )

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)  # steps in an epoch

    def steps(
        self, epoch: int = 0, start: int = 0, accumulate: int = 1
    ) -> Iterator[tuple[list[tuple[Any, int]], int]]:
        """Each step from `start` on: its (micro-batch, count of samples) pairs, and their sum."""
        order, counts = self.order(epoch), []
        self.indices.clear()
        for first in range(start * self.batch_size, self.size, self.batch_size):
            batch = order[first : first + self.batch_size]
            edges = [len(batch) * i // accumulate for i in range(accumulate + 1)]
            parts = [batch[i:j] for i, j in pairwise(edges)]
            self.indices += [part or batch[:1] for part in parts]  # one for none, counted 0
            counts.append([len(part) for part in parts])
        batches = iter(self.loader)
        for step in counts:
            yield [(next(batches), count) for count in step], sum(step)

    def order(self, epoch: int) -> list[int]:
        if self.seed is None:
            return list(range(self.size))
        generator = torch.Generator().manual_seed(zlib.crc32(b"%d %d" % (self.seed, epoch)))
        return torch.randperm(self.size, generator=generator).tolist()


def build_datasets(config: DataConfig, root: Path) -> tuple[dict[str, EncodedDataset], list[str]]:
    """EDIT HERE for other data: for each split a dataset of (input, target); the class names."""
    splits, classes = load_data(root / config.path)
    encode, limit = NgramEncoder(config), config.limit or None
    datasets = {name: EncodedDataset(s[:limit], encode, classes) for name, s in splits.items()}
    return datasets, classes


def load_data(path: Path) -> tuple[dict[str, CustomDataset], list[str]]:
    """The samples of each split, and the names of the classes in the order of their indices."""
    rows = list(_read_csv(path))
    splits = {name: [row for row in rows if split_of(row[1]) == name] for name in SPLITS}
    for name, found in splits.items():
        if not found:
            raise DataError(f"{path}: expected rows for the split {name}, found none: add some")
    classes = sorted({label for _, _, label in splits["train"]})
    for line, _, label in rows:
        if label not in classes:
            problem = f"{label!r} in val or test alone"
            raise DataError(f"{path}:{line}: expected each class in train too, found {problem}")
    if len(classes) < 2:
        raise DataError(f"{path}: expected two classes or more, found only {classes[0]!r}")
    columns = {name: list(zip(*found, strict=True)) for name, found in splits.items()}
    return {name: CustomDataset(c[1], c[2]) for name, c in columns.items()}, classes


def split_of(text: str) -> str:
    """train, val or test (80/10/10) by a hash of the text, which stays when rows are added."""
    bucket = zlib.crc32(normalize(text).encode()) % 10
    return SPLITS[max(0, bucket - 7)]


def normalize(text: str) -> str:
    return " ".join(text.casefold().split())  # these count neither for the split nor the model


def _read_csv(path: Path) -> Iterator[tuple[int, str, str]]:
    # Line, text and label of each row; blank lines are skipped, all else that is odd is an error.
    line = 1
    try:
        file = io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")
        reader = csv.DictReader(file, strict=True)
        columns = reader.fieldnames or ["an empty file"]
        if not {"text", "label"} <= set(columns):
            found = ", ".join(columns)
            raise DataError(f"{path}:1: expected the columns text and label, found {found}")
        for row in reader:
            line = reader.line_num
            if None in row or None in row.values():
                found = "more" if None in row else "fewer"
                raise DataError(f"{path}:{line}: expected {len(columns)} values, found {found}")
            text, label = row["text"], row["label"].strip()
            if not text.strip() or not label:
                raise DataError(f"{path}:{line}: expected a text and a label, found an empty one")
            yield line, text, label
    except OSError as error:
        raise DataError(f"{path}: expected a CSV file, found: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: expected UTF-8, found other bytes") from None
    except csv.Error as error:
        raise DataError(f"{path}:{line + 1}: expected CSV, found: {error}") from None


def _collate(batch: Any) -> Any:
    return default_collate(batch) if isinstance(batch, list) else batch  # from __getitems__
