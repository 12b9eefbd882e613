"""Checkpoints: atomic when they are written, and checked when they are read.

A checkpoint is one file that `torch.save` writes. It holds tensors and plain data only, so that
`torch.load(path, weights_only=True)` reads it safely. This module can be used alone:

    parts = {"model_state_dict": model, "optimizer_state_dict": optimizer}
    save(Path("last.pt"), {**parts, "config": {"lr": 0.1}})
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
from zipfile import BadZipFile, ZipFile, is_zipfile

import torch

# What torch.load reads with weights_only=True, beside tensors.
PLAIN_TYPES = (
    type(None),
    bool,
    int,
    float,
    str,
    bytes,
    torch.Size,
    torch.dtype,
    torch.device,
)
DICT_TYPES = (dict, OrderedDict, Counter)
PLACES = ("state_dict", "model")  # where files of weights have them, if not at the top
PREFIXES = ("", "model.", "module.", "module.model.")  # of names, from what wrapped a model
SHOWN_NAMES = 6  # of tensors that do not fit
ANYTHING = object()
"""in `check_like`: in place of what may be of any type"""
MISFIT = "the checkpoint does not fit this model"

State = dict[str, Any]
"""What a checkpoint holds by name: states, or the parts that have them by `state_dict`."""
Weights = dict[str, torch.Tensor]
"""Tensors by the names that they have in a model."""


class CheckpointError(ValueError):
    """A checkpoint is missing or damaged, does not fit, or would hold what cannot be read back."""

    exit_code = 2


class SaveError(OSError):
    """A checkpoint cannot be written, for example to a full disk; the one before it is intact."""

    exit_code = 1


def check(parts: State) -> None:
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
        raise CheckpointError(f"a checkpoint cannot be read back: {_first_line(error)}") from None


def save(path: Path, parts: State, *, keep_previous: bool = False) -> None:
    """Write `state_dict()` of each part that has one, and other parts as they are, to one file.

    The file is written under another name, synced to the disk, and renamed, so that nobody ever
    sees an incomplete checkpoint. With `keep_previous` the file that it replaces, `last.pt` for
    example, is kept as `last.prev.pt`.

    Raises CheckpointError for what `load` would refuse to read, and SaveError if writing fails.
    """
    state = _collect(parts)
    _outline(state)  # raises CheckpointError for what cannot be read back
    temporary = path.with_name(f"{path.name}.tmp")
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


def load(path: Path) -> State:
    """Return the dict that `save`, or any torch.save, wrote, with all tensors on the CPU.

    Raises CheckpointError if the file is missing, truncated, or differs in a single bit.
    """
    try:
        if is_zipfile(path):  # not what old versions of torch wrote
            _check_zip(path)
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # damage can raise errors of any kind
        raise CheckpointError(f"{path}: damaged or missing: {_first_line(error)}") from None


def load_latest(folder: Path) -> State | None:
    """Return what is in `last.pt` of a folder, or None if there is no checkpoint yet.

    If `last.pt` is damaged or missing, `last.prev.pt` is used, with a warning on stderr. It is not
    used for one that can be read but does not fit: that is no damage, and `restore` names it.
    """
    last = folder / "last.pt"
    previous = folder / "last.prev.pt"
    if os.path.lexists(folder) and not folder.is_dir():
        raise CheckpointError(f"{folder}: expected a folder")
    if not os.path.lexists(previous):
        return load(last) if os.path.lexists(last) else None
    try:
        return load(last)
    except CheckpointError as error:
        print(f"warning: {error}; using {previous.name}", file=sys.stderr)
        return load(previous)


def weights_of(state: State) -> Weights:
    """Return the weights that a checkpoint stands for: their moving average, if it has one.

    Raises CheckpointError if it has no weights.
    """
    place = "average" if "average" in state else "model_state_dict"
    check_like(state, {place: {}})
    tensors = state[place].items()
    weights = {name: value for name, value in tensors if isinstance(value, torch.Tensor)}
    if place == "average":  # it has a counter beside the module
        weights = {name: weights[name] for name in weights if "." in name}
        return _without_prefix(weights, "module.")
    return weights


def load_weights(path: Path) -> Weights:
    """Return the weights in any file that `torch.load(weights_only=True)` reads, or safetensors.

    The file may be a checkpoint of a run, or have the weights at the top or under one of the names
    in PLACES.

    Raises CheckpointError if the file cannot be read, or has no weights.
    """
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    state = load(path)
    if "model_state_dict" in state:
        return weights_of(state)
    state = next((state[name] for name in PLACES if isinstance(state.get(name), dict)), state)
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    if tensors:
        return tensors
    raise CheckpointError(f"{path}: expected weights, a dict of tensors, found none")


def fit_weights(model: torch.nn.Module, weights: Weights, *, partial: bool = False) -> str:
    """Load the weights whose names and shapes fit a model, and return what was loaded.

    The names may have `model.` or `module.` before them, as those of wrapped models have. The
    answer is like `loaded 10 of 12 tensors; new: head.weight (3, 64); unused: head.weight (2, 64)`.

    Raises CheckpointError, before anything is loaded, if nothing fits, or if something does not
    fit and `partial` is false.
    """
    own = model.state_dict()
    named = [_without_prefix(weights, prefix) for prefix in PREFIXES]
    weights = max(named, key=lambda candidate: len(candidate.keys() & own.keys()))
    fitting = {
        name: tensor
        for name, tensor in weights.items()
        if name in own and own[name].shape == tensor.shape
    }
    report = f"loaded {len(fitting)} of {len(own)} tensors"
    for what, tensors in (("new", own), ("unused", weights)):
        others = [name for name in tensors if name not in fitting]
        shown = [f"{name} {tuple(tensors[name].shape)}" for name in others[:SHOWN_NAMES]]
        if len(others) > SHOWN_NAMES:
            shown.append(f"and {len(others) - SHOWN_NAMES} more")
        if others:
            report += f"; {what}: {', '.join(shown)}"
    is_complete = len(fitting) == len(own) == len(weights)
    if not fitting or not (is_complete or partial):
        raise CheckpointError(f"the weights do not fit this model: {report}")
    model.load_state_dict({**own, **fitting})
    return report


def restore(state: State, parts: State) -> None:
    """Load each part's entry of `state`, which `load` returned, into that part.

    Entries of `state` without a part, such as plain data, are ignored.

    Raises CheckpointError if an entry is missing or does not fit its part.
    """
    check_like(state, dict.fromkeys(parts, ANYTHING))
    for key, part in parts.items():
        try:
            part.load_state_dict(state[key])
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise CheckpointError(f"{MISFIT}: {key}: {reason}") from None


def check_like(state: Any, like: Any, name: str = "") -> None:
    """Check a state, before it is loaded, by another one that has the same names and types.

    It may have more names than that one, and what is empty there, or ANYTHING, may hold anything.
    Names that begin with `_` may be missing: some are new in a version of torch. Shapes of tensors,
    flags and None must be equal.

    Raises CheckpointError with the name of what is missing or has another type.
    """
    if like is ANYTHING:
        return
    kind: Any = float | int if isinstance(like, float) else type(like)
    shape = getattr(like, "shape", None)
    is_right = isinstance(state, kind) and getattr(state, "shape", None) == shape
    if not is_right or (kind is bool and state is not like):
        expected = shape or type(like).__name__
        found = " ".join(repr(getattr(state, "shape", state)).split())
        raise CheckpointError(f"{MISFIT}: {name}: expected {expected}, found {found:.40}")
    if kind in (list, tuple):
        like = dict(enumerate(like))
        state = dict(enumerate(state))
    if not isinstance(like, dict):
        return
    for key, item in like.items():
        place = f"{name}.{key}".removeprefix(".")
        if key in state:
            check_like(state[key], item, place)
        elif not str(key).startswith("_"):
            raise CheckpointError(f"not a checkpoint of this project: {place} is missing")


def _collect(parts: State) -> State:
    """Return the state of each part: its `state_dict()`, or the part itself."""
    state = {}
    for name, part in parts.items():
        state[name] = part.state_dict() if hasattr(part, "state_dict") else part
    return state


def _without_prefix(weights: Weights, prefix: str) -> Weights:
    """Return the tensors with the prefix removed from their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items()}


def _load_safetensors(path: Path) -> Weights:
    """Return the tensors in a file of safetensors, which need not be installed."""
    try:
        from safetensors.torch import load_file  # type: ignore[import-not-found, unused-ignore]

        return dict(load_file(path))
    except ImportError:
        raise CheckpointError(f"{path}: to read it, install the package safetensors") from None
    except Exception as error:  # damage can raise errors of any kind
        raise CheckpointError(f"{path}: damaged or missing: {_first_line(error)}") from None


def _outline(value: Any, name: str = "") -> Any:
    """Return a copy with empty tensors, and with dicts in place of lists and tuples.

    Raises CheckpointError, with the name of the value, for what is not plain data. Types are
    compared exactly: numpy.float64 is a subclass of float, and torch.load refuses it.
    """
    kind = type(value)
    if isinstance(value, torch.Tensor):
        return value.new_empty(0)
    if kind in PLAIN_TYPES:
        return value
    if kind in (list, tuple):
        value = dict(enumerate(value))
    elif kind not in DICT_TYPES:
        found = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
        raise CheckpointError(f"{name}: expected plain data or a tensor, found {found}")
    outline = {}
    for key, item in value.items():
        _outline(key, f"{name}: key {key!r}")
        outline[key] = _outline(item, f"{name}.{key}".removeprefix("."))
    return outline


def _check_zip(path: Path) -> None:
    with ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > path.stat().st_size:
            raise BadZipFile("it would unpack to more than it is")
        damaged = archive.testzip()
    if damaged:
        raise BadZipFile(f"the checksum of {damaged!r} is wrong")


def _first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type if it has no message."""
    return str(error).partition("\n")[0] or type(error).__name__


def _replace(source: Path, target: Path) -> None:
    """Rename a file; wait while a virus scanner holds it open, as happens on Windows."""
    for seconds in (0.1, 0.5, 2.0):
        with suppress(PermissionError):
            source.replace(target)
            return
        time.sleep(seconds)
    source.replace(target)
