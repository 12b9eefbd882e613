"""From a CSV file of texts and labels to batches of tensors. Works alone."""

# CustomDataset holds the texts, NgramEncoder turns one into a tensor, EncodedDataset holds them all
# as tensors, and Loader makes batches of any dataset, in an order that (seed, epoch) decides.

import csv
import io
import os
import random
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class DataConfig:
    path: str = "data/words.csv"  # CSV file in UTF-8, with the columns text and label
    batch_size: Annotated[int, 1] = 64  # samples in one step, over all its micro-batches
    num_workers: Annotated[int, 0] = 0  # processes that load batches; 0: the training process
    limit: Annotated[int, 0] = 0  # samples used of each split; 0: all
    features: Annotated[int, 1] = 4096  # buckets that n-grams are hashed into: size of an input
    ngram: Annotated[int, 1] = 5  # longest n-gram, in characters


class DataError(ValueError):
    exit_code = 2  # a mistake in the data, told as FILE:LINE: expected what, found what


class CustomDataset(Dataset[dict[str, str]]):
    """Texts and their labels, as a sequence of `{"Text": ..., "Class": ...}`."""

    def __init__(self, texts: Sequence[str], labels: Sequence[str]) -> None:
        if len(texts) != len(labels):
            raise ValueError(f"expected as many labels as texts, found {len(labels)}, {len(texts)}")
        self.texts, self.labels = texts, labels

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return CustomDataset(self.texts[index], self.labels[index])
        return {"Text": self.texts[index], "Class": self.labels[index]}


class NgramEncoder:
    """Which character n-grams a text has: (features,) uint8, with 1 in the bucket of each."""

    def __init__(self, config: DataConfig) -> None:
        self.features, self.ngram = config.features, config.ngram

    def __call__(self, text: str) -> torch.Tensor:
        text = f"<{normalize(text)}>"
        ngrams = {text[i : i + n] for n in range(1, self.ngram + 1) for i in range(len(text))}
        encoded = torch.zeros(self.features, dtype=torch.uint8)
        encoded[[zlib.crc32(ngram.encode()) % self.features for ngram in ngrams]] = 1
        return encoded


class EncodedDataset(TensorDataset):
    """A CustomDataset as tensors, each text encoded once: (size, features) and classes (size,)."""

    def __init__(self, dataset: CustomDataset, encode: NgramEncoder, classes: list[str]) -> None:
        targets = torch.tensor([classes.index(label) for label in dataset.labels])
        super().__init__(torch.stack([encode(text) for text in dataset.texts]), targets)

    def __getitems__(self, indices: list[int]) -> tuple[torch.Tensor, ...]:
        # A whole batch at once. torch.tensor of a list takes five times as long.
        rows = torch.frombuffer(array("q", indices), dtype=torch.int64)
        return tuple(tensor.index_select(0, rows) for tensor in self.tensors)


@dataclass
class Seeded(Dataset[Any]):
    """A dataset with random transforms: what they draw depends on (seed, epoch, index) alone."""

    dataset: Any

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int, int]) -> Any:
        import numpy

        number = zlib.crc32(b"%d %d %d" % key)
        for seed in (random.seed, numpy.random.seed, torch.default_generator.manual_seed):
            seed(number)
        return self.dataset[key[2]]


class Loader:
    """The batches of a dataset, shuffled by (seed, epoch), or in order without a seed."""

    def __init__(self, dataset: Any, config: DataConfig, seed: int | None = None) -> None:
        self.dataset, self.size, self.seed = dataset, len(dataset), seed
        self.batch_size, workers = config.batch_size, config.num_workers
        self.indices: list[Any] = []  # of the micro-batches still to come
        more: Any = {"collate_fn": _collate, "worker_init_fn": _leave_group, "num_workers": workers}
        more |= {"persistent_workers": workers > 0, "pin_memory": torch.cuda.is_available()}
        self.loader = DataLoader(dataset, batch_sampler=self.indices, **more)

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)  # steps in an epoch

    def steps(self, epoch: int = 0, start: int = 0, own: range = range(1)) -> Iterator[Any]:
        # Micro-batches with the counts of their samples, and the sum of all processes': each batch
        # is cut into `own.stop` shards, of which this process loads its own.
        order, counts, of, threads = self.order(epoch), [], own.stop, torch.get_num_threads()
        self.indices.clear()
        for first in range(start * self.batch_size, self.size, self.batch_size):
            batch = order[first : first + self.batch_size]
            parts = [batch[len(batch) * i // of : len(batch) * (i + 1) // of] for i in own]
            self.indices += [part or batch[:1] for part in parts]  # one for none, counted 0
            counts.append(([len(part) for part in parts], len(batch)))
        is_here = not (self.loader.num_workers or self.loader.pin_memory)
        batches = map(self.fetch, self.indices) if is_here else iter(self.loader)
        for step, total in counts:
            torch.set_num_threads(1)  # as workers do: bits can depend on it
            try:
                micro_batches = [(next(batches), count) for count in step]
            finally:
                torch.set_num_threads(threads)
            yield micro_batches, total

    def fetch(self, indices: list[Any]) -> Any:
        # What a DataLoader without workers does, in half the time.
        whole = getattr(self.dataset, "__getitems__", None)
        batch = whole(indices) if whole else [self.dataset[index] for index in indices]
        return self.loader.collate_fn(batch)

    def order(self, epoch: int) -> list[Any]:
        order: list[Any] = list(range(self.size))
        if self.seed is not None:
            generator = torch.Generator().manual_seed(zlib.crc32(b"%d %d" % (self.seed, epoch)))
            order = torch.randperm(self.size, generator=generator).tolist()
        is_seeded = isinstance(self.dataset, Seeded)
        return [(self.seed or 0, epoch, index) for index in order] if is_seeded else order


# EDIT HERE for other data: for each split a dataset of (input, target); the class names.
def build_datasets(config: DataConfig, root: Path) -> tuple[dict[str, EncodedDataset], list[str]]:
    splits, classes = load_data(root / config.path)
    encode, limit = NgramEncoder(config), config.limit or None
    datasets = {name: EncodedDataset(s[:limit], encode, classes) for name, s in splits.items()}
    return datasets, classes


def load_data(path: Path) -> tuple[dict[str, CustomDataset], list[str]]:
    """The samples of each split, and the names of the classes in the order of their indices."""
    rows = list(_read_csv(path))
    splits = {name: [row for row in rows if split_of(row[1]) == name] for name in SPLITS}
    classes = sorted({label for _, _, label in splits["train"]})
    for line, _, label in rows:
        if label not in classes:
            raise DataError(f"{path}:{line}: expected {label!r} in train too: add rows of it")
    if not all(splits.values()) or len(classes) < 2:
        found = [len(part) for part in splits.values()]
        raise DataError(f"{path}: expected rows in {SPLITS}, two classes, found {found}, {classes}")
    return {n: CustomDataset(*list(zip(*s, strict=True))[1:]) for n, s in splits.items()}, classes


def split_of(text: str) -> str:
    """train, val or test (80/10/10) by a hash of the text, which stays when rows are added."""
    return SPLITS[max(0, zlib.crc32(normalize(text).encode()) % 10 - 7)]


def normalize(text: str) -> str:
    return " ".join(text.casefold().split())  # these count neither for the split nor the model


def _read_csv(path: Path) -> Iterator[tuple[int, str, str]]:
    # Line, text and label of each row; blank lines are skipped, all else that is odd is an error.
    try:
        content = path.read_bytes().decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise DataError(f"{path}: expected a CSV file, found: {error.strerror}") from None
    table = csv.DictReader(io.StringIO(content, newline=""), strict=True)
    try:
        columns = list(table.fieldnames or [])
        if not columns.count("text") == columns.count("label") == 1:
            raise DataError(f"{path}:1: expected the columns text and label, found {columns}")
        for row in table:
            values = list(row.values())
            if None in row or None in values or not (row["text"].strip() and row["label"].strip()):
                raise DataError(f"{path}:{table.line_num}: expected {columns}, found {values}")
            "".join(values).encode()  # fails on what was not UTF-8
            yield table.line_num, row["text"], row["label"].strip()
    except (csv.Error, UnicodeEncodeError) as error:
        raise DataError(f"{path}:{table.reader.line_num}: expected CSV in UTF-8: {error}") from None


def _leave_group(_: int) -> None:
    getattr(os, "setpgrp", int)()  # a signal to the group of the run is not for its workers


def _collate(batch: Any) -> Any:
    return default_collate(batch) if isinstance(batch, list) else batch  # from __getitems__
