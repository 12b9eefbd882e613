"""Which split a sample is in: a hash of its key decides, with or without folds. Works alone.

    split_of("happy")                   # "train", "val" or "test"
    split_of("happy", folds=5, fold=0)  # "test" if it is that without folds

The key of a sample is a text, such as the name of its file. Since a hash of it decides, a sample
stays in its split when others are added, and samples that have the same key stay together.
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import compress

SPLITS = ("train", "val", "test")


class SplitError(ValueError):
    """There is no such fold."""

    exit_code = 2


def hash_of(key: str) -> int:
    """A number that depends on the key alone."""
    return zlib.crc32(key.encode(errors="surrogateescape"))


def split_of(key: str, folds: int = 0, fold: int = 0) -> str:
    """train, val or test.

    Of 100 keys, about 10 are in test, whatever the folds. Without folds (0), 10 are in val and 80
    in train. With folds, each key that is not in test is in val in one of them, and in train in all
    others. Raises SplitError if there is no such fold.
    """
    (split,) = assign([key], folds, fold)
    return split


def assign(
    keys: Iterable[str], folds: int = 0, fold: int = 0, given: Sequence[str] = ()
) -> list[str]:
    """The split of each key: see `split_of`.

    `given` may say the split of each. Those in test then are those that are given. Train and val
    are those that are given too, unless there are folds, which share out both, or no val is given,
    which is then taken from train.
    """
    if folds == 1 or fold >= max(folds, 1):
        raise SplitError(
            f"data.folds={folds}, data.fold={fold}: expected at least 2 folds, and a fold from 0 "
            "to folds - 1, or 0 for both (no folds)"
        )
    if "val" in given and folds == 0:
        return list(given)
    hashes = list(map(hash_of, keys))
    is_test = [number % 10 == 9 for number in hashes]
    if given:
        is_test = [split == "test" for split in given]
    splits = []
    for number, in_test in zip(hashes, is_test, strict=True):
        rest = "val" if _is_val(number, folds, fold) else "train"
        splits.append("test" if in_test else rest)
    return splits


def _is_val(number: int, folds: int, fold: int) -> bool:
    """Whether a key with this hash is in val, if it is not in test."""
    if folds == 0:
        return number % 10 == 8
    return number // 10 % folds == fold


def split_columns(
    columns: Mapping[str, list[str]],
    keys: Iterable[str],
    folds: int = 0,
    fold: int = 0,
    given: Sequence[str] = (),
) -> dict[str, dict[str, list[str]]]:
    """The rows of each split, column by column: see `assign`. Each row has a key, and keeps its
    place among the others."""
    splits = assign(keys, folds, fold, given)
    parts = {}
    for split in SPLITS:
        is_mine = [other == split for other in splits]
        part = {}
        for name, cells in columns.items():
            part[name] = list(compress(cells, is_mine))
        parts[split] = part
    return parts
