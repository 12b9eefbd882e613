"""Checkpoints: written whole or not at all, and read with their checksums. Works alone."""

#     save(path, {"model_state_dict": model, "optimizer_state_dict": optimizer, "classes": [...]})
#     restore(load(path), {"model_state_dict": model, "optimizer_state_dict": optimizer})
#
# A checkpoint holds tensors and plain values only, so that `torch.load` reads it safely.

import os
import sys
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch


class CheckpointError(ValueError):
    exit_code = 2  # a checkpoint that is missing, damaged or of another model


class SaveError(OSError):
    exit_code = 1  # a checkpoint that cannot be written; the one before it is still there


def save(path: Path, parts: dict[str, Any], keep_previous: bool = False) -> None:
    """Write each part's `state_dict()`, or its plain value; keep what it replaces as .prev.pt."""
    state = {k: v.state_dict() if hasattr(v, "state_dict") else v for k, v in parts.items()}
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
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
    except Exception as why:  # damage may show as anything
        raise CheckpointError(f"{path}: damaged or missing: {f'{why} '.splitlines()[0]}") from None


def load_latest(folder: Path) -> dict[str, Any] | None:
    last, previous = folder / "last.pt", folder / "last.prev.pt"
    try:
        return load(last) if last.exists() or previous.exists() else None
    except CheckpointError as error:
        if not previous.exists():
            raise
        print(f"warning: {error}; using {previous.name}", file=sys.stderr)
        return load(previous)


def restore(state: dict[str, Any], parts: dict[str, Any]) -> None:
    """Load the state of each part; what is a plain value must be equal to that in the state."""
    for key, part in parts.items():
        if key not in state:
            raise CheckpointError(f"another kind of checkpoint: expected {key} in it")
        try:
            if hasattr(part, "load_state_dict"):
                part.load_state_dict(state[key])
            elif part != state[key]:
                raise RuntimeError(f"expected {state[key]}, found {part}")
        except RuntimeError as error:
            raise CheckpointError(f"other {key}: {' '.join(str(error).split())}") from None
