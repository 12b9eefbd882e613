"""A sample stays in its split; folds share out what is not in test, and leave test alone."""

from collections import Counter

import pytest

from {{ cookiecutter.__package_name }}.engine.split import (
    SPLITS,
    SplitError,
    assign,
    hash_of,
    split_columns,
    split_of,
)

KEYS = [f"key {number}" for number in range(3000)]
TEST = [key for key in KEYS if split_of(key) == "test"]


def test_without_folds_the_splits_are_80_10_10() -> None:
    counts = Counter(assign(KEYS))
    for split, expected in (("train", 2400), ("val", 300), ("test", 300)):
        assert abs(counts[split] - expected) < 60


def test_the_split_of_a_key_is_what_it_always_was() -> None:
    found = {key: split_of(key) for key in ("happy", "sad", "word 6", "word 8", "word 12", "")}
    assert found == {
        "happy": "test",
        "sad": "train",
        "word 6": "val",
        "word 8": "train",
        "word 12": "test",
        "": "train",
    }


@pytest.mark.parametrize("folds", [2, 3, 5, 10, 17])
def test_each_key_that_is_not_in_test_is_in_val_in_exactly_one_fold(folds: int) -> None:
    times: Counter[str] = Counter()
    for fold in range(folds):
        splits = dict(zip(KEYS, assign(KEYS, folds, fold), strict=True))
        assert [key for key in KEYS if splits[key] == "test"] == TEST
        val = [key for key in KEYS if splits[key] == "val"]
        size = (len(KEYS) - len(TEST)) / folds
        assert abs(len(val) - size) < 4 * size**0.5  # by chance, so about equally many
        times.update(val)
    assert times == Counter(dict.fromkeys(set(KEYS) - set(TEST), 1))


def test_a_key_stays_where_it_is_when_others_come_and_equal_ones_stay_together() -> None:
    before = assign(KEYS[:100], folds=3, fold=1)
    assert assign(KEYS[:100] * 2 + KEYS, folds=3, fold=1)[:200] == before * 2


def test_a_given_test_split_stays_and_folds_share_out_train_and_val() -> None:
    given = [SPLITS[number % 3] for number in range(len(KEYS))]
    assert assign(KEYS, given=given) == given
    times: Counter[str] = Counter()
    for fold in range(4):
        splits = assign(KEYS, 4, fold, given)
        assert [split == "test" for split in splits] == [split == "test" for split in given]
        times.update(key for key, split in zip(KEYS, splits, strict=True) if split == "val")
    assert times == Counter(key for key, split in zip(KEYS, given, strict=True) if split != "test")


def test_a_val_split_that_is_not_given_is_taken_from_train_by_the_hash() -> None:
    given = ["train"] * 2000 + ["test"] * 1000
    splits = assign(KEYS, given=given)
    assert splits[2000:] == given[2000:]
    for key, split in zip(KEYS[:2000], splits, strict=False):
        assert split == ("val" if hash_of(key) % 10 == 8 else "train")


def test_the_columns_of_a_table_are_split_row_by_row_in_order() -> None:
    columns = {"key": KEYS, "number": [str(number) for number in range(len(KEYS))]}
    parts = split_columns(columns, KEYS, folds=3, fold=2)
    assert list(parts) == list(SPLITS)
    for split, part in parts.items():
        numbers = [int(cell) for cell in part["number"]]
        assert numbers == sorted(numbers)
        assert part["key"] == [KEYS[number] for number in numbers]
        assert {split_of(key, 3, 2) for key in part["key"]} == {split}
    assert split_columns({"key": []}, []) == {split: {"key": []} for split in SPLITS}


@pytest.mark.parametrize(("folds", "fold"), [(1, 0), (0, 1), (3, 3), (2, 7), (1, 1)])
def test_a_fold_that_there_is_not_is_an_error_that_names_both(folds: int, fold: int) -> None:
    with pytest.raises(SplitError, match=rf"^data.folds={folds}, data.fold={fold}: expected at l"):
        assign(KEYS, folds, fold)


def test_a_key_may_be_what_is_not_unicode() -> None:
    assert split_of("caf\udce9/1.png") in SPLITS


def test_the_hash_of_a_name_is_that_of_its_bytes() -> None:
    assert len({hash_of(key) for key in ("\udcfe", "\udcff", "?")}) == 3
