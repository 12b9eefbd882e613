"""The record of a run: its folder, what ran in it, and hashes to compare data and weights by.

This module can be used alone:

    folder = create_run(Path("runs"), "baseline")
    environment = collect_environment(root, root / "src", [root / "data"], torch.device("cpu"))
    start(folder, "lr: 0.1", environment, root / "src")
    write(folder / "result.json", {"digest": digest(model.state_dict())})
"""

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

# Environment variables that decide which arithmetic is used, and so can change the bits of a run.
ARITHMETIC_VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "CUBLAS_WORKSPACE_CONFIG",
    "DNNL_MAX_CPU_ISA",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "NVIDIA_TF32_OVERRIDE",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)
LITTER = ("Thumbs.db", "desktop.ini", "__pycache__")  # beside hidden files, as .DS_Store is
SECRET_SUFFIXES = (".env", ".key", ".pem")
MAX_FILE_BYTES = 1_000_000  # of a file in source

Facts = dict[str, Any]
"""What a file of a run folder says: plain data by name."""


class RunError(ValueError):
    """A run folder cannot be made or read, or data cannot be read."""

    exit_code = 2


class WriteError(OSError):
    """A file of the record cannot be written, for example to a full disk."""

    exit_code = 1


def create_run(output_dir: Path, name: str) -> Path:
    """Make a new folder `NAME-YYYYMMDD-HHMMSS` in output_dir, and return its path.

    In the name only letters, digits, dot, underscore and hyphen are kept. If two runs start in
    the same second, the later folder gets a number at its end.
    """
    plain_name = re.sub(r"[^A-Za-z0-9._-]", "_", name)
    stem = f"{plain_name}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = output_dir / stem
    number = 1
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        while True:
            with suppress(FileExistsError):
                folder.mkdir()
                return folder
            number += 1
            folder = output_dir / f"{stem}-{number}"
    except OSError as error:
        raise RunError(
            f"output_dir: cannot make {folder}: {error.strerror}; is a file in the way?"
        ) from None


def collect_environment(root: Path, package: Path, data: list[Path], device: torch.device) -> Facts:
    """Return what was called, and all that the bits of a run depend on beside its config.

    `root` is the project's folder, `package` the folder of its Python files, and `data` the files
    and folders that the run reads. Paths below the home folder are written with `~`, so that the
    record does not name the user. All values are plain data for JSON.
    """
    command = [package.name, *sys.argv[1:]]
    group = torch.distributed.group.WORLD
    gpu = None
    if device.type == "cuda":
        gpu = f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    return {
        "command": [_shorten(text, root) for text in command],
        "python": platform.python_version(),
        "packages": _installed_packages(),
        "platform": platform.platform(),
        "cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "device": str(device),
        "gpu": gpu,
        "threads": torch.get_num_threads(),
        "processes": group.size() if group else 1,
        "variables": {key: os.environ[key] for key in ARITHMETIC_VARIABLES if key in os.environ},
        "git_commit": _git(root, "rev-parse", "--verify", "HEAD") or None,
        "git_dirty": bool(_git(root, "status", "--porcelain", "--untracked-files=normal")),
        "data": fingerprint(*data),
        "source": fingerprint(package, pattern="*.py"),
    }


def start(folder: Path, config_text: str, manifest: Facts, package: Path) -> None:
    """Write `manifest.json`, `source` and `config.yaml` to a run's new folder.

    `source` is a copy of the package: of its files of any kind up to 1 MB, but no hidden files, no
    files with the names of secrets (`.env`, `.key`, `.pem`), and none that cannot be read.
    `config.yaml` is written last: a folder without it is not a run.
    """
    write(folder / "manifest.json", manifest)
    for file in _files(package, "*"):
        is_kept = file.suffix not in SECRET_SUFFIXES and os.access(file, os.R_OK)
        if is_kept and file.stat().st_size <= MAX_FILE_BYTES:
            copy = folder / "source" / file.relative_to(package.parent)
            copy.parent.mkdir(parents=True, exist_ok=True)
            write(copy, file.read_bytes())
    write(folder / "config.yaml", config_text.encode())


def write(path: Path, content: Any) -> None:
    """Write bytes, or anything else as JSON, to a file that is never seen incomplete.

    Raises WriteError if that is not possible; a file that was there before is then intact.
    """
    if not isinstance(content, bytes):
        content = json.dumps(content, indent=2).encode() + b"\n"
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        temporary.write_bytes(content)
        _replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise WriteError(f"{path}: cannot be written: {error.strerror or error}") from error


def read(path: Path, *keys: str) -> Facts:
    """Return the JSON object in a file, or an empty one if there is no such file.

    Raises RunError if one of these keys is missing, or if the file has something else in it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: expected a JSON object, found: {error}") from None
    if not isinstance(content, dict):
        raise RunError(f"{path}: expected a JSON object, found {type(content).__name__}")
    missing = [key for key in keys if key not in content]
    if missing:
        message = f"expected a JSON object with {', '.join(keys)}"
        raise RunError(f"{path}: {message}, found none of {', '.join(missing)}")
    return content


def fingerprint(*paths: Path, pattern: str = "*") -> str:
    """Return the sha256 of the names and contents of files, and of the files in folders.

    In a folder only files whose names fit `pattern` count, at any depth. Hidden files and the
    litter of operating systems do not count. A path that does not exist counts as no file.

    Files are read in pieces, so this takes little memory. Raises RunError if one cannot be read.
    """
    sha = hashlib.sha256()
    for path in paths:
        for file in _files(path, pattern):
            name = file.relative_to(path.parent).as_posix()
            entry = f"{name} {_hash_contents(file)}\n"
            sha.update(entry.encode(errors="surrogateescape"))
    return sha.hexdigest()


def digest(state_dict: dict[str, torch.Tensor]) -> str:
    """Return the sha256 of name, dtype, shape and bytes of the tensors, in the order of names."""
    sha = hashlib.sha256()
    for name, tensor in sorted(state_dict.items()):
        head = f"{name} {tensor.dtype} {tuple(tensor.shape)}\n"
        sha.update(head.encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)  # (elements,)
        sha.update(flat.view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _shorten(text: str, root: Path) -> str:
    """Write paths in a text as `./...` below root, and as `~/...` below the home folder."""
    home = os.path.expanduser("~")
    for folder, short in ((str(root), "."), (home, "~")):
        if len(folder) > 1:  # not for a home that is "/", as containers have it
            text = re.sub(rf"(?<!\w){re.escape(folder)}(?=[/\\]|$)", short, text)
    return text


def _installed_packages() -> dict[str, str]:
    """Return the version of each installed distribution, by its name in small letters."""
    versions: dict[str, str] = {}
    for distribution in metadata.distributions():
        facts = distribution.metadata  # reads a file, so once is enough
        name = facts["Name"]
        if name:  # what is left of a broken installation has none
            versions.setdefault(name.lower(), facts["Version"])  # the first one is imported
    return dict(sorted(versions.items()))


def _files(path: Path, pattern: str) -> Iterator[Path]:
    """Yield the file itself, or the files in a folder in the order of their paths."""
    if path.is_file():
        yield path
    for file in sorted(path.rglob(pattern)):
        if file.is_file() and not _is_litter(file.relative_to(path)):
            yield file


def _hash_contents(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise RunError(f"{file}: cannot be read: {error.strerror}") from None


def _is_litter(path: Path) -> bool:
    return any(part.startswith(".") or part in LITTER for part in path.parts)


def _git(root: Path, *arguments: str) -> str:
    """Return what git prints about the project, or nothing if git is missing or fails.

    GIT_DIR and the like, which git sets for hooks, would make it speak of another repository.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environment["GIT_OPTIONAL_LOCKS"] = "0"  # write nothing to the user's repository
    try:
        result = subprocess.run(
            ["git", *arguments],
            cwd=root,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.decode(errors="replace").strip() if result.returncode == 0 else ""


def _replace(source: Path, target: Path) -> None:
    """Rename a file; wait while a virus scanner holds it open, as happens on Windows."""
    for seconds in (0.1, 0.5, 2.0):
        with suppress(PermissionError):
            source.replace(target)
            return
        time.sleep(seconds)
    source.replace(target)
