"""Batches of a dataset, in an order that only the seed and the epoch decide. Works alone.

    loader = Loader(dataset, LoaderConfig(batch_size=32), seed=0, shuffle=True)
    for step in loader.steps_of_epoch(epoch=0):
        for batch, size in step.micro_batches:
            ...

With `groups`, a number for each sample, an epoch draws from all groups equally often.

Since the order is a function of (seed, epoch), a run can continue at any step of any epoch, and no
state has to be saved for it. A batch is always one of all processes together: it is cut into shards
of almost equal size, and each process loads its own shards only.
"""

import io
import math
import multiprocessing
import os
import pickle
import random
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Annotated, Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

SECONDS_BEFORE_FORK = 0.1

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


class WorkerError(RuntimeError):
    """Worker processes cannot start, or do not get the memory that they share batches in."""

    exit_code = 1


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

    With `groups`, an index has one more number beside it: which time the epoch draws this sample.
    """

    dataset: Any

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, ...]) -> Any:
        import numpy

        _, _, index, *_ = key
        number = zlib.crc32(" ".join(map(str, key)).encode())
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
        groups: a number for each sample, if an epoch is to draw from all groups equally often; the
            length of an epoch stays. Samples of a small group are repeated, and some of a large one
            have their turn in a later epoch: none a second time before all others of its group.
            Without `shuffle`, groups are ignored.

    Raises LoaderError for a dataset without a length, or with another one than `groups`.
    """

    def __init__(
        self,
        dataset: Any,
        config: LoaderConfig,
        *,
        seed: int = 0,
        shuffle: bool = False,
        collate: Collate | None = None,
        groups: Sequence[int] | torch.Tensor | None = None,
    ) -> None:
        _check(dataset, groups)
        self.dataset = dataset
        self.seed = seed
        self.shuffle = shuffle
        self.batch_size = config.batch_size
        self.drop_last = config.drop_last and shuffle
        self.indices = _sample(len(dataset), config.limit)
        self.size = len(self.indices)
        self.turns: Turns | None = None
        if shuffle and groups is not None:
            self.turns = Turns(torch.as_tensor(groups)[self.indices], seed)
        self.collate = _CollateUnlessCollated(collate or default_collate)
        # The indices of each batch. The DataLoader has this very list, which each epoch refills.
        self.plan: list[list[Any]] = []
        self.has_workers = False  # they start when they are needed, and live on
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
        uses_workers = self.loader.num_workers > 0
        batches = self.load_in_workers() if uses_workers else map(self.load, self.plan)
        for sizes, size in sizes_of_steps:
            yield Step([MicroBatch(next(batches), part) for part in sizes], size)

    def first(self, shards: int = 1) -> Any:
        """A micro-batch of the first step, as a step of its own, loaded in this process.

        It is for trying whether all fits together, before workers are started.
        """
        batch = self.order(epoch=0)[: self.batch_size]
        indices = _shard(batch, shards - 1, shards)  # the last one is never empty
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

    def load_in_workers(self) -> Iterator[Any]:
        """Load the batches of the plan in worker processes.

        Raises WorkerError for what is wrong with the workers; an error of the dataset stays itself.
        """
        if not self.has_workers:
            _wait_for_threads()
            self.has_workers = True
        try:
            multiprocessing.Lock()  # where the system has no locks, this fails before workers start
            yield from self.loader
        except (OSError, RuntimeError) as error:
            # torch reports an error of the dataset in these words. A file named </torch_...> is
            # shared memory: then it was that which failed.
            text = str(error).strip()
            if "in DataLoader worker process" in text and "file </torch_" not in text:
                raise
            reason = text.rpartition("RuntimeError: ")[2]
            raise WorkerError(
                f"loader.num_workers: {reason}; workers need shared memory, such as that of "
                "docker run --shm-size=2g; 0 loads in the training process"
            ) from error

    def order(self, epoch: int) -> list[Any]:
        """What the dataset is asked for in an epoch: indices, or the keys of a Seeded dataset."""
        draws = [self.indices]
        if self.turns:
            size = self._end()
            places, times = self.turns.draw(epoch * size, (epoch + 1) * size)
            draws = [self.indices[places], times]
        if self.shuffle:
            generator = torch.Generator()
            generator.manual_seed(zlib.crc32(f"{self.seed} {epoch}".encode()))
            shuffled = torch.randperm(len(draws[0]), generator=generator)
            draws = [part[shuffled] for part in draws]
        columns: list[Any] = [part.tolist() for part in draws]
        if isinstance(self.dataset, Seeded):
            return list(zip(repeat(self.seed), repeat(epoch), *columns, strict=False))
        order: list[int] = columns[0]
        return order

    def _end(self) -> int:
        """How many samples of the order are used."""
        rest = self.size % self.batch_size if self.drop_last else 0
        return self.size - rest


class Turns:
    """Draws of samples in which it is the turn of one group after the other.

    Draws are numbered over all epochs: draw i is of group i modulo the number of groups. Each group
    has an order of its own, in which its samples are drawn again and again.

    Args:
        groups: a number for each sample.
        seed: decides on the order of the samples of a group.
    """

    def __init__(self, groups: torch.Tensor, seed: int) -> None:
        _, self.groups, sizes = torch.unique(groups, return_inverse=True, return_counts=True)
        self.count = len(sizes)
        self.sizes = sizes[self.groups]  # (samples,): the size of the group of each sample
        generator = torch.Generator()
        generator.manual_seed(zlib.crc32(f"{seed}".encode()))
        shuffled = torch.randperm(len(groups), generator=generator)
        by_group = shuffled[self.groups[shuffled].argsort(stable=True)]
        first = sizes.cumsum(dim=0) - sizes  # (groups,): where each group begins in this order
        self.places = torch.empty_like(by_group)  # (samples,): the place of each in its group
        self.places[by_group] = torch.arange(len(groups)) - first[self.groups[by_group]]

    def draw(self, start: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The samples of the draws from `start` up to `end`, (draws,), in the order of samples;
        and which time each of them is drawn here, (draws,), from 0."""
        counts = self._drawn_before(end) - self._drawn_before(start)  # (samples,)
        samples = torch.arange(len(counts)).repeat_interleave(counts)
        first = counts.cumsum(dim=0) - counts
        return samples, torch.arange(len(samples)) - first[samples]

    def _drawn_before(self, end: int) -> torch.Tensor:
        """How often each sample is among the first `end` draws, (samples,)."""
        draws_of_group = (end - 1 - self.groups) // self.count + 1
        counts: torch.Tensor = (draws_of_group - 1 - self.places) // self.sizes + 1
        return counts


@dataclass
class _CollateUnlessCollated:
    """Makes a batch of a list of samples; what `__getitems__` has collated is a batch already."""

    collate: Collate

    def __call__(self, samples: Any) -> Any:
        batch = self.collate(samples) if isinstance(samples, list) else samples
        if torch.utils.data.get_worker_info():
            # Here, what fails is an error. Where the worker sends a batch, torch would print it,
            # send nothing, and have training wait for ever.
            _Sharing(io.BytesIO()).dump(batch)
        return batch


class _Sharing(pickle.Pickler):
    """Moves the tensors of a batch to shared memory, and finds out whether it can be sent."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return NotImplemented
        if value.layout == torch.strided:
            value.share_memory_()  # type: ignore[no-untyped-call]
        return int, ()  # what is pickled here is sent nowhere


def _check(dataset: Any, groups: Any) -> None:
    """Refuse a dataset without a length, and groups of another number of samples."""
    if not hasattr(dataset, "__len__"):
        raise LoaderError(
            f"{type(dataset).__name__} has no length: the order of samples, and where to "
            "continue, are computed from it; use a dataset with __len__ and __getitem__"
        )
    if groups is not None and len(groups) != len(dataset):
        raise LoaderError(
            f"expected a group for each of {len(dataset)} samples, found {len(groups)}"
        )


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


def _wait_for_threads() -> None:
    """Let the threads of a process group finish what they do, before workers are forked.

    They free tensors of Python a moment after a sum over processes is there. A process that Python
    before 3.12 forks in that moment waits for ever.
    """
    if sys.version_info < (3, 12) and torch.distributed.is_initialized():
        time.sleep(SECONDS_BEFORE_FORK)


def _leave_process_group(_: int) -> None:
    """Keep a worker out of the group of the run, so that a signal to the group spares it."""
    if hasattr(os, "setpgrp"):  # not on Windows
        os.setpgrp()
