"""Batches of a dataset, in an order that only the seed and the epoch decide. Works alone.

    loader = Loader(dataset, LoaderConfig(batch_size=32), seed=0, shuffle=True)
    for step in loader.steps_of_epoch(epoch=0):
        for batch, size in step.micro_batches:
            ...

Since the order is a function of (seed, epoch), a run can continue at any step of any epoch, and no
state has to be saved for it. A batch is always one of all processes together: it is cut into shards
of almost equal size, and each process loads its own shards only.
"""

import math
import os
import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

Collate = Callable[[list[Any]], Any]
"""Makes a batch of a list of samples."""


@dataclass(frozen=True)
class LoaderConfig:
    """Options of how samples become batches."""

    batch_size: Annotated[int, 1] = 64
    """samples per step, over all micro-batches and processes"""
    num_workers: Annotated[int, 0] = 0
    """worker processes that load batches (0: load in the training process)"""
    limit: Annotated[int, 0] = 0
    """use only this many samples of each split, chosen by a hash (0: all)"""
    drop_last: bool = False
    """in training, leave out the last batch of an epoch if it is smaller than the others"""


class LoaderError(ValueError):
    """A dataset that batches cannot be made of."""

    exit_code = 2


class MicroBatch(NamedTuple):
    """A part of a step's batch that goes through the model at once."""

    batch: Any
    """what `collate` made of the samples"""
    size: int
    """number of samples; 0: one sample of the batch stands in for an empty micro-batch"""


class Step(NamedTuple):
    """What one optimizer step is made from."""

    micro_batches: list[MicroBatch]
    """those of this process"""
    size: int
    """number of samples in the micro-batches of all processes"""


@dataclass
class Seeded(Dataset[Any]):
    """A dataset with random transforms, made reproducible.

    Before a sample is made, the random numbers of torch, NumPy and `random` are seeded by a hash of
    (seed, epoch, index). So they differ from epoch to epoch, and depend neither on the number of
    workers nor on where a run was interrupted. Put it around the dataset of the training split.
    """

    dataset: Any

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int, int]) -> Any:
        import numpy

        seed, epoch, index = key
        number = zlib.crc32(f"{seed} {epoch} {index}".encode())
        random.seed(number)
        numpy.random.seed(number)
        torch.default_generator.manual_seed(number)
        return self.dataset[index]


class Loader:
    """The batches of a dataset.

    Args:
        dataset: anything with a length and `dataset[index]`; it may have `__getitems__`, which gets
            a list of indices and returns a list of samples, or a batch that is collated already.
        config: the options.
        seed: decides, with the epoch, the order and the random numbers of a `Seeded` dataset.
        shuffle: whether an epoch has an order of its own; for training.
        collate: makes a batch of a list of samples; None: torch's `default_collate`.

    Raises LoaderError for a dataset without a length.
    """

    def __init__(
        self,
        dataset: Any,
        config: LoaderConfig,
        *,
        seed: int = 0,
        shuffle: bool = False,
        collate: Collate | None = None,
    ) -> None:
        if not hasattr(dataset, "__len__"):
            raise LoaderError(
                f"{type(dataset).__name__} has no length: the order of samples, and where to "
                "continue, are computed from it; use a dataset with __len__ and __getitem__"
            )
        self.dataset = dataset
        self.seed = seed
        self.shuffle = shuffle
        self.batch_size = config.batch_size
        self.drop_last = config.drop_last and shuffle
        self.indices = _sample(len(dataset), config.limit)
        self.size = len(self.indices)
        self.collate = _CollateUnlessCollated(collate or default_collate)
        # The indices of each batch. The DataLoader has this very list, which each epoch refills.
        self.plan: list[list[Any]] = []
        self.loader = DataLoader(
            dataset,
            batch_sampler=self.plan,
            collate_fn=self.collate,
            num_workers=config.num_workers,
            worker_init_fn=_leave_process_group,
            persistent_workers=config.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def __len__(self) -> int:
        """The number of steps in an epoch."""
        return math.ceil(self._end() / self.batch_size)

    def steps_of_epoch(
        self, epoch: int = 0, start: int = 0, shards: int = 1, mine: Sequence[int] = (0,)
    ) -> Iterator[Step]:
        """The steps of an epoch, from step `start` on.

        Each batch is cut into `shards`, of which this process loads those whose numbers are in
        `mine`. An empty shard gets the first sample of the batch, and the size 0.
        """
        order = self.order(epoch)
        self.plan.clear()
        # Of each step, the sizes of the micro-batches here, and of all of them together.
        sizes_of_steps: list[tuple[list[int], int]] = []
        for first in range(start * self.batch_size, self._end(), self.batch_size):
            batch = order[first : first + self.batch_size]
            parts = [_shard(batch, number, shards) for number in mine]
            self.plan += [part or batch[:1] for part in parts]
            sizes_of_steps.append(([len(part) for part in parts], len(batch)))
        has_workers = self.loader.num_workers > 0
        batches = iter(self.loader) if has_workers else map(self.load, self.plan)
        for sizes, size in sizes_of_steps:
            yield Step([MicroBatch(next(batches), part) for part in sizes], size)

    def first(self) -> Any:
        """The first step, loaded in this process; to try it before workers are started."""
        indices = self.order(epoch=0)[: self.batch_size]
        return Step([MicroBatch(self.load(indices), len(indices))], len(indices))

    def load(self, indices: list[Any]) -> Any:
        """Load a batch in this process.

        It is loaded with one thread, as workers do, since the bits of a result can depend on it.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            if hasattr(self.dataset, "__getitems__"):
                return self.collate(self.dataset.__getitems__(indices))
            return self.collate([self.dataset[index] for index in indices])
        finally:
            torch.set_num_threads(threads)

    def order(self, epoch: int) -> list[Any]:
        """What the dataset is asked for in an epoch: indices, or (seed, epoch, index) if Seeded."""
        indices = self.indices
        if self.shuffle:
            generator = torch.Generator()
            generator.manual_seed(zlib.crc32(f"{self.seed} {epoch}".encode()))
            indices = indices[torch.randperm(self.size, generator=generator)]
        order = indices.tolist()
        if isinstance(self.dataset, Seeded):
            return [(self.seed, epoch, index) for index in order]
        return order

    def _end(self) -> int:
        """How many samples of the order are used."""
        rest = self.size % self.batch_size if self.drop_last else 0
        return self.size - rest


@dataclass
class _CollateUnlessCollated:
    """Makes a batch of a list of samples; what `__getitems__` has collated is a batch already."""

    collate: Collate

    def __call__(self, samples: Any) -> Any:
        return self.collate(samples) if isinstance(samples, list) else samples


def _sample(size: int, limit: int) -> torch.Tensor:
    """At most `limit` of the indices (0: all), in order, chosen by a hash of the index."""
    if limit == 0:
        return torch.arange(size)
    by_hash = sorted(range(size), key=lambda index: zlib.crc32(str(index).encode()))
    return torch.tensor(sorted(by_hash[:limit]))


def _shard(batch: list[Any], number: int, shards: int) -> list[Any]:
    """One of `shards` parts of a batch, whose sizes differ by at most one."""
    first = len(batch) * number // shards
    end = len(batch) * (number + 1) // shards
    return batch[first:end]


def _leave_process_group(_: int) -> None:
    """Keep a worker out of the group of the run, so that a signal to the group spares it."""
    if hasattr(os, "setpgrp"):  # not on Windows
        os.setpgrp()
