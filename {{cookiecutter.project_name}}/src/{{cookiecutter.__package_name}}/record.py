"""The record of a run: its folder, what ran in it, and digests to compare by. Works alone."""

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "pyyaml", "tensorboard", "tqdm", "numpy")


class RunError(ValueError):
    exit_code = 2  # a run folder that cannot be made or read


def create_run(output_dir: Path, name: str, number: int = 1) -> Path:
    stem = f"{re.sub('[^A-Za-z0-9._-]', '_', name)}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = output_dir / (f"{stem}-{number}" if number > 1 else stem)
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return create_run(output_dir, name, number + 1)
    except OSError as error:
        raise RunError(f"output_dir: cannot make {folder}: {error.strerror}") from None
    return folder


def describe(root: Path, data: Path, device: torch.device) -> dict[str, Any]:
    # What was called where, and all that the bits of a run depend on beside its config.
    package, cuda = Path(__file__).parent, device.type == "cuda"
    texts = [f"{text}/" for text in (os.getcwd(), package.name, *sys.argv[1:])]
    texts = [text.replace(f"{root}/", "./") for text in texts]  # and no name of a user
    folder, *command = (t.replace(f"{os.path.expanduser('~')}/", "~/")[:-1] for t in texts)
    return {
        "command": command,
        "folder": folder,
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "device": str(device),
        "gpu": f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}" if cuda else None,
        "threads": torch.get_num_threads(),
        "processes": group.size() if (group := torch.distributed.group.WORLD) else 1,
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        "git_commit": _git(root, "rev-parse", "HEAD").decode().strip() or None,
        "git_dirty": bool(_git(root, "status", "--porcelain")),
        "data": fingerprint(data),
        "source": fingerprint(package, "*.py"),
    }


def start(folder: Path, config: str, manifest: dict[str, Any], root: Path) -> None:
    write(folder / "manifest.json", manifest)
    new = _git(root, "ls-files", "-oz", "--exclude-standard", "*.py").decode().split("\0")[:-1]
    patches = [_git(root, "diff", "--no-index", "--binary", os.devnull, name) for name in new]
    if patch := b"".join([_git(root, "diff", "HEAD", "--relative", "--binary"), *patches]):
        write(folder / "source.patch", patch)
    write(folder / "config.yaml", config)  # the last one: it makes the folder one of a run


def write(path: Path, content: Any) -> None:
    """Write bytes or text, or anything else as JSON, to a file that is never seen half-written."""
    text = content if isinstance(content, str | bytes) else json.dumps(content, indent=2) + "\n"
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(text if isinstance(text, bytes) else text.encode())
    os.replace(temporary, path)


def read(path: Path, *keys: str) -> dict[str, Any]:
    """The JSON object in a file, which has these keys; an empty one when there is no such file."""
    try:
        content = dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
        return {**{key: content[key] for key in keys}, **content}
    except (ValueError, TypeError, KeyError) as error:
        raise RunError(f"{path}: expected a JSON object {[*keys]}, found: {error!r}") from None


def fingerprint(path: Path, pattern: str = "*") -> str:
    """sha256 over the names and bytes of a file, or of the files in a folder, or of nothing."""
    sha = hashlib.sha256()
    for file in sorted(file for file in (path, *path.rglob(pattern)) if file.is_file()):
        head = f"{file.relative_to(path.parent).as_posix()} {file.stat().st_size}\n"
        sha.update(head.encode() + file.read_bytes())
    return sha.hexdigest()


def digest(state_dict: dict[str, torch.Tensor]) -> str:
    """sha256 over name, dtype, shape and bytes of the tensors, sorted by name."""
    sha = hashlib.sha256()
    for name, tensor in sorted(state_dict.items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _git(root: Path, *arguments: str) -> bytes:
    # What git prints; nothing where there is no git, no repository or no commit.
    try:
        run = subprocess.run(["git", *arguments], cwd=root, capture_output=True, timeout=60)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return b""
    return run.stdout if run.returncode < 2 else b""  # 1 is how `diff --no-index` says: it differs
