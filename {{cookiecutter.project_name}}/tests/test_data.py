"""Samples reach the model once an epoch, in a known order, and none crosses from test to train."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from {{ cookiecutter.__package_name }} import data
from {{ cookiecutter.__package_name }}.data import (
    CustomDataset,
    DataConfig,
    Loader,
    Seeded,
)

WORDS = Path(__file__).parents[1] / "data" / "words.csv"
TEXTS = ["Happy", "Amazing", "Sad", "Unhappy", "Glum"]
NONE = "found [0, 0, 0], []"
COLUMNS = "expected the columns text and label, found "
CSV = "expected CSV in UTF-8: "
CODEC = "'utf-8' codec can't encode character '\\udcff' in position 1: surrogates not allowed"
ROW = "expected ['text', 'label'], found "
LABELS = ["Positive", "Positive", "Negative", "Negative", "Negative"]


class Numbers(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Sample i is (i, i); it has no `__getitems__`."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor([float(index)]), torch.tensor(index)


def batches(
    loader: Loader, epoch: int = 0, start: int = 0, own: range = range(1)
) -> list[list[int]]:
    steps = loader.steps(epoch, start, own)
    return [[i for batch, n in step for i in batch[1][:n].tolist()] for step, _ in steps]


def test_the_dataset_of_the_notes() -> None:
    dataset = CustomDataset(TEXTS, LABELS)
    batch = next(iter(DataLoader(dataset, batch_size=2, shuffle=False)))
    assert batch == {"Text": ["Happy", "Amazing"], "Class": ["Positive", "Positive"]}


def test_a_dataset_is_a_sequence() -> None:
    dataset: Any = CustomDataset(TEXTS, LABELS)
    assert len(dataset) == 5
    assert dataset[-1] == {"Text": "Glum", "Class": "Negative"}
    assert [sample["Text"] for sample in dataset] == TEXTS
    assert {"Text": "Sad", "Class": "Negative"} in dataset
    assert {"Text": "Sad", "Class": "Positive"} not in dataset
    part = dataset[1:4:2]
    assert isinstance(part, CustomDataset)
    assert [part[0], part[1]] == [dataset[1], dataset[3]]
    assert len(part) == 2
    for index in (5, -6):
        with pytest.raises(IndexError):
            dataset[index]
    with pytest.raises(ValueError, match="as many labels as texts, found 1, 5"):
        CustomDataset(TEXTS, LABELS[:1])


def test_an_encoded_text_marks_its_ngrams_whatever_its_case() -> None:
    encode = data.NgramEncoder(DataConfig(features=100_000, ngram=2))
    assert encode("Ab").sum() == len({"<", "a", "b", ">", "<a", "ab", "b>"})
    assert torch.equal(encode(" AB "), encode("ab"))
    assert not torch.equal(encode("ab"), encode("ba"))
    assert encode("ab").dtype == torch.uint8


def test_each_text_is_encoded_once() -> None:
    seen: list[str] = []

    class Counted(data.NgramEncoder):
        def __call__(self, text: str) -> torch.Tensor:
            seen.append(text)
            return super().__call__(text)

    texts, encode = CustomDataset(TEXTS, LABELS), Counted(DataConfig(features=8))
    dataset = data.EncodedDataset(texts, encode, sorted(set(LABELS)))
    loader = Loader(dataset, DataConfig(batch_size=2), seed=0)
    assert sorted(chain(*batches(loader, 0), *batches(loader, 1))) == [0] * 6 + [1] * 4
    assert seen == TEXTS


def test_a_batch_fetched_at_once_equals_its_samples() -> None:
    encode = data.NgramEncoder(DataConfig(features=50))
    dataset = data.EncodedDataset(CustomDataset(TEXTS, LABELS), encode, ["Negative", "Positive"])
    inputs, targets = dataset.__getitems__([3, 0])
    for row, index in enumerate((3, 0)):
        assert torch.equal(inputs[row], dataset[index][0])
        assert targets[row] == dataset[index][1]
    assert targets.tolist() == [0, 1]


def test_every_sample_comes_once_an_epoch_and_the_last_batch_is_the_rest() -> None:
    loader = Loader(Numbers(10), DataConfig(batch_size=4), seed=1)
    epochs = [batches(loader, epoch) for epoch in (0, 1, 0)]
    assert [len(batch) for batch in epochs[0]] == [4, 4, 2]
    assert len(loader) == 3
    for epoch in epochs:
        assert sorted(chain(*epoch)) == list(range(10))
    assert epochs[0] != epochs[1]
    assert epochs[0] == epochs[2]
    assert batches(Loader(Numbers(10), DataConfig(batch_size=4), seed=2)) != epochs[0]
    assert batches(Loader(Numbers(5), DataConfig(batch_size=2))) == [[0, 1], [2, 3], [4]]


def test_an_epoch_can_be_entered_at_any_step() -> None:
    loader = Loader(Numbers(10), DataConfig(batch_size=3), seed=1)
    for start in range(5):
        assert batches(loader, 2, start) == batches(loader, 2)[start:]


@pytest.mark.parametrize("accumulate", [1, 2, 3, 5])
def test_micro_batches_cut_a_step_in_order(accumulate: int) -> None:
    loader = Loader(Numbers(10), DataConfig(batch_size=4), seed=1)
    assert batches(loader, 0, 0, range(accumulate)) == batches(loader, 0)
    for micro_batches, total in loader.steps(0, 0, range(accumulate)):
        assert len(micro_batches) == accumulate
        assert sum(count for _, count in micro_batches) == total
        assert all(len(batch[1]) >= 1 for batch, _ in micro_batches)  # though it counts 0


def test_memory_is_pinned_only_where_there_is_cuda() -> None:
    assert Loader(Numbers(1), DataConfig()).loader.pin_memory is torch.cuda.is_available()


class Pairs(Numbers):
    """It answers a whole batch with a list of its samples, as PyTorch's protocol has it."""

    def __getitems__(self, indices: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [self[index] for index in indices]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_is_the_one_that_a_dataloader_makes(workers: int) -> None:
    texts = CustomDataset(TEXTS, LABELS)
    encoded = data.EncodedDataset(texts, data.NgramEncoder(DataConfig(features=8)), [*set(LABELS)])
    for dataset in (texts, Numbers(5), Pairs(5), TensorDataset(*encoded.tensors)):
        loader = Loader(dataset, DataConfig(batch_size=2, num_workers=workers))
        found = [batch for ((batch, _),), _ in loader.steps()]
        assert str(found) == str(list(DataLoader(dataset, batch_size=2)))
    options = DataConfig(batch_size=2, num_workers=workers)
    found = [batch for ((batch, _),), _ in Loader(encoded, options).steps()]
    plain = list(DataLoader(TensorDataset(*encoded.tensors), batch_size=2))
    assert str([[*batch] for batch in found]) == str(plain)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_loader_collates_as_it_is_told(workers: int) -> None:
    loader = Loader(Numbers(4), DataConfig(batch_size=2, num_workers=workers))
    loader.loader.collate_fn = len
    assert [batch for ((batch, _),), _ in loader.steps()] == [2, 2]


def test_worker_processes_change_nothing() -> None:
    alone = Loader(Numbers(7), DataConfig(batch_size=2), seed=1)
    for workers in (1, 2):
        loader = Loader(Numbers(7), DataConfig(batch_size=2, num_workers=workers), seed=1)
        for epoch in (0, 1):
            assert batches(loader, epoch) == batches(alone, epoch)


def test_a_row_stays_in_its_split_when_others_are_added(tmp_path: Path) -> None:
    before, _ = data.load_data(WORDS)
    rows = WORDS.read_text(encoding="utf-8").splitlines()
    extra = [f"word {i},Positive" for i in range(500)]
    more = tmp_path / "more.csv"
    more.write_text("\n".join([rows[0], *extra, *rows[1:]]), encoding="utf-8")
    after, _ = data.load_data(more)
    for split in data.SPLITS:
        assert set(before[split].texts) <= set(after[split].texts)
    assert sum(len(split) for split in after.values()) == 7_709


def test_no_test_row_reaches_the_training_set() -> None:
    splits, classes = data.load_data(WORDS)
    texts = {name: {data.normalize(text) for text in split.texts} for name, split in splits.items()}
    assert not texts["train"] & texts["test"]
    assert not texts["train"] & texts["val"]
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 5735,
        "val": 748,
        "test": 726,
    }
    assert classes == ["Negative", "Positive"]
    assert data.split_of("Happy") == data.split_of(" happy ")  # as the model sees them


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "FILE:1: " + COLUMNS + "[]"),
        (b"word,label\na,b\n", "FILE:1: " + COLUMNS + "['word', 'label']"),
        (b"text,label\n", "FILE: expected rows in ('train', 'val', 'test'), two classes, " + NONE),
        (b"text,label\na,b\nc,d,e\n", "FILE:3: " + ROW + "['c', 'd', ['e']]"),
        (b"text,label\na,b\n\nc\n", "FILE:4: " + ROW + "['c', None]"),
        (b"text,label\n  ,b\n", "FILE:2: " + ROW + "['  ', 'b']"),
        (b"text,label\na,\n", "FILE:2: " + ROW + "['a', '']"),
        (
            b"text,text,label\n",
            "FILE:1: " + COLUMNS + "['text', 'text', 'label']",
        ),
        (b"text,label\na,b\nc\xff,d\n", "FILE:3: " + CSV + CODEC),
        (
            b'text,label\na,b\n"c,d\n',
            "FILE:3: " + CSV + "unexpected end of data",
        ),
    ],
)
def test_bad_data_is_told_with_its_line(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "d.csv"
    path.write_bytes(content)
    with pytest.raises(data.DataError) as caught:
        data.load_data(path)
    assert str(caught.value).replace(str(path), "FILE") == told


def test_a_missing_file_and_missing_classes_are_told(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    with pytest.raises(data.DataError, match="expected a CSV file, found: No such file"):
        data.load_data(path)
    rows = [f"word {i},a" for i in range(50)]
    path.write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    with pytest.raises(data.DataError, match=r"two classes, found .*\['a'\]"):
        data.load_data(path)
    test_row = next(i for i in range(50) if data.split_of(f"word {i}") == "test")
    rows[test_row] = f"word {test_row},b"
    path.write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    with pytest.raises(data.DataError, match=f"csv:{test_row + 2}: expected 'b' in train too"):
        data.load_data(path)


def test_quotes_commas_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    rows = WORDS.read_text(encoding="utf-8").splitlines()[:200]
    path = tmp_path / "d.csv"
    lines = [rows[0], '"one, ""two""\nthree",Positive', *rows[1:]]
    path.write_text("\n".join(lines), encoding="utf-8-sig")
    splits, _ = data.load_data(path)
    texts = [text for split in splits.values() for text in split.texts]
    assert 'one, "two"\nthree' in texts


def test_limit_takes_the_first_of_each_split() -> None:
    datasets, _ = data.build_datasets(DataConfig(limit=7, features=8), WORDS.parents[1])
    assert [len(datasets[split]) for split in data.SPLITS] == [7, 7, 7]


def test_the_split_is_blind_to_what_the_model_does_not_see() -> None:
    for i in range(40):
        assert data.split_of(f"Stra\u00dfe {i}") == data.split_of(f" STRASSE  {i} ")


def test_white_space_around_a_label_is_no_part_of_it(tmp_path: Path) -> None:
    rows = [f"word {i},{' ' * (i % 3)}{'ab'[i % 2]} " for i in range(100)]
    path = tmp_path / "d.csv"
    path.write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    assert data.load_data(path)[1] == ["a", "b"]


@dataclass
class Drawn:
    """Sample i is (i, random numbers of three kinds)."""

    size: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        numbers = [random.random(), float(numpy.random.random()), torch.rand(()).item()]
        return torch.tensor(index), torch.tensor(numbers, dtype=torch.float64)


def drawn(loader: Loader, epoch: int, start: int = 0) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for micro_batches, _ in loader.steps(epoch, start):
        for (index, numbers), _ in micro_batches:
            found |= dict(zip(index.tolist(), numbers.tolist(), strict=True))
    return found


def test_random_numbers_of_a_sample_depend_on_seed_epoch_and_index_alone() -> None:
    config, workers = DataConfig(batch_size=4), DataConfig(batch_size=3, num_workers=2)
    one, two = (Loader(Seeded(Drawn(10)), options, seed=5) for options in (config, workers))
    epochs = [drawn(one, epoch) for epoch in (0, 1)]
    assert [drawn(two, epoch) for epoch in (0, 1)] == epochs  # workers that live on, too
    assert drawn(one, 0) == epochs[0]
    late = drawn(one, 1, start=2)
    assert late == {index: epochs[1][index] for index in late}
    assert len(late) == 2
    others = drawn(Loader(Seeded(Drawn(10)), config, seed=6), 0)
    samples = [*epochs[0].values(), *epochs[1].values(), *others.values()]
    for kind in zip(*samples, strict=True):
        assert len(set(kind)) == 30  # none repeats another, within an epoch or between two


def test_validation_is_the_same_each_time_and_gets_nothing_of_the_training_set() -> None:
    val = Loader(Seeded(Drawn(5)), DataConfig(batch_size=2))
    assert drawn(val, 0) == drawn(val, 0)
    datasets, _ = data.build_datasets(DataConfig(limit=5, features=8), WORDS.parents[1])
    before = [inputs.clone() for inputs, _ in (datasets["val"][i] for i in range(5))]
    augmented = Loader(Seeded(datasets["train"]), DataConfig(), seed=0)
    for micro_batches, _ in augmented.steps():
        micro_batches[0][0][0].add_(1)
    for inputs, i in zip(before, range(5), strict=True):
        assert torch.equal(inputs, datasets["val"][i][0])


@pytest.mark.parametrize("workers", [0, 1])
def test_samples_are_fetched_with_one_thread_and_training_keeps_its_own(workers: int) -> None:
    class Threads(Numbers):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.tensor(torch.get_num_threads()), torch.tensor(index)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    loader = Loader(Threads(4), DataConfig(batch_size=2, num_workers=workers))
    for micro_batches, _ in loader.steps():
        assert micro_batches[0][0][0].tolist() == [1, 1]
        assert torch.get_num_threads() == 2

    class Broken(Numbers):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            raise KeyError(index)

    with pytest.raises(KeyError):
        next(iter(Loader(Broken(4), DataConfig(num_workers=workers)).steps()))
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_a_dataset_without_indices_is_refused_before_workers_repeat_it() -> None:
    class Stream(IterableDataset[int]):
        def __len__(self) -> int:
            return 3

        def __iter__(self) -> Iterator[int]:
            return iter(range(3))

    with pytest.raises(ValueError, match="DataLoader with IterableDataset"):  # PyTorch's own
        Loader(Stream(), DataConfig(num_workers=2))
