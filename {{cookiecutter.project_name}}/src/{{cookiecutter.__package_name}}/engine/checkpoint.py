"""Checkpoints: atomic when they are written, and checked when they are read.

A checkpoint is one file that `torch.save` writes. It holds tensors and plain data only, so that
`torch.load(path, weights_only=True)` reads it safely. This module can be used alone:

    parts = {"model_state_dict": model, "optimizer_state_dict": optimizer, "classes": ["a", "b"]}
    save(Path("last.pt"), parts)
    restore(load(Path("last.pt")), parts)
"""

import io
import os
import sys
import time
from collections import Counter, OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch

# What torch.load reads with weights_only=True, beside tensors.
PLAIN_TYPES = (type(None), bool, int, float, str, bytes)
TORCH_TYPES = (torch.Size, torch.dtype, torch.device)
DICT_TYPES = (dict, OrderedDict, Counter)


class CheckpointError(ValueError):
    """A checkpoint is missing or damaged, does not fit, or would hold what cannot be read back."""

    exit_code = 2


class SaveError(OSError):
    """A checkpoint cannot be written, for example to a full disk; the one before it is intact."""

    exit_code = 1


def check(parts: dict[str, Any]) -> None:
    """Raise CheckpointError if a checkpoint of these parts could not be read back.

    Call it before the first step, so that a run does not find out at its first checkpoint. It
    writes to memory only, and leaves out what is in the tensors, so that it takes no room.

    The error has the name of what is wrong, for example
    `task.mean: expected plain data or a tensor, found numpy.float64`.
    """
    outline = _outline(_collect(parts))
    buffer = io.BytesIO()
    try:
        torch.save(outline, buffer)
        buffer.seek(0)
        torch.load(buffer, weights_only=True)
    except Exception as error:  # pickle raises errors of many kinds
        reason = _first_line(error)
        raise CheckpointError(f"a checkpoint of this run cannot be read back: {reason}") from None


def save(path: Path, parts: dict[str, Any], *, keep_previous: bool = False) -> None:
    """Write `state_dict()` of each part that has one, and other parts as they are, to one file.

    The file is written under another name, synced to the disk, and renamed, so that nobody ever
    sees an incomplete checkpoint. With `keep_previous` the file that it replaces, `last.pt` for
    example, is kept as `last.prev.pt`.

    Raises CheckpointError for what `load` would refuse to read, and SaveError if writing fails.
    """
    state = _collect(parts)
    _outline(state)
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        if keep_previous and path.exists():
            _replace(path, path.with_suffix(".prev.pt"))
        _replace(temporary, path)
    except (OSError, RuntimeError) as error:
        with suppress(OSError):
            temporary.unlink()
        cause: BaseException = error
        while cause.__context__:  # torch.save hides a full disk behind errors of its own
            cause = cause.__context__
        raise SaveError(f"{path}: cannot be written: {cause}") from error


def load(path: Path) -> dict[str, Any]:
    """Return what `save` wrote, with all tensors on the CPU.

    Raises CheckpointError if the file is missing, truncated, or differs in a single bit.
    """
    try:
        with ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise BadZipFile(f"the checksum of {damaged} is wrong")
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # damage can raise errors of any kind
        raise CheckpointError(f"{path}: damaged or missing: {_first_line(error)}") from None


def load_latest(folder: Path) -> dict[str, Any] | None:
    """Return what is in `last.pt` of a folder, or None if there is no checkpoint yet.

    If `last.pt` is damaged or missing, `last.prev.pt` is used, with a warning on stderr.
    """
    last = folder / "last.pt"
    previous = folder / "last.prev.pt"
    if not last.exists() and not previous.exists():
        return None
    try:
        return load(last)
    except CheckpointError as error:
        if not previous.exists():
            raise
        print(f"warning: {error}; using {previous.name}", file=sys.stderr)
        return load(previous)


def restore(state: dict[str, Any], parts: dict[str, Any]) -> None:
    """Load each part's entry of `state`, which `load` returned, into that part.

    A part with `load_state_dict` gets its entry. Any other part is plain data, and must be equal
    to its entry: names of columns, for example. Entries of `state` without a part are ignored.

    Raises CheckpointError if an entry is missing or does not fit its part.
    """
    for key, part in parts.items():
        if key not in state:
            raise CheckpointError(f"not a checkpoint of this project: {key} is missing")
        try:
            if hasattr(part, "load_state_dict"):
                part.load_state_dict(state[key])
            elif part != state[key]:
                raise ValueError(f"the checkpoint has {state[key]}, this run has {part}")
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            message = f"the checkpoint does not fit this model: {key}: {reason}"
            raise CheckpointError(message) from None


def _collect(parts: dict[str, Any]) -> dict[str, Any]:
    """Return the state of each part: its `state_dict()`, or the part itself."""
    state = {}
    for name, part in parts.items():
        has_state = hasattr(part, "state_dict")
        state[name] = part.state_dict() if has_state else part
    return state


def _outline(value: Any, name: str = "") -> Any:
    """Return a copy with empty tensors; raise CheckpointError for what is no plain data.

    Types are compared exactly: numpy.float64 is a subclass of float, and torch.load refuses it.
    """
    kind = type(value)
    if isinstance(value, torch.Tensor):
        return value.new_empty(0)
    if kind in PLAIN_TYPES or kind in TORCH_TYPES:
        return value
    if kind in DICT_TYPES:
        pairs = {}
        for key, item in value.items():
            pairs[_outline(key, f"{name}: key {key!r}")] = _outline(item, _join(name, key))
        return pairs
    if kind in (list, tuple):
        return kind([_outline(item, _join(name, index)) for index, item in enumerate(value)])
    found = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    raise CheckpointError(f"{name}: expected plain data or a tensor, found {found}")


def _join(name: str, key: Any) -> str:
    return f"{name}.{key}" if name else str(key)


def _first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type if it has no message."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0]


def _replace(source: Path, target: Path) -> None:
    """Rename a file; wait while a virus scanner holds it open, as happens on Windows."""
    for seconds in (0.1, 0.5, 2.0):
        try:
            os.replace(source, target)
            return
        except PermissionError:
            time.sleep(seconds)
    os.replace(source, target)
