"""Checkpoints: written whole or not at all, and read with their checksums. Works alone."""

#     save(path, {"model_state_dict": model, "optimizer_state_dict": optimizer, "classes": [...]})
#     restore(load(path), {"model_state_dict": model, "optimizer_state_dict": optimizer})
#
# A checkpoint holds tensors and plain values only, so that `torch.load` reads it safely.

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch


class CheckpointError(ValueError):
    exit_code = 2  # a checkpoint that is missing, damaged or of another model


class SaveError(OSError):
    exit_code = 1  # a checkpoint that cannot be written; the one before it is still there


def save(path: Path, parts: Mapping[str, Any], keep_previous: bool = False) -> None:
    """Write each part's `state_dict()`, or its plain value; keep what it replaces as .prev.pt."""
    state: dict[str, Any] = {}
    for key, part in parts.items():
        state[key] = part.state_dict() if hasattr(part, "state_dict") else part
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        cause: BaseException = error
        while cause.__context__:  # torch.save hides a full disk behind its own errors
            cause = cause.__context__
        raise SaveError(f"{path}: cannot be written: {cause}") from error
    if keep_previous and path.exists():
        os.replace(path, path.with_suffix(".prev.pt"))
    os.replace(temporary, path)


def load(path: Path) -> dict[str, Any]:
    """The state in a checkpoint, on the CPU; a flipped bit or a missing end is an error."""
    try:
        with ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise BadZipFile(f"the checksum of {damaged} is wrong")
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: expected a checkpoint, found none") from None
    except (BadZipFile, UnpicklingError, RuntimeError, ValueError, TypeError, OSError) as error:
        raise CheckpointError(f"{path}: damaged: {str(error).splitlines()[0]}") from None


def load_latest(folder: Path) -> dict[str, Any] | None:
    """The last checkpoint of a run, or the one before when it is damaged; None if there is none."""
    paths = [path for path in (folder / "last.pt", folder / "last.prev.pt") if path.exists()]
    for path in paths:
        try:
            return load(path)
        except CheckpointError as error:
            if path == paths[-1]:
                raise
            print(f"warning: {error}; using {paths[-1].name}", file=sys.stderr)
    return None


def restore(state: Mapping[str, Any], parts: Mapping[str, Any]) -> None:
    for key, part in parts.items():
        if key not in state:
            raise CheckpointError(f"another kind of checkpoint: expected {key} in it")
        if isinstance(part, torch.nn.Module):
            _compare(state[key], part.state_dict())
        if hasattr(part, "load_state_dict"):
            part.load_state_dict(state[key])


def _compare(theirs: Mapping[str, torch.Tensor], ours: Mapping[str, torch.Tensor]) -> None:
    for name in sorted({*theirs, *ours}):
        found, expected = (tuple(d[name].shape) if name in d else None for d in (theirs, ours))
        if found != expected:
            raise CheckpointError(f"another model: expected {name} {expected}, found {found}")
