"""Samples reach the model once an epoch, in a known order, and none crosses from test to train."""

from itertools import chain
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from {{ cookiecutter.__package_name }} import data
from {{ cookiecutter.__package_name }}.data import (
    CustomDataset,
    DataConfig,
    Loader,
)

WORDS = Path(__file__).parents[1] / "data" / "words.csv"
TEXTS = ["Happy", "Amazing", "Sad", "Unhappy", "Glum"]
LABELS = ["Positive", "Positive", "Negative", "Negative", "Negative"]


class Numbers(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Sample i is (i, i); it has no `__getitems__`."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor([float(index)]), torch.tensor(index)


def batches(loader: Loader, epoch: int = 0, start: int = 0, accumulate: int = 1) -> list[list[int]]:
    steps = loader.steps(epoch, start, accumulate)
    return [[i for batch, n in step for i in batch[1][:n].tolist()] for step, _ in steps]


def test_the_dataset_of_the_notes() -> None:
    dataset = CustomDataset(TEXTS, LABELS)
    batch = next(iter(DataLoader(dataset, batch_size=2, shuffle=False)))
    assert batch == {"Text": ["Happy", "Amazing"], "Class": ["Positive", "Positive"]}


def test_a_dataset_is_a_sequence() -> None:
    dataset = CustomDataset(TEXTS, LABELS)
    assert len(dataset) == 5
    assert dataset[-1] == {"Text": "Glum", "Class": "Negative"}
    assert [sample["Text"] for sample in dataset] == TEXTS
    assert {"Text": "Sad", "Class": "Negative"} in dataset
    assert {"Text": "Sad", "Class": "Positive"} not in dataset
    part = dataset[1:4:2]
    assert isinstance(part, CustomDataset)
    assert list(part) == [dataset[1], dataset[3]]
    for index in (5, -6):
        with pytest.raises(IndexError):
            dataset[index]
    with pytest.raises(ValueError, match="a label for each text, found 5 texts and 1 labels"):
        CustomDataset(TEXTS, LABELS[:1])


def test_an_encoded_text_marks_its_ngrams_whatever_its_case() -> None:
    encode = data.NgramEncoder(DataConfig(features=100_000, ngram=2))
    assert encode("Ab").sum() == len({"<", "a", "b", ">", "<a", "ab", "b>"})
    assert torch.equal(encode(" AB "), encode("ab"))
    assert not torch.equal(encode("ab"), encode("ba"))
    assert encode("ab").dtype == torch.uint8


def test_each_text_is_encoded_once() -> None:
    seen: list[str] = []

    def encode(text: str) -> torch.Tensor:
        seen.append(text)
        return torch.zeros(1)

    dataset = data.EncodedDataset(CustomDataset(TEXTS, LABELS), encode, sorted(set(LABELS)))
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
    assert batches(loader, 0, 0, accumulate) == batches(loader, 0)
    for micro_batches, total in loader.steps(0, 0, accumulate):
        assert len(micro_batches) == accumulate
        assert sum(count for _, count in micro_batches) == total
        assert all(len(batch[1]) >= 1 for batch, _ in micro_batches)  # though it counts 0


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
        (b"", "FILE:1: expected the columns text and label, found an empty file"),
        (b"word,label\na,b\n", "FILE:1: expected the columns text and label, found word, label"),
        (b"text,label\n", "FILE: expected rows for the split train, found none: add some"),
        (b"text,label\na,b\nc,d,e\n", "FILE:3: expected 2 values, found more"),
        (b"text,label\na,b\n\nc\n", "FILE:4: expected 2 values, found fewer"),
        (b"text,label\n  ,b\n", "FILE:2: expected a text and a label, found an empty one"),
        (b"text,label\na,\n", "FILE:2: expected a text and a label, found an empty one"),
        (b"text,label\na,b\nc\xff,d\n", "FILE:3: expected UTF-8, found other bytes"),
        (b'text,label\na,b\n"c,d\n', "FILE:3: expected CSV, found: unexpected end of data"),
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
    with pytest.raises(data.DataError, match="expected two classes or more, found only 'a'"):
        data.load_data(path)
    test_row = next(i for i in range(50) if data.split_of(f"word {i}") == "test")
    rows[test_row] = f"word {test_row},b"
    path.write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    with pytest.raises(data.DataError, match=f"{path.name}:{test_row + 2}: .* 'b' in val or test"):
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


@pytest.mark.parametrize("key", ["batch_size", "num_workers", "limit", "features", "ngram"])
def test_options_have_bounds(key: str) -> None:
    least = 0 if key in ("num_workers", "limit") else 1
    with pytest.raises(ValueError, match=f"{key}: expected at least {least}, found {least - 1}"):
        DataConfig(**{key: least - 1})  # type: ignore[arg-type]
