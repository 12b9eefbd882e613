"""Samples reach the model once an epoch, in an order that only the seed and the epoch decide."""

import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from {{ cookiecutter.__package_name }}.engine import loader as loader_module
from {{ cookiecutter.__package_name }}.engine.loader import (
    Loader,
    LoaderConfig,
    LoaderError,
    Seeded,
    WorkerError,
)

FORKED = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are not forked")


class Numbers(Dataset[Any]):
    """Sample i is (i, i); it has no `__getitems__`."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Any:
        return torch.tensor([float(index)]), torch.tensor(index)


class Pairs(Numbers):
    """Answers a whole batch with a list of its samples, as PyTorch's protocol has it."""

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [self[index] for index in indices]


class Collated(Numbers):
    """Answers a whole batch with a batch."""

    def __getitems__(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.tensor(indices)
        return rows[:, None].float(), rows


class WrongDataError(ValueError):
    """An error that is to be reported in one line."""

    exit_code = 2


class Wrong(Numbers):
    """Cannot load its samples."""

    def __getitem__(self, index: int) -> Any:
        raise WrongDataError(f"file {index}.png: cannot be read")


def batches(
    loader: Loader, epoch: int = 0, start: int = 0, shards: int = 1, mine: Sequence[int] = (0,)
) -> list[list[int]]:
    """The samples that count in each step."""
    steps = []
    for step in loader.steps_of_epoch(epoch, start, shards, mine):
        samples = [part.batch[1][: part.size].tolist() for part in step.micro_batches]
        steps.append(list(chain(*samples)))
    return steps


def test_every_sample_comes_once_an_epoch_and_the_last_batch_is_the_rest() -> None:
    loader = Loader(Numbers(10), LoaderConfig(batch_size=4), seed=1, shuffle=True)
    epochs = [batches(loader, epoch) for epoch in (0, 1, 0)]
    assert [len(batch) for batch in epochs[0]] == [4, 4, 2]
    assert len(loader) == 3
    for epoch in epochs:
        assert sorted(chain(*epoch)) == list(range(10))
    assert epochs[0] != epochs[1]
    assert epochs[0] == epochs[2]
    other = Loader(Numbers(10), LoaderConfig(batch_size=4), seed=2, shuffle=True)
    assert batches(other) != epochs[0]
    assert batches(Loader(Numbers(5), LoaderConfig(batch_size=2))) == [[0, 1], [2, 3], [4]]


def test_an_epoch_can_be_entered_at_any_step() -> None:
    loader = Loader(Numbers(10), LoaderConfig(batch_size=3), seed=1, shuffle=True)
    for start in range(5):
        assert batches(loader, 2, start) == batches(loader, 2)[start:]


@pytest.mark.parametrize("shards", [1, 2, 3, 5])
def test_micro_batches_cut_a_step_in_order(shards: int) -> None:
    loader = Loader(Numbers(10), LoaderConfig(batch_size=4), seed=1, shuffle=True)
    assert batches(loader, 0, 0, shards, range(shards)) == batches(loader, 0)
    for step in loader.steps_of_epoch(0, 0, shards, range(shards)):
        assert len(step.micro_batches) == shards
        assert sum(part.size for part in step.micro_batches) == step.size
        assert all(len(part.batch[1]) >= 1 for part in step.micro_batches)  # some count 0


def test_a_step_has_the_size_of_the_micro_batches_of_all_processes() -> None:
    loader = Loader(Numbers(10), LoaderConfig(batch_size=4), seed=1, shuffle=True)
    steps = list(loader.steps_of_epoch(0, 0, shards=4, mine=[2, 3]))
    assert [step.size for step in steps] == [4, 4, 2]
    assert [sum(part.size for part in step.micro_batches) for step in steps] == [2, 2, 1]


def test_there_are_as_many_workers_as_the_option_says() -> None:
    for workers in (0, 2):
        loader = Loader(Numbers(10), LoaderConfig(num_workers=workers))
        assert loader.loader.num_workers == workers


def test_the_last_batch_is_dropped_in_training_alone() -> None:
    config = LoaderConfig(batch_size=4, drop_last=True)
    train = Loader(Numbers(10), config, seed=1, shuffle=True)
    assert [len(batch) for batch in batches(train)] == [4, 4]
    assert len(train) == 2
    val = Loader(Numbers(10), config)
    assert [len(batch) for batch in batches(val)] == [4, 4, 2]
    assert len(val) == 3
    assert len(Loader(Numbers(3), config, shuffle=True)) == 0


def test_a_limit_takes_a_sample_by_hash_in_order() -> None:
    loader = Loader(Numbers(1000), LoaderConfig(batch_size=50, limit=100))
    (first, second) = batches(loader)
    found = [*first, *second]
    assert loader.size == len(set(found)) == 100
    assert found == sorted(found)
    assert min(found) < 50 and max(found) > 950  # from everywhere, not the first rows
    halves = sum(index < 500 for index in found)
    assert 30 < halves < 70
    assert batches(Loader(Numbers(1000), LoaderConfig(batch_size=50, limit=100))) == [first, second]
    assert Loader(Numbers(7), LoaderConfig(limit=9)).size == 7
    assert Loader(Numbers(7), LoaderConfig(limit=1)).size == 1
    shuffled = Loader(Numbers(1000), LoaderConfig(batch_size=100, limit=100), shuffle=True)
    assert sorted(batches(shuffled)[0]) == found


# Groups that are drawn equally often.

GROUPS = [7] * 20 + [3] * 5 + [-1] + [4] * 11  # of the 37 samples


def balanced(groups: Sequence[int] = GROUPS, seed: int = 1, **options: Any) -> Loader:
    config = LoaderConfig(**{"batch_size": 4, **options})
    return Loader(Numbers(len(groups)), config, seed=seed, shuffle=True, groups=groups)


def counts_of_groups(drawn: Iterable[int], groups: Sequence[int] = GROUPS) -> list[int]:
    """How often each group was drawn."""
    counts = Counter(groups[index] for index in drawn)
    return [counts[group] for group in set(groups)]


def test_an_epoch_draws_from_each_group_equally_often_and_keeps_its_length() -> None:
    loader = balanced()
    for epoch in range(9):
        drawn = list(chain(*batches(loader, epoch)))
        assert len(drawn) == 37
        assert sorted(counts_of_groups(drawn)) == [9, 9, 9, 10]
    all_drawn = chain(*[chain(*batches(loader, epoch)) for epoch in range(9)])
    assert sorted(counts_of_groups(all_drawn)) == [83, 83, 83, 84]  # 9 * 37 draws


def test_no_sample_is_drawn_again_before_all_others_of_its_group() -> None:
    loader = balanced()
    times = Counter[int]()
    for epoch in range(7):
        drawn = Counter(chain(*batches(loader, epoch)))
        times.update(drawn)
        for counts in (drawn, times):  # in each epoch, and over all of them
            for group in set(GROUPS):
                mine = [counts[index] for index in range(37) if GROUPS[index] == group]
                assert max(mine) - min(mine) <= 1
    assert times[25] == 7 * 37 // 4 + 1  # the only sample of its group, whose turn comes first


def test_the_order_of_groups_depends_on_seed_and_epoch_alone() -> None:
    loader = balanced()
    epochs = [batches(loader, epoch) for epoch in (0, 1, 2)]
    assert epochs[0] != epochs[1] != epochs[2]
    assert [batches(balanced(), epoch) for epoch in (2, 1, 0)] == epochs[::-1]
    assert [sorted(batch) for batch in batches(balanced(seed=2))] != [
        sorted(batch) for batch in epochs[0]
    ]
    assert set(chain(*epochs[0])) != set(chain(*batches(balanced(seed=2))))
    groups = [[GROUPS[index] for index in chain(*epoch)] for epoch in epochs]
    assert groups[0] != sorted(groups[0])  # not one group after the other
    for start in range(11):
        assert batches(loader, 1, start) == epochs[1][start:]
    workers = balanced(num_workers=2)
    assert [batches(workers, epoch) for epoch in (0, 1, 2)] == epochs


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_shards_of_a_step_make_up_the_same_balanced_batches(shards: int) -> None:
    parts = [batches(balanced(), 3, 2, shards, [number]) for number in range(shards)]
    together = [list(chain(*step)) for step in zip(*parts, strict=True)]
    assert together == batches(balanced(), 3, 2)


def test_groups_are_balanced_in_what_a_limit_and_drop_last_leave() -> None:
    loader = balanced(limit=12)
    assert loader.size == 12
    kept = {GROUPS[index] for index in loader.indices.tolist()}
    assert 1 < len(kept) < 4
    drawn = list(chain(*batches(loader)))
    assert len(drawn) == 12 and set(drawn) <= set(loader.indices.tolist())
    assert set(counts_of_groups(drawn)) == {0, 12 // len(kept)}
    config = LoaderConfig(batch_size=8, drop_last=True)
    loader = Loader(Numbers(37), config, shuffle=True, groups=torch.tensor(GROUPS))
    for epoch in (0, 1):
        drawn = list(chain(*batches(loader, epoch)))
        assert sorted(counts_of_groups(drawn)) == [8, 8, 8, 8]


def test_groups_of_one_size_come_once_each_and_one_group_alone_is_no_matter() -> None:
    for groups in ([0, 1] * 10, [5] * 20):
        for epoch in (0, 1):
            drawn = chain(*batches(balanced(groups), epoch))
            assert sorted(drawn) == list(range(20))


def test_without_shuffling_groups_do_not_count() -> None:
    loader = Loader(Numbers(5), LoaderConfig(batch_size=2), groups=[0, 0, 0, 0, 1])
    assert loader.turns is None
    assert batches(loader) == [[0, 1], [2, 3], [4]]


def test_each_sample_needs_a_group() -> None:
    with pytest.raises(LoaderError, match="expected a group for each of 5 samples, found 2"):
        Loader(Numbers(5), LoaderConfig(), shuffle=True, groups=[0, 1])


def test_a_million_samples_in_groups_of_all_sizes_are_ordered_without_a_loop_over_them() -> None:
    draws = torch.arange(1_000_000)
    few = Loader(draws, LoaderConfig(), shuffle=True)
    for groups in (draws.sqrt().long(), (draws == 0).long()):
        loader = Loader(draws, LoaderConfig(), shuffle=True, groups=groups)
        started = time.process_time()
        few.order(1)
        usual = time.process_time() - started
        counts = groups[loader.order(1)].bincount()
        assert counts.max() - counts.min() <= 1
        assert time.process_time() - started < 20 * usual


def test_memory_is_pinned_only_where_there_is_cuda() -> None:
    assert Loader(Numbers(1), LoaderConfig()).loader.pin_memory is torch.cuda.is_available()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_is_the_one_that_a_dataloader_makes(workers: int) -> None:
    expected = str(list(DataLoader(Numbers(5), batch_size=2)))
    for dataset in (Numbers(5), Pairs(5), Collated(5)):
        loader = Loader(dataset, LoaderConfig(batch_size=2, num_workers=workers))
        steps = loader.steps_of_epoch()
        assert str([list(step.micro_batches[0].batch) for step in steps]) == expected


@pytest.mark.parametrize("workers", [0, 1])
def test_the_loader_collates_as_it_is_told(workers: int) -> None:
    loader = Loader(Numbers(4), LoaderConfig(batch_size=2, num_workers=workers), collate=len)
    assert [step.micro_batches[0].batch for step in loader.steps_of_epoch()] == [2, 2]


def test_the_first_batch_can_be_tried_without_workers() -> None:
    loader = Loader(Numbers(7), LoaderConfig(batch_size=3, num_workers=2))
    first = loader.first()
    ((batch, size),) = first.micro_batches
    assert (batch[1].tolist(), size, first.size) == ([0, 1, 2], 3, 3)


def test_the_first_micro_batch_can_be_tried_of_any_number_and_is_never_empty() -> None:
    loader = Loader(Numbers(7), LoaderConfig(batch_size=3))
    for shards, expected in ((2, [1, 2]), (3, [2]), (8, [2])):
        first = loader.first(shards)
        ((batch, size),) = first.micro_batches
        assert (batch[1].tolist(), size, first.size) == (expected, len(expected), len(expected))


def test_worker_processes_change_nothing() -> None:
    alone = Loader(Numbers(7), LoaderConfig(batch_size=2), seed=1, shuffle=True)
    for workers in (1, 2):
        config = LoaderConfig(batch_size=2, num_workers=workers)
        loader = Loader(Numbers(7), config, seed=1, shuffle=True)
        for epoch in (0, 1):
            assert batches(loader, epoch) == batches(alone, epoch)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_the_data_has_the_same_type_from_a_worker_and_ends_the_same(
    workers: int,
) -> None:
    loader = Loader(Wrong(4), LoaderConfig(batch_size=2, num_workers=workers))
    with pytest.raises(WrongDataError, match=r"file 0.png: cannot be read\s*$"):
        next(loader.steps_of_epoch())


class Drawn(Numbers):
    """Sample i is (i, random numbers of three kinds)."""

    def __getitem__(self, index: int) -> Any:
        numbers = [random.random(), float(numpy.random.random()), torch.rand(()).item()]
        return torch.tensor(index), torch.tensor(numbers, dtype=torch.float64)


def drawn(loader: Loader, epoch: int, start: int = 0) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for step in loader.steps_of_epoch(epoch, start):
        index, numbers = step.micro_batches[0].batch
        found |= dict(zip(index.tolist(), numbers.tolist(), strict=True))
    return found


def test_random_numbers_of_a_sample_depend_on_seed_epoch_and_index_alone() -> None:
    alone = Loader(Seeded(Drawn(10)), LoaderConfig(batch_size=4), seed=5, shuffle=True)
    config = LoaderConfig(batch_size=3, num_workers=2)
    workers = Loader(Seeded(Drawn(10)), config, seed=5, shuffle=True)
    epochs = [drawn(alone, epoch) for epoch in (0, 1)]
    assert [drawn(workers, epoch) for epoch in (0, 1)] == epochs  # workers that live on, too
    assert drawn(alone, 0) == epochs[0]
    late = drawn(alone, 1, start=2)
    assert late == {index: epochs[1][index] for index in late}
    assert len(late) == 2
    other = Loader(Seeded(Drawn(10)), LoaderConfig(batch_size=4), seed=6, shuffle=True)
    samples = [*epochs[0].values(), *epochs[1].values(), *drawn(other, 0).values()]
    for kind in zip(*samples, strict=True):
        assert len(set(kind)) == 30  # none repeats another, within an epoch or between two


def test_a_sample_that_is_repeated_gets_other_random_numbers_each_time() -> None:
    def load(workers: int, start: int = 0) -> list[tuple[int, float]]:
        config = LoaderConfig(batch_size=4, num_workers=workers)
        groups = [0] * 9 + [1]
        loader = Loader(Seeded(Drawn(10)), config, seed=5, shuffle=True, groups=groups)
        found = []
        for step in loader.steps_of_epoch(epoch=1, start=start):
            index, numbers = step.micro_batches[0].batch
            found += list(zip(index.tolist(), numbers[:, 0].tolist(), strict=True))
        return found

    alone = load(workers=0)
    assert Counter(index for index, _ in alone)[9] == 5
    assert len({number for _, number in alone}) == 10
    assert load(workers=2) == alone
    assert load(workers=0, start=1) == alone[4:]


@FORKED
@pytest.mark.parametrize("batch", ["tensor", "inside"])
def test_memory_that_workers_do_not_get_is_an_error_of_one_line_and_no_wait(
    batch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: torch.Tensor) -> None:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2>: No space")

    def collate(samples: list[Any]) -> Any:
        numbers = torch.cat([inputs for inputs, _ in samples])
        return {"inside": [(numbers,)]} if batch == "inside" else numbers

    monkeypatch.setattr(torch.Tensor, "share_memory_", fail)
    loader = Loader(Numbers(4), LoaderConfig(num_workers=1), collate=collate)
    with pytest.raises(WorkerError) as caught:
        next(loader.steps_of_epoch())
    text = str(caught.value)
    assert text.startswith("loader.num_workers: unable to allocate shared memory(shm) for file ")
    assert "\n" not in text
    assert text.endswith("; 0 loads in the training process")
    assert caught.value.exit_code == 1


@FORKED
def test_an_error_of_a_dataset_stays_itself_wherever_its_code_is() -> None:
    class Broken(Numbers):
        def __getitem__(self, index: int) -> Any:
            raise RuntimeError("in /home/me/torch_project/data.py")

    loader = Loader(Broken(4), LoaderConfig(num_workers=1))
    with pytest.raises(RuntimeError, match="torch_project") as caught:
        next(loader.steps_of_epoch())
    assert not isinstance(caught.value, WorkerError)


@FORKED
def test_a_system_without_what_workers_share_is_an_error_of_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("multiprocessing.synchronize.SemLock._make_name", fail)
    loader = Loader(Numbers(4), LoaderConfig(num_workers=1))
    with pytest.raises(WorkerError, match=r"loader\.num_workers: \[Errno 30\] Read-only file"):
        next(loader.steps_of_epoch())


def test_threads_of_a_process_group_get_time_before_workers_are_forked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(loader_module, "time", SimpleNamespace(sleep=waited.append))
    found = []
    for version in ((3, 11), (3, 12)):
        monkeypatch.setattr(loader_module, "sys", SimpleNamespace(version_info=version))
        for has_group in (False, True):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("torch.distributed.is_initialized", lambda: has_group)  # noqa: B023
                loader_module._wait_for_threads()
            found.append(len(waited))
    assert found == [0, 1, 1, 1]
    monkeypatch.setattr(loader_module, "_wait_for_threads", lambda: waited.append(2.0))
    loader = Loader(Numbers(2), LoaderConfig(num_workers=1))
    for epoch in (0, 1):
        list(loader.steps_of_epoch(epoch))
    assert waited == [0.1, 2.0]  # once, since the workers live on


@FORKED
def test_a_worker_that_dies_is_an_error_of_one_line() -> None:
    class Deadly(Numbers):
        def __getitem__(self, index: int) -> int:
            os._exit(7)

    loader = Loader(Deadly(4), LoaderConfig(num_workers=1))
    with pytest.raises(WorkerError, match=r"DataLoader worker \(pid\(s\) \d+\) exited unexpect"):
        next(loader.steps_of_epoch())


@FORKED
def test_a_batch_that_cannot_be_sent_is_an_error_and_no_wait() -> None:
    loader = Loader(Numbers(4), LoaderConfig(num_workers=1), collate=lambda _: lambda: 0)
    with pytest.raises(Exception, match=r"(?i)pickle"):
        next(loader.steps_of_epoch())


@pytest.mark.parametrize("workers", [0, 1])
def test_samples_are_loaded_with_one_thread_and_training_keeps_its_own(workers: int) -> None:
    class Threads(Numbers):
        def __getitem__(self, index: int) -> Any:
            return torch.tensor(torch.get_num_threads()), torch.tensor(index)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    loader = Loader(Threads(4), LoaderConfig(batch_size=2, num_workers=workers))
    for step in loader.steps_of_epoch():
        assert step.micro_batches[0].batch[0].tolist() == [1, 1]
        assert torch.get_num_threads() == 2
    with pytest.raises(WrongDataError):
        next(Loader(Wrong(4), LoaderConfig(num_workers=workers)).steps_of_epoch())
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_workers_live_on_from_epoch_to_epoch() -> None:
    class Processes(Numbers):
        def __getitem__(self, index: int) -> Any:
            return os.getpid()

    loader = Loader(Processes(2), LoaderConfig(num_workers=1))
    found = set()
    for epoch in (0, 1):
        for step in loader.steps_of_epoch(epoch):
            found |= set(step.micro_batches[0].batch.tolist())
    assert len(found) == 1
    assert os.getpid() not in found


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no process groups")
def test_a_worker_has_a_process_group_of_its_own() -> None:
    class Groups(Numbers):
        def __getitem__(self, index: int) -> Any:
            return torch.tensor(os.getpgrp()), torch.tensor(os.getpid())

    loader = Loader(Groups(2), LoaderConfig(num_workers=1))
    group, process = next(loader.steps_of_epoch()).micro_batches[0].batch
    assert group[0] == process[0]
    assert group[0] != os.getpgrp()


def test_a_dataset_without_a_length_is_refused_in_one_line() -> None:
    class Stream(IterableDataset[int]):
        def __iter__(self) -> Iterator[int]:
            return iter(range(3))

    with pytest.raises(LoaderError, match=r"Stream has no length: .* use a dataset with __len__"):
        Loader(Stream(), LoaderConfig(num_workers=2))
